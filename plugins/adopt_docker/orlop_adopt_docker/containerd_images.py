"""Reads images from containerd's content store: `blobs/sha256/<hex>` are manifests, indexes, configurations and layers.

A name refers to a manifest, or to an index of manifests for several platforms. dockerd pulls one platform at a time, so an
index is read with the platforms whose content is stored and unpacked. Attestations are read with the manifest that they
describe.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import msgspec

from orlop_engine.images import documents, manifests, platforms, references
from orlop_engine.images.manifests import ATTESTATION_OF, IMAGE_MANIFESTS, Descriptor, Index, Manifest
from orlop_sdk import NotFound, OrlopError

from . import files
from .inventory import Blob, Image, Layer, Remark

__all__ = ["Found", "Named", "joined", "read", "with_blobs"]

_DANGLING = "moby-dangling@"


@dataclass(frozen=True, slots=True)
class Named:
    """An image by name. `target` is the digest of its manifest or index, `parent` the digest of the parent image's manifest
    or index."""

    name: str
    target: str
    media_type: str
    parent: str


@dataclass(slots=True)
class Found:
    """The images that a name refers to. The first of `images` is the image for this host. `index` is the digest of their
    index, "" for none."""

    images: list[Image] = field(default_factory=list)
    index: str = ""
    remarks: list[Remark] = field(default_factory=list)


class _Attestation(msgspec.Struct):
    """The manifest of an attestation. Its layers are documents, not file systems, so it is not the manifest of an image."""

    config: Descriptor | None = None
    layers: list[Descriptor] = []


_attestation = msgspec.json.Decoder(_Attestation).decode


def read(directory: str, named: Named, sizes: Mapping[str, int]) -> Found:
    """The images that a name refers to. `directory` contains the blobs. `sizes` contains the size of each unpacked layer, by
    chain ID. Raises `Unreadable` or an `OrlopError` if no image can be read."""
    target, names = _blob(directory, named.target), tuple[str, ...]()
    if not named.name.startswith(_DANGLING):
        reference = references.parse(named.name)
        names = (str(reference), str(reference.with_digest(named.target)))
    found = manifests.parse(named.media_type, _document(target))
    if isinstance(found, Manifest):
        return Found([_image(directory, found, (target,), names, sizes)])
    return _platforms(directory, found, target, named.name, names, sizes)


def _platforms(
    directory: str, index: Index, target: Blob, name: str, names: tuple[str, ...], sizes: Mapping[str, int]
) -> Found:
    found, errors = Found(index=target.digest), list[Exception]()
    for entry in _ordered(index):
        try:
            own = _blob(directory, entry.digest)
        except files.Unreadable as error:
            errors.append(error)  # dockerd has not pulled this platform
            continue
        try:
            manifest = manifests.parse(entry.media_type, _document(own))
            assert isinstance(manifest, Manifest)  # its media type says so
            image = _image(directory, manifest, (own, target), names, sizes)
            found.images.append(replace(image, attachments=_by_digest(*_attachments(directory, index, entry.digest))))
        except (files.Unreadable, OrlopError) as error:
            errors.append(error)
            found.remarks.append(Remark("image", f"{name} ({_platform(entry)})", str(error)))
    if not found.images:
        raise errors[0] if errors else NotFound("its index lists no image")
    return found


def _ordered(index: Index) -> list[Descriptor]:
    """The entries of the index that are images. The first one is the best for this host."""
    entries = [
        entry for entry in index.manifests if entry.media_type in IMAGE_MANIFESTS and not manifests.is_attestation(entry)
    ]
    try:
        best = manifests.choose(index, platforms.host())
    except NotFound:
        return entries
    return sorted(entries, key=lambda entry: entry.digest != best.digest)


def _platform(entry: Descriptor) -> str:
    place = entry.platform
    return "/".join(filter(None, (place.os, place.architecture, place.variant))) if place else "no platform"


def _image(
    directory: str, manifest: Manifest, kept: tuple[Blob, ...], names: tuple[str, ...], sizes: Mapping[str, int]
) -> Image:
    """Read an image. `kept` are the manifest and its index."""
    raw = _document(_blob(directory, manifest.config.digest))
    document = documents.parse(raw, layers=len(manifest.layers))
    diff_ids = document.rootfs.diff_ids if document.rootfs else []
    layers = []
    for part, diff_id, chain_id in zip(manifest.layers, diff_ids, documents.chain_ids(diff_ids), strict=True):
        if chain_id not in sizes:
            raise files.Unreadable(f"its layer {chain_id} is not unpacked")
        try:
            blob = _blob(directory, part.digest, part.media_type)
        except files.Unreadable:
            blob = None  # containerd does not fetch the blob of a layer that it has unpacked already
        layers.append(Layer(diff_id, chain_id, sizes[chain_id], blob))
    aliases = tuple(blob.digest for blob in kept)
    return Image(manifest.config.digest, raw, tuple(layers), names, manifests=kept, aliases=aliases)


def _attachments(directory: str, index: Index, manifest: str) -> Iterator[Blob]:
    """The attestations about a manifest, with their content. Incomplete and damaged attestations are omitted."""
    for entry in index.manifests:
        if not manifests.is_attestation(entry) or (entry.annotations or {}).get(ATTESTATION_OF) != manifest:
            continue
        try:
            own = _blob(directory, entry.digest)
            parts = _attestation(_document(own))
            content = [_blob(directory, part.digest) for part in (parts.config, *parts.layers) if part is not None]
        except (files.Unreadable, msgspec.MsgspecError, RecursionError, UnicodeDecodeError):
            continue
        yield from (own, *content)


def joined(known: Image | None, image: Image) -> Image:
    """Combine two values of one image that has several names or several manifests."""
    if known is None:
        return image
    return replace(
        known,
        names=tuple(dict.fromkeys((*known.names, *image.names))),
        manifests=_by_digest(*known.manifests, *image.manifests),
        aliases=tuple(dict.fromkeys((*known.aliases, *image.aliases))),
        attachments=_by_digest(*known.attachments, *image.attachments),
    )


def with_blobs(image: Image, known: Mapping[str, Blob]) -> Image:
    """The image with blobs of other images for its layers. `known` maps diffIDs to these blobs."""
    return replace(image, layers=tuple(replace(one, blob=one.blob or known.get(one.diff_id)) for one in image.layers))


def _by_digest(*blobs: Blob) -> tuple[Blob, ...]:
    return tuple({blob.digest: blob for blob in blobs}.values())


# --- blobs ---


def _blob(directory: str, digest: str, media_type: str = "") -> Blob:
    path = os.path.join(directory, digest.removeprefix("sha256:"))
    if not files.is_digest(digest) or not os.path.isfile(path):
        raise files.Unreadable(f"its blob {digest[:100]} is missing")
    return Blob(digest, path, os.stat(path).st_size, media_type)


def _document(blob: Blob) -> bytes:
    data = files.raw(blob.path, documents.MAX_MANIFEST)
    if documents.digest(data) != blob.digest:
        raise files.Unreadable(f"its blob {blob.digest} is damaged")
    return data
