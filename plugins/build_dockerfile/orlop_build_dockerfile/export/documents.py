"""Manifests, indexes and manifests of attestations, as BuildKit writes them (exporter/containerimage/writer.go). This module
does no I/O."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orlop_build_dockerfile.contracts import Blob, LayerBlob

__all__ = [
    "IN_TOTO",
    "attestation_config",
    "attestation_manifest",
    "described",
    "digest_of",
    "encoded",
    "image_config",
    "image_index",
    "image_manifest",
    "layer_part",
    "platform_object",
    "root_descriptor",
]

IN_TOTO = "application/vnd.in-toto+json"
_DOCKER = "application/vnd.docker."
_OCI = "application/vnd.oci.image."
_LAYERS = {
    (True, ""): f"{_OCI}layer.v1.tar",
    (True, "gzip"): f"{_OCI}layer.v1.tar+gzip",
    (True, "zstd"): f"{_OCI}layer.v1.tar+zstd",
    (False, ""): f"{_DOCKER}image.rootfs.diff.tar",
    (False, "gzip"): f"{_DOCKER}image.rootfs.diff.tar.gzip",
    (False, "zstd"): f"{_DOCKER}image.rootfs.diff.tar.zstd",
}


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def described(data: bytes, media_type: str) -> Blob:
    return Blob(media_type, digest_of(data), len(data))


def encoded(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape")


def layer_part(layer: LayerBlob, oci: bool) -> Blob:
    return Blob(_LAYERS[oci, layer.compression], layer.digest, layer.size)


def image_config(config: bytes, oci: bool) -> Blob:
    return described(config, f"{_OCI}config.v1+json" if oci else f"{_DOCKER}container.image.v1+json")


def image_manifest(config: Blob, layers: Sequence[Blob], annotations: Mapping[str, str], *, oci: bool) -> tuple[bytes, Blob]:
    return _manifest(config, [_part(layer) for layer in layers], annotations, oci=oci)


def _manifest(
    config: Blob, layers: Sequence[Mapping[str, Any]], annotations: Mapping[str, str], *, oci: bool
) -> tuple[bytes, Blob]:
    media_type = f"{_OCI}manifest.v1+json" if oci else f"{_DOCKER}distribution.manifest.v2+json"
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "config": _part(config),
        "layers": list(layers),
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    data = encoded(document)
    return data, described(data, media_type)


def image_index(
    entries: Sequence[tuple[Blob, str, Mapping[str, str]]], annotations: Mapping[str, str], *, oci: bool
) -> tuple[bytes, Blob]:
    """An index of (manifest, platform, annotations of its entry)."""
    media_type = f"{_OCI}index.v1+json" if oci else f"{_DOCKER}distribution.manifest.list.v2+json"
    document: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": media_type,
        "manifests": [_entry(manifest, platform, notes) for manifest, platform, notes in entries],
    }
    if annotations:
        document["annotations"] = dict(sorted(annotations.items()))
    data = encoded(document)
    return data, described(data, media_type)


def attestation_config(statements: Sequence[Blob]) -> bytes:
    return json.dumps(
        {
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": {"type": "layers", "diff_ids": [statement.digest for statement in statements]},
        },
        separators=(",", ":"),
    ).encode()


def attestation_manifest(config: Blob, statements: Sequence[tuple[Blob, str]]) -> tuple[bytes, Blob]:
    """A manifest of statements: (descriptor, predicate type). The index that lists this manifest contains the digest of the
    image that the statements are about."""
    layers = [
        {**_part(statement), "annotations": {"in-toto.io/predicate-type": predicate}} for statement, predicate in statements
    ]
    return _manifest(config, layers, {}, oci=True)


def _part(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}


def platform_object(platform: str) -> dict[str, str]:
    """A platform such as "linux/arm/v7", in the form of an index."""
    system, architecture, *variant = platform.split("/")
    found = {"architecture": architecture, "os": system}
    return found | {"variant": variant[0]} if variant else found


def _entry(manifest: Blob, platform: str, annotations: Mapping[str, str]) -> dict[str, Any]:
    found = _part(manifest)
    if annotations:
        found["annotations"] = dict(sorted(annotations.items()))
    return {**found, "platform": platform_object(platform)}


def root_descriptor(root: Blob, annotations: Mapping[str, str], platform: str) -> str:
    """The descriptor that the client receives as `containerimage.descriptor`."""
    found = _part(root)
    if annotations:
        found["annotations"] = dict(sorted(annotations.items()))
    if platform:
        found["platform"] = platform_object(platform)
    return base64.b64encode(json.dumps(found, separators=(",", ":")).encode()).decode()
