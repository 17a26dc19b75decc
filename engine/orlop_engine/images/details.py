"""The values of images that front ends (such as the Docker API) show. This module does no I/O."""

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
    """One of the manifests that an image's name refers to: see the module `image_manifests`. `available`: all content of the
    manifest is stored. `stored` is the size of the manifest's blobs in bytes, `unpacked` the size of the unpacked files.
    `platform` and `containers` (ids) are set if the manifest describes an image. `about` is set for an attestation: the
    digest of the manifest to which the attestation belongs. `repositories` are the repositories that the image was pulled
    from or pushed to."""

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
    """An image in a list, with the names that the list shows for it. Sizes are in bytes. A value is None if the client did
    not ask for it."""

    image: Image
    tags: list[str]
    digests: list[str]
    size: int
    shared_size: int | None = None
    containers: int | None = None
    """The number of containers that were created from the image."""
    manifests: Sequence[ManifestDetails] | None = None
    target: Descriptor | None = None
    """See `image_targets`."""


class ImageDetails(NamedTuple):
    """One image, with the names under which it is shown. `storage`: the storage driver's description of the top layer.
    `target`: see the module `image_targets`. `repositories`: the repositories that the image was pulled from or pushed
    to."""

    image: Image
    tags: list[str]
    digests: list[str]
    storage_driver: str
    storage: Mapping[str, str]
    manifests: Sequence[ManifestDetails] | None = None
    target: Descriptor | None = None
    repositories: Sequence[str] = ()


class HistoryStep(NamedTuple):
    """`image` is the image that this step created; None if it does not exist on this host."""

    step: History
    size: int
    image: Image | None


class RemovedItem(NamedTuple):
    """One removed name or object. `untagged` is a name in familiar form; `deleted` is the ID of an image or a layer. One of
    the two fields is ""."""

    untagged: str = ""
    deleted: str = ""


class Pruned(NamedTuple):
    """`space`: the bytes that were freed."""

    items: list[RemovedItem]
    space: int


def history(image: Image, catalog: Catalog) -> list[HistoryStep]:
    """The steps of an image's history, newest first. The image that a step created is known for the newest step, and for the
    steps before it as long as their images (the parent images) still exist."""
    found: dict[str, Image] = {}
    at: Image | None = image
    while at is not None and at.id not in found:
        found[at.id] = at
        at = catalog.images.get(at.parent)
    owners = deque(found.values())
    sizes = deque(layer.size for layer in image.layers)
    steps = [(step, sizes.popleft() if sizes and not step.empty_layer else 0) for step in image.document.history or ()]
    return [HistoryStep(step, size, owners.popleft() if owners else None) for step, size in reversed(steps)]
