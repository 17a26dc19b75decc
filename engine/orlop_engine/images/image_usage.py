"""The disk usage of each image, and of all images together.

If `blobs` is true, the total is the real disk usage of unpacked layers and blobs. Each layer and blob is counted once.
Content of interrupted pulls, and of removed images that a container still needs, is counted too. If `blobs` is false, the
sizes are the same as in dockerd with a graph driver, which keeps no blobs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import trio

from orlop_engine.pace import Pace

from . import listing
from .catalog import Catalog
from .content import ContentStore
from .details import ListedImage
from .image_store import ImageStore
from .records import Image, ImageUser

__all__ = ["usage"]


async def usage(
    image_store: ImageStore, users: Mapping[str, Sequence[ImageUser]], *, blobs: bool
) -> tuple[list[ListedImage], int]:
    """Returns the images, each with its size and the number of its containers, and the total size of all images in bytes."""
    catalog = image_store.catalog
    pace, result = Pace(), []
    for item in await listing.choose(catalog, {}, everything=False, newest=not blobs):
        image = item.image
        members = await _members(catalog, image, pace) if blobs else [image]
        size, shared = _sizes(catalog, members) if blobs else (image.size, catalog.shared_size(image))
        count = sum(len(users.get(member.id, ())) for member in members)
        result.append(ListedImage(image, item.tags, item.digests, size, shared, count))
        await pace()
    if blobs:
        layers = sum(built.size for built in image_store.layers.built.values())
        return result, layers + await trio.to_thread.run_sync(_stored, image_store.content)
    total = 0
    for chain_id in catalog.chains():
        layer = catalog.layer(chain_id)
        total += layer.size if layer else 0
        await pace()
    return result, total


async def _members(catalog: Catalog, image: Image, pace: Pace) -> list[Image]:
    """The image itself, and the images for other platforms that a list shows in the same entry as this image."""
    members = {image.id: image}
    for name in list(image.names) if catalog.shares_names(image.id) else ():
        if catalog.references.get(name) == image.id:
            members.update({id: catalog.images[id] for id in catalog.members(name)})
        await pace()
    return list(members.values())


def _sizes(catalog: Catalog, members: Sequence[Image]) -> tuple[int, int]:
    """Returns the size of the images in bytes, including blobs, and the part of this size that belongs to layers which other
    images have as well."""
    own = {image.id for image in members}
    layers = {layer.chain_id: layer for image in members for layer in image.layers}
    size = sum(len(image.raw) for image in members)
    shared = 0
    for chain_id, layer in layers.items():
        size += layer.size + layer.blob_size
        if catalog.is_shared(chain_id, own):
            shared += layer.size + layer.blob_size
    return size, shared


def _stored(content: ContentStore) -> int:
    """Bytes of all blobs, complete or not. Runs on a thread."""
    total = 0
    for directory in (content.blobs, content.partial):
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    total += entry.stat(follow_symlinks=False).st_size
                except FileNotFoundError:
                    continue  # the file was removed meanwhile
    return total
