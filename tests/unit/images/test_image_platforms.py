"""Images of several platforms under one name: pull, tag, inspect, list, remove, reopen, and rows of earlier versions."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Blob, Image, blob, image, index, layer
from tests.registry.build import OCI_INDEX, OCI_MANIFEST, Content, encode, tar
from tests.registry.fakes import DirectoryStorage, ImagesFixture, drain, open_images
from tests.registry.hostile import Hostile, serving

from orlop_api_docker.images import encoded_list
from orlop_api_docker.versions import SEVERAL_PLATFORMS
from orlop_engine.images import platforms
from orlop_engine.images.platforms import Platform
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import NameRecord, decode_name, encode_name
from orlop_engine.images.references import parse
from orlop_engine.images.removal import ImageUser
from orlop_kernel.store import Put, Store
from orlop_sdk import Conflict, InvalidParameter, NotFound

HERE = platforms.host()
OLD, NEW = (1, 45), (1, 51)
S390X, ARM7 = Platform("linux", "s390x"), Platform("linux", "arm", "v7")
SHARED = layer({"shared": b"12345"})


def made(platform: Platform, content: bytes = b"1") -> Image:
    where = {"os": platform.os, "architecture": platform.architecture}
    if platform.variant:
        where["variant"] = platform.variant
    name = str(platform).replace("/", "-")
    return image([SHARED, layer({name: content})], platform=where, config={"Labels": {"platform": str(platform)}})


MINE, BIG, ARM = made(HERE), made(S390X), made(ARM7)


def publish(registry: Hostile, *images: Image, tag: str = "v1", attestation: bool = True) -> Blob:
    for one in images:
        registry.add("app", one.manifest.digest, one)
    both = index(images, oci=True, attestation=attestation)
    registry.add_manifest("app", tag, both)
    return both


Test = Callable[[ImagesFixture, Hostile], Awaitable[None]]


def run(tmp_path: Path, test: Test, storage: DirectoryStorage | None = None) -> None:
    async def main() -> None:
        with serving() as registry, trio.fail_after(30):
            async with open_images(str(tmp_path), storage=storage) as images:
                await test(images, registry)

    trio.run(main)


async def pull(images: ImagesFixture, name: str, platform: Platform | None = None) -> list[dict[str, Any]]:
    records = await drain(images.images.pull(PullRequest(parse(name), platform)))
    assert "error" not in records[-1], records[-1]
    return records


async def listed(images: ImagesFixture, version: tuple[int, int] = NEW, **options: Any) -> list[dict[str, Any]]:
    found = await images.images.listed({}, everything=False, newest=version < SEVERAL_PLATFORMS, **options)
    return sorted(json.loads(await encoded_list(found, version)), key=lambda item: (not item["RepoTags"], item["Id"]))


async def several(images: ImagesFixture, registry: Hostile) -> str:
    """Pull app:v1 for this host, then for s390x."""
    publish(registry, MINE, BIG, ARM)
    name = f"{registry.host}/app:v1"
    await pull(images, name)
    await pull(images, name, S390X)
    return name


def test_name_refers_to_both_images_after_the_pull_of_a_second_platform(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        both = publish(registry, MINE, BIG, ARM)
        name = f"{registry.host}/app:v1"
        await pull(images, name, S390X)
        assert images.images.resolve(name).id == BIG.id, "there is no better one"
        await pull(images, name)
        records = await pull(images, name, S390X)
        assert records[-1]["status"].startswith("Status: Image is up to date for")
        for text in (name, f"{registry.host}/app@{both.digest}"):
            assert images.images.resolve(text).id == MINE.id
            assert images.images.resolve(text, S390X).id == BIG.id
            assert {one.id for one in images.images.all_platforms(text)} == {MINE.id, BIG.id}
            with pytest.raises(NotFound, match=r"does not provide the specified platform \(linux/arm/v7\): actual: .*s390x"):
                images.images.resolve(text, ARM7)

    run(tmp_path, test)


def test_image_list_has_one_entry_for_all_platforms_of_a_name(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        both = index((MINE, BIG, ARM), oci=True, attestation=True)
        (item,) = await listed(images, manifests=True)
        assert (item["Id"], item["RepoTags"]) == (MINE.id, [name])
        attestation, mine, big, arm = item["Manifests"]
        assert [one["Available"] for one in item["Manifests"]] == [False, True, True, False]
        assert [one["ID"] for one in (mine, big, arm)] == [one.manifest.digest for one in (MINE, BIG, ARM)]
        assert attestation["Kind"] == "attestation" and attestation["AttestationData"] == {"For": ""}
        assert attestation["ID"] == json.loads(both.data)["manifests"][0]["digest"]
        assert mine["Kind"] == "image" and big["ImageData"]["Platform"] == {"architecture": "s390x", "os": "linux"}
        assert arm["ImageData"]["Platform"] == {"architecture": "arm", "os": "linux", "variant": "v7"}
        assert arm["Size"] == {"Content": 0, "Total": 0} and arm["ImageData"]["Size"] == {"Unpacked": 0}
        content = len(BIG.manifest.data) + len(BIG.config.data) + sum(len(part.data) for part in BIG.layers)
        assert big["Size"] == {"Content": content, "Total": content + 6}
        assert big["Descriptor"]["size"] == len(BIG.manifest.data)
        assert big["Descriptor"]["mediaType"] == BIG.manifest.media_type
        (item,) = await listed(images)
        assert "Manifests" not in item
        found = await images.images.inspect(name, manifests=True)
        assert found.manifests and len(found.manifests) == 4

    run(tmp_path, test)


def test_clients_with_an_old_api_version_see_one_image_for_each_name(tmp_path: Path) -> None:
    """As in dockerd 26.1, the image that was pulled last has the tag, and the image that was pulled first keeps the
    digest."""

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        first, second = await listed(images, OLD)
        assert (first["Id"], first["RepoTags"], first["RepoDigests"]) == (BIG.id, [name], [])
        assert (second["Id"], second["RepoTags"], len(second["RepoDigests"])) == (MINE.id, [], 1)
        assert (await images.images.inspect(name, newest=True)).image.id == BIG.id
        assert (await images.images.inspect(MINE.id, newest=True)).tags == []
        assert (await images.images.inspect(MINE.id)).tags == [name]
        assert (await images.images.inspect(name)).image.id == MINE.id
        assert (await images.images.inspect(name, S390X)).image.id == BIG.id
        assert images.images.history(name, newest=True) == images.images.history(name, S390X)

    run(tmp_path, test)


def test_pull_of_a_newer_index_moves_the_name_to_the_images_of_that_index(tmp_path: Path) -> None:
    """Images that are only in the old index lose the name."""

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        newer = made(HERE, b"newer")
        publish(registry, newer, BIG)
        await pull(images, name)
        assert {one.id for one in images.images.all_platforms(name)} == {newer.id, BIG.id}
        assert [item["RepoTags"] for item in await listed(images)] == [[name], []]
        publish(registry, MINE, newer, BIG)  # the index has two images of one platform; the name means the first
        await pull(images, name)
        assert {one.id for one in images.images.all_platforms(name)} == {MINE.id, BIG.id}
        publish(registry, MINE)
        await pull(images, name)
        assert [one.id for one in images.images.all_platforms(name)] == [MINE.id]
        registry.add("app", "v1", newer)  # the tag is not an index any more
        await pull(images, name)
        assert [one.id for one in images.images.all_platforms(name)] == [newer.id]

    run(tmp_path, test)


def test_new_tag_of_a_name_refers_to_the_images_of_all_platforms(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        await images.images.tag(name, "copy", "x")
        await images.images.tag(BIG.id, "big", "x")
        assert images.images.resolve("copy:x", S390X).id == BIG.id
        assert [one.id for one in images.images.all_platforms("big:x")] == [BIG.id]
        await images.images.remove(name)
        assert images.images.resolve("copy:x").id == MINE.id and images.images.resolve("copy:x", S390X).id == BIG.id
        items = {item["Id"]: item for item in await listed(images, manifests=True)}
        assert (items[MINE.id]["RepoTags"], items[BIG.id]["RepoTags"]) == (["copy:x"], ["big:x"])
        assert len(items[MINE.id]["Manifests"]) == 4
        (own,) = items[BIG.id]["Manifests"]
        assert own["ID"] == BIG.manifest.digest and own["Available"]

    run(tmp_path, test)


def test_removal_of_a_name_removes_the_images_of_all_its_platforms(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        told = await images.images.remove(name)
        assert [item.untagged for item in told if item.untagged] == [name, f"{name.removesuffix(':v1')}@" + _digest()]
        assert {item.deleted for item in told if item.deleted} >= {MINE.id, BIG.id}
        assert images.is_empty()
        assert [action for action, _, _ in images.actions()].count("untag") == 1, "the digest goes with the tag"

    def _digest() -> str:
        return index((MINE, BIG, ARM), oci=True, attestation=True).digest

    run(tmp_path, test)


def test_removal_of_one_platform_keeps_the_name_for_the_other_platforms(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        with pytest.raises(NotFound, match="does not provide"):
            await images.images.remove(name, platforms=[ARM7])
        told = await images.images.remove(name, platforms=[S390X])
        assert [item.untagged for item in told] == [""] * len(told), "the name stays"
        assert BIG.id in {item.deleted for item in told}
        assert images.images.get(BIG.id) is None and images.images.resolve(name).id == MINE.id
        told = await images.images.remove(name, platforms=[HERE])
        assert name in {item.untagged for item in told}
        assert images.is_empty()

    run(tmp_path, test)


def test_removal_by_id_is_refused_for_images_in_use(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        images.images.users = lambda: {BIG.id: [ImageUser("c" * 64, True)]}
        with pytest.raises(Conflict, match="is being used by running container"):
            await images.images.remove(BIG.id)
        with pytest.raises(Conflict, match="container cccccccccccc is using its referenced image"):
            await images.images.remove(name)
        assert len(images.images.all_platforms(name)) == 2, "nothing was removed"
        await images.images.remove(MINE.id)
        assert [one.id for one in images.images.all_platforms(name)] == [BIG.id]
        images.images.users = dict
        await images.images.prune({})
        assert images.images.resolve(name).id == BIG.id
        await images.images.prune({"dangling": ["false"]})
        assert images.is_empty()

    run(tmp_path, test)


def test_prune_keeps_images_of_platforms_that_containers_use(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        images.images.users = lambda: {BIG.id: [ImageUser("c" * 64, False)]}
        await images.images.prune({"dangling": ["false"]})
        assert [one.id for one in images.images.all_platforms(name)] == [BIG.id]

    run(tmp_path, test)


def test_image_name_still_refers_to_several_platforms_after_a_restart(tmp_path: Path) -> None:
    storage = DirectoryStorage(f"{tmp_path}/layers")

    async def fill(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        await images.images.tag(name, "copy", "x")

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        assert images.images.resolve("copy:x").id == MINE.id
        assert images.images.resolve("copy:x", newest=True).id == BIG.id
        (item,) = await listed(images, manifests=True)
        assert len(item["Manifests"]) == 4 and len(item["RepoTags"]) == 2

    run(tmp_path, fill, storage)
    run(tmp_path, check, storage)


def test_name_of_several_images_is_kept_if_one_image_is_damaged(tmp_path: Path) -> None:
    """The name then refers only to the usable images."""
    storage = DirectoryStorage(f"{tmp_path}/layers")

    async def fill(images: ImagesFixture, registry: Hostile) -> None:
        await images.images.tag(await several(images, registry), "copy", "x")
        (Path(images.root) / "content" / "blobs" / "sha256" / MINE.id[7:]).write_bytes(b"damaged")

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        assert images.images.resolve("copy:x").id == BIG.id
        assert len(images.images.all_platforms("copy:x")) == 1

    run(tmp_path, fill, storage)
    run(tmp_path, check, storage)


def test_images_of_a_name_are_usable_although_the_index_is_damaged(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        name = await several(images, registry)
        both = index((MINE, BIG, ARM), oci=True, attestation=True)
        (Path(images.root) / "content" / "blobs" / "sha256" / both.digest[7:]).write_bytes(b"{}")
        (item,) = await listed(images, manifests=True)
        assert {one["ID"] for one in item["Manifests"]} == {MINE.manifest.digest, BIG.manifest.digest}
        assert images.images.resolve(name, S390X).id == BIG.id

    run(tmp_path, test)


def test_rows_of_names_from_earlier_versions_can_be_read(tmp_path: Path) -> None:
    """A row that contains only an ID, with or without an owner, means the image with this ID. A pull of another platform
    adds an image to the row."""
    storage = DirectoryStorage(f"{tmp_path}/layers")
    found: dict[str, str] = {}

    async def fill(images: ImagesFixture, registry: Hostile) -> None:
        publish(registry, MINE, BIG)
        found["host"] = registry.host
        await pull(images, f"{registry.host}/app:v1")

    async def age() -> None:
        async with Store.open(f"{tmp_path}/state/orlop.db") as store:
            names = [key for key, _ in store.load("images") if key.startswith("ref:")]
            assert len(names) == 2
            await store.commit([Put("images", key, f"{MINE.id} unix:///x".encode()) for key in names])

    async def check(images: ImagesFixture, registry: Hostile) -> None:
        catalog = images.images._image_store.catalog
        name = parse(f"{found['host']}/app:v1")
        assert catalog.meaning(name) == NameRecord((MINE.id,), owner="unix:///x")
        both = index((MINE, BIG), oci=True, attestation=True)
        (item,) = await listed(images, manifests=True)
        assert [one["ID"] for one in item["Manifests"]] == [MINE.manifest.digest]
        assert both.digest in catalog.images[MINE.id].record.manifests
        registry.add("app", "v1", BIG)
        meaning = with_s390x(catalog, name, both)
        assert meaning.images == (BIG.id, MINE.id) and meaning.index == both.digest

    def with_s390x(catalog: Any, name: Any, both: Blob) -> NameRecord:
        from orlop_engine.images import manifests, meanings

        found = manifests.parse(both.media_type, both.data)
        assert isinstance(found, manifests.Index)
        source = meanings.IndexSource.of(both.digest, found)
        return meanings.with_image(catalog, name, BIG.id, S390X, source, "")

    run(tmp_path, fill, storage)
    trio.run(age)
    run(tmp_path, check, storage)


def attested() -> tuple[Blob, list[Blob]]:
    """An attestation: its manifest and its blobs."""
    config, document = (
        Blob(b"{}", "application/vnd.oci.image.config.v1+json"),
        Blob(b'{"a":1}', "application/vnd.in-toto+json"),
    )
    manifest = {"schemaVersion": 2, "config": config.descriptor, "layers": [document.descriptor]}
    return blob(manifest, OCI_MANIFEST), [config, document]


def archive(
    *images: Image, absent: Sequence[Image] = (), attestation: Blob | None = None, parts: Sequence[Blob] = ()
) -> bytes:
    """An OCI layout with an index named app:x. `absent` images are in the index only."""
    entries = [{**one.manifest.descriptor, "platform": one.platform} for one in (*images, *absent)]
    if attestation:
        notes = {
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": images[0].manifest.digest,
        }
        unknown = {"os": "unknown", "architecture": "unknown"}
        entries.append({**attestation.descriptor, "platform": unknown, "annotations": notes})
    both = blob({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}, OCI_INDEX)
    blobs = [both, *parts, *([attestation] if attestation else [])]
    blobs += [part for one in images for part in (one.manifest, one.config, *one.layers)]
    members: dict[str, Content] = {f"blobs/sha256/{part.digest[7:]}": part.data for part in blobs}
    named = {**both.descriptor, "annotations": {"io.containerd.image.name": "docker.io/library/app:x"}}
    return tar({**members, "index.json": encode({"schemaVersion": 2, "manifests": [named]})})


async def load(images: ImagesFixture, data: bytes, platform: Platform | None = None) -> list[dict[str, Any]]:
    async def body() -> AsyncIterator[bytes]:
        yield data

    return await drain(images.images.load_archive(body(), [platform] if platform else []))


def test_load_of_an_index_adds_the_images_of_all_stored_platforms(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        manifest, parts = attested()
        data = archive(MINE, BIG, absent=[ARM], attestation=manifest, parts=parts)
        assert await load(images, data) == [{"stream": "Loaded image: app:x\n"}]
        assert images.images.resolve("app:x").id == images.images.resolve("app:x", newest=True).id == MINE.id
        assert images.images.resolve("app:x", S390X).id == BIG.id
        (item,) = await listed(images, manifests=True)
        shown = {one["ID"]: one for one in item["Manifests"]}
        assert [one["Available"] for one in item["Manifests"]] == [True, True, False, True]
        attestation = shown[manifest.digest]
        assert (attestation["Kind"], attestation["AttestationData"]) == ("attestation", {"For": MINE.manifest.digest})
        size = len(manifest.data) + sum(len(part.data) for part in parts)
        assert attestation["Size"] == {"Content": size, "Total": size}
        await images.images.prune({})
        assert {manifest.digest[7:], *(part.digest[7:] for part in parts)} <= images.blobs(), "attestations are kept"
        assert await load(images, data) == [{"stream": "Loaded image: app:x\n"}], "nothing is renamed"
        await images.images.remove("app:x")
        assert images.is_empty()

    run(tmp_path, test)


def test_load_of_one_platform_of_an_archive_stores_only_the_image_for_this_platform(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        await load(images, archive(MINE, BIG), S390X)
        assert [one.id for one in images.images.all()] == [BIG.id]
        await load(images, archive(MINE, BIG), HERE)
        assert len(images.images.all_platforms("app:x")) == 2
        with pytest.raises(InvalidParameter, match="it has no file"):
            await load(images, archive(MINE, absent=[BIG]), S390X)
        with pytest.raises(NotFound, match="no matching manifest for linux/arm/v7 in the manifest list entries"):
            await load(images, archive(MINE), ARM7)

    run(tmp_path, test)


def test_load_leaves_out_an_attestation_with_missing_blobs(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Hostile) -> None:
        manifest, parts = attested()
        await load(images, archive(MINE, attestation=manifest, parts=parts[:1]))
        (item,) = await listed(images, manifests=True)
        assert [(one["Kind"], one["Available"]) for one in item["Manifests"]] == [("image", True), ("attestation", False)]
        assert manifest.digest[7:] not in images.blobs()

    run(tmp_path, test)


@pytest.mark.parametrize(
    "record",
    [
        NameRecord(("sha256:1",)),
        NameRecord(("sha256:1",), owner="unix:///x y"),
        NameRecord(("sha256:1", "sha256:2"), owner="o"),
        NameRecord(("sha256:1",), "sha256:3"),
    ],
)
def test_encoded_row_of_a_name_can_be_decoded_unchanged(record: NameRecord) -> None:
    assert decode_name(encode_name(record)) == record


def test_row_of_a_name_without_an_image_is_refused() -> None:
    for row in (b'{"images":[]}', b"{}", b"{", b"\xff"):
        with pytest.raises(ValueError, match=r"."):
            decode_name(row)


def test_image_with_the_best_compatible_cpu_variant_is_selected(tmp_path: Path) -> None:
    """`arm/v7` runs images for v6 and v5, but not for v8; `amd64/v3` runs images for lower levels (containerd's
    platforms)."""
    v3 = Platform("linux", "amd64", "v3")
    five, six = made(Platform("linux", "arm", "v5")), made(Platform("linux", "arm", "v6"))
    levels = made(Platform("linux", "amd64", "v2")), made(Platform("linux", "amd64"))

    async def test(images: ImagesFixture, registry: Hostile) -> None:
        publish(registry, five, six, *levels)
        name = f"{registry.host}/app:v1"
        await pull(images, name, ARM7)
        assert {one.id for one in images.images.all()} == {six.id}
        await pull(images, name, v3)
        assert {one.id for one in images.images.all()} == {six.id, levels[0].id}

    run(tmp_path, test)
