"""The rows of images and of their names in the table `images`, and `Image`, the value that the rest of the engine uses. An
index (Docker's "manifest list") lists the manifests of images, one for each platform."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from orlop_engine.types import parse_rfc3339
from orlop_engine.types.images import ImageConfig, ImageDocument

from .names import Names

if TYPE_CHECKING:
    from .platforms import Platform

__all__ = [
    "Image",
    "ImageRecord",
    "ImageUser",
    "Layer",
    "NameRecord",
    "ResumeRecord",
    "decode_name",
    "encode_name",
    "platform_of",
    "unix_time",
]


class Layer(msgspec.Struct, frozen=True):
    """One layer. `blob` is the digest of the compressed or plain tar in the content store; the plain tar has the digest
    `diff_id`. `size` is the total size of the unpacked files in bytes. If only the layer's unpacked files are stored, `blob`
    and `media_type` are "" and `blob_size` is 0. Such a layer was built by this engine, or adopted from a dockerd, which
    keeps no blobs. `snapshot` is the storage key of a layer that was built by this engine; "" for other layers, whose key is
    the chain ID."""

    blob: str
    media_type: str
    blob_size: int
    diff_id: str
    chain_id: str
    size: int
    snapshot: str = ""

    @property
    def key(self) -> str:
        """The key of the layer's snapshot in the storage driver."""
        return self.snapshot or self.chain_id

    @property
    def blobs(self) -> tuple[str, ...]:
        """The layer's blob, if it has one."""
        return (self.blob,) if self.blob else ()


class ImageRecord(msgspec.Struct, frozen=True):
    """The row of an image; its key is the image's ID. `manifests` are the digests of the image's manifests, and of the
    indexes that list these manifests. Their blobs are kept because references by digest refer to them. `attachments` are the
    digests of all blobs of the attestations about the image. `tagged` is the time at which the image last got a name with
    `docker tag` (RFC 3339), "" for never. `owner`: see `policy.ImagePolicy`."""

    id: str
    layers: tuple[Layer, ...]
    manifests: tuple[str, ...] = ()
    parent: str = ""
    tagged: str = ""
    owner: str = ""
    attachments: tuple[str, ...] = ()


class NameRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """The row `ref:<full reference>`: the images that a name refers to. `images` are the IDs of images for different
    platforms. For a tag, the first image is the image that was added last; for a digest, the image that was added first.
    `index`: the digest of the index that was pulled, loaded, built or pushed under this name, "" if there is none. `owner`:
    see `policy.ImagePolicy`."""

    images: tuple[str, ...]
    index: str = ""
    owner: str = ""


_decode_name = msgspec.json.Decoder(NameRecord).decode


def encode_name(record: NameRecord) -> bytes:
    """If a name refers to only one image, and has no index, its row contains only the image's ID, followed by a space and
    the owner if the name has an owner. All other rows are JSON."""
    if record.index or len(record.images) > 1:
        return msgspec.json.encode(record)
    return f"{record.images[0]} {record.owner}".rstrip().encode()


def decode_name(value: bytes) -> NameRecord:
    """Decode a row. Raises `ValueError` (the base class of msgspec's errors)."""
    if value.startswith(b"{"):
        record = _decode_name(value)
        if not record.images:
            raise ValueError("the row lists no image")
        return record
    id, _, owner = value.decode().partition(" ")
    return NameRecord((id,), owner=owner)


class ResumeRecord(msgspec.Struct, frozen=True):
    """The row `resume:<reference>`: the content of an interrupted pull, which is kept for the next attempt until `until`
    (Unix time, seconds)."""

    blobs: tuple[str, ...]
    chains: tuple[str, ...]
    until: float


class ImageUser(msgspec.Struct, frozen=True):
    """A container that was created from an image."""

    container_id: str
    running: bool


@dataclass(frozen=True, slots=True)
class Image:
    """An image. `names` are its current names; `repo_tags` and `repo_digests` are these names in familiar form, sorted.
    `chain_id` and `snapshot` are the chain ID and the storage key of its top layer, "" for an image without layers."""

    record: ImageRecord
    document: ImageDocument
    raw: bytes
    names: Names = field(compare=False)
    created_ns: int | None = field(init=False, compare=False)
    """Unix time in ns; None if the document has no creation time."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "created_ns", _created_ns(self.document.created))

    @property
    def repo_tags(self) -> list[str]:
        return self.names.tags

    @property
    def repo_digests(self) -> list[str]:
        return self.names.digests

    @property
    def id(self) -> str:
        return self.record.id

    @property
    def config(self) -> ImageConfig:
        return self.document.config or _NO_CONFIG

    @property
    def layers(self) -> tuple[Layer, ...]:
        return self.record.layers

    @property
    def blobs(self) -> set[str]:
        """All blobs that are kept for the image: configuration, manifests, attestations, and layers."""
        record = self.record
        return {
            record.id,
            *record.manifests,
            *record.attachments,
            *(blob for layer in record.layers for blob in layer.blobs),
        }

    @property
    def chain_ids(self) -> tuple[str, ...]:
        return tuple(layer.chain_id for layer in self.record.layers)

    @property
    def chain_id(self) -> str:
        return self.record.layers[-1].chain_id if self.record.layers else ""

    @property
    def snapshot(self) -> str:
        return self.record.layers[-1].key if self.record.layers else ""

    @property
    def os(self) -> str:
        return self.document.os

    @property
    def architecture(self) -> str:
        return self.document.architecture

    @property
    def variant(self) -> str:
        return self.document.variant

    @property
    def platform(self) -> Platform:
        return platform_of(self.document)

    @property
    def created(self) -> str:
        return self.document.created

    @property
    def created_unix(self) -> int:
        return _NEVER if self.created_ns is None else self.created_ns // 1_000_000_000

    @property
    def size(self) -> int:
        return sum(layer.size for layer in self.record.layers)

    @property
    def parent(self) -> str:
        return self.record.parent


def platform_of(document: ImageDocument) -> Platform:
    return _platform(document.os, document.architecture, document.variant)


@lru_cache(256)
def _platform(os: str, architecture: str, variant: str) -> Platform:
    from .platforms import Platform, normalise  # imported here, because the daemon's start does not need it

    return normalise(Platform(os, architecture, variant))


_NO_CONFIG = ImageConfig()
_NEVER = -62135596800  # Go's zero time, in Unix seconds


def _created_ns(text: str) -> int | None:
    try:
        return parse_rfc3339(text) or None
    except ValueError:
        return None


def unix_time(text: str) -> int:
    """An RFC 3339 time in Unix seconds; Go's zero time for "", as Docker shows it."""
    moment = _created_ns(text)
    return _NEVER if moment is None else moment // 1_000_000_000
