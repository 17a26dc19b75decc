"""The manifests that an image's names refer to, one for each platform, and the attestations about them.

An index (Docker's "manifest list") is the document that lists these manifests. All manifests of a received index are shown,
in its order, even if the content of a manifest is not stored. An image without an index has one manifest. If the image was
pulled or loaded, it is the manifest that was received. If the image was built on this host, it is the manifest that a push
or save would send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import trio

from orlop_engine.pace import Pace
from orlop_sdk import OrlopError

from . import manifests, outgoing
from .attestations import parts_of
from .catalog import Catalog
from .content import ContentStore
from .details import ManifestDetails
from .documents import MAX_MANIFEST
from .manifests import Descriptor, Index
from .platforms import Platform
from .records import Image, ImageUser

__all__ = ["manifests_of", "no_origins"]

log = logging.getLogger("orlop.images")

Users = Mapping[str, Sequence[ImageUser]]
Origins = Callable[[str], Sequence[str]]
"""Given the ID of an image: the repositories that it was pulled from or pushed to."""


def no_origins(_: str) -> Sequence[str]:
    return ()


async def manifests_of(
    catalog: Catalog, content: ContentStore, image: Image, users: Users, origins: Origins = no_origins
) -> list[ManifestDetails]:
    """The manifests that the names of this image refer to. Names that an image list shows with another image are skipped."""
    pace, found = Pace(), dict[str, ManifestDetails]()
    seen = set()
    images = {image.id: image}
    for name in list(image.names):
        await pace()
        target = catalog.targets.get(name)
        if target is None or target in seen or catalog.references.get(name) != image.id:
            continue
        seen.add(target)
        members = {id: catalog.images[id] for id in target.images}
        images.update(members)
        index = await trio.to_thread.run_sync(_index, content, target.index)
        for entry in index.manifests if index else ():
            if entry.digest not in found:
                found[entry.digest] = await trio.to_thread.run_sync(_entry, content, entry, members, users, origins)
    shown = {digest for digest, one in found.items() if one.available}
    for one in images.values():
        if shown.isdisjoint(one.record.manifests) and (own := await _own(content, one, users, origins)) is not None:
            found.setdefault(own.descriptor.digest, own)
    return list(found.values())


def _index(content: ContentStore, digest: str) -> Index | None:
    try:
        found = manifests.parse_kept(content.read(digest, MAX_MANIFEST)) if digest else None
    except OrlopError as error:
        log.warning("cannot read index %s: %s", digest, error)
        return None
    return found if isinstance(found, Index) else None


async def _own(content: ContentStore, image: Image, users: Users, origins: Origins) -> ManifestDetails | None:
    try:
        found = await outgoing.describe(content, image)
    except OrlopError:
        return None  # a layer's blob is missing, so the image has no manifest
    return _image(content, found.descriptor, image, image.platform, users, origins)


def _entry(
    content: ContentStore, entry: Descriptor, members: Mapping[str, Image], users: Users, origins: Origins
) -> ManifestDetails:
    """The details of the manifest that one entry of an index refers to. Runs on a thread."""
    if manifests.is_attestation(entry):
        return _attestation(content, entry)
    given = entry.platform
    platform = Platform(given.os, given.architecture, given.variant) if given else Platform("", "")
    image = next((one for one in members.values() if entry.digest in one.record.manifests), None)
    if image is None and entry.media_type not in manifests.IMAGE_MANIFESTS:
        return ManifestDetails(descriptor=entry, kind="unknown")
    return _image(content, entry, image, platform if given or image is None else image.platform, users, origins)


def _image(
    content: ContentStore, entry: Descriptor, image: Image | None, platform: Platform, users: Users, origins: Origins
) -> ManifestDetails:
    stored = unpacked = 0
    if image is not None:
        blobs = {layer.blob: layer.blob_size for layer in image.layers if layer.blob and content.has(layer.blob)}
        stored = content.size(entry.digest) + len(image.raw) + sum(blobs.values())
        unpacked = image.size
    containers = [user.container_id for user in users.get(image.id, ())] if image else []
    return ManifestDetails(
        descriptor=entry,
        kind="image",
        available=image is not None,
        stored=stored,
        unpacked=unpacked,
        platform=platform,
        containers=containers,
        repositories=origins(image.id) if image else (),
    )


def _attestation(content: ContentStore, entry: Descriptor) -> ManifestDetails:
    about = (entry.annotations or {}).get(manifests.ATTESTATION_OF, "")
    size, available = content.size(entry.digest), content.has(entry.digest)
    if available:
        try:
            parts = parts_of(content.read(entry.digest, MAX_MANIFEST))
            size += sum(content.size(part.digest) for part in parts)
            available = all(content.has(part.digest) for part in parts)
        except OrlopError:
            available = False
    return ManifestDetails(descriptor=entry, kind="attestation", available=available, stored=size, about=about)
