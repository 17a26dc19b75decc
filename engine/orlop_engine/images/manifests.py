"""Parses and checks manifests and indexes, in Docker's and OCI's formats (image-spec manifest.md, image-index.md). A
manifest describes one image. An index (Docker's "manifest list") lists the manifests of images, one for each platform. This
module does no I/O.

The input comes from a registry and is not trusted, so sizes are limited before parsing. This module only checks the syntax
of digests. The code that receives the content compares the content with its digest.
"""

from __future__ import annotations

import re
from typing import Any

import msgspec

from orlop_sdk import DriverError, NotFound

from .documents import MAX_LAYERS, MAX_MANIFEST
from .platforms import Platform, acceptable, normalise
from .references import is_digest

__all__ = [
    "ACCEPT",
    "ATTESTATION_OF",
    "IMAGE_MANIFESTS",
    "MAX_ENTRIES",
    "Descriptor",
    "Index",
    "Manifest",
    "choose",
    "is_attestation",
    "parse",
    "parse_kept",
]

MAX_ENTRIES, _MAX_SIZE = 4096, 1 << 50

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
_SCHEMA1 = (
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
)
IMAGE_MANIFESTS = (DOCKER_MANIFEST, OCI_MANIFEST)
ACCEPT = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)

DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
_CONFIGS = {DOCKER_CONFIG, OCI_CONFIG, "application/octet-stream", "application/json", ""}
ATTESTATION_OF = "vnd.docker.reference.digest"
"""An annotation of an attestation's entry in an index: the digest of the manifest that the attestation is about."""

_LAYER = re.compile(
    r"application/vnd\.(docker\.image\.rootfs\.(foreign\.)?diff\.tar(\.gzip|\.zstd)?"
    r"|oci\.image\.layer\.(nondistributable\.)?v1\.tar(\+gzip|\+zstd)?)"
    r"|application/octet-stream|application/x-gzip|application/x-tar|"
)


class OfferedPlatform(msgspec.Struct, frozen=True):
    os: str = ""
    architecture: str = ""
    variant: str = ""
    os_version: str = msgspec.field(name="os.version", default="")
    os_features: tuple[str, ...] = msgspec.field(name="os.features", default=())


class Descriptor(msgspec.Struct, frozen=True, rename={"media_type": "mediaType", "artifact_type": "artifactType"}):
    """Identifies a blob by its digest. `size` is in bytes."""

    digest: str
    size: int
    media_type: str = ""
    artifact_type: str | None = None
    platform: OfferedPlatform | None = None
    annotations: dict[str, str] | None = None


class Manifest(msgspec.Struct, frozen=True):
    """Describes one image, which is for one platform."""

    media_type: str
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(msgspec.Struct, frozen=True):
    """Lists the manifests of images for several platforms, and attestations about these images."""

    media_type: str
    manifests: tuple[Descriptor, ...]


class _Raw(msgspec.Struct, rename={"schema_version": "schemaVersion", "media_type": "mediaType", "fs_layers": "fsLayers"}):
    schema_version: int = 0
    media_type: str = ""
    config: Descriptor | None = None
    layers: list[Descriptor] | None = None
    manifests: list[Descriptor] | None = None
    fs_layers: list[Any] | None = None


_DECODER = msgspec.json.Decoder(_Raw)


def _check(descriptor: Descriptor) -> None:
    if not is_digest(descriptor.digest):
        raise DriverError(f"cannot read manifest: unsupported digest {descriptor.digest[:100]!r}")
    if not 0 <= descriptor.size <= _MAX_SIZE:
        raise DriverError(f"cannot read manifest: {descriptor.digest} has an impossible size {descriptor.size}")


