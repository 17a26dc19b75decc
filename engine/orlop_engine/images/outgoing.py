"""Describes an image for a push or save: its manifest, the descriptors in the manifest, and the source of each blob.

An image from a registry is sent with the manifest that was received, byte for byte, if that manifest describes the image's
configuration and layers. For any other image, a manifest is made from its layers as they are stored: Docker's schema 2 if
every layer is compressed with gzip, otherwise an OCI manifest, because schema 2 supports no other compression. The manifest
depends only on the image's record, so it has the same digest every time. A push first compresses uncompressed layers (see
`compression`).

Layers are read only through `open_layer`, because layers that were adopted from a dockerd have no blob (see `tar_split`).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import msgspec
import trio

from orlop_monitor.unpack.stream import sniff
from orlop_sdk import DriverError, OrlopError

from . import documents, manifests
from .content import ContentStore
from .documents import MAX_MANIFEST
from .manifests import DOCKER_CONFIG, DOCKER_MANIFEST, OCI_CONFIG, OCI_MANIFEST, Descriptor, Manifest
from .records import Image, Layer
from .tar_split import open_tar

__all__ = [
    "Outgoing",
    "compression_of",
    "describe",
    "describe_oci",
    "kept_as",
    "manifest_digest",
    "open_layer",
    "received",
]

_DOCKER_GZIP = "application/vnd.docker.image.rootfs.diff.tar.gzip"
_OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
_OCI_SUFFIX = {"": "", "gzip": "+gzip", "zstd": "+zstd"}
_HEAD = 8


@dataclass(frozen=True, slots=True)
class Outgoing:
    """An image with its manifest. `layers` are the descriptors of the layers in the manifest, in the order of
    `image.layers`. The content of `config` is `image.raw`; the content of a layer is read with `open_layer`."""

    image: Image
    media_type: str
    manifest: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def digest(self) -> str:
        """The manifest's digest."""
        return documents.digest(self.manifest)

    @property
    def descriptor(self) -> Descriptor:
        """The manifest's descriptor."""
        return Descriptor(self.digest, len(self.manifest), self.media_type)


class _Part(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    """A descriptor whose fields are in the same order as in Docker."""

    media_type: str
    size: int
    digest: str


class _Document(msgspec.Struct, frozen=True, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}):
    schema_version: int
    media_type: str
    config: _Part
    layers: tuple[_Part, ...]


@asynccontextmanager
async def open_layer(content: ContentStore, layer: Layer) -> AsyncIterator[int]:
    """Open the layer's blob: a file descriptor of a regular file, to be read once from start to end. The file is closed at
    the end of the block. Raises `NotFound` if the blob is missing. If only the layer's unpacked files are stored, the file
    is a tar made from them, and the caller must check the digest of the tar."""
    fd = content.open(layer.blob) if layer.blob else await open_tar(content, layer)
    try:
        yield fd
    finally:
        os.close(fd)


async def compression_of(content: ContentStore, layer: Layer) -> str:
    """How the layer's blob is compressed: gzip, zstd, bzip2, xz, or "" for a plain tar. The format is detected from the
    content, because archives do not record the format, and media types may be wrong."""
    if layer.blob in ("", layer.diff_id):
        return ""
    async with open_layer(content, layer) as fd:
        return sniff(await trio.to_thread.run_sync(os.read, fd, _HEAD))


async def describe(content: ContentStore, image: Image) -> Outgoing:
    """The image with its manifest. The caller's lease contains the image's blobs."""
    return await trio.to_thread.run_sync(received, content, image) or await _made(content, image)


async def describe_oci(content: ContentStore, image: Image) -> Outgoing:
    """Like `describe`, but always with an OCI manifest, because umoci reads only OCI manifests in an OCI layout. Layers
    compressed with bzip2 or xz (from an archive) get media types in the style of OCI's (a suffix such as `+bzip2`), because
    OCI defines no media types for these formats."""
    kept = await trio.to_thread.run_sync(received, content, image)
    return kept if kept is not None and kept.media_type == OCI_MANIFEST else await _made(content, image, oci=True)


def manifest_digest(content: ContentStore, image: Image) -> str:
    """The digest of the received manifest that describes this image; "" if there is none. Blocking."""
    kept = received(content, image)
    return kept.digest if kept else ""


def received(content: ContentStore, image: Image) -> Outgoing | None:
    """The image with the newest received manifest that describes exactly this image; None if there is none. Blocking."""
    for digest in reversed(image.record.manifests):
        if (found := kept_as(content, image, digest)) is not None:
            return found
    return None


def kept_as(content: ContentStore, image: Image, digest: str) -> Outgoing | None:
    """The image with this received manifest; None if the manifest does not describe exactly this image, or is damaged or
    missing."""
    try:
        data = content.read(digest, MAX_MANIFEST)
    except OrlopError:
        return None
    found = manifests.parse_kept(data)
    if not isinstance(found, Manifest) or not _describes(found, image):
        return None
    return Outgoing(image, found.media_type, data, found.config, found.layers)


def _describes(manifest: Manifest, image: Image) -> bool:
    parts = [(part.digest, part.size) for part in manifest.layers]
    return manifest.config.digest == image.id and parts == [(layer.blob, layer.blob_size) for layer in image.layers]


async def _made(content: ContentStore, image: Image, *, oci: bool = False) -> Outgoing:
    compressions = [await compression_of(content, layer) for layer in image.layers]
    docker = not oci and all(compression == "gzip" for compression in compressions)
    layers = []
    for layer, compression in zip(image.layers, compressions, strict=True):
        if compression not in _OCI_SUFFIX and not oci:
            raise DriverError(f"cannot describe layer {layer.diff_id}: there is no media type for {compression}")
        media_type = _DOCKER_GZIP if docker else _OCI_LAYER + _OCI_SUFFIX.get(compression, f"+{compression}")
        layers.append(Descriptor(layer.blob, layer.blob_size, media_type))
    config = Descriptor(image.id, len(image.raw), DOCKER_CONFIG if docker else OCI_CONFIG)
    media_type = DOCKER_MANIFEST if docker else OCI_MANIFEST
    return Outgoing(image, media_type, _encode(media_type, config, layers), config, tuple(layers))


def _encode(media_type: str, config: Descriptor, layers: list[Descriptor]) -> bytes:
    """The bytes of a manifest, indented by three spaces, as the `docker/distribution` library writes manifests."""
    document = _Document(2, media_type, _part(config), tuple(map(_part, layers)))
    return msgspec.json.format(msgspec.json.encode(document), indent=3)


def _part(descriptor: Descriptor) -> _Part:
    return _Part(descriptor.media_type, descriptor.size, descriptor.digest)
