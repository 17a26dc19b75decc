"""Remove: the row goes first, then what it stood for; then clients are told (`destroy`, and those who wait for the removal),
who find no volume, name, endpoint or file of the container. What a crash in between leaves belongs to no row and is swept at
boot, so a removed container never comes back and never leaves anything."""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orlop_kernel.failures import as_orlop_error
from orlop_kernel.store import Delete
from orlop_sdk import Conflict, DeadlineExceeded, NotFound, OrlopError

from . import ahead, exits, lifecycle, rootfs
from . import volumes as container_volumes
from .container import Container, Run

if TYPE_CHECKING:
    from orlop_engine.images.service import Image

    from .service import Containers

__all__ = ["auto_remove", "discard_files", "remove", "sweep"]

log = logging.getLogger(__name__)

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


async def remove(room: Containers, container: Container, *, force: bool, volumes: bool) -> None:
    """`docker rm`. With `force` a running container is killed first."""
    if not force:
        await _remove_stopped(room, container, volumes=volumes)
        return
    record = container.record
    if record.removing:
        raise Conflict(f"removal of container {record.name} is already in progress")
    record.removing = container.stop_requested = True
    record.removing_volumes = volumes  # for the boot that finishes what a crash cuts short
    try:
        await lifecycle.kill_now(room, container)
        async with container.lock:
            _check_there(room, container)
            # Who held the lock until now may have started it again.
            container.stop_requested = True
            await lifecycle.kill_now(room, container)
            await _remove_locked(room, container, volumes=volumes)
    except BaseException:
        record.removing = False
        raise


def _check_there(room: Containers, container: Container) -> None:
    """Another removal may have been faster to the lock."""
    if container.id not in room.index:
        raise NotFound(f"No such container: {container.id}")


def _check_stopped(container: Container) -> None:
    record, state = container.record, container.record.state
    if record.removing:
        raise Conflict(f"removal of container {record.name} is already in progress")
    if state.running:
        what = (
            "container is paused and must be unpaused first"
            if state.paused
            else f"container is {state.status}: stop the container before removing or force remove"
        )
        raise Conflict(f'cannot remove container "/{record.name}": {what}')


async def _remove_stopped(room: Containers, container: Container, *, volumes: bool) -> None:
    _check_stopped(container)  # as it is now: not after a stop that goes on has let go of the lock
    async with container.lock:
        _check_there(room, container)
        _check_stopped(container)
        container.record.removing = True
        try:
            await _remove_locked(room, container, volumes=volumes)
        except BaseException:
            container.record.removing = False  # as far as it still exists, it can be removed again
            raise


async def _remove_locked(room: Containers, container: Container, *, volumes: bool) -> None:
    record = container.record
    if container.restart_timer is not None:
        container.restart_timer.cancel()
    run = container.run
    if run is not None:
        await run.finished.wait()  # its `die` comes before our `destroy`
    await room.release_network(container)
    noted, struck_out = container_volumes.note(record.id, record.mounts) if volumes else ([], [])
    container.row_going = True
    try:
        await room.engine.store.commit([Delete("containers", record.id), *noted])
    except BaseException:
        container.row_going = False
        raise
    room.departing.add(record.id)
    room.forget(container)
    try:
        await _remove_rest(room, container, run, volumes=volumes)
        await container_volumes.strike_out(room, struck_out)
    finally:
        room.departing.discard(record.id)


