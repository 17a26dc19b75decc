"""A container's root: a snapshot on top of the init layer of its image.

The first container of an image creates the init layer. All containers of the image share this layer. It is removed together
with the image's layers (`engine.images.layers`). A container's changes are computed against the init layer. So, as with
dockerd, the files of the init layer appear in no diff and no commit unless the container itself changes them.
"""

from __future__ import annotations

import os

import trio

from orlop_engine.images.layers import init_layer, temporary_key
from orlop_engine.images.records import Image
from orlop_sdk import NotFound

from .ports import Ports
from .record import ContainerRecord

__all__ = ["prepare"]


async def prepare(ports: Ports, record: ContainerRecord, image: Image) -> None:
    """Create the writable snapshot. Also used when the daemon starts, to replace a snapshot that was lost in a power
    failure."""
    storage, options = ports.storage, record.host_config.storage_opt or None
    below = init_layer(image.snapshot)
    try:
        await storage.prepare(record.id, below, options=options)
    except NotFound:
        await _make_init_layer(ports, record, image.snapshot)
        await storage.prepare(record.id, below, options=options)


async def _make_init_layer(ports: Ports, record: ContainerRecord, layer: str) -> None:
    """Create the init layer. If several tasks create the same layer at the same time, the layer that is committed first is
    kept."""
    from orlop_engine.unpacking import make_init_layer  # imported here, because the daemon's start does not need it

    storage, key = ports.storage, temporary_key()
    mountpoint = ports.paths.root(record.id)
    await storage.prepare(key, layer or None)
    try:
        os.makedirs(mountpoint, mode=0o700, exist_ok=True)
        try:
            await make_init_layer(ports.zygote, await storage.mounts(key), mountpoint)
        finally:
            os.rmdir(mountpoint)
        await storage.commit(key, init_layer(layer))
    finally:
        with trio.move_on_after(30, shield=True):
            await storage.remove(key)
