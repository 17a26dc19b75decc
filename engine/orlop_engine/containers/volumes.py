"""Volumes of a container that is being created. Missing volumes are created, and empty volumes are filled with the image's
files."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeVar

import msgspec
import trio
from msgspec.structs import replace

from orlop_engine.config import defaults
from orlop_engine.threads import Abandonable
from orlop_engine.types.containers import HostConfig
from orlop_engine.volumes.record import VolumeCheck
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import Conflict, DeadlineExceeded, DriverError, InvalidParameter, Mount, NotFound, OrlopError
from orlop_sdk.subpaths import open_subpath

from .ports import Ports
from .record import ContainerRecord, MountRecord
from .services import Volumes

__all__ = [
    "anonymous",
    "check_subpath",
    "clear_intent",
    "discard",
    "discard_again",
    "discard_orphans",
    "ensure",
    "note",
    "patiently",
    "populate",
]

log = logging.getLogger("orlop.containers")

T = TypeVar("T")
_PATIENCE = 20.0
_SOURCE_CHECKS = Abandonable("access to mount sources", 16)
_NOTE = "volumes:"
_ANONYMOUS = "com.docker.volume.anonymous"


async def patiently(look: Callable[[], T]) -> T:
    """Access a path that a user chose. The access runs on a worker thread and with a deadline, because a path on a dead NFS
    server blocks for ever."""
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return look()

    with trio.move_on_after(_PATIENCE):
        return await _SOURCE_CHECKS.run(begin)
    why = "its file system did not answer" if begun else "too many other requests are waiting for their file systems"
    raise DeadlineExceeded(f"cannot access a mount source within {_PATIENCE:g} s: {why}")


def note(container_id: str, mounts: Sequence[MountRecord]) -> tuple[list[Put], list[Delete]]:
    """The rows that record the intent to remove the anonymous volumes of a container, and the deletes that clear this
    intent. A create commits the intent before it creates the first volume. A removal commits the intent and the deletion of
    the container's row together. Without the intent, a crash can leave volumes that belong to no container."""
    names = anonymous(mounts)
    if not names:
        return [], []
    key = f"{_NOTE}{container_id}"
    return [Put("intents", key, msgspec.json.encode(names))], [Delete("intents", key)]


async def clear_intent(store: Store, intents: Sequence[Delete]) -> None:
    """Delete the intent once the volumes have been removed."""
    try:
        if intents:
            await store.commit(intents)
    except OrlopError as error:
        log.info(
            "cannot delete the intent to remove a container's volumes; the next start of the daemon deletes it: %s", error
        )


async def discard_orphans(ports: Ports) -> None:
    """When the daemon starts, remove the anonymous volumes of containers whose create or removal did not finish."""
    for key, row in ports.store.load("intents"):
        if not key.startswith(_NOTE):
            continue
        try:
            for name in msgspec.json.decode(row, type=list[str]):
                with suppress(NotFound, Conflict):  # another container uses the volume (--volumes-from)
                    await ports.volumes.remove(name)
            await ports.store.commit([Delete("intents", key)])
        except UNREADABLE as error:
            await ports.store.quarantine("intents", key, str(error))
        except OrlopError as error:
            log.warning("cannot remove volumes of a removed container: %s", error)


async def ensure(
    volumes: Volumes,
    planned: tuple[MountRecord, ...],
    host: HostConfig,
    made: list[str],
    labels: Mapping[str, str] | None = None,
    vet: VolumeCheck | None = None,
) -> tuple[MountRecord, ...]:
    """Create missing volumes, and missing source directories of `--volume` binds. New volumes get `labels` in addition to
    their own labels. Appends the names of new volumes that the caller may remove to the list `made`, even when an error is
    raised. The callback `vet` checks each volume that the container gets, because another client may have created a
    volume since the request was authorized. The caller has reserved the volumes, so no other task removes them."""
    from .mount_spec import normal_target  # imported here, because the daemon's start does not need it

    out = []
    options = {
        normal_target(mount.target): mount.volume_options
        for mount in host.mounts or ()
        if mount.type == "volume" and mount.volume_options
    }
    for mount in planned:
        if mount.type == "bind":
            await patiently(partial(_promised, mount.source))
        if mount.type == "volume":
            extra = options.get(mount.destination)
            driver = mount.driver or host.volume_driver  # "" means the driver of an existing volume, or the default driver
            driver_options = (extra.driver_config.options if extra and extra.driver_config else None) or {}
            own = {_ANONYMOUS: ""} if mount.anonymous else {}
            own |= (extra.labels if extra else None) or {}
            found, new = await volumes.ensure(mount.name, driver, driver_options, {**own, **(labels or {})})
            # A plugin may have had a volume of this name before, whose content must survive a failed create
            if new and (mount.anonymous or found.driver == defaults.VOLUME_DRIVER):
                made.append(mount.name)
            if vet:
                vet(found, mount.anonymous)
            mount = replace(mount, driver=found.driver)
        out.append(mount)
    return tuple(out)


