"""Computes which images a name refers to after an image was added to the name or removed from it. This module does no I/O.

A name from an index (manifest list) refers to images of several platforms. Pulling another platform of the same index adds
an image. If the registry's index has changed, only images that the new index lists keep the name.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .catalog import Catalog
from .records import Image, NameRecord
from .references import Reference

if TYPE_CHECKING:
    from .manifests import Index
    from .platforms import Platform

__all__ = ["IndexSource", "with_image", "without_images"]


@dataclass(frozen=True, slots=True)
class IndexSource:
    """The index from which an image was chosen: the index's digest, and the digests of the manifests that it lists."""

    digest: str
    entries: frozenset[str]

    @classmethod
    def of(cls, digest: str, index: Index) -> IndexSource:
        return cls(digest, frozenset(entry.digest for entry in index.manifests))


def with_image(
    catalog: Catalog, name: Reference, id: str, platform: Platform, index: IndexSource | None, owner: str
) -> NameRecord:
    """The images of a name after the name was added to image `id`, which has this platform."""
    if index is None:
        return NameRecord((id,), owner=owner)

    def stays(image: Image) -> bool:
        listed = not index.entries.isdisjoint(image.record.manifests)
        return image.id != id and image.platform != platform and listed

    others = [other for other in catalog.members(name) if stays(catalog.images[other])]
    if name.digest:  # dockerd 26.1 does not move a digest to another image
        known = catalog.members(name)
        order = [each for each in known if each == id or each in others]
        return NameRecord(tuple(order if id in known else [*order, id]), index.digest, owner)
    return NameRecord((id, *others), index.digest, owner)


def without_images(catalog: Catalog, name: Reference, gone: Collection[str]) -> NameRecord | None:
    """The images of a name after the name was removed from the images in `gone`; None if no image is left."""
    before = catalog.meaning(name)
    left = tuple(id for id in before.images if id not in gone) if before else ()
    return NameRecord(left, before.index, before.owner) if before and left else None
