"""Pushes to an honest registry and to faulty ones (wrong answers, broken uploads, stalls, refusals): what arrives is
complete, or there is a clear error; nothing is left over here or there."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
from tests.registry import Image, docker_archive, image, layer, oci_archive
from tests.registry.build import DOCKER_MANIFEST, OCI_MANIFEST, Content, tar
from tests.registry.fakes import DirectoryStorage, Done, ImagesFixture, Unpacker, drain, open_images
from tests.registry.hostile import serving
from tests.registry.receiving import Answer, Receiving, carried_out_and_cut, cut, forget, hang, lie, receiving, refuse, reply

from orlop_engine.images import documents
from orlop_engine.images.compression import LayerCompression
from orlop_engine.images.connector import Access
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import Layer
from orlop_engine.images.references import parse
from orlop_engine.images.registry_auth import Credentials
from orlop_engine.images.transfers import PushRequest

# Not compressible, so that the layer is larger than what is uploaded with one request
NOISE = b"".join(documents.digest(b"%d" % n).encode() for n in range(60_000))
FILES: tuple[dict[str, Content], ...] = ({"etc/": None, "etc/base": NOISE}, {"hello": b"hi"})
APP = image([layer(files) for files in FILES], config={"Env": ["A=b"], "Labels": {"who": "me"}})
OCI = image([layer(FILES[0], compression="zstd", oci=True), layer(FILES[1], oci=True)], oci=True)
IDS = [part.diff_id[7:19] for part in APP.layers]

Test = Callable[[ImagesFixture, Receiving], Awaitable[None]]


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    await trio.lowlevel.checkpoint()
    yield data


def run(tmp_path: Path, test: Test, *, names: tuple[str, ...] = ("app:v1",), archive: bytes = b"", **options: Any) -> None:
    """Run with one registry, and one image service that has loaded APP by these names of the registry."""

    async def main() -> None:
        with receiving() as registry, trio.fail_after(40):
            async with open_images(str(tmp_path), **options) as images:
                data = archive or docker_archive({f"{registry.host}/{name}": APP for name in names})
                await drain(images.images.load_archive(pieces(data)))
                await test(images, registry)

    trio.run(main)


async def pushed(images: ImagesFixture, registry: Receiving, name: str = "app:v1", **more: Any) -> list[dict[str, Any]]:
    return await drain(images.images.push(PushRequest(parse(f"{registry.host}/{name}"), **more)))


def error_of(records: list[dict[str, Any]]) -> str:
    return str(records[-1].get("error", ""))


def states(records: list[dict[str, Any]], id: str) -> list[str]:
    """The states of a layer, without progress."""
    return [one["status"] for one in records if one.get("id") == id and not one["progressDetail"]]


async def settled(images: ImagesFixture) -> None:
    """Wait until the compression of another layer, which was cancelled, has ended."""
    while images.partials():
        await trio.testing.wait_all_tasks_blocked()


def layers(images: ImagesFixture) -> tuple[Layer, ...]:
    return images.images.all()[0].layers


# --- what an honest registry gets ---------------------------------------------------------------------------------------


def test_a_push_in_dockers_words(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry)
        manifest = registry.pushed("app", "v1")
        assert manifest.media_type == DOCKER_MANIFEST
        assert records[0] == {"status": f"The push refers to repository [{registry.host}/app]"}
        assert records[1:3] == [{"status": "Preparing", "progressDetail": {}, "id": id} for id in reversed(IDS)]
        assert [states(records, id) for id in IDS] == [["Preparing", "Pushed"]] * 2
        assert records[-2:] == [
            {"status": f"v1: digest: {manifest.digest} size: {len(manifest.data)}"},
            {"progressDetail": {}, "aux": {"Tag": "v1", "Digest": manifest.digest, "Size": len(manifest.data)}},
        ]
        totals = {one["progressDetail"]["total"] for one in records if one.get("status") == "Pushing"}
        assert totals <= {part.blob_size for part in layers(images)}
        assert images.images.all()[0].repo_digests == [f"{registry.host}/app@{manifest.digest}"]
        assert images.actions()[-1] == ("push", f"{registry.host}/app:v1", f"{registry.host}/app")
        assert not registry.uploads and not images.partials()

    run(tmp_path, check)


def restarted(tmp_path: Path, before: Test, after: Test) -> None:
    """Like `run`, with a new image service on the same data for `after`."""

    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        with receiving() as registry, trio.fail_after(40):
            async with open_images(str(tmp_path), storage=storage) as images:
                await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:v1": APP}))))
                await before(images, registry)
            async with open_images(str(tmp_path), storage=storage) as images:
                await after(images, registry)

    trio.run(main)


def test_a_second_push_uploads_nothing(tmp_path: Path) -> None:
    """Also after a restart: the plain layers were replaced by compressed ones."""

    async def before(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        blobs = images.blobs()
        assert registry.sent() == 3, "two layers and the configuration"
        assert not any(part.diff_id.removeprefix("sha256:") in blobs for part in APP.layers), "the plain tars are gone"
        await again(images, registry)

    async def again(images: ImagesFixture, registry: Receiving) -> None:
        registry.requests.clear()
        blobs, first = images.blobs(), registry.pushed("app", "v1")
        records = await pushed(images, registry)
        assert [states(records, id) for id in IDS] == [["Preparing", "Layer already exists"]] * 2
        assert registry.sent() == 0 and registry.pushed("app", "v1") == first and images.blobs() == blobs

    restarted(tmp_path, before, again)


def test_a_layer_is_compressed_alike_every_time(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        found.append(registry.pushed("app", "v1").data)

    found: list[bytes] = []
    for name in ("a", "b"):
        run(tmp_path / name, check)
    assert found[0] == found[1]


def test_zstd(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert not error_of(await pushed(images, registry))
        manifest = registry.pushed("app", "v1")
        kinds = {part["mediaType"] for part in json.loads(manifest.data)["layers"]}
        assert (manifest.media_type, kinds) == (OCI_MANIFEST, {"application/vnd.oci.image.layer.v1.tar+zstd"})
        assert all(registry.blobs["app", part.blob].startswith(b"\x28\xb5\x2f\xfd") for part in layers(images))

    run(tmp_path, check, image_compression="zstd")


@pytest.mark.parametrize("pulled", [APP, OCI], ids=["docker", "oci"])
def test_a_pulled_image_goes_back_byte_for_byte(tmp_path: Path, pulled: Image) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        with serving() as source:
            source.add("there", "v1", pulled)
            await drain(images.images.pull(PullRequest(parse(f"{source.host}/there:v1"))))
            await images.images.tag(f"{source.host}/there:v1", f"{registry.host}/back", "v2")
        records = await pushed(images, registry, "back:v2")
        manifest = registry.pushed("back", "v2")
        assert (manifest.data, manifest.media_type) == (pulled.manifest.data, pulled.manifest.media_type)
        assert [states(records, part.diff_id[7:19]) for part in pulled.layers] == [["Preparing", "Pushed"]] * 2

    run(tmp_path, check, archive=docker_archive({"unrelated:x": image([layer({"x": b"y"})])}))


@pytest.mark.parametrize("compress", [bz2.compress, lzma.compress], ids=["bzip2", "xz"])
def test_a_layer_in_a_compression_that_registries_do_not_take(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
    raw = tar(FILES[1])
    table = [{"Config": "c", "RepoTags": ["odd:v1"], "Layers": ["l"]}]
    odd = image([layer(FILES[1])])
    archive = tar({"l": compress(raw), "c": odd.config.data, "manifest.json": json.dumps(table).encode()})

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await images.images.tag("odd:v1", f"{registry.host}/app", "v1")
        assert not error_of(await pushed(images, registry))
        (part,) = json.loads(registry.pushed("app", "v1").data)["layers"]
        assert gzip.decompress(registry.blobs["app", part["digest"]]) == raw
        assert not images.partials()

    run(tmp_path, check, archive=archive, unpacker=AnyUnpacker())


class AnyUnpacker(Unpacker):
    """Takes layers without a look at them."""

    async def __call__(self, zygote: Any, source: int, target: Any, *, expect_diff_id: str | None, progress: Any) -> Done:
        await trio.lowlevel.checkpoint()
        return Done(expect_diff_id or "", 1, 1)


def test_equal_layers_are_uploaded_once(tmp_path: Path) -> None:
    twice = image([layer({"x": b"1"}), layer({"y": b"2"}), layer({"x": b"1"})])

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await images.images.tag("twice:v1", f"{registry.host}/app", "v1")
        records = await pushed(images, registry)
        names = [part["digest"] for part in json.loads(registry.pushed("app", "v1").data)["layers"]]
        assert names[0] == names[2] != names[1] and registry.sent() == 3
        assert states(records, twice.layers[0].diff_id[7:19]) == ["Preparing", "Preparing", "Pushed"]
        assert not error_of(await pushed(images, registry)) and registry.sent() == 3

    run(tmp_path, check, archive=docker_archive({"twice:v1": twice}))


def test_all_tags(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry, "app")
        assert [one["aux"]["Tag"] for one in records if "aux" in one] == ["a", "b"]
        assert registry.pushed("app", "a") == registry.pushed("app", "b")
        assert [action for action, _, _ in images.actions()].count("push") == 1

    run(tmp_path, check, names=("app:b", "app:a"))


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none:v1", "An image does not exist locally with the tag: {host}/none"),
        ("none", "An image does not exist locally with the tag: {host}/none"),
        ("app:nope", "tag does not exist: {host}/app:nope"),
        (f"app@sha256:{'0' * 64}", "cannot push a digest reference"),
    ],
)
def test_what_cannot_be_pushed(tmp_path: Path, name: str, message: str) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert error_of(await pushed(images, registry, name)) == message.format(host=registry.host)
        assert not registry.requests

    run(tmp_path, check)


def test_layers_are_mounted_from_where_they_are_known_to_be(tmp_path: Path) -> None:
    async def before(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/other/place", "v1")

    async def after(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry, "other/place:v1")
        assert [states(records, id)[-1] for id in IDS] == ["Mounted from app"] * 2
        assert registry.pushed("other/place", "v1") == registry.pushed("app", "v1")

    restarted(tmp_path, before, after)


def test_a_refused_mount_becomes_an_upload(tmp_path: Path) -> None:
    """202 instead of 201, and a refusal: the repository may be gone, or not be readable for this user."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/two", "v1")
        registry.mounts = False
        registry.script("POST", refuse(403, "DENIED", "not yours"), path="mount=")
        records = await pushed(images, registry, "two:v1")
        assert [states(records, id)[-1] for id in IDS] == ["Pushed"] * 2
        registry.pushed("two", "v1")
        assert not registry.uploads, "an upload that a mount started is used or removed"

    run(tmp_path, check, max_concurrent_uploads=1)