def _promised(source: str) -> None:
    if not os.path.exists(source):
        # Docker creates missing sources only for --volume. The parser has refused missing sources of --mount.
        os.makedirs(source, mode=0o755, exist_ok=True)


async def populate(ports: Ports, record: ContainerRecord) -> None:
    """Fill empty volumes with the image's files, as Docker does. Only volumes that are a directory on this host are filled.
    A volume that a container's monitor mounts (nfs, tmpfs) is not filled, because it is mounted only at the container's
    start."""
    for mount in record.mounts:
        if mount.type != "volume" or not mount.copy:
            continue
        users: list[str] = []
        try:
            await _populate(ports, record, mount, await ports.volumes.mount(mount.name, record.id, users))
        finally:
            if users:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + _PATIENCE):
                    await ports.volumes.unmount(users)


async def _populate(ports: Ports, record: ContainerRecord, mount: MountRecord, sources: Sequence[Mount]) -> None:
    if len(sources) != 1 or sources[0].type != "bind":
        return
    source, subpath = sources[0].source, mount.subpath
    if not await patiently(partial(_is_empty, source, subpath)):  # the volume may be a bind of a path on a dead server
        return
    target = _open_directory(source, subpath)
    if target >= 0:
        try:
            await _copy_up(ports, record, mount.destination, target)
        finally:
            os.close(target)


async def _copy_up(ports: Ports, record: ContainerRecord, path: str, target: int) -> None:
    from orlop_engine.unpacking import copy_up

    root = ports.paths.root(record.id)
    os.makedirs(root, mode=0o700, exist_ok=True)
    try:
        below = await ports.storage.mounts(record.id, readonly=True)
        await copy_up(ports.zygote, below, path, target, root)
    finally:
        os.rmdir(root)


def _is_empty(source: str, subpath: str) -> bool:
    fd = _open_directory(source, subpath)
    if fd < 0:
        return False
    try:
        return not os.listdir(fd)
    finally:
        os.close(fd)


def _open_directory(source: str, subpath: str) -> int:
    """A file descriptor of the directory. Returns -1 when the directory does not exist or is outside the volume; in these
    cases the start reports the error."""
    try:
        return open_subpath(source, subpath, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP):
            return -1
        raise DriverError(f"cannot access the volume: {error.strerror}") from None


def check_subpath(source: str, subpath: str) -> None:
    """Raise, with dockerd's messages, when the path does not exist in the volume."""
    try:
        os.close(open_subpath(source, subpath))
    except FileNotFoundError as error:
        raise NotFound(error.strerror) from None
    except OSError as error:
        raise InvalidParameter(error.strerror) from None


def anonymous(mounts: Sequence[MountRecord]) -> list[str]:
    """The volumes that are removed together with their container."""
    return [mount.name for mount in mounts if mount.type == "volume" and mount.anonymous]


async def discard(volumes: Volumes, names: Sequence[str]) -> list[str]:
    """Remove volumes that no other container uses. Returns the volumes that their drivers failed to remove."""
    failed = []
    for name in names:
        try:
            await volumes.remove(name)
        except NotFound:
            continue
        except OrlopError as error:
            log.info("cannot remove volume %s: %s", name, error)
            if not isinstance(error, Conflict):
                failed.append(name)
    return failed


async def discard_again(volumes: Volumes, names: Sequence[str]) -> None:
    """Remove volumes that could not be removed before. Called after they have been unmounted."""
    for name in names:
        try:
            await volumes.finish_removal(name)
        except OrlopError as error:
            log.warning("cannot remove volume %s; the next start of the daemon tries again: %s", name, error)
