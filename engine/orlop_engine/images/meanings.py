"""Computes which images a name refers to after an image was added to the name or removed from it. This module does no I/O.

An index (Docker's "manifest list") is a document that lists the manifests of images, one for each platform. A name that was
pulled or loaded as an index refers to several images: one for each platform that was pulled or loaded. When a client pulls
one more platform, the name also refers to the image for this platform. If the registry's index has changed meanwhile, the
name no longer refers to images that the new index does not list.
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
    """Returns the new record of `name` after the image `id` for `platform` was added to the name. `index` is the index that
    was pulled or loaded; None if the registry or archive has a single image under the name."""
    if index is None:
        return NameRecord((id,), owner=owner)

    def stays(image: Image) -> bool:
        listed = not index.entries.isdisjoint(image.record.manifests)
        return image.id != id and image.platform != platform and listed

    others = [other for other in catalog.members(name) if stays(catalog.images[other])]
    if name.digest:  # as in dockerd 26.1, a name with a digest keeps its first image
        known = catalog.members(name)
        order = [each for each in known if each == id or each in others]
        return NameRecord(tuple(order if id in known else [*order, id]), index.digest, owner)
    return NameRecord((id, *others), index.digest, owner)


def without_images(catalog: Catalog, name: Reference, gone: Collection[str]) -> NameRecord | None:
    """Returns the new record of `name` after the images in `gone` were removed from the name; None if no image is left."""
    before = catalog.meaning(name)
    left = tuple(id for id in before.images if id not in gone) if before else ()
    return NameRecord(left, before.index, before.owner) if before and left else None
