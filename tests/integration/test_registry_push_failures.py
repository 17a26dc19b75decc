"""Pushes to faulty registries (wrong answers, broken uploads, stalls, refusals), and of damaged layers: the pushed content
is complete, or there is a clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio
from tests.integration.push_fixture import APP, IDS, OCI, error_of, layers, pieces, pushed, run, settled, states
from tests.registry import docker_archive, oci_archive
from tests.registry.fakes import ImagesFixture, drain
from tests.registry.receiving import Answer, Receiving, carried_out_and_cut, cut, forget, hang, lie, refuse, reply

from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.transfers import PushRequest

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
def test_push_recovers_from_temporary_failures(tmp_path: Path, method: str, answers: list[Answer | None], path: str) -> None:
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
    (
        "another blob at the look-up",
        "HEAD",
        [reply(200, Docker_Content_Digest=DIGEST)],
        "/blobs/",
        "the registry reports the digest",
    ),
    (
        "another blob at the end",
        "PUT",
        [lie(Docker_Content_Digest=DIGEST)] * 3,
        "uploads",
        "the registry reports the digest",
    ),
    ("another manifest", "PUT", [lie(Docker_Content_Digest=DIGEST)], "manifests", "the registry reports the digest"),
    ("serves another manifest", "HEAD", [lie(Docker_Content_Digest=DIGEST)], "manifests", "the registry reports the digest"),
    ("serves no manifest", "HEAD", [refuse(404)] * 99, "manifests", "the registry accepted it, but does not have it"),
    ("serves a part of it", "HEAD", [reply(200, length=7)], "manifests", "the registry has 7 bytes of it"),
    ("refuses the manifest", "PUT", [refuse(400, "MANIFEST_INVALID", "no")], "manifests", "manifest invalid: no"),
    ("no JSON", "PUT", [refuse(400)], "manifests", "error parsing HTTP 400 response body"),
    ("never what was sent", "PUT", [forget(400, "DIGEST_INVALID", "no match")] * 99, "uploads", "digest invalid: no match"),
]


@pytest.mark.parametrize(
    ("method", "answers", "path", "message"), [case[1:] for case in FAILS], ids=[case[0] for case in FAILS]
)
def test_error_of_a_push_to_a_faulty_registry_shows_the_reason(
    tmp_path: Path, method: str, answers: list[Answer | None], path: str, message: str
) -> None:
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

    # One upload at a time, because the registry keeps an upload whose start was cancelled
    run(tmp_path, check, max_concurrent_uploads=1)


def test_push_continues_an_interrupted_upload(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", cut(1 << 20), cut(1 << 19))
        assert not error_of(await pushed(images, registry))
        size = layers(images)[0].blob_size
        ranges = [headers.get("content-range") for method, _, headers in registry.requests if method == "PATCH"]
        assert ranges == [None, f"{1 << 20}-{size - 1}", f"{3 << 19}-{size - 1}"]

    run(tmp_path, check)


def test_progress_of_an_upload_resets_the_count_of_attempts(tmp_path: Path) -> None:
    """A push over a connection that breaks after every MiB succeeds, although only two attempts are allowed."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", cut(1 << 20), cut(1 << 20))
        assert not error_of(await pushed(images, registry))

    run(tmp_path, check, max_upload_attempts=2)


def test_large_upload_is_divided_into_several_requests(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_engine.images.upload._PART", 1 << 20)

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PATCH", refuse(413))
        assert not error_of(await pushed(images, registry))
        sizes = [int(headers["content-length"]) for method, _, headers in registry.requests if method == "PATCH"][1:]
        assert sizes[:-1] == [1 << 20] * (len(sizes) - 1) and sum(sizes) == layers(images)[0].blob_size

    run(tmp_path, check)


def test_push_is_cancelled_when_its_client_disconnects(tmp_path: Path) -> None:
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


def test_image_removed_during_a_push_is_pushed_completely_and_stays_removed(tmp_path: Path) -> None:
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
def test_damaged_uncompressed_layer_is_not_pushed(tmp_path: Path, change: bytes) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        path = Path(images.images._content.path(layers(images)[0].blob))
        path.write_bytes(change or b"")
        assert "its content is damaged; load or build the image again" in error_of(await pushed(images, registry))
        await settled(images)
        assert not registry.manifests and not path.exists() and quarantined(images, path).read_bytes() == change
        await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:v1": APP}))))
        assert not error_of(await pushed(images, registry)), "a load has brought it again"
        registry.pushed("app", "v1")

    run(tmp_path, check)


def quarantined(images: ImagesFixture, path: Path) -> Path:
    return Path(images.images._content.root, "quarantine", path.name)


def test_damaged_compressed_layer_is_not_pushed(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await images.images.tag("app:v1", f"{registry.host}/app", "v1")
        path = Path(images.images._content.path(layers(images)[0].blob))
        path.write_bytes(path.read_bytes()[:-1] + b"?")
        assert "its content on this host is damaged; pull or load" in error_of(await pushed(images, registry))
        assert not path.exists() and quarantined(images, path).exists()
        whole = next(part.data for part in OCI.layers if part.digest[7:] == path.name)
        path.write_bytes(whole[:-9])
        assert "bytes shorter than recorded" in error_of(await pushed(images, registry))
        assert not registry.manifests and not registry.uploads
        assert not path.exists() and quarantined(images, path).read_bytes() == whole[:-9]
        registry.put("other", OCI)
        registry.manifests["other", "v1"] = registry.manifests["other", OCI.manifest.digest] = OCI.manifest
        await drain(images.images.pull(PullRequest(parse(f"{registry.host}/other:v1"))))
        assert path.read_bytes() == whole, "a pull has brought it again"
        assert not error_of(await pushed(images, registry))

    run(tmp_path, check, archive=oci_archive({"app:v1": OCI}))
