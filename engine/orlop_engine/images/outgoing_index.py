"""Describes an index for a push or save: its bytes, and the listed images and attestations that are stored on this host. An
index (Docker's "manifest list") lists manifests of images, one for each platform, and manifests of attestations.

Only content of the images that the name refers to is sent. The reason: the author of an index may list digests of content
that belongs to others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from orlop_sdk import OrlopError

from . import documents, manifests, outgoing
from .attestations import parts_of
from .content import ContentStore
from .documents import MAX_MANIFEST
from .manifests import OCI_INDEX, Descriptor, Index
from .outgoing import Outgoing
from .records import Image

__all__ = ["OutgoingAttestation", "OutgoingIndex", "describe_index", "make_index"]


@dataclass(frozen=True, slots=True)
class OutgoingAttestation:
    """`parts` are the descriptors in the attestation's manifest; their content is in the content store."""

    descriptor: Descriptor
    manifest: bytes
    parts: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class OutgoingIndex:
    """`images` and `attestations`: the entries whose content is stored, in the order of the index. `complete`: all entries
    of the index are in `images` or `attestations`. `others`: images that the index lists, but whose stored blobs differ from
    the blobs in the listed manifest. `covered`: all images of the index are in `images` or `others`."""

    descriptor: Descriptor
    data: bytes
    images: tuple[Outgoing, ...]
    attestations: tuple[OutgoingAttestation, ...]
    complete: bool
    others: tuple[Image, ...] = ()
    covered: bool = True


class _Platform(msgspec.Struct, frozen=True, omit_defaults=True):
    architecture: str
    os: str
    variant: str = ""


class _Entry(msgspec.Struct, frozen=True, rename={"media_type": "mediaType"}):
    media_type: str
    digest: str
    size: int
    platform: _Platform


class _Document(msgspec.Struct, frozen=True, rename={"schema_version": "schemaVersion", "media_type": "mediaType"}):
    schema_version: int
    media_type: str
    manifests: list[_Entry]


def describe_index(content: ContentStore, digest: str, images: Sequence[Image]) -> OutgoingIndex | None:
    """The index `digest` with these images and the attestations about them; None if the index is damaged. Reads blobs, so it
    runs on a thread."""
    try:
        data = content.read(digest, MAX_MANIFEST)
    except OrlopError:
        return None
    index = manifests.parse_kept(data)
    if not isinstance(index, Index):
        return None
    found: list[Outgoing] = []
    others: list[Image] = []
    attestations: list[OutgoingAttestation] = []
    documents_about = 0
    for entry in index.manifests:
        if manifests.is_attestation(entry):
            documents_about += 1
            attestations += _attestation(content, entry, images)
        elif (image := next((one for one in images if entry.digest in one.record.manifests), None)) is not None:
            exact = _exact(content, entry, image)
            found += [exact] if exact else []
            others += [] if exact else [image]
    return OutgoingIndex(
        Descriptor(digest, len(data), index.media_type),
        data,
        tuple(found),
        tuple(attestations),
        bool(found) and len(found) + len(attestations) == len(index.manifests),
        tuple(others),
        len(found) + len(others) + documents_about == len(index.manifests),
    )


def _exact(content: ContentStore, entry: Descriptor, image: Image) -> Outgoing | None:
    """The image, with the manifest that the index lists. None if a blob of this manifest is not stored. For example, a layer
    may have been stored with another compression before the image was pulled."""
    found = outgoing.kept_as(content, image, entry.digest)
    return found if found and all(content.has(part.digest) for part in (found.config, *found.layers)) else None


def _attestation(content: ContentStore, entry: Descriptor, images: Sequence[Image]) -> list[OutgoingAttestation]:
    """Returns a list with the attestation. The list is empty if a part of the attestation is missing, or if the attestation
    is about an image that is not in `images`."""
    if not any(entry.digest in image.record.attachments for image in images):
        return []
    try:
        data = content.read(entry.digest, MAX_MANIFEST)
        parts = parts_of(data)
    except OrlopError:
        return []
    if not all(content.has(part.digest) for part in parts):
        return []
    return [OutgoingAttestation(Descriptor(entry.digest, len(data), entry.media_type), data, parts)]


def make_index(images: Sequence[Outgoing]) -> OutgoingIndex:
    """A new index, for images that cannot be sent with the index from which they were pulled or loaded. The same images
    result in the same bytes."""
    entries = []
    for one in images:
        where, about = one.image.platform, one.descriptor
        platform = _Platform(where.architecture, where.os, where.variant)
        entries.append(_Entry(about.media_type, about.digest, about.size, platform))
    data = msgspec.json.encode(_Document(2, OCI_INDEX, entries))
    return OutgoingIndex(Descriptor(documents.digest(data), len(data), OCI_INDEX), data, tuple(images), (), True)
