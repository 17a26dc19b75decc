"""Artifacts of builders: blobs that are kept by name, pushed, fetched and packed. The tests use docker-registry."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from tests.registry import image, layer, push, running
from tests.registry.fakes import ImagesFixture, open_images

from orlop_engine.building.artifacts import Archive, Artifacts, LayerForm, Manifest
from orlop_engine.building.images import LayerBlob
from orlop_engine.building.scope import Scope
from orlop_engine.building.service import Building
from orlop_engine.images.compression import Recipe
from orlop_engine.images.content import DigestMismatch
from orlop_engine.images.manifests import Descriptor
from orlop_engine.images.records import Layer
from orlop_engine.images.registry_auth import ANONYMOUS
from orlop_sdk import InvalidParameter, NotFound

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
APP = image([layer({"bin/app": b"x" * 100_000}), layer({"etc/app": b"1"})])


def digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def run(tmp_path: Path, test: Callable[[Artifacts, ImagesFixture], Awaitable[None]]) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as api:
            engine = SimpleNamespace(images=api.images)
            await test(Artifacts(cast(Building, SimpleNamespace(engine=engine)), Scope()), api)

    trio.run(main)


async def received(read: Callable[[int], Awaitable[None]]) -> bytes:
    """The bytes that an operation writes to a pipe."""
    reading, writing = os.pipe()
    data = b""

    async def write() -> None:
        try:
            await read(writing)
        finally:
            os.close(writing)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(write)
        async with trio.lowlevel.FdStream(reading) as stream:
            async for piece in stream:
                data += piece
    return data


def test_blobs_are_kept_until_all_artifacts_with_these_blobs_are_dropped(tmp_path: Path) -> None:
    async def test(artifacts: Artifacts, api: ImagesFixture) -> None:
        found = await artifacts.put("a", b"content")
        await api.images.collect()
        assert await received(lambda fd: artifacts.read("a", found, fd)) == b"content"
        await artifacts.put("b", b"content")
        await artifacts.drop("a")
        assert api.blobs()
        await artifacts.aclose()
        assert not api.blobs()
        await artifacts.drop("never there")
        with pytest.raises(InvalidParameter):
            await artifacts.put("a", bytes(17 << 20))

    run(tmp_path, test)


def test_artifact_serves_only_its_own_blobs(tmp_path: Path) -> None:
    """An artifact refuses other blobs, so that a faulty builder cannot send blobs of other images to a client or to a
    registry."""

    async def test(artifacts: Artifacts, api: ImagesFixture) -> None:
        other = await artifacts.put("other", b"secret")
        own = await artifacts.put("a", b"manifest")
        about, root = Descriptor(other, 6, "x"), Descriptor(own, 8, MANIFEST)
        with pytest.raises(NotFound, match="not part of the artifact"):
            await received_alone(lambda fd: artifacts.read("a", other, fd))
        with pytest.raises(NotFound, match="not part of the artifact"):
            await received_alone(lambda fd: artifacts.save("a", Archive(root, (about,), (), {}, None), fd))
        for manifest in (Manifest(root, (about,)), Manifest(about)):
            with pytest.raises(NotFound, match="not part of the artifact"):
                await artifacts.push("a", "127.0.0.1:1/x", [manifest], {}, ANONYMOUS, quiet, by_digest=False)
        with pytest.raises(NotFound, match="not part of the artifact"):
            await artifacts.unpack("a", "key", LayerBlob(other, 6, "", other))

    run(tmp_path, test)


async def received_alone(read: Callable[[int], Awaitable[None]]) -> None:
    with open(os.devnull, "wb") as nowhere:
        await read(nowhere.fileno())


def quiet(_: object) -> None:
    pass


def test_blob_received_from_a_pipe_must_match_the_expected_digest(tmp_path: Path) -> None:
    async def feed(artifacts: Artifacts, data: bytes, expected: str) -> None:
        reading, writing = os.pipe()
        os.write(writing, data)
        os.close(writing)
        try:
            await artifacts.receive("a", expected, reading)
        finally:
            os.close(reading)

    async def test(artifacts: Artifacts, api: ImagesFixture) -> None:
        await feed(artifacts, b"right", digest(b"right"))
        with pytest.raises(DigestMismatch):
            await feed(artifacts, b"wrong", digest(b"other"))
        assert api.blobs() == {digest(b"right")[7:]}
        assert not api.partials()

    run(tmp_path, test)


def test_manifest_and_blobs_of_an_artifact_can_be_pushed_and_fetched(tmp_path: Path) -> None:
    async def main(host: str) -> None:
        async def test(artifacts: Artifacts, api: ImagesFixture) -> None:
            blob, config = b"layer", b"{}"
            parts = [Descriptor(await artifacts.put("a", data), len(data), "x") for data in (config, blob)]
            entries = [{"mediaType": "x", "digest": part.digest, "size": part.size} for part in parts]
            document = {"schemaVersion": 2, "mediaType": MANIFEST, "config": entries[0], "layers": entries[1:]}
            data = json.dumps(document).encode()
            root = Descriptor(await artifacts.put("a", data), len(data), MANIFEST)
            records: list[Any] = []
            manifest = Manifest(root, tuple(parts))
            await artifacts.push(
                "a", f"{host}/x:1", [manifest], {parts[1].digest: "shown"}, ANONYMOUS, records.append, by_digest=False
            )
            assert "shown" in {record.id for record in records}
            await artifacts.push("a", f"{host}/y:1", [manifest], {}, ANONYMOUS, quiet, by_digest=True)
            await artifacts.drop("a")
            assert not api.blobs()
            assert await artifacts.fetch_manifest(f"{host}/x:1", ANONYMOUS) == (MANIFEST, data)
            assert await artifacts.fetch_manifest(f"{host}/y@{root.digest}", ANONYMOUS) == (MANIFEST, data)
            with pytest.raises(NotFound):
                await artifacts.fetch_manifest(f"{host}/y:1", ANONYMOUS)
            await artifacts.fetch("b", f"{host}/x:1", parts, ANONYMOUS, quiet)
            assert await received(lambda fd: artifacts.read("b", parts[1].digest, fd)) == blob

        async with open_images(str(tmp_path)) as api:
            engine = SimpleNamespace(images=api.images)
            await test(Artifacts(cast(Building, SimpleNamespace(engine=engine)), Scope()), api)

    with running() as registry:
        trio.run(main, registry.host)


def test_archive_contains_all_blobs_that_its_root_manifest_refers_to(tmp_path: Path) -> None:

    async def test(artifacts: Artifacts, api: ImagesFixture) -> None:
        parts = {data: await artifacts.put("a", data) for data in (b"manifest", b"config", b"layer")}
        root, config, blob = (Descriptor(found, len(data), MANIFEST) for data, found in parts.items())
        docker = (config.digest, (blob.digest,))
        archive = Archive(root, (config, blob), ("app:1", "app:2"), {"k": "v"}, docker)
        data = await received(lambda fd: artifacts.save("a", archive, fd))
        with tarfile.open(fileobj=io.BytesIO(data)) as saved:
            names = set(saved.getnames())
            assert {f"blobs/sha256/{found[7:]}" for found in parts.values()} | {"oci-layout"} < names
            index = json.load(cast(Any, saved.extractfile("index.json")))
            (listed,) = json.load(cast(Any, saved.extractfile("manifest.json")))
        assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == [
            "docker.io/library/app:1",
            "docker.io/library/app:2",
        ]
        assert index["manifests"][0]["annotations"]["k"] == "v"
        assert listed["RepoTags"] == ["app:1", "app:2"]
        plain = await received(lambda fd: artifacts.save("a", Archive(root, (config, blob), (), {}, None), fd))
        with tarfile.open(fileobj=io.BytesIO(plain)) as saved:
            assert "manifest.json" not in saved.getnames()

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("recipe", "magic"),
    [
        (Recipe("gzip"), b"\x1f\x8b"),
        (Recipe("gzip", 0), b"\x1f\x8b"),
        (Recipe("gzip", 9), b"\x1f\x8b"),
        (Recipe("zstd"), b"\x28\xb5\x2f\xfd"),
        (Recipe("zstd", 19), b"\x28\xb5\x2f\xfd"),
        (Recipe("uncompressed"), b"bin/app"),
    ],
)
def test_export_with_another_compression_does_not_change_the_stored_image(
    tmp_path: Path, recipe: Recipe, magic: bytes
) -> None:
    """The export compresses a layer again."""

    async def main(host: str) -> None:
        await trio.to_thread.run_sync(push, host, "app", "1", APP)
        async with open_images(str(tmp_path)) as api:
            from orlop_engine.images.pull import PullRequest
            from orlop_engine.images.references import parse

            await api.images.pull_to(PullRequest(parse(f"{host}/app:1")), quiet)
            before: Layer = api.images.resolve(f"{host}/app:1").layers[0]
            compression = await api.images.transfers.compression()
            with api.images.image_store.leases.hold() as lease:
                made = [await compression.converted(before, recipe, lease, quiet) for _ in range(2)]
                assert made[0] == made[1]
                with open(api.images.image_store.content.path(made[0].blob), "rb") as file:
                    assert file.read().startswith(magic)
            assert api.images.resolve(f"{host}/app:1").layers[0] == before

    with running() as registry:
        trio.run(main, registry.host)


def test_default_layer_form_of_artifacts_is_the_same_as_in_a_push() -> None:
    assert LayerForm() == LayerForm("", -1, False, None)
