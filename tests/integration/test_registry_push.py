"""Pushes to a registry without faults: the pushed content is complete, and nothing is left over on either side."""

from __future__ import annotations

import bz2
import gzip
import json
import lzma
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.integration.push_fixture import APP, FILES, IDS, OCI, Test, error_of, layers, pieces, pushed, run, states
from tests.registry import Image, docker_archive, image, layer
from tests.registry.build import DOCKER_MANIFEST, OCI_MANIFEST, tar
from tests.registry.fakes import DirectoryStorage, Done, ImagesFixture, Unpacker, drain, open_images
from tests.registry.hostile import serving
from tests.registry.receiving import Answer, PushHandler, Receiving, lie, receiving, refuse

from orlop_engine.images.compression import LayerCompression
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import Layer
from orlop_engine.images.references import parse


def test_push_prints_the_same_output_as_docker(tmp_path: Path) -> None:
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
        with receiving() as registry, trio.fail_after(150):
            async with open_images(str(tmp_path), storage=storage) as images:
                await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/app:v1": APP}))))
                await before(images, registry)
            async with open_images(str(tmp_path), storage=storage) as images:
                await after(images, registry)

    trio.run(main)


def test_second_push_uploads_nothing(tmp_path: Path) -> None:
    """This holds after a restart, too, because the plain layers were replaced by compressed ones."""

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
        asked = [f"{method} {path}" for method, path, _ in registry.requests]
        assert asked == ["GET /v2/", "HEAD /v2/app/manifests/v1"], "one question about the manifest is enough"

    restarted(tmp_path, before, again)


@pytest.mark.parametrize(
    "answer",
    [refuse(404, "MANIFEST_UNKNOWN"), refuse(500, "UNKNOWN"), lie(Docker_Content_Digest="sha256:" + "0" * 64)],
    ids=["removed", "failing", "another manifest"],
)
def test_moved_tag_is_pushed_again(tmp_path: Path, answer: Answer) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        registry.requests.clear()
        registry.script("HEAD", answer, path="/manifests/v1")
        records = await pushed(images, registry)
        assert [states(records, id) for id in IDS] == [["Preparing", "Layer already exists"]] * 2
        assert registry.asked("PUT") == ["PUT /v2/app/manifests/v1"] and registry.sent() == 0

    run(tmp_path, check)


def test_first_push_to_a_repository_asks_the_registry_for_every_blob(tmp_path: Path) -> None:
    """The daemon asks for a manifest only in repositories to which it has pushed, or from which it has pulled."""

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/other", "v1")
        registry.requests.clear()
        await pushed(images, registry, "other:v1")
        assert "HEAD /v2/other/manifests/v1" not in registry.asked("HEAD")
        assert len({path for path in registry.asked("HEAD") if "/blobs/" in path}) == 3

    run(tmp_path, check)


def test_layer_is_compressed_to_the_same_bytes_each_time(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        found.append(registry.pushed("app", "v1").data)

    found: list[bytes] = []
    for name in ("a", "b"):
        run(tmp_path / name, check)
    assert found[0] == found[1]


def test_layers_are_compressed_with_zstd_if_configured(tmp_path: Path) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert not error_of(await pushed(images, registry))
        manifest = registry.pushed("app", "v1")
        kinds = {part["mediaType"] for part in json.loads(manifest.data)["layers"]}
        assert (manifest.media_type, kinds) == (OCI_MANIFEST, {"application/vnd.oci.image.layer.v1.tar+zstd"})
        assert all(registry.blobs["app", part.blob].startswith(b"\x28\xb5\x2f\xfd") for part in layers(images))

    run(tmp_path, check, image_compression="zstd")


@pytest.mark.parametrize("pulled", [APP, OCI], ids=["docker", "oci"])
def test_pulled_image_is_pushed_byte_for_byte(tmp_path: Path, pulled: Image) -> None:
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
def test_layer_in_bzip2_or_xz_is_recompressed(tmp_path: Path, compress: Callable[[bytes], bytes]) -> None:
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
    """An unpacker that accepts all layers without reading them."""

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


@pytest.mark.parametrize("limit", [1, 3])
def test_layers_are_uploaded_in_parallel_up_to_the_limit(tmp_path: Path, limit: int) -> None:
    found = image([layer({f"file{number}": b"x"}) for number in range(4)])

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        waiting, most, changed = 0, 0, threading.Condition()

        def together(handler: PushHandler) -> None:
            nonlocal waiting, most
            with changed:
                waiting += 1
                most = max(most, waiting)
                changed.notify_all()
                changed.wait_for(lambda: most >= limit, 20)
                waiting -= 1
            registry.honest(handler)

        await drain(images.images.load_archive(pieces(docker_archive({f"{registry.host}/four:v1": found}))))
        registry.script("POST", *[together] * 4)
        records = await pushed(images, registry, "four:v1")
        assert not error_of(records) and most == limit
        assert sum(one.get("status") == "Waiting" for one in records) == 4 - limit

    run(tmp_path, check, max_concurrent_uploads=limit)


def test_all_tags_are_pushed(tmp_path: Path) -> None:
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
def test_invalid_pushes_are_refused(tmp_path: Path, name: str, message: str) -> None:
    async def check(images: ImagesFixture, registry: Receiving) -> None:
        assert error_of(await pushed(images, registry, name)) == message.format(host=registry.host)
        assert not registry.requests

    run(tmp_path, check)


def test_layers_are_mounted_from_known_repositories(tmp_path: Path) -> None:
    async def before(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/other/place", "v1")

    async def after(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry, "other/place:v1")
        assert [states(records, id)[-1] for id in IDS] == ["Mounted from app"] * 2
        assert registry.pushed("other/place", "v1") == registry.pushed("app", "v1")

    restarted(tmp_path, before, after)


def test_layer_is_uploaded_if_the_registry_refuses_to_mount_it(tmp_path: Path) -> None:
    """The registry answers 202 instead of 201, or refuses: the source repository may have been removed, or may not be
    readable for this user."""

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


def test_known_repositories_of_a_blob_are_forgotten_when_the_blob_is_removed(tmp_path: Path) -> None:
    """The repositories that are known to have a blob are forgotten when the blob is removed."""

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


def test_concurrent_pushes_compress_a_layer_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Concurrent pushes of an image, and a push of another image with the layer, share the compression."""

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
