"""Attestations of an image: in-toto statements (provenance, a bill of materials). The index (Docker's "manifest list") that
lists the image's manifest also lists the image's attestations.

The manifests and statements are kept as blobs, whose digests are in `ImageRecord.attachments`. They come from a registry or
an archive and are not trusted, so sizes are limited, and unreadable attestations are skipped.
"""

from __future__ import annotations

import logging
from collections.abc import Collection
from dataclasses import dataclass

import msgspec

from orlop_sdk import DriverError, OrlopError

from .content import ContentStore
from .documents import MAX_MANIFEST
from .manifests import Descriptor
from .records import Image
from .references import is_digest

__all__ = ["Attestation", "attestations", "parts_of"]

log = logging.getLogger("orlop.images")

_IN_TOTO = "application/vnd.in-toto+json"
_PREDICATE_TYPE = "in-toto.io/predicate-type"
_MAX_STATEMENTS = 64
_MAX_STATEMENT = 16 << 20


@dataclass(frozen=True, slots=True)
class Attestation:
    """`statement` is the received JSON, unchanged; None if the caller did not ask for statements."""

    descriptor: Descriptor
    predicate_type: str
    statement: msgspec.Raw | None


class _Manifest(msgspec.Struct):
    """The manifest of an attestation. Its layers are documents, not file systems, so `manifests.parse` cannot parse it."""

    config: Descriptor | None = None
    layers: list[Descriptor] = []


def parts_of(manifest: bytes) -> tuple[Descriptor, ...]:
    """The descriptors in an attestation's manifest: its configuration and its statements. Raises `DriverError` if the
    manifest cannot be read."""
    try:
        found = msgspec.json.decode(manifest, type=_Manifest)
    except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError) as error:
        raise DriverError(f"cannot read attestation: {error}") from error
    parts = tuple(filter(None, (found.config, *found.layers)))
    for part in parts:
        if not is_digest(part.digest) or part.size < 0:
            raise DriverError(f"cannot read attestation: unsupported digest or size of {part.digest[:100]!r}")
    return parts


def attestations(content: ContentStore, image: Image, types: Collection[str], *, statements: bool) -> list[Attestation]:
    """The attestations whose predicate type is in `types`; all attestations if `types` is empty. Reads blobs: call it on a
    thread."""
    found: list[Attestation] = []
    for digest in image.record.attachments:
        for part in _statements_of(content, digest):
            kind = (part.annotations or {})[_PREDICATE_TYPE]
            if types and kind not in types:
                continue
            statement = _statement(content, part) if statements else None
            if len(found) < _MAX_STATEMENTS and (statement is not None or not statements):
                found.append(Attestation(part, kind, statement))
    return found


def _statements_of(content: ContentStore, digest: str) -> list[Descriptor]:
    """The statements that an attestation's manifest lists. If the blob is not such a manifest (it may be a statement), the
    result is []."""
    if content.size(digest) > MAX_MANIFEST:
        return []
    try:
        parts = parts_of(content.read(digest, MAX_MANIFEST))
    except OrlopError:
        return []
    return [part for part in parts if part.media_type == _IN_TOTO and _PREDICATE_TYPE in (part.annotations or {})]


def _statement(content: ContentStore, part: Descriptor) -> msgspec.Raw | None:
    try:
        data = content.read(part.digest, _MAX_STATEMENT)
        msgspec.json.decode(data)  # checks the syntax, because the text is copied into a JSON answer
    except (OrlopError, msgspec.MsgspecError, RecursionError) as error:
        log.warning("cannot read attestation %s: %s", part.digest, error)
        return None
    return msgspec.Raw(data)
