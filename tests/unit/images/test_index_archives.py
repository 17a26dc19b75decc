"""Archives of images of several platforms: the index is saved and loaded byte for byte, together with its stored content."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Attested, Blob, Image, image, layer, oci_archive
from tests.registry.fakes import ImagesFixture, drain, open_images

from orlop_engine.images import platforms
from orlop_engine.images.archive_save import SaveRequest
from orlop_engine.images.platforms import Platform
from orlop_sdk import NotFound

HERE = platforms.default()
S390X, ARM7 = Platform("linux", "s390x"), Platform("linux", "arm", "v7")
SHARED = layer({"shared": b"12345"}, oci=True)
NAME = "docker.io/library/app:x"


def made(os: str, architecture: str, variant: str = "") -> Image:
    where = {"os": os, "architecture": architecture, **({"variant": variant} if variant else {})}
    return image([SHARED, layer({f"{os}-{architecture}{variant}": b"1"}, oci=True)], platform=where, oci=True)


MINE, BIG, ARM = made("linux", HERE.architecture), made("linux", "s390x"), made("linux", "arm", "v7")
ALL = Attested(BIG, MINE)
THREE = Attested(BIG, MINE, ARM)


def run(tmp_path: Path, test: Callable[[ImagesFixture], Awaitable[None]]) -> None:
    async def main() -> None:
        with trio.fail_after(30):
            async with open_images(str(tmp_path)) as images:
                await test(images)

    trio.run(main)


async def load(images: ImagesFixture, data: bytes, *wanted: Platform) -> list[dict[str, Any]]:
    async def body() -> AsyncIterator[bytes]:
        yield data

    records = await drain(images.images.load_archive(body(), wanted))
    assert "error" not in records[-1], records[-1]
    return records


async def save(images: ImagesFixture, *names: str, wanted: Sequence[Platform] = ()) -> bytes:
    archive = await images.images.save(SaveRequest(names, tuple(wanted)))
    return b"".join([piece async for piece in archive])


def members(data: bytes) -> dict[str, bytes]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as archive:
        return {entry.name: archive.extractfile(entry).read() for entry in archive if entry.isreg()}  # type: ignore[union-attr]


def blobs(parts: Sequence[Blob]) -> dict[str, bytes]:
    return {f"blobs/sha256/{part.digest[7:]}": part.data for part in parts}


def stored(found: dict[str, bytes]) -> dict[str, bytes]:
    return {name: data for name, data in found.items() if name.startswith("blobs/")}


def targets(found: dict[str, bytes]) -> list[str]:
    return [entry["digest"] for entry in json.loads(found["index.json"])["manifests"]]


async def kinds(images: ImagesFixture, name: str) -> dict[str, bool]:
    """The manifests of a name, and whether they are stored."""
    found = await images.images.inspect(name, manifests=True)
    assert found.manifests
    return {one.descriptor.digest: one.available for one in found.manifests}


def test_index_is_saved_and_loaded_byte_for_byte(tmp_path: Path) -> None:
    async def test(images: ImagesFixture) -> None:
        await load(images, ALL.archive(NAME))
        await images.images.tag("app:x", "copy", "y")
        data = await save(images, "app:x", "copy:y")
        assert data == await save(images, "app:x", "copy:y")
        found = members(data)
        assert stored(found) == blobs(ALL.everything())
        assert targets(found) == [ALL.index.digest] * 2
        notes = [entry["annotations"]["io.containerd.image.name"] for entry in json.loads(found["index.json"])["manifests"]]
        assert notes == [NAME, "docker.io/library/copy:y"]
        (entry,) = json.loads(found["manifest.json"])
        assert (entry["Config"], entry["RepoTags"]) == (f"blobs/sha256/{MINE.id[7:]}", ["app:x", "copy:y"])
        assert images.actions()[-2:] == [("save", one.id, one.id) for one in (BIG, MINE)]
        await images.images.remove("copy:y")
        await images.images.remove("app:x")
        assert images.is_empty()
        records = await load(images, data)
        assert [record["stream"] for record in records] == ["Loaded image: app:x\n", "Loaded image: copy:y\n"]
        assert all((await kinds(images, "copy:y")).values())
        assert await save(images, "app:x", "copy:y") == data

    run(tmp_path, test)


@pytest.mark.parametrize(
    ("wanted", "there"),
    [((), (BIG, MINE)), ((S390X,), (BIG,)), ((S390X, HERE), (BIG, MINE))],
)
def test_save_of_several_platforms_contains_the_index_and_the_stored_manifests(
    tmp_path: Path, wanted: tuple[Platform, ...], there: tuple[Image, ...]
) -> None:
    """If one platform is saved, the archive contains its manifest; for several platforms, it contains the index. The image
    for ARM is not stored."""

    async def test(images: ImagesFixture) -> None:
        await load(images, THREE.archive(NAME, absent=[ARM.manifest]))
        found = members(await save(images, "app:x", wanted=wanted))
        parts = [part for one in there for part in (one.manifest, one.config, *one.layers)]
        if len(there) > 1:
            parts += [THREE.index, *THREE.attestations[:2], *THREE.blobs[:4]]
        assert stored(found) == blobs(parts)
        assert targets(found) == [THREE.index.digest if len(there) > 1 else BIG.manifest.digest]
        with pytest.raises(NotFound, match=r"does not provide the specified platform \(linux/arm/v7\)"):
            await save(images, "app:x", wanted=(S390X, ARM7))

    run(tmp_path, test)


def test_save_leaves_out_platforms_that_were_removed_from_the_name(tmp_path: Path) -> None:
    async def test(images: ImagesFixture) -> None:
        await load(images, THREE.archive(NAME))
        await images.images.tag("app:x", "whole", "x")
        await images.images.remove("app:x", platforms=[ARM7])
        found = members(await save(images, "app:x", wanted=(S390X, HERE)))
        assert not set(blobs([ARM.manifest, ARM.config, THREE.attestations[2]])) & set(found)
        found = members(await save(images, "app:x", "whole:x"))
        assert stored(found) == blobs(THREE.everything()), "each name has the platforms of its own, and the index once"

    run(tmp_path, test)


def test_save_makes_a_new_index_if_layers_are_stored_with_another_compression(tmp_path: Path) -> None:
    async def test(images: ImagesFixture) -> None:
        plain = image([layer({"shared": b"12345"}, compression="none", oci=True)], oci=True)
        await load(images, oci_archive({"plain:x": plain}))
        await load(images, ALL.archive(NAME))
        data = await save(images, "app:x")
        found = members(data)
        (target,) = targets(found)
        entries = json.loads(found[f"blobs/sha256/{target[7:]}"])["manifests"]
        assert {entry["platform"]["architecture"] for entry in entries} == {HERE.architecture, "s390x"}
        assert target != ALL.index.digest and len(json.loads(found["manifest.json"])) == 1
        await images.images.remove("app:x")
        await load(images, data)
        assert {one.id for one in images.images.all_platforms("app:x")} == {MINE.id, BIG.id}
        assert await save(images, "app:x") == data
        await images.images.remove("app:x", platforms=[S390X])
        (target,) = targets(members(await save(images, "app:x")))
        assert target == json.loads(found["index.json"])["manifests"][0]["digest"], "what is here of that index"

    run(tmp_path, test)


# --- load ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("wanted", "there"), [((), [MINE, BIG]), ((S390X,), [BIG]), ((S390X, HERE), [MINE, BIG])])
def test_archive_with_manifest_json_and_index_loads_all_platforms(
    tmp_path: Path, wanted: tuple[Platform, ...], there: list[Image]
) -> None:
    """`manifest.json` names only the image for one host; the OCI layout has all platforms."""

    async def test(images: ImagesFixture) -> None:
        records = await load(images, ALL.archive(NAME, docker=MINE), *wanted)
        assert [record["stream"] for record in records] == ["Loaded image: app:x\n"]
        assert {one.id for one in images.images.all()} == {one.id for one in there}
        assert (await kinds(images, "app:x"))[ALL.attestations[0].digest]

    run(tmp_path, test)


@pytest.mark.parametrize("absent", [[ALL.index], [MINE.manifest, BIG.manifest]])
def test_load_uses_manifest_json_if_the_oci_layout_is_incomplete(tmp_path: Path, absent: list[Blob]) -> None:
    async def test(images: ImagesFixture) -> None:
        records = await load(images, ALL.archive(NAME, absent=absent, docker=MINE))
        assert [record["stream"] for record in records] == ["Loaded image: app:x\n"]
        assert [one.id for one in images.images.all()] == [MINE.id]

    run(tmp_path, test)


def test_load_sets_image_names_that_only_manifest_json_contains(tmp_path: Path) -> None:
    """The archive also has an index, which does not contain these names."""

    async def test(images: ImagesFixture) -> None:
        found = members(ALL.archive(NAME, docker=MINE))
        (entry,) = json.loads(found["manifest.json"])
        table = [{**entry, "RepoTags": ["app:x", "also:x"]}, {**entry, "RepoTags": None}]
        from tests.registry.build import Content, encode, tar

        data: dict[str, Content] = {**found, "manifest.json": encode(table)}
        await load(images, tar(data))
        assert {one.id for one in images.images.all_platforms("app:x")} == {MINE.id, BIG.id}
        assert [one.id for one in images.images.all_platforms("also:x")] == [MINE.id]

    run(tmp_path, test)


def test_load_skips_images_for_other_operating_systems(tmp_path: Path) -> None:
    windows = made("windows", "amd64")
    about = Attested(windows, MINE)

    async def test(images: ImagesFixture) -> None:
        await load(images, about.archive(NAME))
        assert [one.id for one in images.images.all()] == [MINE.id]
        (mine,) = [id for id, here in (await kinds(images, "app:x")).items() if here and id == MINE.manifest.digest]
        assert mine

    run(tmp_path, test)
