"""The image store, reopened after a crash: images that survive, are quarantined, or are removed."""

from __future__ import annotations

import io
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import msgspec
import pytest
import trio
from tests.registry import docker_archive, image, layer, oci_archive
from tests.registry.build import tar
from tests.registry.fakes import DirectoryStorage, ImagesFixture, drain, open_images

from orlop_engine.images.imports import ImportRequest
from orlop_engine.images.records import ImageRecord
from orlop_engine.images.references import parse
from orlop_engine.images.tar_split import paths_of
from orlop_kernel.store import Delete, Put, Store, examine
from orlop_sdk import InvalidParameter, NotFound, OrlopError

BASE = layer({"base": b"12345"})
APP = image([BASE, layer({"top": b"1"})], config={"Labels": {"a": "b"}})
OTHER = image([BASE, layer({"other": b"22"})])


async def pieces(data: bytes) -> AsyncIterator[bytes]:
    stream = io.BytesIO(data)
    while piece := stream.read(4096):
        yield piece
        await trio.lowlevel.checkpoint()


async def load(images: ImagesFixture, data: bytes) -> str:
    """The error of a load, or ""."""
    try:
        records = await drain(images.images.load_archive(pieces(data)))
    except OrlopError as error:
        return str(error)
    return str(records[-1].get("error", ""))


def reopened(
    tmp_path: Path, damage: Callable[[DirectoryStorage], None], rows: list[tuple[str, bytes]] | None = None
) -> ImagesFixture:
    """Make a store with a:x and b:x, close it, damage it, and open it again. Returns the closed store."""

    async def main() -> ImagesFixture:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            assert not await load(images, docker_archive({"a:x": APP, "b:x": OTHER}))
        damage(storage)
        async with Store.open(str(tmp_path / "state" / "orlop.db")) as store:
            await store.commit([Put("images", key, value) for key, value in rows or []])
        async with open_images(str(tmp_path), storage=storage) as images:
            return images

    return trio.run(main)


def names(images: ImagesFixture) -> list[str]:
    return sorted(name for found in images.images.all() for name in found.repo_tags)


def quarantined(tmp_path: Path) -> list[str]:
    return sorted(key for _, key, _ in examine(str(tmp_path / "state" / "orlop.db")).quarantined)


def test_restart_keeps_images_and_removes_orphaned_blobs_and_layers(tmp_path: Path) -> None:
    def leave(storage: DirectoryStorage) -> None:
        content = tmp_path / "content"
        (content / "blobs" / "sha256" / ("e" * 64)).write_bytes(b"an orphan")
        (content / "ingest" / ("f" * 64)).write_bytes(b"a partial nobody goes on with")
        (content / "ingest" / "tmp-1").write_bytes(b"x")
        for key, parent in (("extract-1", None), ("sha256:" + "1" * 64, None), ("sha256:" + "2" * 64, "sha256:" + "1" * 64)):
            storage.parents[key] = parent
            os.mkdir(tmp_path / "layers" / key)

    images = reopened(tmp_path, leave)
    assert names(images) == ["a:x", "b:x"]
    assert len(images.storage.parents) == 3 and not images.partials()
    assert len(images.blobs()) == 2 + 3, "two configurations, three layers"
    assert images.images.resolve("a:x").config.labels == {"a": "b"}
    assert quarantined(tmp_path) == []


