"""Remove a container, in these steps:

   1. the exit is recorded, and the network is released
   2. the row is deleted; the same commit records the intent to remove the container's anonymous volumes. From now on the
      container's id and name are free
   3. the anonymous volumes are removed
   4. `destroy` is published, and waiters for the removal are woken; `docker run --rm` returns
   5. the snapshot, log and files are removed, and, once the monitor has ended, also the run directory. Removals that failed
      because a mount was busy are then tried again
   6. if a client asked for the removal, its request is answered

After step 4, no answer of the API contains the container, and its remaining files block no operation. If the container's
image is removed between steps 4 and 5, the layers of the image are removed after step 5. After a crash later than step 2,
the remaining files have no row, so the next daemon removes them.
"""

from __future__ import annotations

import logging
import os
import re
import shutil
import time
from collections.abc import Awaitable
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orlop_engine.images.layers import init_layer
from orlop_engine.images.records import Image
from orlop_kernel.failures import as_orlop_error
from orlop_kernel.store import Delete
from orlop_sdk import Conflict, DeadlineExceeded, NotFound, OrlopError

from . import connections, prepared_sandbox, rootfs, run_cleanup, stopping
from . import volumes as container_volumes
from .container import Container, Run
from .index import ContainerIndex
from .ports import Ports

if TYPE_CHECKING:
    from .listing import Filters

__all__ = ["auto_remove", "discard_files", "prune", "remove", "sweep"]

log = logging.getLogger("orlop.containers")

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


async def remove(ports: Ports, container: Container, *, force: bool, volumes: bool) -> None:
    """`docker rm`. `force` kills a running container first."""
    if not force:
        await _remove_stopped(ports, container, volumes=volumes)
        return
    record = container.record
    if record.removing:
        raise Conflict(f"removal of container {record.name} is already in progress")
    container.stop_requested = True
    # This mark is committed together with the exit, so that after a crash the next daemon completes the removal
    with container.published(removing=True, removing_volumes=volumes):
        await stopping.kill_now(ports, container)
        async with container.lock:
            _check_there(ports.index, container)
            # The task that held the lock before may have started the container again.
            container.stop_requested = True
            await stopping.kill_now(ports, container)
            await _remove_locked(ports, container, volumes=volumes)


def _check_there(index: ContainerIndex, container: Container) -> None:
    """Raise `NotFound` if another task has removed the container meanwhile."""
    if container.id not in index:
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


async def _remove_stopped(ports: Ports, container: Container, *, volumes: bool) -> None:
    _check_stopped(container)  # checked before the lock is taken, so that a stop in progress does not delay the error
    async with container.lock:
        _check_there(ports.index, container)
        _check_stopped(container)
        with container.published(removing=True):  # a failure resets this mark, so that the removal can be tried again
            await _remove_locked(ports, container, volumes=volumes)


async def _remove_locked(ports: Ports, container: Container, *, volumes: bool) -> None:
    record = container.record
    if container.restart_timer is not None:
        container.restart_timer.cancel()
    run = container.run
    if run is not None:
        await run.finished.wait()  # the event `die` must come before the event `destroy`
    await connections.release(ports, container)
    intents, cleared = container_volumes.note(record.id, record.mounts) if volumes else ([], [])
    container.row_going = True
    try:
        await ports.store.commit([Delete("containers", record.id), *intents])
    except BaseException:
        container.row_going = False
        raise
    ports.index.pending_removal.add(record.id)
    ports.index.forget(container)
    try:
        await _remove_rest(ports, container, run, volumes=volumes)
        await container_volumes.clear_intent(ports.store, cleared)
    finally:
        ports.index.pending_removal.discard(record.id)


async def _remove_rest(ports: Ports, container: Container, run: Run | None, *, volumes: bool) -> None:
    """Remove the container's resources. The wait for the end of the monitor takes longest, because the monitor first runs
    the runtime's command `delete`. It comes late, when clients do not notice it any more. After it, removals that failed
    because a mount was busy are tried again."""
    record = container.record
    busy, busy_volumes = False, []
    try:
        await prepared_sandbox.drop(ports, container)
        # A driver unmounts its volumes only after the end of the monitor, and cannot remove a mounted volume.
        if run is not None and (record.host_config.pid_mode or run.volume_users):
            # If the container has its own PID namespace, the kernel kills all its processes when its init process exits
            # (pid_namespaces(7)). In a shared PID namespace, processes of the container may outlive its init process, and
            # still write files.
            await _end_run(ports, container, run)
        if users := ports.volumes.users_for(record.id):  # of a mount that was cancelled, or whose driver did not answer
            ports.background.start(ports.volumes.unmount, users)
        if volumes:
            busy_volumes = await container_volumes.discard(ports.volumes, container_volumes.anonymous(record.mounts))
    finally:
        _announce(ports, container)
    try:
        await _discard_data(ports, record.id)
    except OrlopError:
        busy = True
    if run is not None:
        await _end_run(ports, container, run)
    await container_volumes.discard_again(ports.volumes, busy_volumes)
    if busy:
        await _discard_data(ports, record.id)
    # The root's mount point must outlive the monitor (see `launch`).
    ports.paths.remove_run_directories(record.id)
    if ports.images.get(record.image_id) is None:
        await ports.images.collect()  # if the image was removed earlier, its layers can be removed now