def _image(media_type: str, raw: _Raw) -> Manifest:
    if raw.config is None or raw.layers is None:
        raise DriverError("cannot read manifest: configuration or layers missing")
    if raw.config.media_type not in _CONFIGS:
        raise DriverError(
            f"cannot read manifest: not a container image, its configuration is {raw.config.media_type[:200]!r}"
        )
    if len(raw.layers) > MAX_LAYERS:
        raise DriverError(f"cannot read manifest: {len(raw.layers)} layers are too many")
    for descriptor in (raw.config, *raw.layers):
        _check(descriptor)
    for descriptor in raw.layers:
        if not _LAYER.fullmatch(descriptor.media_type):
            raise DriverError(f"cannot read manifest: unsupported layer media type {descriptor.media_type[:200]!r}")
    if raw.config.size > MAX_MANIFEST:
        raise DriverError(f"cannot read manifest: a configuration of {raw.config.size} bytes is too large")
    return Manifest(media_type, raw.config, tuple(raw.layers))


def _index(media_type: str, raw: _Raw) -> Index:
    entries = raw.manifests or []
    if len(entries) > MAX_ENTRIES:
        raise DriverError(f"cannot read manifest list: {len(entries)} entries are too many")
    for descriptor in entries:
        _check(descriptor)
    return Index(media_type, tuple(entries))


def parse(content_type: str, data: bytes) -> Manifest | Index:
    """Parse a registry's answer. The field `mediaType` of the document must not contradict the header Content-Type. A
    document that is both manifest and index is refused (CVE-2021-41190)."""
    declared = content_type.partition(";")[0].strip().lower()
    if len(data) > MAX_MANIFEST:
        raise DriverError(f"cannot read manifest: larger than {MAX_MANIFEST} bytes")
    if declared in _SCHEMA1:
        raise DriverError(
            "cannot read manifest: it is of Docker's schema 1, which is no longer supported; push the image again"
        )
    try:
        raw = _DECODER.decode(data)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DriverError(f"cannot read manifest: {error}") from error
    if raw.fs_layers is not None or raw.schema_version == 1:
        raise DriverError(
            "cannot read manifest: it is of Docker's schema 1, which is no longer supported; push the image again"
        )
    media_type = raw.media_type or declared
    if media_type not in ACCEPT:
        raise DriverError(f"cannot read manifest: unsupported media type {media_type[:200]!r}")
    if raw.media_type and declared in ACCEPT and declared != raw.media_type:
        raise DriverError(f"cannot read manifest: header says {declared}, document says {raw.media_type[:200]}")
    if raw.manifests is not None and (raw.config is not None or raw.layers is not None):
        raise DriverError("cannot read manifest: it is a manifest and a manifest list at once")
    return _index(media_type, raw) if media_type in (DOCKER_LIST, OCI_INDEX) else _image(media_type, raw)


def parse_kept(data: bytes) -> Manifest | Index | None:
    """Parse a stored manifest or index. Returns None if the data is neither. A document without the field `mediaType` is
    parsed as an OCI manifest (image-spec manifest.md)."""
    for media_type in ("", OCI_MANIFEST):
        try:
            return parse(media_type, data)
        except DriverError:
            continue
    return None


def is_attestation(entry: Descriptor) -> bool:
    """Whether an entry of an index is a BuildKit attestation about another entry."""
    kind = (entry.annotations or {}).get("vnd.docker.reference.type")
    where = entry.platform
    return kind == "attestation-manifest" or bool(where and where.os == "unknown" and where.architecture == "unknown")


def choose(index: Index, wanted: Platform) -> Descriptor:
    """The best entry for a platform. Entries without a platform come last; attestations are never chosen. Raises
    `NotFound`."""
    best: tuple[int, Descriptor] | None = None
    ranks = {platform: place for place, platform in reversed([*enumerate(acceptable(wanted))])}
    for entry in index.manifests:
        if entry.media_type not in IMAGE_MANIFESTS or is_attestation(entry):
            continue
        place = entry.platform
        score = ranks.get(normalise(Platform(place.os, place.architecture, place.variant))) if place else 1000
        if score is not None and (best is None or score < best[0]):
            best = score, entry
    if best is None:
        raise NotFound(f"no matching manifest for {wanted} in the manifest list entries")
    return best[1]
