"""The root of a container: a snapshot of its own, on the init layer of its image.

An init layer is made by the first container of an image, is shared by all of them, and goes with the image's layer
(`engine.images.layers`). What a container changes is told against it, so its paths are in no diff and no commit until the
container itself changes them, as with dockerd.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import trio

from orlop_engine.images.layers import half_made, init_layer
from orlop_engine.unpacking import make_init_layer
from orlop_sdk import NotFound

from .record import ContainerRecord

if TYPE_CHECKING:
    from orlop_engine.images.service import Image

    from .service import Containers

__all__ = ["prepare"]


async def prepare(containers: Containers, record: ContainerRecord, image: Image) -> None:
    """The writable snapshot. Also at boot, for one that a power cut took before it reached the disk."""
    storage, options = containers.engine.storage, record.host_config.storage_opt or None
    below = init_layer(image.chain_id)
    try:
        await storage.prepare(record.id, below, options=options)
    except NotFound:
        await _make_init_layer(containers, record, image.chain_id)
        await storage.prepare(record.id, below, options=options)


async def _make_init_layer(containers: Containers, record: ContainerRecord, chain_id: str) -> None:
    """When others make the same one, the first stays."""
    storage, key = containers.engine.storage, half_made()
    mountpoint = containers.root(record.id)
    await storage.prepare(key, chain_id or None)
    try:
        os.makedirs(mountpoint, mode=0o700, exist_ok=True)
        try:
            await make_init_layer(containers.engine.zygote, await storage.mounts(key), mountpoint)
        finally:
            os.rmdir(mountpoint)
        await storage.commit(key, init_layer(chain_id))
    finally:
        with trio.move_on_after(30, shield=True):
            await storage.remove(key)