async def _end_run(ports: Ports, container: Container, run: Run) -> None:
    with suppress(DeadlineExceeded):
        await run_cleanup.clean_up(ports, container, run)


def _announce(ports: Ports, container: Container) -> None:
    code = container.record.state.exit_code
    ports.events.publish(container, "destroy")
    container.removed.set(code)
    container.exit_announced(code)
    container.release_attach_waiters()
    ports.execs.container_ended(container)


async def auto_remove(ports: Ports, container: Container) -> None:
    """Remove a container with `--rm` after its exit."""
    async with container.lock:
        if container.record.removing or container.id not in ports.index or container.record.state.running:
            return  # another task has removed the container, or started it again
        try:
            with container.published(removing=True):
                await _remove_locked(ports, container, volumes=True)
        except Exception as error:
            log.error("cannot remove container %s: %s", container.name, error)
            with container.publish() as draft:  # not committed, so the next daemon tries the removal again
                draft.state = draft.state.after_failed_auto_remove()
            container.removed.set(container.record.state.exit_code)


async def prune(ports: Ports, filters: Filters) -> tuple[list[str], int]:
    """Remove stopped containers. Returns (ids, reclaimed bytes)."""
    from . import listing  # imported here, because the daemon's start does not need it

    accept = listing.prunable(filters, time.time())
    gone, space = [], 0
    for container in [item for item in ports.index if accept(item)]:
        try:
            usage = await ports.storage.usage(container.id)
            await remove(ports, container, force=False, volumes=False)
        except (Conflict, NotFound):
            continue  # the container was started or removed meanwhile
        except OrlopError as error:
            log.warning("container %s cannot be pruned: %s", container.name, error)
            continue
        gone.append(container.id)
        space += usage.size
    ports.events.bus.publish("container", "prune", "", {"reclaimed": str(space)})
    return gone, space


async def discard_files(ports: Ports, container_id: str) -> None:
    """Remove all resources of a container except its row. Also used after a failed create."""
    ports.paths.remove_run_directories(container_id)
    await _discard_data(ports, container_id)


async def _discard_data(ports: Ports, container_id: str) -> None:
    """Remove a container's snapshot, logs and files."""
    await ports.storage.remove(container_id)
    # a container that was adopted from a dockerd has its own init layer
    await ports.storage.remove(init_layer(container_id))
    directory = ports.paths.directory(container_id)
    if os.path.isdir(directory):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


async def sweep(ports: Ports) -> None:
    """At the daemon's start, compare directories and snapshots with the rows. Directories and snapshots without a row are
    removed. Those of a quarantined row are kept, because they may be the only copy of the data. If a snapshot was lost in a
    power failure, an empty snapshot replaces it: the container's changes had not been written to the disk."""
    store = ports.store
    known = {*ports.index.by_id, *(key for table, key, _ in store.quarantined() if table == "containers")}
    if sweeping := not store.lost_rows():
        await _sweep_unknown(ports, known)
    else:
        log.warning(
            "files of containers without a row are kept: they may belong to the damaged state database in the data root"
        )
    keys = set(await ports.storage.keys())
    for key in keys:
        if sweeping and _CONTAINER_ID.fullmatch(key) and key not in known:
            await _try(f"cannot remove snapshot {key[:12]}, which belongs to no container", ports.storage.remove(key))
    # iterate over a copy, because a container with --rm may exit and leave the index meanwhile
    for container in list(ports.index):
        image = ports.images.get(container.record.image_id)
        if container.id not in keys and container.id in ports.index and image is not None:
            log.warning(
                "container %s: its snapshot is missing, so the data that it wrote is lost; creating an empty snapshot",
                container.name,
            )
            await _try(
                f"cannot create a root file system for container {container.name}", _prepare_again(ports, container, image)
            )


async def _sweep_unknown(ports: Ports, known: set[str]) -> None:
    for name in os.listdir(ports.paths.containers_root):
        if name not in known:
            log.info("removing files of container %s, which has no row", name[:12])
            await _try(f"cannot remove files of container {name[:12]}, which has no row", discard_files(ports, name))


async def _prepare_again(ports: Ports, container: Container, image: Image) -> None:
    await rootfs.prepare(ports, container.record, image)
    os.makedirs(ports.paths.directory(container.id), mode=0o710, exist_ok=True)


async def _try(otherwise: str, step: Awaitable[None]) -> None:
    """Run a step of the daemon's start for one container. If the step fails, the daemon still starts."""
    try:
        await step
    except Exception as error:
        log.error("%s: %s", otherwise, as_orlop_error(error, "cannot sweep"))
