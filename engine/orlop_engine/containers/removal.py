"""Remove a container. One operation, in this order:

   1. its exit has been accounted for, and its network is released
   2. the row is deleted, and with the same commit an intent for its anonymous volumes is recorded: its id and name are free
   3. its anonymous volumes are removed
   4. `destroy` is published, and waiters for the removal are woken; `docker run --rm` returns
   5. its snapshot, log and files are removed; when its monitor has ended, what was busy until then, and its run directory
   6. the request to remove it, if there was one, is answered

From 4 on a client finds no trace of the container: nothing that is left can be named or counted, or blocks another
operation. The layers of an image that was removed after 4 are removed after 5. What a crash after 2 leaves has no row and
is removed at the next boot, so a removed container never comes back and leaves nothing behind.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orlop_engine.images.layers import init_layer
from orlop_kernel.failures import as_orlop_error
from orlop_kernel.store import Delete
from orlop_sdk import Conflict, DeadlineExceeded, NotFound, OrlopError

from . import exits, lifecycle, prepared_sandbox, rootfs
from . import volumes as container_volumes
from .container import Container, Run

if TYPE_CHECKING:
    from orlop_engine.images.service import Image

    from .service import Containers

__all__ = ["auto_remove", "discard_files", "remove", "sweep"]

log = logging.getLogger("orlop.containers")

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


async def remove(containers: Containers, container: Container, *, force: bool, volumes: bool) -> None:
    """`docker rm`. `force` kills a running container first."""
    if not force:
        await _remove_stopped(containers, container, volumes=volumes)
        return
    record = container.record
    if record.removing:
        raise Conflict(f"removal of container {record.name} is already in progress")
    container.stop_requested = True
    record.removing_volumes = volumes  # for the boot that completes a removal after a crash
    with container.change(removing=True):
        await lifecycle.kill_now(containers, container)
        async with container.lock:
            _check_there(containers, container)
            # The previous holder of the lock may have started it again.
            container.stop_requested = True
            await lifecycle.kill_now(containers, container)
            await _remove_locked(containers, container, volumes=volumes)


def _check_there(containers: Containers, container: Container) -> None:
    """Raise `NotFound` if another removal was faster."""
    if container.id not in containers.index:
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


async def _remove_stopped(containers: Containers, container: Container, *, volumes: bool) -> None:
    _check_stopped(container)  # check before waiting for the lock: a stop in progress must not delay the refusal
    async with container.lock:
        _check_there(containers, container)
        _check_stopped(container)
        with container.change(removing=True):  # what still exists after a failure can be removed again
            await _remove_locked(containers, container, volumes=volumes)


async def _remove_locked(containers: Containers, container: Container, *, volumes: bool) -> None:
    record = container.record
    if container.restart_timer is not None:
        container.restart_timer.cancel()
    run = container.run
    if run is not None:
        await run.finished.wait()  # `die` must come before `destroy`
    await containers.release_network(container)
    intents, cleared = container_volumes.note(record.id, record.mounts) if volumes else ([], [])
    container.row_going = True
    try:
        await containers.engine.store.commit([Delete("containers", record.id), *intents])
    except BaseException:
        container.row_going = False
        raise
    containers.pending_removal.add(record.id)
    containers.forget(container)
    try:
        await _remove_rest(containers, container, run, volumes=volumes)
        await container_volumes.clear_intent(containers, cleared)
    finally:
        containers.pending_removal.discard(record.id)


async def _remove_rest(containers: Containers, container: Container, run: Run | None, *, volumes: bool) -> None:
    """Remove the container's resources. Wait for the monitor last: the runtime's delete takes longest, and clients do
    not see its effects. Removals that failed because of mounts are retried then."""
    record = container.record
    busy, busy_volumes = False, []
    try:
        await prepared_sandbox.drop(containers, container)
        if run is not None and record.host_config.pid_mode:
            # Processes in another PID namespace may outlive init, and write. In their own they cannot: pid_namespaces(7).
            await _end_run(containers, container, run)
        if volumes:
            busy_volumes = await container_volumes.discard(containers, container_volumes.anonymous(record.mounts))
    finally:
        _announce(containers, container)
    try:
        await _discard_data(containers, record.id)
    except OrlopError:
        busy = True
    if run is not None:
        await _end_run(containers, container, run)
    await container_volumes.discard_again(containers, busy_volumes)
    if busy:
        await _discard_data(containers, record.id)
    # The root's mount point must outlive the monitor (see `launch`).
    containers.remove_run_directories(record.id)
    if containers.engine.images.get(record.image_id) is None:
        await containers.engine.images.collect()  # the image was removed before its last container: now its layers can go


async def _end_run(containers: Containers, container: Container, run: Run) -> None:
    with suppress(DeadlineExceeded):
        await exits.clean_up(containers, container, run)


def _announce(containers: Containers, container: Container) -> None:
    code = container.record.state.exit_code
    containers.engine.events.publish("container", "destroy", container.id, containers.attributes(container))
    container.removed.set(code)
    container.exit_announced(code)
    container.release_attach_waiters()
    containers.engine.execs.container_ended(container)


async def auto_remove(containers: Containers, container: Container) -> None:
    """Remove a container with `--rm` after its exit."""
    async with container.lock:
        if container.record.removing or container.id not in containers.index or container.record.state.running:
            return  # removed by another task, or started again
        try:
            with container.change(removing=True):
                await _remove_locked(containers, container, volumes=True)
        except Exception as error:
            log.error("cannot remove container %s: %s", container.name, error)
            container.record.state = container.record.state.after_failed_auto_remove()
            container.touch()
            container.removed.set(container.record.state.exit_code)


async def discard_files(containers: Containers, container_id: str) -> None:
    """Remove everything that a container has outside the store. Also for an unfinished create."""
    containers.remove_run_directories(container_id)
    await _discard_data(containers, container_id)


async def _discard_data(containers: Containers, container_id: str) -> None:
    """Remove its snapshot, logs and files."""
    await containers.engine.storage.remove(container_id)
    await containers.engine.storage.remove(init_layer(container_id))  # adopted containers have one of their own
    directory = containers.directory(container_id)
    if os.path.isdir(directory):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def sweep(containers: Containers) -> None:
    """At boot, reconcile directories and snapshots with the rows. Those without a row are removed, unless the row is
    quarantined: then they may be the only copy. A snapshot lost in a power failure is created again, empty, because its
    writes had not reached the disk."""
    store = containers.engine.store
    known = {*containers.index, *(key for table, key, _ in store.quarantined() if table == "containers")}
    if sweeping := not store.lost_rows():
        await _sweep_unknown(containers, known)
    else:
        log.warning("containers' files are kept, rows or not, while a damaged state database lies in the data root")
    keys = set(await containers.engine.storage.keys())
    for key in keys:
        if sweeping and _CONTAINER_ID.fullmatch(key) and key not in known:
            await _try(f"snapshot {key[:12]} of no container stays", containers.engine.storage.remove(key))
    for container in list(containers.index.values()):  # a copy: one with --rm may exit and leave the index meanwhile
        image = containers.engine.images.get(container.record.image_id)
        if container.id not in keys and container.id in containers.index and image is not None:
            log.warning("container %s lost what it had written: its root is made anew", container.name)
            await _try(f"container {container.name} has no root", _prepare_again(containers, container, image))


async def _sweep_unknown(containers: Containers, known: set[str]) -> None:
    for name in os.listdir(containers.containers_root):
        if name not in known:
            log.info("removing what is left of container %s", name[:12])
            await _try(f"what is left of container {name[:12]} stays", discard_files(containers, name))


async def _prepare_again(containers: Containers, container: Container, image: Image) -> None:
    await rootfs.prepare(containers, container.record, image)
    os.makedirs(containers.directory(container.id), mode=0o710, exist_ok=True)


async def _try(otherwise: str, step: Awaitable[None]) -> None:
    """Run a step of the boot that concerns one container. The daemon starts even if it fails."""
    try:
        await step
    except Exception as error:
        log.error("%s: %s", otherwise, as_orlop_error(error, "cannot sweep"))
