"""Boot and shutdown: which containers go on, which are accounted for, which are started.

A living monitor is adopted when the daemon lets containers live (live-restore); without it, what a crashed daemon left is
stopped. A monitor that went while no daemon looked left `exit.json`; if even that is missing the code is 255.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from graphlib import CycleError, TopologicalSorter
from typing import TYPE_CHECKING

import trio

from orlop_kernel import linux
from orlop_kernel.engine.failures import as_orlop_error
from orlop_kernel.engine.networks import live
from orlop_kernel.engine.processes import runs
from orlop_kernel.engine.processes.monitor_client import Monitor
from orlop_kernel.monitor import cgroups
from orlop_kernel.monitor.protocol import Status
from orlop_kernel.spi import InvalidParameter, NotFound, OrlopError

from . import ahead, exits, health, lifecycle, links, removal, restarts, runtime, volumes
from .bundle import cgroup_path
from .container import Container, Run
from .launch import on_event
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
            nursery.start_soon(_restore_guarded, room, container)
    living = [item for item in room.index.values() if item.record.state.running and item.run is not None]
    # Loading network drivers takes longer than all the rest. Requests are served meanwhile; those that need a network wait.
    room.background(_restore_networks, room, living)
    await _sweep_runs(room)
    await volumes.take_back(room)
    await removal.sweep(room)
    if not room.engine.config.live_restore:
        async with trio.open_nursery() as nursery:
            for container in living:
                log.warning("stopping container %s: a daemon without live-restore left it running", container.name)
                nursery.start_soon(_stop_orderly, room, container, _patience(room, container))
    room.background(_start_wanted, room)


async def _restore_networks(room: Containers, living: Sequence[Container]) -> None:
    await room.engine.networks.restore([item.record.sandbox for item in living if item.record.sandbox is not None])
    for container in living:
        room.background(live.keep_gateway, room.engine, container)


async def _restore_guarded(room: Containers, container: Container) -> None:
    """One sick container, or a full disk, must not keep the daemon from starting."""
    try:
        await _restore_one(room, container)
    except Exception as error:
        log.error("container %s: %s", container.name, as_orlop_error(error, "cannot restore it"))
        if container.run is None:
            state = container.record.state
            state.running = state.paused = state.restarting = False
            state.pid = state.pid_start_time = 0
            container.touch()


async def _restore_one(room: Containers, container: Container) -> None:
    record = container.record
    run_dir = room.run_dir(record.id)
    if not os.path.isdir(run_dir):
        if record.state.running:
            await _account_lost(room, container)
        return
    run = Run(run_dir)
    try:
        monitor = await Monitor.adopt(run_dir, room.engine.nursery, lambda event: on_event(room, container, run, event))
        status = await monitor.state() if monitor is not None else None
    except OrlopError as error:
        # A monitor that lives and does not answer cannot be trusted with a container: its zygote kills what it leaves.
        log.error("container %s is lost: %s", record.name, error)
        _kill_monitor(run_dir)
        monitor = None
    never = False
    if monitor is not None and status is not None:
        # The daemon died before the start, or before the row that tells of its network: nobody was told that it runs.
        never = status.phase == "launched" or record.monitor_pid not in (None, monitor.pid)
        if not never:
            await _adopt(room, container, run, monitor, status)
            return
        monitor.kill()
        await monitor.ended()
    try:
        await _account_lost(room, container, never=never)
    except OrlopError as error:
        log.error("cannot record the exit of container %s yet: %s", record.name, error)
        room.background(exits.record_again, room, container)
    room.remove_run_directories(record.id)


def _kill_monitor(run_dir: str) -> None:
    record = runs.monitor_record(run_dir)
    if record is None:
        return
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if linux.process_start_time(record.pid) == record.start_time:
            linux.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def _adopt(room: Containers, container: Container, run: Run, monitor: Monitor, status: Status) -> None:
    run.monitor = monitor
    monitor.on_resumed = partial(room.engine.execs.reconcile, container)
    container.run = run
    record = container.record
    record.removing = False  # the last daemon died before it killed it, and nobody was told that it is gone
    runs.complete(run.run_dir, record.id, status, cgroup_path(room, record.id, record.host_config))
    init = runs.init_record(run.run_dir)
    news = False
    if init is not None and cgroups.is_frozen(init.cgroups) and not record.state.paused:
        record.state.paused = news = True  # a pause of which there is no row, or the thaw that there is a row of
    if init is not None and not (record.state.running and record.state.pid == init.pid):
        news = True
        record.state.running, record.state.restarting = True, False
        record.state.pid, record.state.pid_start_time = init.pid, init.start_time
        record.state.started_ns, record.state.error, record.state.exit_code = init.time_ns, "", 0
        record.started_before = True
    room.engine.execs.adopt(container, status)
    container.touch()
    run.settled.set()
    log.info("adopted container %s (monitor %d, %s)", record.name, monitor.pid, status.phase)
    room.background(exits.watch, room, container, run)
    room.background(health.watch, room, container, run)
    if record.held:  # by an operation of the last daemon
        room.background(lifecycle.let_go, room, container)
    if news:
        await _record(room, container)


async def _record(room: Containers, container: Container) -> None:
    """A full disk must not keep what lives from being looked after: it is recorded as soon as there is space."""
    try:
        await room.save(container)
    except OrlopError as error:
        log.error("cannot record the state of container %s yet: %s", container.name, error)
        room.background(exits.record_again, room, container)


async def _account_lost(room: Containers, container: Container, *, never: bool = False) -> None:
    """A container that was running for the last daemon and whose monitor is gone. `never`: by a start that nobody was told
    of, which never was."""
    record = container.record
    record.sandbox = None
    run_dir = room.run_dir(record.id)
    init = runs.init_record(run_dir) if os.path.isdir(run_dir) else None
    if init is not None:
        await trio.to_thread.run_sync(runs.kill_cgroups, init)
    if os.path.isdir(run_dir):
        await runtime.clean(room, container)  # also after a start that was cut short, of which there is no record
    if not record.state.running and (init is None or never):
        return
    exit_record = runs.exit_record(run_dir) if os.path.isdir(run_dir) else None
    code, when, oom = exits.UNKNOWN_EXIT, time.time_ns(), False
    if exit_record is not None:
        code, when, oom = exit_record.code, exit_record.time_ns, exit_record.oom
    if init is not None and not record.state.running:
        record.state.started_ns, record.started_before = init.time_ns, True
    state = record.state
    state.running = state.paused = state.restarting = False
    state.pid, state.pid_start_time = 0, 0
    state.exit_code, state.finished_ns, state.oom_killed = code, when, oom
    await room.save(container)
    container.touch()
    room.engine.events.publish(
        "container", "die", container.id, room.attributes(container, exitCode=str(code), execDuration="0")
    )


async def _sweep_runs(room: Containers) -> None:
    """Monitors and run directories that no row knows."""
    for name in os.listdir(room.runs_root):
        container = room.by_run_name(name)
        if container is not None and container.run is not None:
            continue
        try:
            await _sweep_run(room, name)
        except Exception as error:
            log.error("what is left of run %s stays: %s", name, as_orlop_error(error, "cannot sweep it"))


async def _sweep_run(room: Containers, name: str) -> None:
    run_dir = os.path.join(room.runs_root, name)
    _kill_monitor(run_dir)
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
