"""What became of a container while no daemon looked: its living monitor is adopted, now or as soon as it answers; or its
end is accounted for. A monitor that went leaves `exit.json`; if even that is missing the code is 255.
"""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import trio

from orlop_kernel import linux
from orlop_kernel.engine.failures import as_orlop_error
from orlop_kernel.engine.networks import live
from orlop_kernel.engine.processes import runs
from orlop_kernel.engine.processes.monitor_client import Monitor
from orlop_kernel.monitor import cgroups
from orlop_kernel.monitor.protocol import Status
from orlop_kernel.spi import DeadlineExceeded, InvalidParameter, OrlopError, Unavailable

from . import exits, health, lifecycle, runtime
from .bundle import cgroup_path
from .container import Container, Run
from .launch import on_event
from .record import ContainerRecord

if TYPE_CHECKING:
    from .service import Containers

__all__ = ["kill_monitor", "take_back"]

log = logging.getLogger(__name__)


async def take_back(room: Containers, container: Container) -> None:
    """One sick container, or a full disk, must not keep the daemon from starting."""
    try:
        await _take_back(room, container)
    except Exception as error:
        log.error("container %s: %s", container.name, as_orlop_error(error, "cannot restore it"))
        if container.run is None:
            state = container.record.state
            state.running = state.paused = state.restarting = False
            state.pid = state.pid_start_time = 0
            container.touch()


async def _take_back(room: Containers, container: Container) -> None:
    record = container.record
    run_dir = room.run_dir(record.id)
    if not os.path.isdir(run_dir):
        if record.state.running:
            await _account_lost(room, container)
        return
    run = Run(run_dir)
    run.monitor = monitor = await _reach(room, container, run)
    never = False
    if monitor is not None:
        # Without the row that tells of its network nobody was told that it runs; nor when the daemon died before the start
        told = record.monitor_pid in (None, monitor.pid)
        try:
            status = await monitor.subscribe()
            if told and status.phase != "launched":
                await _adopt(room, container, run, status)
                return
            never = True
        except DeadlineExceeded as error:
            if told and record.state.running:
                log.error("container %s runs on, and cannot be used yet: %s", record.name, error)
                container.run = run
                room.background(_adopt_late, room, container, run)
                return
        except Unavailable:
            pass  # it ended while it was asked
        monitor.kill()
        await monitor.ended()
    try:
        await _account_lost(room, container, never=never)
    except OrlopError as error:
        log.error("cannot record the exit of container %s yet: %s", record.name, error)
        room.background(exits.record_again, room, container)
    room.remove_run_directories(record.id)


async def _reach(room: Containers, container: Container, run: Run) -> Monitor | None:
    """Its living monitor. One that takes no calls cannot be trusted with a container: its zygote kills what it leaves."""
    try:
        return await Monitor.adopt(run.run_dir, room.engine.nursery, lambda event: on_event(room, container, run, event))
    except OrlopError as error:
        log.error("container %s is lost: %s", container.name, error)
        kill_monitor(run.run_dir)
        return None


async def _adopt_late(room: Containers, container: Container, run: Run) -> None:
    """Of a monitor that is silent, as its disk may be: it answers once that does, or ends."""
    assert run.monitor is not None
    while not run.monitor.is_over:
        try:
            status = await run.monitor.subscribe(math.inf)
        except OrlopError as error:
            log.warning("container %s: %s", container.name, error)
            await trio.sleep(1)
        else:
            await _adopt(room, container, run, status)
            await live.keep_gateway(room.engine, container)
            return
    run.settled.set()
    await exits.watch(room, container, run)


def kill_monitor(run_dir: str) -> None:
    record = runs.monitor_record(run_dir)
    if record is None:
        return
    try:
        pidfd = os.pidfd_open(record.pid)
    except ProcessLookupError:
        return
    try:
        if linux.is_process(record.pid, record.start_time):
            linux.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)


async def _adopt(room: Containers, container: Container, run: Run, status: Status) -> None:
    monitor = run.monitor
    assert monitor is not None
    monitor.on_resumed = partial(room.engine.execs.reconcile, container)
    container.run = run
    record = container.record
    if _is_accounted(record, run):
        run.settled.set()
        run.finished.set()
        room.background(exits.clean, room, container, run)
        if record.state.running:  # it was to be started again, which is the boot's to decide now
            record.state.running = record.state.restarting = False
            await _record(room, container)
        return
    record.removing = False  # the last daemon died before it killed it, and nobody was told that it is gone
    runs.complete(run.run_dir, record.id, status, _cgroup_by_name(room, record))
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


def _cgroup_by_name(room: Containers, record: ContainerRecord) -> str:
    """Where it would be started now; "" when it could not be: its parent may be no name for the cgroup driver of today."""
    with suppress(InvalidParameter):
        return cgroup_path(room, record.id, record.host_config)
    return ""


def _is_accounted(record: ContainerRecord, run: Run) -> bool:
    """Whether the last daemon has recorded the exit already: all that is left is to put the run away."""
    found = runs.exit_record(run.run_dir)
    return found is not None and found.time_ns == record.state.finished_ns


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
