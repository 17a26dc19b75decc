"""Volumes of a container that is being made: they exist before it does, and empty ones get what its image has there."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from orlop_kernel.engine.unpacking import copy_up
from orlop_kernel.linux import open_in_root
from orlop_kernel.spi import DeadlineExceeded, InvalidParameter, Mount, NotFound, OrlopError
from orlop_kernel.store import Delete, Put
from orlop_kernel.types.containers import HostConfig

from .container import Container
from .record import ContainerRecord, MountRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["announce", "discard", "ensure", "forget_promise", "mounts", "patiently", "populate", "promise", "take_back"]

log = logging.getLogger(__name__)

T = TypeVar("T")
_PATIENCE = 20.0


async def patiently(look: Callable[[], T]) -> T:
    """Look at paths that users name, on a thread: on a server that is gone, that would be everybody's last moment."""
    with trio.move_on_after(_PATIENCE):
        return await trio.to_thread.run_sync(look, abandon_on_cancel=True)
    raise DeadlineExceeded(f"cannot look at what is to be mounted: its file system gave no answer in {_PATIENCE:g} s")


async def promise(room: Containers, container_id: str, planned: Sequence[MountRecord]) -> list[Delete]:
    """Write down which anonymous volumes come to be with a container, before the first does: a crash before the container's
    row would leave them to nobody. Returns what takes the note back, to be committed with the row."""
    names = [mount.name for mount in planned if mount.type == "volume" and mount.anonymous]
    if not names:
        return []
    await room.engine.store.commit([Put("intents", container_id, msgspec.json.encode(names))])
    return [Delete("intents", container_id)]


async def forget_promise(room: Containers, taken_back: Sequence[Delete]) -> None:
    """After a create that failed and has undone itself."""
    try:
        await room.engine.store.commit(taken_back)
    except OrlopError as error:
        log.info("the note of a container's volumes stays until the next boot: %s", error)


async def take_back(room: Containers) -> None:
    """At boot: anonymous volumes of containers that never came to be."""
    for container_id, row in room.engine.store.load("intents"):
        try:
            for name in msgspec.json.decode(row, type=list[str]):
                with suppress(NotFound):
                    await room.engine.volumes.remove(name)
            await room.engine.store.commit([Delete("intents", container_id)])
        except msgspec.MsgspecError as error:
            await room.engine.store.quarantine("intents", container_id, str(error))
        except OrlopError as error:
            log.warning("volumes of container %s, which was never made, stay: %s", container_id[:12], error)


async def ensure(
    room: Containers, planned: tuple[MountRecord, ...], host: HostConfig, labels: Mapping[str, str] | None = None
) -> tuple[MountRecord, ...]:
    """Make the volumes that are not there yet, with `labels` and their own, and the directories that `--volume` promises."""
    out = []
    options = {
        mount.target: mount.volume_options for mount in host.mounts or () if mount.type == "volume" and mount.volume_options
    }
    for mount in planned:
        if mount.type == "bind":
            await patiently(partial(_promised, mount.source))
        if mount.type == "volume":
            extra = options.get(mount.destination)
            driver = mount.driver or host.volume_driver or "local"
            driver_options = (extra.driver_config.options if extra and extra.driver_config else None) or {}
            own = {"com.docker.volume.anonymous": ""} if mount.anonymous else (extra.labels if extra else None) or {}
            await room.engine.volumes.ensure(mount.name, driver, driver_options, {**own, **(labels or {})})
            mount = replace(mount, driver=driver)
        out.append(mount)
    return tuple(out)


def _promised(source: str) -> None:
    if not os.path.exists(source):
        # Docker's promise for --volume; --mount refused it while it was parsed.
        os.makedirs(source, mode=0o755, exist_ok=True)


async def mounts(room: Containers, record: MountRecord) -> Sequence[Mount]:
    """What to mount for a volume. A subpath is looked up inside the volume, whatever symlinks its containers made there."""
    found = await room.engine.volumes.mounts(record.name)
    return [replace(mount, source=_inside(mount.source, record.subpath)) for mount in found] if record.subpath else found


def _inside(directory: str, subpath: str) -> str:
    try:
        root = os.open(directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            fd = open_in_root(root, subpath, os.O_PATH)
        finally:
            os.close(root)
    except OSError as error:
        raise InvalidParameter(f"cannot access path {directory}/{subpath}: {(error.strerror or '').lower()}") from None
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    finally:
        os.close(fd)


async def populate(room: Containers, record: ContainerRecord) -> None:
    """Docker's promise for empty volumes: they start with the image's files. Only for volumes that are a directory of this
    host: what a driver mounts elsewhere (nfs, tmpfs) does not exist before the container's start."""
    for mount in record.mounts:
        if mount.type != "volume" or not mount.copy or mount.subpath:
            continue
        sources = await room.engine.volumes.mounts(mount.name)
        if len(sources) != 1 or sources[0].type != "bind" or os.listdir(sources[0].source):
            continue
        root = room.root(record.id)
        os.makedirs(root, mode=0o700, exist_ok=True)
        try:
            below = await room.engine.storage.mounts(record.id, readonly=True)
            await copy_up(room.engine.zygote, below, mount.destination, sources[0].source, root)
        finally:
            os.rmdir(root)


async def discard(room: Containers, mounts: Sequence[MountRecord]) -> None:
    """The anonymous ones go with their container, or with the attempt to make one."""
    for mount in mounts:
        if mount.type == "volume" and mount.anonymous:
            try:
                await room.engine.volumes.remove(mount.name)
            except NotFound:
                continue
            except OrlopError as error:
                log.info("volume %s stays: %s", mount.name, error)


def announce(room: Containers, container: Container, action: str) -> None:
    """The events `mount` and `unmount` of its volumes. Their drivers are not asked: the monitor mounts."""
    for mount in container.record.mounts:
        if mount.type != "volume":
            continue
        attributes = {"driver": mount.driver or "local", "container": container.id}
        if action == "mount":
            attributes |= {
                "destination": mount.destination,
                "read/write": str(mount.rw).lower(),
                "propagation": mount.propagation,
            }
        room.engine.events.publish("volume", action, mount.name, attributes)
