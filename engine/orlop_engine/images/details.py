"""What front ends show of images, in values of the engine. Sans-IO."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec

from orlop_engine.types.images import History

from .catalog import Catalog
from .manifests import Descriptor
from .platforms import Platform
from .records import Image

__all__ = ["HistoryStep", "ImageDetails", "ListedImage", "ManifestDetails", "Pruned", "RemovedItem", "history"]


class ManifestDetails(msgspec.Struct, frozen=True, kw_only=True):
    """One of the manifests that an image's name means: see `image_manifests`. `available`: its content is here. `stored` and
    `unpacked` are bytes, of blobs and of files. `platform` and `containers` (ids) are those of an image. `about`: the digest
    of the manifest that an attestation is about. `repositories`: where the image was pulled from or pushed to."""

    descriptor: Descriptor
    kind: Literal["image", "attestation", "unknown"]
    available: bool = False
    stored: int = 0
    unpacked: int = 0
    platform: Platform | None = None
    containers: Sequence[str] = ()
    about: str = ""
    repositories: Sequence[str] = ()


class ListedImage(NamedTuple):
    """An image in a list, with the names that a list shows of it. Sizes are in bytes. None: not asked for."""

    image: Image
    tags: list[str]
    digests: list[str]
    size: int
    shared_size: int | None = None
    containers: int | None = None
    """The number of containers that were made from it."""
    manifests: Sequence[ManifestDetails] | None = None
    target: Descriptor | None = None
    """See `image_targets`."""


class ImageDetails(NamedTuple):
    """One image, with the names that it is shown with. `storage`: the storage driver's description of the top layer.
    `target`: see `image_targets`. `repositories`: where the image was pulled from or pushed to."""

    image: Image
    tags: list[str]
    digests: list[str]
    storage_driver: str
    storage: Mapping[str, str]
    manifests: Sequence[ManifestDetails] | None = None
    target: Descriptor | None = None
    repositories: Sequence[str] = ()


class HistoryStep(NamedTuple):
    """`image`: the image that the step resulted in, if it still exists here."""

    step: History
    size: int
    image: Image | None


class RemovedItem(NamedTuple):
    """What a removal took away: a name in familiar form, or an image or a layer by its ID. The other field is ""."""

    untagged: str = ""
    deleted: str = ""


class Pruned(NamedTuple):
    """`space`: the bytes that were freed."""

    items: list[RemovedItem]
    space: int


def history(image: Image, catalog: Catalog) -> list[HistoryStep]:
    """Newest step first. Images are known for the last step, and for those of the parents that still exist."""
    found: dict[str, Image] = {}
    at: Image | None = image
    while at is not None and at.id not in found:
        found[at.id] = at
        at = catalog.images.get(at.parent)
    owners = deque(found.values())
    sizes = deque(layer.size for layer in image.layers)
    steps = [(step, sizes.popleft() if sizes and not step.empty_layer else 0) for step in image.document.history or ()]
    return [HistoryStep(step, size, owners.popleft() if owners else None) for step, size in reversed(steps)]
