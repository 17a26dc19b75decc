"""Boot and shutdown: which containers go on, which are stopped, which are started.

What lives is adopted when the daemon lets containers live (live-restore); without it, what a crashed daemon left is stopped.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection, Sequence
from contextlib import suppress
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import trio

from orlop_kernel.engine.failures import as_orlop_error
from orlop_kernel.engine.networks import live
from orlop_kernel.engine.networks.records import Sandbox
from orlop_kernel.engine.processes import runs
from orlop_kernel.spi import InvalidParameter, NotFound

from . import adoption, ahead, lifecycle, links, removal, restarts, volumes
from .container import Container
from .record import ContainerRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["restore", "shutdown"]

log = logging.getLogger(__name__)

_STARTS = 8
_NEEDED = 30.0  # seconds that a start waits for those it needs to have been tried


async def restore(room: Containers) -> None:
    async with trio.open_nursery() as nursery:
        for container in list(room.index.values()):
            nursery.start_soon(adoption.take_back, room, container)
    living = [item for item in room.index.values() if item.record.state.running and item.run is not None]
    # Loading network drivers takes longer than all the rest. Requests are served meanwhile; those that need a network wait.
    aside = _living_aside(room)
    room.background(_restore_networks, room, living, [sandbox for sandbox in aside.values() if sandbox is not None])
    await _sweep_runs(room, aside)
    await volumes.take_back(room)
    await removal.sweep(room)
    if not room.engine.config.live_restore:
        async with trio.open_nursery() as nursery:
            for container in living:
                log.warning("stopping container %s: a daemon without live-restore left it running", container.name)
                nursery.start_soon(_stop_orderly, room, container, _patience(room, container))
    room.background(_start_wanted, room)


def _living_aside(room: Containers) -> dict[str, Sandbox | None]:
    """What no row tells of any more goes; but not what runs, and may be told of again by another version. Nothing can be
    done with it meanwhile."""
    if not room.engine.config.live_restore:
        return {}
    found = {key: room.aside[key] for key in room.living_aside()}
    for key in found:
        log.error("container %s runs on, and cannot be used: its row is set aside", key[:12])
    return found


async def _restore_networks(room: Containers, living: Sequence[Container], aside: Sequence[Sandbox]) -> None:
    mine = [item.record.sandbox for item in living if item.record.sandbox is not None]
    await room.engine.networks.restore([*mine, *aside])
    for container in living:
        if container.run is not None and container.run.settled.is_set():  # the others, once they answer
            room.background(live.keep_gateway, room.engine, container)


async def _sweep_runs(room: Containers, aside: Collection[str]) -> None:
    """Monitors and run directories that no row knows."""
    for name in os.listdir(room.runs_root):
        container = room.by_run_name(name)
        if (container is not None and container.run is not None) or any(key.startswith(name) for key in aside):
            continue
        try:
            await _sweep_run(room, name)
        except Exception as error:
            log.error("what is left of run %s stays: %s", name, as_orlop_error(error, "cannot sweep it"))


async def _sweep_run(room: Containers, name: str) -> None:
    run_dir = os.path.join(room.runs_root, name)
    adoption.kill_monitor(run_dir)
    if (init := runs.init_record(run_dir)) is not None:
        await trio.to_thread.run_sync(runs.kill_cgroups, init)
    room.remove_run(name)
    if os.path.lexists(run_dir) and not os.path.isdir(run_dir):
        os.unlink(run_dir)  # no run at all


def _patience(room: Containers, container: Container) -> int:
    """Seconds that a container has to stop at boot: a daemon that waits for one without an end would never answer."""
    own, config = lifecycle.stop_timeout(room, container), room.engine.config
    return next(seconds for seconds in (own, config.shutdown_timeout, config.default_stop_timeout) if seconds >= 0)


async def _stop_orderly(room: Containers, container: Container, seconds: int | None = None) -> None:
    try:
        lifecycle.hurry(room, container, seconds)
        async with container.lock:
            if container.record.state.running:
                manually = container.record.manually_stopped
                await lifecycle.stop_locked(room, container, lifecycle.stop_signal(container, ""), seconds)
                container.record.manually_stopped = manually
                await room.save(container)
    except Exception as error:
        log.error("container %s: %s", container.name, as_orlop_error(error, "cannot stop it"))


async def _start_wanted(room: Containers) -> None:
    """Side by side: one that hangs holds up a few, not all. Those that others need go first."""
    limit = trio.CapacityLimiter(_STARTS)
    needs = _needs(room)
    tried = {container_id: trio.Event() for container_id in needs}

    async def bounded(container: Container) -> None:
        with trio.move_on_after(_NEEDED):
            for other in needs[container.id]:
                await tried[other].wait()
        try:
            async with limit:
                await _start_if_wanted(room, container)
        except Exception as error:
            log.error("container %s: %s", container.name, as_orlop_error(error, "cannot start it"))
        finally:
            tried[container.id].set()

    async with trio.open_nursery() as nursery:
        for container in [room.index[container_id] for container_id in needs]:
            nursery.start_soon(bounded, container)


def _needs(room: Containers) -> dict[str, set[str]]:
    """Id -> the containers that have to run before it: whose namespaces it joins, and to which it is linked. Of those that
    need each other, none of the ring waits for the one that closes it."""
    needs = {item.id: _needed(room, item.record) for item in room.index.values()}
    while True:
        try:
            TopologicalSorter(needs).prepare()
        except CycleError as error:
            first, then, *_ = error.args[1]
            needs[then].discard(first)
        else:
            return needs


def _needed(room: Containers, record: ContainerRecord) -> set[str]:
    host = record.host_config
    modes = [mode for mode in (host.network_mode, host.ipc_mode, host.pid_mode) if mode.startswith("container:")]
    found = {*links.linked(room, record)}
    for mode in modes:
        with suppress(NotFound, InvalidParameter):  # the start says so
            found.add(room.get(mode.removeprefix("container:")).id)
    return found


async def _start_if_wanted(room: Containers, container: Container) -> None:
    record = container.record
    if record.state.running:
        return
    if record.removing:
        # The last daemon died while it removed it.
        record.removing = False
        volumes_too = record.host_config.auto_remove or record.removing_volumes
        await removal.remove(room, container, force=True, volumes=volumes_too)
        return
    if record.host_config.auto_remove and record.started_before:
        await room.auto_remove(container)
        return
    if not restarts.wants_start_at_boot(
        record.host_config.restart_policy,
        record.started_before,
        record.manually_stopped,
        record.state.exit_code,
        record.restart_count,
    ):
        return
    async with container.lock:
        if not (record.state.running or record.removing):
            record.restart_count = 0  # dockerd's: a start at boot begins to count anew
            await room.start_locked(container)


async def shutdown(room: Containers, *, leave_running: bool) -> None:
    """Stop all in parallel, each within its own timeout; or leave all to their monitors. None starts from now on."""
    room.closing = True
    for container in room.index.values():
        if container.restart_timer is not None:
            container.restart_timer.cancel()
    if not leave_running:
        async with trio.open_nursery() as nursery:
            for container in list(room.index.values()):
                if container.record.state.running or container.run is not None:  # or is just being started
                    nursery.start_soon(_stop_orderly, room, container)
    # Monitors of ended containers need a moment to put them away; what they hold would look alive.
    with trio.move_on_after(5):
        for container in [item for item in room.index.values() if item.id in room.ahead]:
            async with container.lock:
                await ahead.drop(room, container)
        for container in list(room.index.values()):
            if container.run is not None and not container.record.state.running:
                run = container.run
                if run.monitor is None:
                    continue  # being started, which the end of the daemon undoes
                await run.monitor.ended()
                if run.recorded and container.run is run:
                    room.settle(container)