async def _remove_rest(room: Containers, container: Container, run: Run | None, *, volumes: bool) -> None:
    """What the row stood for. The monitor's end is waited for last: the runtime's delete takes longer than all the rest, and
    no client sees its effects. Drivers that cannot remove what is mounted there are asked again then."""
    record = container.record
    busy, busy_volumes = False, []
    try:
        await ahead.drop(room, container)
        if run is not None and record.host_config.pid_mode:
            # Its processes may outlive its init, and write. In a PID namespace of its own they cannot: pid_namespaces(7).
            await _end_run(room, container, run)
        if volumes:
            busy_volumes = await container_volumes.discard(room, container_volumes.anonymous(record.mounts))
        try:
            await _discard_data(room, record.id)
        except OrlopError:
            busy = True
    finally:
        _announce(room, container)
    if run is not None:
        await _end_run(room, container, run)
    await container_volumes.discard_again(room, busy_volumes)
    if busy:
        await _discard_data(room, record.id)
    # The root's mount point must not go before the monitor (see `launch`).
    room.remove_run_directories(record.id)
    if room.engine.images.get(record.image_id) is None:
        await room.engine.images.collect()  # the image was removed before its last container: now its layers can go


async def _end_run(room: Containers, container: Container, run: Run) -> None:
    with suppress(DeadlineExceeded):
        await exits.put_away(room, container, run)


def _announce(room: Containers, container: Container) -> None:
    code = container.record.state.exit_code
    room.engine.events.publish("container", "destroy", container.id, room.attributes(container))
    container.removed.set(code)
    container.exit_announced(code)
    container.release_attach_waiters()
    room.engine.execs.container_ended(container)


async def auto_remove(room: Containers, container: Container) -> None:
    """`--rm` at the container's end."""
    async with container.lock:
        if container.record.removing or container.id not in room.index or container.record.state.running:
            return  # removed by someone, or started again
        container.record.removing = True
        try:
            await _remove_locked(room, container, volumes=True)
        except Exception as error:
            log.error("cannot remove container %s: %s", container.name, error)
            container.record.removing = False
            container.record.state.dead = True
            container.touch()
            container.removed.set(container.record.state.exit_code)


async def discard_files(room: Containers, container_id: str) -> None:
    """Everything a container has outside the store. Also for one that was never finished."""
    room.remove_run_directories(container_id)
    await _discard_data(room, container_id)


async def _discard_data(room: Containers, container_id: str) -> None:
    """Its root, and its logs and files."""
    await room.engine.storage.remove(container_id)
    directory = room.directory(container_id)
    if os.path.isdir(directory):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def sweep(room: Containers) -> None:
    """At boot: make directories and snapshots agree with the rows. What has no row goes, unless its row was set aside as
    unreadable: then it may be all that is left. A snapshot that a power cut took back comes again, empty, as its writes had
    never reached the disk."""
    store = room.engine.store
    known = {*room.index, *(key for table, key, _ in store.quarantined() if table == "containers")}
    if sweeping := not store.lost_rows():
        await _sweep_unknown(room, known)
    else:
        log.warning("containers' files are kept, rows or not, while a damaged state database lies in the data root")
    keys = set(await room.engine.storage.keys())
    for key in keys:
        if sweeping and _CONTAINER_ID.fullmatch(key) and key not in known:
            await _try(f"snapshot {key[:12]} of no container stays", room.engine.storage.remove(key))
    for container in list(room.index.values()):  # a living one with --rm may end, and leave the index, meanwhile
        image = room.engine.images.get(container.record.image_id)
        if container.id not in keys and container.id in room.index and image is not None:
            log.warning("container %s lost what it had written: its root is made anew", container.name)
            await _try(f"container {container.name} has no root", _prepare_again(room, container, image))


async def _sweep_unknown(room: Containers, known: set[str]) -> None:
    for name in os.listdir(room.containers_root):
        if name not in known:
            log.info("removing what is left of container %s", name[:12])
            await _try(f"what is left of container {name[:12]} stays", discard_files(room, name))


async def _prepare_again(room: Containers, container: Container, image: Image) -> None:
    await rootfs.prepare(room, container.record, image)
    os.makedirs(room.directory(container.id), mode=0o710, exist_ok=True)


async def _try(otherwise: str, step: Awaitable[None]) -> None:
    """A step of the boot that concerns one container: the daemon starts without it."""
    try:
        await step
    except Exception as error:
        log.error("%s: %s", otherwise, as_orlop_error(error, "cannot sweep"))
