"""Downloads the attestations about a pulled image. The index (Docker's "manifest list") that lists the image's manifest also
lists its attestations.

An attestation is a document about the image, not a part of the image. If an attestation is missing, damaged or too large,
the pull logs a message and continues without the attestation.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

from orlop_sdk import DriverError, OrlopError

from . import manifests
from .attestations import parts_of
from .documents import MAX_MANIFEST
from .download import Downloads
from .image_store import ImageStore
from .leases import Lease
from .manifests import ATTESTATION_OF, Descriptor, Index
from .progress import Record
from .sources import Sources

__all__ = ["attestations_of", "fetch"]

log = logging.getLogger("orlop.images")

_MOST = 16
_MAX_BYTES = 64 << 20
"""The limit for all attestations about one image together. For comparison: a bill of materials has some MiB."""


def _quiet(_: Record) -> None:
    """Report nothing, because a pull reports only layers, as in Docker."""


def attestations_of(index: Index, manifest: str) -> list[Descriptor]:
    """The entries of an index that are attestations about a manifest."""
    return [
        entry
        for entry in index.manifests
        if manifests.is_attestation(entry) and (entry.annotations or {}).get(ATTESTATION_OF) == manifest
    ]


async def fetch(
    image_store: ImageStore,
    downloads: Downloads,
    sources: Sources,
    wanted: Sequence[Descriptor],
    lease: Lease,
    *,
    owner: str,
) -> tuple[str, ...]:
    """Download attestations into the content store. Returns the digests of their blobs, which this function adds to the
    lease. With `owner` (see `Downloads.fetch`), blobs are downloaded even if they exist already. The reason: an index may
    list any digest, and a client can read all attestations of an image that it has pulled. Without the download, a client
    could list the digest of another client's blob in an index, and then read that blob."""
    found: dict[str, None] = {}
    left, failed = _MAX_BYTES, False
    for entry in wanted[:_MOST]:
        try:
            # Each attestation has its own lease, so that the blobs of an incomplete attestation are not kept
            with image_store.leases.hold() as own:
                size = await _one(image_store, downloads, sources, entry, own, left, owner)
                lease.blobs.update(own.blobs)
        except (OrlopError, OSError) as error:
            log.warning("cannot pull attestation %s: %s", entry.digest, error)
            failed = True
            continue
        found.update(dict.fromkeys((entry.digest, *own.blobs)))
        left -= size
    if failed:
        await image_store.collect()
    return tuple(found)


async def _one(
    image_store: ImageStore,
    downloads: Downloads,
    sources: Sources,
    entry: Descriptor,
    lease: Lease,
    left: int,
    owner: str,
) -> int:
    """Download one attestation, and add its blobs to the lease. Returns the size of the attestation in bytes."""
    content = image_store.content
    await image_store.hold(lease, blob=entry.digest)
    if content.has(entry.digest) and not owner:
        data = content.read(entry.digest, MAX_MANIFEST)
    else:
        _, data = await sources.manifest(entry.digest)
    if len(data) != entry.size:
        raise DriverError(f"its manifest has {len(data)} bytes, not {entry.size}")
    parts = parts_of(data)
    size = sum(part.size for part in parts)
    if size > left:
        raise DriverError(f"the attestations about one image have more than {_MAX_BYTES} bytes")
    content.space.check("pull attestations", stored=size)
    lease.blobs.update(part.digest for part in parts)
    await image_store.barrier()
    for part in parts:
        await downloads.fetch(sources, part, _quiet, owner=owner)
    await content.put(data)
    return size
