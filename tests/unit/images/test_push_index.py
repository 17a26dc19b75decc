"""Pushes of names from an index. If the complete content of an index is stored, the index is pushed unchanged. Otherwise one
image is pushed, and a message tells the client."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.registry import Attested, Blob, Image, image, layer, oci_archive
from tests.registry.build import OCI_MANIFEST
from tests.registry.fakes import ImagesFixture, drain, open_images
from tests.registry.receiving import Receiving, receiving, refuse

from orlop_engine.images import platforms
from orlop_engine.images.platforms import Platform
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.references import parse
from orlop_engine.images.transfers import PushRequest

HERE = platforms.host()
S390X, ARM7 = Platform("linux", "s390x"), Platform("linux", "arm", "v7")
SHARED = layer({"shared": b"12345"}, oci=True)
Test = Callable[[ImagesFixture, Receiving], Awaitable[None]]


def made(platform: Platform) -> Image:
    where = {"os": platform.os, "architecture": platform.architecture}
    if platform.variant and platform != HERE:
        where["variant"] = platform.variant
    return image([SHARED, layer({str(platform).replace("/", "-"): b"1"}, oci=True)], platform=where, oci=True)


MINE, BIG, ARM = made(HERE), made(S390X), made(ARM7)
ALL = Attested(MINE, BIG)


def run(tmp_path: Path, test: Test, about: Attested = ALL, absent: Sequence[Blob] = (), *, wanted: Any = None) -> None:
    """Run with a registry, and an image service that has loaded an archive of the index as app:v1 of the registry."""

    async def main() -> None:
        with receiving() as registry, trio.fail_after(30):
            async with open_images(str(tmp_path)) as images:
                await load(images, about.archive(f"{registry.host}/app:v1", absent=absent), wanted)
                await test(images, registry)

    trio.run(main)


async def load(images: ImagesFixture, data: bytes, wanted: Platform | None = None) -> None:
    async def body() -> AsyncIterator[bytes]:
        yield data

    records = await drain(images.images.load_archive(body(), [wanted] if wanted else []))
    assert "error" not in records[-1], records[-1]


async def pushed(images: ImagesFixture, registry: Receiving, name: str = "app:v1", **more: Any) -> list[dict[str, Any]]:
    return await drain(images.images.push(PushRequest(parse(f"{registry.host}/{name}"), **more)))


def aux(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [record["aux"] for record in records if "aux" in record]


def puts(registry: Receiving) -> list[str]:
    """The references of manifests that were stored, in order."""
    return [path.rpartition("/")[2] for method, path, _ in registry.requests if method == "PUT" and "/manifests/" in path]


def test_push_sends_an_index_unchanged_if_its_content_is_complete(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry)
        index = ALL.index
        assert registry.manifests["app", "v1"] == index
        manifests = [MINE.manifest, BIG.manifest, *ALL.attestations]
        for manifest in manifests:
            assert registry.manifests["app", manifest.digest] == manifest
        assert puts(registry) == [*(manifest.digest for manifest in manifests), "v1"], "the index comes last"
        blobs = [*MINE.layers, *BIG.layers, MINE.config, BIG.config, *ALL.blobs]
        assert {digest for _, digest in registry.blobs} == {part.digest for part in blobs}
        assert aux(records) == [{"Tag": "v1", "Digest": index.digest, "Size": len(index.data)}]
        assert records[-2]["status"] == f"v1: digest: {index.digest} size: {len(index.data)}"
        ids = {part.diff_id[7:19] for part in (*MINE.layers, *BIG.layers)}
        for id in ids:
            assert [one["status"] for one in records if one.get("id") == id and one["status"] in ("Preparing", "Pushed")]
        for one in (MINE, BIG):
            assert images.images.get(one.id).repo_digests == [f"{registry.host}/app@{index.digest}"]  # type: ignore[union-attr]
        assert {one.id for one in images.images.all_platforms(f"{registry.host}/app@{index.digest}")} == {MINE.id, BIG.id}
        assert images.actions()[-1][0] == "push"

    run(tmp_path, test)


def test_second_push_of_an_index_uploads_nothing(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry)
        before = len(registry.requests)
        await pushed(images, registry)
        assert not [path for method, path, _ in registry.requests[before:] if method in ("POST", "PATCH")]
        await images.images.tag(f"{registry.host}/app:v1", f"{registry.host}/copy", "v2")
        before = len(registry.requests)
        await pushed(images, registry, "copy:v2")
        assert registry.manifests["copy", "v2"] == ALL.index
        sent = [path for method, path, _ in registry.requests[before:] if method in ("POST", "PATCH")]
        assert sent and all("mount=" in path for path in sent), "also attestations are mounted"

    run(tmp_path, test)


def instead(about: Attested, one: Image) -> dict[str, Any]:
    """The record that tells clients that one image was pushed instead of the index."""
    index, manifest = about.index, one.manifest
    return {
        "manifestPushedInsteadOfIndex": True,
        "originalIndex": {"mediaType": index.media_type, "digest": index.digest, "size": len(index.data)},
        "selectedManifest": {"mediaType": manifest.media_type, "digest": manifest.digest, "size": len(manifest.data)},
    }


THREE = Attested(BIG, MINE, ARM)


@pytest.mark.parametrize(
    ("about", "absent", "sent"),
    [
        (THREE, [ARM.manifest], MINE),
        (THREE, [MINE.manifest, ARM.manifest], BIG),
        (ALL, [ALL.attestations[1]], MINE),
        (ALL, [ALL.blobs[3]], MINE),
    ],
)
def test_push_of_an_incomplete_index_sends_one_image_instead(
    tmp_path: Path, about: Attested, absent: list[Blob], sent: Image
) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry)
        assert registry.pushed("app", "v1") == sent.manifest
        assert puts(registry) == ["v1"]
        told = {"Tag": "v1", "Digest": sent.manifest.digest, "Size": len(sent.manifest.data)}
        assert aux(records) == [told, instead(about, sent)]

    run(tmp_path, test, about, absent)


def test_push_makes_a_new_index_if_layers_are_stored_with_another_compression(tmp_path: Path) -> None:
    """A layer was loaded as a plain tar before. The new manifests and the new index are the same for each push."""

    async def main() -> None:
        with receiving() as registry, trio.fail_after(30):
            async with open_images(str(tmp_path)) as images:
                plain = image([layer({"shared": b"12345"}, oci=True, compression="none")], oci=True)
                await load(images, oci_archive({"plain:x": plain}))
                await load(images, ALL.archive(f"{registry.host}/app:v1"))
                await check(images, registry)

    async def check(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry)
        index = registry.manifests["app", "v1"]
        entries = json.loads(index.data)["manifests"]
        assert {entry["platform"]["architecture"] for entry in entries} == {HERE.architecture, "s390x"}
        assert {registry.pushed("app", entry["digest"]).media_type for entry in entries} == {OCI_MANIFEST}
        configs = {json.loads(registry.manifests["app", entry["digest"]].data)["config"]["digest"] for entry in entries}
        assert configs == {MINE.id, BIG.id}
        assert aux(records) == [{"Tag": "v1", "Digest": index.digest, "Size": len(index.data)}]
        await images.images.collect()
        before = len(registry.requests)
        await pushed(images, registry)
        assert registry.manifests["app", "v1"] == index
        assert not [path for method, path, _ in registry.requests[before:] if method in ("POST", "PATCH")]
        assert {one.id for one in images.images.all_platforms(f"{registry.host}/app@{index.digest}")} == {MINE.id, BIG.id}
        await drain(images.images.pull(PullRequest(parse(f"{registry.host}/app:v1"))))
        await images.images.remove(f"{registry.host}/app:v1")
        assert [one.names.tags for one in images.images.all()] == [["plain:x"]]

    trio.run(main)


def test_push_of_several_images_for_other_hosts_is_refused(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry)
        assert "multiple matching manifests found but no specific platform requested" in records[-1]["error"]
        assert "linux/arm/v7, linux/s390x" in records[-1]["error"]
        assert not registry.manifests
        await pushed(images, registry, platform=ARM7)
        assert registry.pushed("app", "v1") == ARM.manifest

    run(tmp_path, test, THREE, [MINE.manifest])


def test_push_with_a_platform_sends_only_the_image_for_this_platform(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        records = await pushed(images, registry, platform=S390X)
        assert registry.pushed("app", "v1") == BIG.manifest
        assert aux(records) == [{"Tag": "v1", "Digest": BIG.manifest.digest, "Size": len(BIG.manifest.data)}]
        assert puts(registry) == ["v1"]

    run(tmp_path, test)


def test_push_sends_one_image_if_a_platform_of_the_index_was_removed(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        await images.images.remove(f"{registry.host}/app:v1", platforms=[S390X])
        records = await pushed(images, registry)
        assert registry.pushed("app", "v1") == MINE.manifest
        assert aux(records)[-1] == instead(ALL, MINE)

    run(tmp_path, test)


def test_push_that_fails_after_some_manifests_sets_no_tag(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        registry.script("PUT", refuse(403, "DENIED", "no"), path=BIG.manifest.digest)
        records = await pushed(images, registry)
        assert records[-1]["error"].endswith("denied: no")
        assert ("app", "v1") not in registry.manifests
        assert images.images.get(MINE.id).repo_digests == []  # type: ignore[union-attr]

    run(tmp_path, test)


class OnlyMine:
    """A client that may only read the image MINE."""

    owner = "unix:///x"

    def may_use(self, image: Any) -> bool:
        return bool(image.id == MINE.id)

    def may_take(self, name: Any, image: Any, owner: str) -> bool:
        return True

    def may_delete(self, image: Any) -> bool:
        return False

    def denied(self, doing: str) -> Exception:
        return PermissionError(doing)


def test_restricted_client_cannot_push_an_image_that_it_may_not_read(tmp_path: Path) -> None:
    """An index may come from another client and may list any digest, so it must not give access to images."""

    async def test(images: ImagesFixture, registry: Receiving) -> None:
        await pushed(images, registry, policy=OnlyMine())
        assert registry.pushed("app", "v1") == MINE.manifest
        assert not {part.digest for part in (BIG.config, BIG.layers[1])} & {digest for _, digest in registry.blobs}

    run(tmp_path, test)


def test_manifest_stored_with_another_image_does_not_make_an_index_complete(tmp_path: Path) -> None:
    """The archive's index lists the manifest, but the archive does not contain the manifest."""

    async def test(images: ImagesFixture, registry: Receiving) -> None:
        await load(images, Attested(BIG).archive("docker.io/library/secret:x"))
        assert len(images.images.all_platforms(f"{registry.host}/app:v1")) == 1
        records = await pushed(images, registry)
        assert registry.pushed("app", "v1") == MINE.manifest
        assert aux(records)[-1] == instead(ALL, MINE)

    run(tmp_path, test, ALL, [BIG.manifest, BIG.config, BIG.layers[1]])


def test_push_sends_one_image_if_the_index_is_damaged(tmp_path: Path) -> None:
    async def test(images: ImagesFixture, registry: Receiving) -> None:
        (Path(images.root) / "content/blobs/sha256" / ALL.index.digest[7:]).write_bytes(b"{}")
        records = await pushed(images, registry)
        assert registry.pushed("app", "v1") == MINE.manifest
        assert [list(one) for one in aux(records)] == [["Tag", "Digest", "Size"]]

    run(tmp_path, test)
