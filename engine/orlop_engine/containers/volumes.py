"""Volumes of a container that is being made: they exist before it does, and empty ones get what its image has there."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import msgspec
import trio
from msgspec.structs import replace

from orlop_engine.threads import Abandonable
from orlop_engine.types.containers import HostConfig
from orlop_engine.unpacking import copy_up
from orlop_engine.volumes.record import Vet
from orlop_kernel.store import UNREADABLE, Delete, Put
from orlop_sdk import Conflict, DeadlineExceeded, DriverError, InvalidParameter, NotFound, OrlopError
from orlop_sdk.subpaths import open_subpath

from .container import Container
from .mount_spec import normal_target
from .record import ContainerRecord, MountRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = [
    "announce",
    "anonymous",
    "check_subpath",
    "clear_intent",
    "discard",
    "discard_again",
    "ensure",
    "note",
    "patiently",
    "populate",
    "take_back",
]

log = logging.getLogger(__name__)

T = TypeVar("T")
_PATIENCE = 20.0
_LOOKS = Abandonable("looks at what is to be mounted", 16)
_NOTE = "volumes:"
_ANONYMOUS = "com.docker.volume.anonymous"


async def patiently(look: Callable[[], T]) -> T:
    """Look at paths that users name, on a thread: on a server that is gone, that would be everybody's last moment."""
    begun = False

    def begin() -> T:
        nonlocal begun
        begun = True
        return look()

    with trio.move_on_after(_PATIENCE):
        return await _LOOKS.run(begin)
    why = "its file system gave no answer" if begun else "too many others wait for one that gives no answer, and did"
    raise DeadlineExceeded(f"cannot look at what is to be mounted: {why} in {_PATIENCE:g} s")


def note(container_id: str, mounts: Sequence[MountRecord]) -> tuple[list[Put], list[Delete]]:
    """What writes down which anonymous volumes come and go with a container, and what strikes it out. It is written before
    the first comes to be, and with the end of the row: a crash in between would leave them to nobody."""
    names = anonymous(mounts)
    if not names:
        return [], []
    key = f"{_NOTE}{container_id}"
    return [Put("intents", key, msgspec.json.encode(names))], [Delete("intents", key)]


async def clear_intent(containers: Containers, intents: Sequence[Delete]) -> None:
    """When they are gone again."""
    try:
        if intents:
            await containers.engine.store.commit(intents)
    except OrlopError as error:
        log.info("the note of a container's volumes stays until the next boot: %s", error)


async def take_back(containers: Containers) -> None:
    """At boot: the anonymous volumes of containers that never came to be, or were being removed with theirs."""
    for key, row in containers.engine.store.load("intents"):
        if not key.startswith(_NOTE):
            continue
        try:
            for name in msgspec.json.decode(row, type=list[str]):
                with suppress(NotFound, Conflict):  # another container has it by --volumes-from
                    await containers.engine.volumes.remove(name)
            await containers.engine.store.commit([Delete("intents", key)])
        except UNREADABLE as error:
            await containers.engine.store.quarantine("intents", key, str(error))
        except OrlopError as error:
            log.warning("volumes of a container that is no more stay: %s", error)


async def ensure(
    containers: Containers,
    planned: tuple[MountRecord, ...],
    host: HostConfig,
    made: list[str],
    labels: Mapping[str, str] | None = None,
    vet: Vet | None = None,
) -> tuple[MountRecord, ...]:
    """Make the volumes that are not there yet, with `labels` and their own, and the directories that `--volume` promises.
    The names of new volumes are added to `made`, also when this raises, for the caller to discard.
    `vet` sees each volume that the container gets: one that was not there when the request was judged may be somebody
    else's by now. The caller holds them, so that they stay what was seen."""
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
            driver = mount.driver or host.volume_driver or "local"
            driver_options = (extra.driver_config.options if extra and extra.driver_config else None) or {}
            own = {_ANONYMOUS: ""} if mount.anonymous else {}
            own |= (extra.labels if extra else None) or {}
            found, new = await containers.engine.volumes.ensure(
                mount.name, driver, driver_options, {**own, **(labels or {})}
            )
            if new:
                made.append(mount.name)
            if vet:
                vet(found, mount.anonymous)
            mount = replace(mount, driver=driver)
        out.append(mount)
    return tuple(out)


def _promised(source: str) -> None:
    if not os.path.exists(source):
        # Docker's promise for --volume; --mount refused it while it was parsed.
        os.makedirs(source, mode=0o755, exist_ok=True)


async def populate(containers: Containers, record: ContainerRecord) -> None:
    """Docker's promise for empty volumes: they start with the image's files. Only for volumes that are a directory of this
    host: what a driver mounts elsewhere (nfs, tmpfs) does not exist before the container's start."""
    for mount in record.mounts:
        if mount.type != "volume" or not mount.copy:
            continue
        sources = await containers.engine.volumes.mounts(mount.name)
        if len(sources) != 1 or sources[0].type != "bind":
            continue
        source, subpath = sources[0].source, mount.subpath
        if not await patiently(partial(_is_empty, source, subpath)):  # a bind of the user's may be on such a server too
            continue
        target = _open_directory(source, subpath)
        if target >= 0:
            try:
                await _copy_up(containers, record, mount.destination, target)
            finally:
                os.close(target)


async def _copy_up(containers: Containers, record: ContainerRecord, path: str, target: int) -> None:
    root = containers.root(record.id)
    os.makedirs(root, mode=0o700, exist_ok=True)
    try:
        below = await containers.engine.storage.mounts(record.id, readonly=True)
        await copy_up(containers.engine.zygote, below, path, target, root)
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
    """-1 when there is none, or it is outside of the volume: the start refuses that, if it is so then."""
    try:
        return open_subpath(source, subpath, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.EXDEV, errno.ELOOP):
            return -1
        raise DriverError(f"cannot look into the volume: {error.strerror}") from None


def check_subpath(source: str, subpath: str) -> None:
    """Raises, in dockerd's words, when there is no such path in the volume."""
    try:
        os.close(open_subpath(source, subpath))
    except FileNotFoundError as error:
        raise NotFound(error.strerror) from None
    except OSError as error:
        raise InvalidParameter(error.strerror) from None


def anonymous(mounts: Sequence[MountRecord]) -> list[str]:
    """The volumes that go with their container."""
    return [mount.name for mount in mounts if mount.type == "volume" and mount.anonymous]


async def discard(containers: Containers, names: Sequence[str]) -> list[str]:
    """Remove volumes, those that no other container has. Returns those that their drivers could not remove."""
    failed = []
    for name in names:
        try:
            await containers.engine.volumes.remove(name)
        except NotFound:
            continue
        except OrlopError as error:
            log.info("volume %s stays: %s", name, error)
            if not isinstance(error, Conflict):
                failed.append(name)
    return failed


async def discard_again(containers: Containers, names: Sequence[str]) -> None:
    """Those that could not be removed, now that nothing has them mounted."""
    for name in names:
        try:
            await containers.engine.volumes.finish_removal(name)
        except OrlopError as error:
            log.warning("volume %s stays until the next start: %s", name, error)


def announce(containers: Containers, container: Container, action: str) -> None:
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
        containers.engine.events.publish("volume", action, mount.name, attributes)
