"""The target of an image: the index of its name, or its manifest for one platform. An image that was made by the daemon has
no target."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import trio
from tests.registry import Attested, docker_archive, image, layer, oci_archive
from tests.registry.fakes import ImagesFixture, drain, open_images

from orlop_engine.images import image_targets, platforms
from orlop_engine.images.manifests import OCI_INDEX, OCI_MANIFEST

HERE = platforms.default()
MINE = image([layer({"mine": b"1"}, oci=True)], platform={"os": "linux", "architecture": HERE.architecture}, oci=True)
BIG = image([layer({"big": b"1"}, oci=True)], platform={"os": "linux", "architecture": "s390x"}, oci=True)
PLAIN = image([layer({"plain": b"1"}, oci=True)], oci=True)
LOCAL = image([layer({"local": b"1"})])
ALL = Attested(BIG, MINE)


async def load(images: ImagesFixture, data: bytes) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield data

    await drain(images.images.load_archive(body()))


def test_target_of_an_image_name_is_the_index_or_manifest_of_the_name(tmp_path: Path) -> None:
    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            await load(images, ALL.archive("docker.io/library/app:x"))
            await load(images, oci_archive({"docker.io/library/plain:x": PLAIN}))
            await load(images, docker_archive({"local:x": LOCAL}))
            await check(images)

    async def check(images: ImagesFixture) -> None:
        async def target(name: str, platform: platforms.Platform | None = None) -> tuple[str, int, str] | None:
            found = (await images.images.inspect(name, platform, targets=True)).target
            return (found.digest, found.size, found.media_type) if found else None

        whole = (ALL.index.digest, len(ALL.index.data), OCI_INDEX)
        assert await target("app:x") == whole
        assert await target("app:x", HERE) == (MINE.manifest.digest, len(MINE.manifest.data), OCI_MANIFEST)
        assert await target("plain:x") == (PLAIN.manifest.digest, len(PLAIN.manifest.data), OCI_MANIFEST)
        assert await target("local:x") is None
        listed = await images.images.listed({}, everything=False, targets=True)
        assert {item.image.id: item.target and item.target.digest for item in listed} == {
            MINE.id: ALL.index.digest,
            PLAIN.id: PLAIN.manifest.digest,
            LOCAL.id: None,
        }
        catalog = images.images._image_store.catalog
        swapped = (MINE.manifest.digest, ALL.index.digest)
        record = msgspec.structs.replace(catalog.images[MINE.id].record, manifests=swapped)
        catalog.put(record, catalog.images[MINE.id].document, catalog.images[MINE.id].raw)
        await images.images.tag(MINE.id, "alone", "x")
        await images.images.remove("app:x")
        found = await target("alone:x")
        assert found is not None and found[0] == MINE.manifest.digest, "no name means the index any more"

    trio.run(main)


def test_cache_of_targets_is_bounded_and_an_image_with_a_damaged_manifest_has_no_target(tmp_path: Path) -> None:

    async def main() -> None:
        async with open_images(str(tmp_path)) as images:
            await load(images, oci_archive({"docker.io/library/plain:x": PLAIN}))
            path = Path(images.root) / "content/blobs/sha256" / PLAIN.manifest.digest[7:]
            path.write_bytes(b"damaged")
            assert (await images.images.inspect("plain:x", targets=True)).target is None
            path.write_bytes(PLAIN.manifest.data)
            known = images.images._targets._known
            known.update((str(number), None) for number in range(image_targets._MOST))
            del known[PLAIN.manifest.digest]
            known["one more"] = None
            found = (await images.images.inspect("plain:x", targets=True)).target
            assert found is not None and found.digest == PLAIN.manifest.digest
            assert list(known) == [PLAIN.manifest.digest]

    trio.run(main)
