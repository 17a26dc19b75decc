"""Images that are sent: received manifests are sent unchanged, and new manifests are made for other images."""

from __future__ import annotations

import bz2
import json
import os
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest
import trio
from tests.registry import Blob, Image, blob, image, index, layer
from tests.registry.build import DOCKER_MANIFEST, OCI_CONFIG, OCI_LAYER, OCI_MANIFEST, tar
from tests.registry.fakes import drain, open_images
from tests.registry.hostile import serving

from orlop_engine.images import documents, outgoing, records
from orlop_engine.images.content import ContentStore
from orlop_engine.images.names import Names
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import ImageRecord, Layer
from orlop_engine.images.references import with_tag_or_digest
from orlop_sdk import DriverError, NotFound

GZIP, ZSTD = layer({"a": b"1"}), layer({"b": b"2"}, compression="zstd", oci=True)
PLAIN = layer({"c": b"3"}, compression="none")
OCI_GZIP = layer({"a": b"1"}, oci=True)


def run(tmp_path: Path, test: Callable[[ContentStore], Awaitable[None]]) -> None:
    content = ContentStore(str(tmp_path))
    content.prepare()
    trio.run(test, content)


async def stored(content: ContentStore, layers: Sequence[Blob], manifests: Sequence[bytes] = ()) -> records.Image:
    """An image whose layers are these blobs. Their compression is not recorded, as after a `docker load`."""
    raw = image(layers).config.data
    chain_ids = documents.chain_ids(part.diff_id for part in layers)
    for data in (raw, *manifests, *(part.data for part in layers)):
        await content.put(data)
    parts = [Layer(p.digest, "", len(p.data), p.diff_id, chain, 1) for p, chain in zip(layers, chain_ids, strict=True)]
    record = ImageRecord(documents.digest(raw), tuple(parts), tuple(map(documents.digest, manifests)))
    return records.Image(record, documents.parse(raw), raw, Names())


def without_media_type(found: Image) -> Image:
    document = json.loads(found.manifest.data)
    del document["mediaType"]
    return Image(blob(document, OCI_MANIFEST), found.config, found.layers, found.platform)


@pytest.mark.parametrize(
    "pulled",
    [image([GZIP]), image([OCI_GZIP, ZSTD], oci=True), without_media_type(image([OCI_GZIP], oci=True))],
    ids=["docker", "oci", "oci without media type"],
)
@pytest.mark.parametrize("listed", [False, True])
def test_received_manifest_is_sent_unchanged(tmp_path: Path, pulled: Image, listed: bool) -> None:
    async def main() -> None:
        with serving() as registry:
            registry.add("app", "v1", pulled)
            if listed:
                registry.add_manifest("app", "v1", index([pulled]))
                registry.add_manifest("app", pulled.manifest.digest, pulled.manifest)
            async with open_images(str(tmp_path)) as images:
                await drain(images.images.pull(PullRequest(with_tag_or_digest(f"{registry.host}/app", "v1"))))
                found = await outgoing.describe(images.images._content, images.images.all()[0])
        assert (found.manifest, found.media_type) == (pulled.manifest.data, pulled.manifest.media_type)
        assert found.descriptor.digest == pulled.manifest.digest
        assert found.descriptor.size == len(pulled.manifest.data)
        assert [part.media_type for part in found.layers] == [part.media_type for part in pulled.layers]
        assert found.config.digest == pulled.config.digest

    trio.run(main)


@pytest.mark.parametrize("other", [image([GZIP, ZSTD]), image([GZIP], config={"Env": ["A=b"]})], ids=["layers", "config"])
def test_stored_manifest_that_does_not_match_the_image_is_not_sent(tmp_path: Path, other: Image) -> None:
    async def check(content: ContentStore) -> None:
        found = await outgoing.describe(content, await stored(content, [GZIP], [other.manifest.data]))
        assert found.manifest != other.manifest.data
        assert [part.digest for part in found.layers] == [GZIP.digest]

    run(tmp_path, check)


def test_newest_stored_manifest_of_an_image_is_sent(tmp_path: Path) -> None:
    docker, oci = image([GZIP]).manifest.data, image([GZIP], oci=True).manifest.data.replace(b'{"', b'{ "', 1)

    async def check(content: ContentStore) -> None:
        assert (await outgoing.describe(content, await stored(content, [GZIP], [docker, oci]))).manifest == oci
        assert (await outgoing.describe(content, await stored(content, [GZIP], [oci, docker]))).manifest == docker

    run(tmp_path, check)


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(b"{}"), os.unlink], ids=["damaged", "missing"])
def test_new_manifest_is_made_if_the_stored_manifest_is_lost_or_damaged(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    async def check(content: ContentStore) -> None:
        kept = image([GZIP]).manifest.data
        found = await stored(content, [GZIP], [kept])
        damage(Path(content.path(documents.digest(kept))))
        made = await outgoing.describe(content, found)
        assert made.manifest != kept and made.layers[0].digest == GZIP.digest

    run(tmp_path, check)


DOCKERS_FORM = """{{
   "schemaVersion": 2,
   "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
   "config": {{
      "mediaType": "application/vnd.docker.container.image.v1+json",
      "size": {config},
      "digest": "{id}"
   }},
   "layers": [
      {{
         "mediaType": "application/vnd.docker.image.rootfs.diff.tar.gzip",
         "size": {size},
         "digest": "{layer}"
      }}
   ]
}}"""


def test_new_manifest_has_the_same_bytes_as_a_manifest_made_by_docker(tmp_path: Path) -> None:
    async def check(content: ContentStore) -> None:
        found = await stored(content, [GZIP])
        made = await outgoing.describe(content, found)
        assert made == await outgoing.describe(content, found)
        assert made.media_type == DOCKER_MANIFEST
        sizes = {"config": len(found.raw), "size": len(GZIP.data)}
        assert made.manifest.decode() == DOCKERS_FORM.format(id=found.id, layer=GZIP.digest, **sizes)

    run(tmp_path, check)


def test_image_with_a_layer_that_is_not_gzip_gets_an_oci_manifest(tmp_path: Path) -> None:
    async def check(content: ContentStore) -> None:
        made = await outgoing.describe(content, await stored(content, [GZIP, ZSTD, PLAIN]))
        assert [part.media_type for part in made.layers] == [f"{OCI_LAYER}+gzip", f"{OCI_LAYER}+zstd", OCI_LAYER]
        assert (made.media_type, made.config.media_type) == (OCI_MANIFEST, OCI_CONFIG)
        assert json.loads(made.manifest)["mediaType"] == OCI_MANIFEST

    run(tmp_path, check)


def test_layer_whose_compression_has_no_media_type_is_refused(tmp_path: Path) -> None:
    async def check(content: ContentStore) -> None:
        found = await stored(content, [Blob(bz2.compress(tar({"a": b"1"})), "", GZIP.diff_id)])
        with pytest.raises(DriverError, match="there is no media type for bzip2"):
            await outgoing.describe(content, found)

    run(tmp_path, check)


def test_open_layer_gives_a_descriptor_of_the_blob_and_closes_it(tmp_path: Path) -> None:
    async def check(content: ContentStore) -> None:
        found = await stored(content, [GZIP])
        async with outgoing.open_layer(content, found.layers[0]) as fd:
            assert os.read(fd, 1 << 20) == GZIP.data
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(fd)
        content.remove(GZIP.digest)
        with pytest.raises(NotFound, match="is not in the content store"):
            async with outgoing.open_layer(content, found.layers[0]):
                raise AssertionError("unreachable")

    run(tmp_path, check)