def test_layers_that_a_container_uses_are_kept_when_their_image_is_removed(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await load(images, docker_archive({"a:x": APP}))
            top = images.images.resolve("a:x").chain_id
            await storage.prepare("container", top)
            gone = await images.images.remove("a:x", force=True)
            assert [item.untagged or item.deleted for item in gone] == ["a:x", APP.id]
        async with open_images(str(tmp_path), storage=storage) as images:
            assert not images.images.all() and len(storage.parents) == 3
            assert not await load(images, docker_archive({"a:x": APP})), "found again, not unpacked again"
            assert images.unpacker.count == 0
            await images.images.remove("a:x", force=True)
            await storage.remove("container")
            await images.images.collect()
            assert images.is_empty()

    trio.run(main)


@pytest.mark.parametrize(
    ("damage", "left"),
    [
        (lambda tmp_path, storage: (tmp_path / "content/blobs/sha256" / APP.id[7:]).unlink(), ["b:x"]),
        (lambda tmp_path, storage: (tmp_path / "content/blobs/sha256" / APP.id[7:]).write_bytes(b"{}"), ["b:x"]),
        (lambda tmp_path, storage: storage.parents.clear(), []),
    ],
    ids=["no configuration", "damaged configuration", "no layers"],
)
def test_images_with_damaged_content_are_quarantined_at_the_start(
    tmp_path: Path, damage: Callable[[Path, DirectoryStorage], None], left: list[str]
) -> None:
    images = reopened(tmp_path, lambda storage: damage(tmp_path, storage))
    assert names(images) == left
    lost = {"a:x": APP.id, "b:x": OTHER.id}
    expected = [id for name, id in lost.items() if name not in left]
    expected += [f"ref:{parse(name)}" for name in lost if name not in left]
    assert quarantined(tmp_path) == sorted(expected)


def test_invalid_rows_of_images_and_names_are_quarantined_at_the_start(tmp_path: Path) -> None:
    rows = [
        ("sha256:" + "1" * 64, b"no JSON"),
        ("sha256:" + "2" * 64, json.dumps({"id": "sha256:" + "2" * 64, "layers": []}).encode()),
        ("ref:NOT A NAME", APP.id.encode()),
        ("ref:docker.io/library/c:x", b"\xff"),
        ("resume:x", b"[]"),
    ]
    images = reopened(tmp_path, lambda storage: None, rows)
    assert names(images) == ["a:x", "b:x"]
    assert quarantined(tmp_path) == sorted(key for key, _ in rows)


def test_content_of_quarantined_images_is_kept(tmp_path: Path) -> None:
    """While the row of an image is quarantined, it is unknown which layers and blobs belong to the image."""
    images = reopened(tmp_path, lambda storage: None, [(APP.id, b"garbage")])
    assert names(images) == ["b:x"]
    assert len(images.storage.parents) == 3
    assert len(images.blobs()) == 2 + 3

    async def main() -> None:
        async with open_images(str(tmp_path), storage=images.storage) as again:
            await again.images.remove("b:x")
            assert len(images.storage.parents) == 3
            assert len(again.blobs()) == 2 + 3
        async with Store.open(str(tmp_path / "state" / "orlop.db")) as store:
            await store.commit([Delete("images", APP.id)])
        async with open_images(str(tmp_path), storage=images.storage) as again:
            assert again.is_empty()

    trio.run(main)


def test_load_of_the_same_image_restores_a_lost_blob(tmp_path: Path) -> None:
    """The layer's blob is lost, but not its unpacked files."""

    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await load(images, docker_archive({"a:x": APP}))
            blob = images.images.resolve("a:x").layers[0].blob
            (tmp_path / "content/blobs/sha256" / blob[7:]).unlink()
            await load(images, docker_archive({"a:x": APP}))
            assert blob[7:] in images.blobs()
            assert images.unpacker.count == 2, "nothing is unpacked again"

    trio.run(main)


async def forget_blobs(images: ImagesFixture, tmp_path: Path) -> None:
    """Remove the blobs of all layers, so that only unpacked files remain, as after the adoption of a dockerd's data."""
    for found in images.images.all():
        layers = [msgspec.structs.replace(each, blob="", media_type="", blob_size=0) for each in found.layers]
        for each in found.layers:
            (tmp_path / "content/blobs/sha256" / each.blob[7:]).unlink(missing_ok=True)
        record = ImageRecord(found.id, tuple(layers))
        await images.images._image_store.store.commit([Put("images", found.id, msgspec.json.encode(record))])


def test_unpacked_layer_without_a_blob_gets_the_blob_of_an_archive(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await load(images, docker_archive({"a:x": APP}))
            await forget_blobs(images, tmp_path)
        async with open_images(str(tmp_path), storage=storage) as images:
            assert names(images) == ["a:x"] and quarantined(tmp_path) == []
            assert images.images.resolve("a:x").size == len(b"12345" + b"1")
            assert not await load(images, docker_archive({"b:x": OTHER}))
            known, new = images.images.resolve("b:x").layers
            assert (known.blob, images.unpacker.count) == (APP.layers[0].diff_id, 1), "it is not unpacked again"
            assert set(images.blobs()) == {APP.id[7:], OTHER.id[7:], known.blob[7:], new.blob[7:]}
            await images.images.remove("a:x")
            await images.images.remove("b:x")
            assert images.is_empty()

    trio.run(main)


def test_unpacked_layer_without_a_blob_gets_the_blob_of_a_later_image(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await load(images, docker_archive({"a:x": APP}))
            image = images.images.resolve("a:x")
            await forget_blobs(images, tmp_path)
        async with open_images(str(tmp_path), storage=storage) as images:
            store = images.images._image_store
            layers = images.images.resolve("a:x").layers
            with store.leases.hold():
                assert not store.complete(layers), "of none can a tar be made"
                for layer in layers:
                    split = Path(store.content.root, paths_of(layer.chain_id)[0])
                    split.parent.mkdir(exist_ok=True)
                    split.touch()
                assert store.complete(layers)
                await store.add(image.record, image.document, image.raw, [])
            assert images.images.resolve("a:x").layers == image.layers

    trio.run(main)


def test_creation_of_an_image_that_exists_writes_nothing_to_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A repeated build whose steps are all cached therefore needs no commit."""

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            await load(images, docker_archive({"a:x": APP, "b:x": OTHER}))
            image, store, written = images.images.resolve("a:x"), images.images._image_store, list[object]()
            commit = store._commit

            async def count(operations: list[Put | Delete]) -> None:
                written.append(operations)
                await commit(operations)

            monkeypatch.setattr(store, "_commit", count)

            async def add(*tags: str) -> int:
                written.clear()
                with store.leases.hold():
                    await store.add(image.record, image.document, image.raw, [parse(each) for each in tags])
                return len(written)

            assert await add("a:x") == 0 and await add() == 0
            assert await add("a:x", "a:new") == 1 and await add("a:new") == 0
            assert await add("b:x") == 1, "the name meant another image"
            assert images.images.resolve("b:x").id == image.id == images.images.resolve("a:new").id

    trio.run(main)


@pytest.mark.parametrize(("until", "kept"), [(4e9, True), (1.0, False)])
def test_interrupted_pulls_expire(tmp_path: Path, until: float, kept: bool) -> None:
    row = {"blobs": ["sha256:" + "e" * 64], "chains": [], "until": until}
    orphan = tmp_path / "content" / "blobs" / "sha256" / ("e" * 64)

    def leave(storage: DirectoryStorage) -> None:
        orphan.write_bytes(b"x")

    images = reopened(tmp_path, leave, [("resume:docker.io/library/z:x", json.dumps(row).encode())])
    assert orphan.exists() == kept
    assert names(images) == ["a:x", "b:x"]


def test_moved_tags_are_kept_by_a_restart(tmp_path: Path) -> None:
    async def main() -> None:
        storage = DirectoryStorage(str(tmp_path / "layers"))
        async with open_images(str(tmp_path), storage=storage) as images:
            await load(images, docker_archive({"a:x": APP, "b:x": OTHER}))
            await images.images.tag("b:x", "a", "x")
            await images.images.tag(APP.id, "reg.io/c", "")
            for repository, tag, message in (
                ("sha256", "x", "ambiguous tag"),
                (f"a@{APP.id}", "", "digest reference"),
                ("a", ":", "invalid tag format"),
            ):
                with pytest.raises(InvalidParameter, match=message):
                    await images.images.tag("b:x", repository, tag)
            with pytest.raises(NotFound, match="No such image: nope:latest"):
                await images.images.tag("nope", "a", "x")
        async with open_images(str(tmp_path), storage=storage) as images:
            assert images.images.names(OTHER.id) == ["a:x", "b:x"]
            assert images.images.names(APP.id) == ["reg.io/c:latest"]
            shown = await images.images.inspect("reg.io/c")
            assert shown.image.record.tagged > "2020"

    trio.run(main)


def test_images_can_be_loaded_from_an_oci_layout(tmp_path: Path) -> None:
    oci = image([layer({"x": b"y"}, compression="zstd", oci=True)], oci=True)

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            assert not await load(images, oci_archive({"docker.io/library/o:1": oci, "": APP}))
            assert images.images.resolve("o:1").id == oci.id
            assert images.images.resolve(APP.id).repo_tags == []
            changed = oci_archive({"docker.io/library/o:2": image([OTHER.layers[1]])}).replace(b"ADD layer0", b"ADD_layer0")
            assert "does not match its digest" in await load(images, changed)
            assert len(images.images.all()) == 2
            await images.images.prune({"dangling": ["false"]})
            assert images.is_empty()

    trio.run(main)


def test_import_creates_an_image_with_one_layer(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            request = ImportRequest("-", parse("imp:v1"), changes=("CMD a", "LABEL k=v"))
            records = await drain(await images.images.import_image(request, pieces(tar({"hi": b"there"}))))
            found = images.images.resolve("imp:v1")
            assert records == [{"status": found.id}]
            assert found.document.comment == "Imported from -"
            assert (found.config.labels, len(found.layers)) == ({"k": "v"}, 1)
            assert [step.size for step in images.images.history("imp:v1")] == [5]
            with pytest.raises(InvalidParameter, match="RUN is not a valid change command"):
                await images.images.import_image(ImportRequest("-", changes=("RUN x",)), pieces(b""))
            with pytest.raises(InvalidParameter):
                await drain(await images.images.import_image(ImportRequest("-"), pieces(b"no tar" * 500)))
            await images.images.remove("imp:v1")
            assert images.is_empty()

    trio.run(main)


def test_replacement_of_a_layers_blob_keeps_the_snapshots_of_its_images(tmp_path: Path) -> None:
    """A build may have another snapshot of a layer that images already have, and may compress the layer again."""

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            assert not await load(images, docker_archive({"a:x": APP}))
            store = images.images._image_store
            (found,) = store.catalog.images.values()
            before = found.layers[0]
            other = msgspec.structs.replace(before, blob=found.layers[1].blob, blob_size=7, snapshot="build-other", size=1)
            await store.replace_layer(other)
            after = store.catalog.images[found.id].layers[0]
            assert (after.blob, after.blob_size) == (other.blob, 7)
            assert (after.snapshot, after.size, after.key) == (before.snapshot, before.size, before.key)

    trio.run(main)
