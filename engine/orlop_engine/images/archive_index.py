"""Select the images to load from an index in an image archive, and the attestations about these images. An index (Docker's
"manifest list") is a document that lists the manifests of images, one for each platform."""

from __future__ import annotations

from collections.abc import Sequence

from orlop_sdk import DriverError, NotFound

from . import manifests, platforms
from .archive_file import Archive, Member
from .attestations import parts_of
from .documents import MAX_MANIFEST
from .manifests import ATTESTATION_OF, IMAGE_MANIFESTS, Descriptor, Index
from .platforms import Platform

__all__ = ["attachments", "blob_path", "chosen"]


def blob_path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def _member(archive: Archive, part: Descriptor) -> Member | None:
    member = archive.find(blob_path(part.digest))
    return member if member is not None and (member.digest, member.size) == (part.digest, part.size) else None


def chosen(archive: Archive, index: Index, wanted: Sequence[Platform]) -> list[Descriptor]:
    """The manifests to load. If `wanted` is not empty, these are the best manifests for its platforms; a platform without a
    manifest raises `NotFound`. If `wanted` is empty, these are all manifests for Linux that are in the archive; the manifest
    for this host is the last one. In this case, `NotFound` is raised only if the archive contains no manifest for Linux, and
    the index lists no manifest for this host."""
    if wanted:
        return list({entry.digest: entry for entry in (manifests.choose(index, platform) for platform in wanted)}.values())
    present = [entry for entry in index.manifests if _is_loadable(entry) and _member(archive, entry)]
    if len(present) < 2:
        return present or [manifests.choose(index, platforms.host())]
    try:
        best = manifests.choose(Index(index.media_type, tuple(present)), platforms.host())
    except NotFound:
        return present
    return [*(entry for entry in present if entry != best), best]


def _is_loadable(entry: Descriptor) -> bool:
    """Whether the entry is an image for Linux. Images for other systems are not loaded."""
    system = entry.platform.os.lower() if entry.platform else ""
    return entry.media_type in IMAGE_MANIFESTS and not manifests.is_attestation(entry) and system in ("linux", "")


def attachments(archive: Archive, index: Index, manifest: str) -> tuple[Member, ...]:
    """The archive members that contain the manifests and the blobs of the attestations about `manifest`. An attestation is
    skipped if one of its members is missing."""
    found: list[Member] = []
    for entry in index.manifests:
        if not manifests.is_attestation(entry) or (entry.annotations or {}).get(ATTESTATION_OF) != manifest:
            continue
        own = _member(archive, entry)
        if own is None:
            continue
        try:
            parts = parts_of(archive.read(blob_path(entry.digest), MAX_MANIFEST))
        except DriverError:
            continue
        members = [_member(archive, part) for part in parts]
        found += [own, *filter(None, members)] if all(members) else []
    return tuple(found)