def test_sources_are_forgotten_with_their_blob(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        sources, blob = images.images._image_store.repositories, layers(images)[0].blob
        other = parse(f"{registry.host}/other")
        assert sources.candidates(blob, other) == ["app"]
        assert sources.candidates(blob, parse(f"{registry.host}/app")) == []
        assert sources.candidates(blob, parse("elsewhere.example/other")) == []
        for number in range(20):
            await sources.add(parse(f"{registry.host}/n{number}"), [blob])
        assert sources.candidates(blob, other) == ["n19", "n18", "n17"]
        rows = [json.loads(value) for key, value in images.images._image_store.store.load("meta") if key.endswith(blob)]
        assert [len(names) for names in rows] == [8]
        await images.images.remove(f"{registry.host}/app:v1")
        assert images.is_empty() and not sources.candidates(blob, other)
        assert not [key for key, _ in images.images._image_store.store.load("meta") if key.startswith("blob-repositories:")]

    run(tmp_path, check)


# --- what a faulty registry gets ----------------------------------------------------------------------------------------

DIGEST = "sha256:" + "0" * 64

RECOVERS: list[tuple[str, str, list[Answer | None], str]] = [
    ("a layer breaks off", "PATCH", [cut(1 << 20)], ""),
    ("a layer breaks off at once", "PATCH", [cut(0)], ""),
    ("a layer is stored, the answer is lost", "PATCH", [carried_out_and_cut()], ""),
    ("the end is carried out, the answer is lost", "PUT", [carried_out_and_cut()], "uploads"),
    ("the upload is forgotten", "PATCH", [forget(404, "BLOB_UPLOAD_UNKNOWN", "gone")], ""),
    ("the upload is forgotten at its end", "PUT", [forget(404, "BLOB_UPLOAD_UNKNOWN", "gone")], "uploads"),
    ("wrong range", "PATCH", [refuse(416, "RANGE_INVALID", "no")], ""),
    ("too large a request", "PATCH", [refuse(413)], ""),
    ("an error", "PATCH", [refuse(500)], ""),
    ("an error at the start", "POST", [refuse(503)], ""),
    ("an error at the look-up", "HEAD", [refuse(502)], ""),
    ("an error at the manifest", "PUT", [refuse(500)], "manifests"),
    ("damaged on the way", "PUT", [forget(400, "DIGEST_INVALID", "no match")], "uploads"),
    ("too many requests", "POST", [refuse(429, "TOOMANYREQUESTS", "slow down", Retry_After="1")], ""),
    ("too many requests for the manifest", "PUT", [refuse(429, Retry_After="1")], "manifests"),
    ("the manifest is there later", "HEAD", [refuse(404, "MANIFEST_UNKNOWN", "wait")], "manifests"),
    ("less was stored than sent", "PATCH", [lie(Range="0-99")], ""),
    ("stalls", "PATCH", [hang()], ""),
]


@pytest.mark.parametrize(("method", "answers", "path"), [case[1:] for case in RECOVERS], ids=[case[0] for case in RECOVERS])
def test_a_push_recovers(tmp_path: Path, method: str, answers: list[Answer | None], path: str) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script(method, *answers, path=path)
        records = await pushed(images, registry)
        assert not error_of(records), records
        registry.pushed("app", "v1")
        assert [states(records, id)[-1] for id in IDS] == ["Pushed"] * 2
        assert not registry.uploads and not images.partials()

    run(tmp_path, check)


FAILS: list[tuple[str, str, list[Answer | None], str, str]] = [
    ("breaks off for ever", "PATCH", [cut(100)] * 99, "", "unexpected EOF"),
    ("errors for ever", "PATCH", [refuse(500)] * 99, "", "received unexpected HTTP status: 500 Internal Server Error"),
    ("forgets every upload", "PATCH", [forget(404, "BLOB_UPLOAD_UNKNOWN", "gone")] * 99, "", "blob upload unknown: gone"),
    ("denied", "POST", [refuse(403, "DENIED", "not yours")], "", "denied: not yours"),
    ("unauthorized", "POST", [refuse(401, "UNAUTHORIZED", "who are you")] * 9, "", "unauthorized: who are you"),
    ("too many requests for ever", "POST", [refuse(429)] * 99, "", "toomanyrequests: too many requests"),
    ("no location", "POST", [reply(202, Location="")] * 2, "", "the registry gave no location for the upload"),
    ("a file", "POST", [reply(202, Location="file:///etc/passwd")] * 2, "", 'unsupported protocol scheme "file"'),
    ("another blob at the look-up", "HEAD", [reply(200, Docker_Content_Digest=DIGEST)], "/blobs/", "the registry has it as"),
    ("another blob at the end", "PUT", [lie(Docker_Content_Digest=DIGEST)] * 3, "uploads", "the registry has it as"),
    ("another manifest", "PUT", [lie(Docker_Content_Digest=DIGEST)], "manifests", "the registry has it as"),
    ("serves another manifest", "HEAD", [lie(Docker_Content_Digest=DIGEST)], "manifests", "the registry has it as"),
    ("serves no manifest", "HEAD", [refuse(404)] * 99, "manifests", "the registry accepted it, but does not have it"),
    ("serves a part of it", "HEAD", [reply(200, length=7)], "manifests", "the registry has 7 bytes of it"),
    ("refuses the manifest", "PUT", [refuse(400, "MANIFEST_INVALID", "no")], "manifests", "manifest invalid: no"),
    ("no JSON", "PUT", [refuse(400)], "manifests", "error parsing HTTP 400 response body"),
    ("never what was sent", "PUT", [forget(400, "DIGEST_INVALID", "no match")] * 99, "uploads", "digest invalid: no match"),
]


@pytest.mark.parametrize(
    ("method", "answers", "path", "message"), [case[1:] for case in FAILS], ids=[case[0] for case in FAILS]
)
def test_a_push_fails_clearly(tmp_path: Path, method: str, answers: list[Answer | None], path: str, message: str) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script(method, *answers, path=path)
        records = await pushed(images, registry)
        assert message in error_of(records), records[-1]
        assert not any("aux" in one for one in records)
        await settled(images)
        assert not registry.uploads
        assert not images.images.all()[0].repo_digests
        assert "push" not in [action for action, _, _ in images.actions()]
        registry._scripts.clear()
        assert not error_of(await pushed(images, registry)), "nothing of it stays"

    # One upload at a time: a cancellation while the registry is starting another would leave that to the registry
    run(tmp_path, check, max_concurrent_uploads=1)


def test_a_broken_upload_goes_on_where_it_broke_off(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", cut(1 << 20), cut(1 << 19))
        assert not error_of(await pushed(images, registry))
        size = layers(images)[0].blob_size
        ranges = [headers.get("content-range") for method, _, headers in registry.requests if method == "PATCH"]
        assert ranges == [None, f"{1 << 20}-{size - 1}", f"{3 << 19}-{size - 1}"]

    run(tmp_path, check)


def test_progress_pays_for_further_attempts(tmp_path: Path) -> None:
    """A line that breaks after every MiB gets through, though there are only two attempts."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", cut(1 << 20), cut(1 << 20))
        assert not error_of(await pushed(images, registry))

    run(tmp_path, check, max_upload_attempts=2)


def test_a_large_request_is_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_engine.images.upload._PART", 1 << 20)

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", refuse(413))
        assert not error_of(await pushed(images, registry))
        sizes = [int(headers["content-length"]) for method, _, headers in registry.requests if method == "PATCH"][1:]
        assert sizes[:-1] == [1 << 20] * (len(sizes) - 1) and sum(sizes) == layers(images)[0].blob_size

    run(tmp_path, check)


def test_a_client_that_leaves_cancels_its_push(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", hang())
        progress = images.images.push(PushRequest(parse(f"{registry.host}/app:v1")))
        await progress.started()
        await trio.to_thread.run_sync(registry.reached.wait, 20)
        await progress.aclose()
        await progress.finished()
        assert not registry.uploads and not images.partials()
        registry.gate.set()
        assert not error_of(await pushed(images, registry))

    run(tmp_path, check, max_concurrent_uploads=1)


def test_a_removed_image_is_pushed_to_the_end_and_stays_removed(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        def slowly(handler: Any) -> None:
            registry.reached.set()
            registry.gate.wait(20)
            registry.honest(handler)

        registry.script("PATCH", slowly)
        found: list[dict[str, Any]] = []

        async def push() -> None:
            found.extend(await pushed(images, registry))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.to_thread.run_sync(registry.reached.wait, 20)
            await images.images.remove(f"{registry.host}/app:v1")
            registry.gate.set()
        assert not error_of(found)
        registry.pushed("app", "v1")
        assert not images.images.all()
        await images.images.collect()
        assert images.is_empty()

    run(tmp_path, check)


@pytest.mark.parametrize("change", [b"", b"damaged"], ids=["empty", "changed"])
def test_a_plain_layer_damaged_on_disk_is_not_pushed(tmp_path: Path, change: bytes) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        path = Path(images.images._content.path(layers(images)[0].blob))
        path.write_bytes(change or b"")
        assert "its content is damaged; load or make the image again" in error_of(await pushed(images, registry))
        await settled(images)
        assert not registry.manifests and not path.exists() and quarantined(images, path).read_bytes() == change
        await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:v1": APP}))))
        assert not error_of(await pushed(images, registry)), "a load has brought it again"
        registry.pushed("app", "v1")

    run(tmp_path, check)


def quarantined(images: ImagesFixture, path: Path) -> Path:
    return Path(images.images._content.root, "quarantine", path.name)


def test_a_compressed_layer_damaged_on_disk_is_not_pushed(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await images.images.tag("app:v1", f"{registry.host}/app", "v1")
        path = Path(images.images._content.path(layers(images)[0].blob))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert "its content on this host is damaged; pull or load" in error_of(await pushed(images, registry))
        assert not path.exists() and quarantined(images, path).exists()
        whole = next(part.data for part in OCI.layers if part.digest[7:] == path.name)
        path.write_bytes(whole[:-9])
        assert "bytes less than its record says" in error_of(await pushed(images, registry))
        assert not registry.manifests and not registry.uploads
        assert not path.exists() and quarantined(images, path).read_bytes() == whole[:-9]
        registry.put("other", OCI)
        registry.manifests["other", "v1"] = registry.manifests["other", OCI.manifest.digest] = OCI.manifest
        await drain(images.images.pull(PullRequest(parse(f"{registry.host}/other:v1"))))
        assert path.read_bytes() == whole, "a pull has brought it again"
        assert not error_of(await pushed(images, registry))

    run(tmp_path, check, archive=oci_archive({"app:v1": OCI}))


# --- authentication -----------------------------------------------------------------------------------------------------


def test_tokens_with_the_scope_of_a_push(tmp_path: Path) -> None:
    """A mount asks for a token that may read the other repository; identity tokens are exchanged."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/two", "v1")
        realm = f'Bearer realm="http://{registry.host}/token",service="s"'

        def challenge(handler: Any) -> None:
            if handler.headers.get("Authorization") != "Bearer t0ken":
                handler.body()
                handler.fail(401, "UNAUTHORIZED", "", {"WWW-Authenticate": realm})
            else:
                registry.honest(handler)

        for method in ("HEAD", "POST", "PATCH", "PUT", "DELETE"):
            registry.script(method, *[challenge] * 99, path="/v2/")
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", {"WWW-Authenticate": realm})
        registry.script("GET", *[lambda handler: handler.send(200, b'{"token":"t0ken"}')] * 9, path="/token")
        registry.requests.clear()
        assert not error_of(await pushed(images, registry, "two:v1", credentials=Credentials("me", "secret")))
        tokens = [path for path in registry.asked("GET") if "/token" in path]
        assert any("scope=repository%3Atwo%3Apull%2Cpush&service=s" in path for path in tokens)
        assert any("scope=repository%3Aapp%3Apull" in path for path in tokens)
        proofs = {h.get("authorization", "")[:6] for _, path, h in registry.requests if "/token" in path}
        assert proofs == {"Basic "}
        assert all("Basic" not in h.get("authorization", "") for _, path, h in registry.requests if "/token" not in path)

    run(tmp_path, check)


def test_a_registry_that_never_accepts_the_token(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        realm = f'Bearer realm="http://{registry.host}/token",service="s"'
        no = refuse(401, "UNAUTHORIZED", "again", WWW_Authenticate=realm)
        registry.script("HEAD", *[no] * 99)
        registry.script("POST", *[no] * 99)
        registry.script("GET", *[lambda handler: handler.send(200, b'{"token":"t0ken"}')] * 99, path="/token")
        assert "unauthorized" in error_of(await pushed(images, registry))
        assert len(registry.requests) < 20

    run(tmp_path, check)


def test_no_credentials_in_dockers_words(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        basic = {"WWW-Authenticate": 'Basic realm="r"'}
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", basic)
        assert error_of(await pushed(images, registry)) == "no basic auth credentials"

    run(tmp_path, check)


@pytest.mark.parametrize("leads", ["location", "redirect"])
def test_credentials_stay_with_the_registry(tmp_path: Path, leads: str) -> None:
    """An upload may lead to another host, which gets the content but no proof."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        basic = {"WWW-Authenticate": 'Basic realm="r"'}
        registry.ping = lambda handler, _: handler.fail(401, "UNAUTHORIZED", "", basic)
        with receiving() as elsewhere:
            elsewhere.uploads |= {str(number): _upload() for number in range(10)}
            numbers = iter(range(10))

            def lead(handler: Any) -> None:
                handler.body()
                where = {"Location": f"http://{elsewhere.host}/v2/app/blobs/uploads/{next(numbers)}"}
                handler.send(202 if leads == "location" else 307, b"", where)

            registry.script("POST" if leads == "location" else "PATCH", *[lead] * 9)
            await pushed(images, registry, credentials=Credentials("me", "secret"))
            assert elsewhere.requests and not any("authorization" in headers for _, _, headers in elsewhere.requests)
            assert any("authorization" in headers for _, _, headers in registry.requests)

    run(tmp_path, check)


def _upload() -> Any:
    from tests.registry.receiving import Upload

    return Upload("app")


def test_an_access_has_no_secret_in_its_representation() -> None:
    shown = repr(Access(parse("a/b"), Credentials("me", "s3cret", "s3cret", "s3cret")))
    assert "s3cret" not in shown


def test_a_layer_is_compressed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By several pushes at once, and for another image with the layer."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        made: list[str] = []
        copy = LayerCompression._copy

        def counted(self: LayerCompression, fd: int, layer: Layer, *more: Any) -> None:
            made.append(layer.diff_id)
            copy(self, fd, layer, *more)

        monkeypatch.setattr(LayerCompression, "_copy", counted)

        async def push(name: str) -> None:
            assert not error_of(await pushed(images, registry, name))

        async with trio.open_nursery() as nursery:
            for name in ("app:a", "app:b", "other:c"):
                nursery.start_soon(push, name)
        assert sorted(made) == sorted(part.diff_id for part in APP.layers)
        assert registry.pushed("app", "a") == registry.pushed("app", "b") == registry.pushed("other", "c")
        other = image([layer(FILES[0]), layer({"more": b"1"})])
        await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:d": other}))))
        await push("app:d")
        assert len(made) == 3, "the lower layer is that of the first image"
        assert not images.partials()

    run(tmp_path, check, names=("app:a", "app:b", "other:c"))
