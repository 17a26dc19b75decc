"""Recovery of containers when the daemon starts. The daemon takes over monitors (the parent processes of containers) that
still run, and records the exits that happened while no daemon ran. A monitor writes the exit code to `exit.json`. If this
file is missing, the exit code is 255.

A monitor is alive if a process exists with the pid and the start time that are stored in the monitor's record. The daemon
serves requests before the monitors have answered. Until a monitor answers, clients see its container in the state that the
previous daemon recorded. If a monitor does not answer (for example because its disk hangs or its process is stopped), other
containers are not delayed. Operations that need this monitor fail immediately with the reason, but its container can be
killed and removed. The container is adopted as soon as the monitor answers.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from contextlib import suppress
from functools import partial

import trio

from orlop_engine.config import Config
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.processes.watchdog import PATIENCE
from orlop_kernel.failures import as_orlop_error
from orlop_monitor.protocol import InitRecord, Status
from orlop_sdk import InvalidParameter, OrlopError, cgroups, linux

from . import connections, exits, lifecycle, pausing, probes, run_cleanup, runtime
from .container import Container, Run
from .monitor_events import note_lost_log, on_event, on_resumed
from .ports import Ports
from .record import ContainerRecord

__all__ = ["kill_monitor", "recover"]

log = logging.getLogger("orlop.containers")

_PROMPT = 0.1  # seconds; a monitor answers faster than this unless it is stopped or stuck


async def recover(ports: Ports, container: Container, known: trio.Event, turns: trio.Lock) -> None:
    """Recover one container. This function sets the event `known` when it has found out, from the records on disk and from
    the kernel, whether the container runs. After an error, the caller sets `known`. The lock `turns` is the same for all
    containers, so that the daemon begins one adoption at a time, and serves requests between two adoptions. Errors are
    logged, because one broken container or a full disk must not keep the daemon from starting."""
    try:
        async with container.lock:
            run = await _living_run(ports, container)
        known.set()
        if run is not None:
            await ports.serving.wait()
            async with turns:  # one at a time, so that the event loop can answer requests between two containers
                await trio.lowlevel.checkpoint()
            ports.background.start(_report_silence, container, run)
            await _adopt_once_it_answers(ports, container, run)
    except Exception as error:
        log.error("container %s: %s", container.name, as_orlop_error(error, "cannot restore it"))
        if container.run is None:
            with container.publish() as draft:  # not committed, because the next daemon may be able to restore the container
                draft.state = draft.state.after_loss()


async def _living_run(ports: Ports, container: Container) -> Run | None:
    """If the container's monitor is alive, show the container to clients as running, and return its run. Otherwise record
    the exit and return None."""
    run = Run(ports.paths.run_dir(container.id), volume_users=[*ports.volumes.users_for(container.id)])
    if not os.path.isdir(run.run_dir):
        await _account_lost(ports, container)
        return None
    run.monitor = monitor = await _reach(ports, container, run)
    record = container.record
    # A monitor whose pid is not in the row is killed below: no client was told that its container runs. (The pid is None in
    # rows of an older daemon.)
    if monitor is not None and record.monitor_pid in (None, monitor.pid):
        if _is_accounted(record, run):
            await _adopt_ended(ports, container, run)
            return None
        init, state = runs.init_record(run.run_dir), record.state
        if (state.running and not state.restarting) or init is not None or await _has_started(monitor):
            container.run = run
            container.touch()
            if _note_init(container, init):
                await _record(ports, container)
            return run
    if monitor is not None:
        monitor.kill()
        await monitor.ended()
    try:
        await _account_lost(ports, container, never=monitor is not None)
    except OrlopError as error:
        log.error("cannot record the exit of container %s yet: %s", record.name, error)
        ports.background.start(run_cleanup.record_again, ports, container)
    ports.paths.remove_run_directories(record.id)
    return None


async def _reach(ports: Ports, container: Container, run: Run) -> MonitorClient | None:
    """Connect to the running monitor. A monitor that refuses connections is killed; the zygote (the parent process of all
    monitors) then kills the container."""
    try:
        return await MonitorClient.adopt(
            run.run_dir, ports.background.nursery, lambda event: on_event(ports, container, run, event)
        )
    except OrlopError as error:
        log.error(
            "cannot reach the monitor of container %s, so the monitor and the container are killed: %s",
            container.name,
            error,
        )
        kill_monitor(run.run_dir)
        return None


async def _has_started(monitor: MonitorClient) -> bool:
    """Whether a monitor has started its container although no start is recorded. Returns False if the monitor does not
    answer in time. The caller then kills the monitor; this is safe, because no client was told of the start."""
    with trio.move_on_after(PATIENCE), suppress(OrlopError):
        return (await monitor.subscribe()).phase != "launched"
    return False


async def _adopt_once_it_answers(ports: Ports, container: Container, run: Run) -> None:
    monitor = run.monitor
    assert monitor is not None
    while not monitor.is_over:
        try:
            status = await monitor.subscribe()
        except OrlopError:
            with trio.move_on_after(1):  # the monitor has ended, or `MonitorClient` is reconnecting to it
                await monitor.ended()
        else:
            if status.phase != "launched":
                await _adopt(ports, container, run, status)
                return
            monitor.kill()  # the monitor has started no container, so the row is damaged or belongs to another run
    run.settled.set()
    ports.background.start(lifecycle.supervise, ports, container, run)


async def _report_silence(container: Container, run: Run) -> None:
    """Log that a container's monitor does not answer, unless it answers within `_PROMPT`."""
    assert run.monitor is not None
    with trio.move_on_after(_PROMPT):
        await run.settled.wait()
        return
    if not run.monitor.is_stopped:
        with trio.move_on_after(PATIENCE):
            await run.settled.wait()
    if not run.settled.is_set() and not run.monitor.is_over:
        log.error("container %s: %s", container.name, run.monitor.suspect("adopt it"))


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


async def _adopt_ended(ports: Ports, container: Container, run: Run) -> None:
    """Clean up after a run whose exit the previous daemon has recorded already."""
    container.run = run
    run.settled.set()
    run.finished.set()
    ports.background.start(run_cleanup.finish, ports, container, run)
    if container.record.state.running:  # the previous daemon wanted to restart the container; this daemon decides again
        with container.publish() as draft:
            draft.state = draft.state.after_loss()
        await _record(ports, container)


async def _adopt(ports: Ports, container: Container, run: Run, status: Status) -> None:
    monitor = run.monitor
    assert monitor is not None
    monitor.on_resumed = partial(on_resumed, ports, container)
    note_lost_log(ports, container, status.log_lost)
    # If the previous daemon had begun to remove the container, it died before it killed the container, and no client was
    # told of the removal
    with container.publish() as draft:
        draft.removing = False
    init = runs.init_record(run.run_dir)
    if init is None or runs.monitor_record(run.run_dir) is None:
        runs.complete(run.run_dir, container.id, status, _cgroup_by_name(ports.config, container.record))
        init = runs.init_record(run.run_dir)
    changed = _note_init(container, init)
    if init is not None and not container.record.state.paused and cgroups.is_frozen(init.cgroups):
        # The container is frozen, but its row does not say that it is paused. The previous daemon died between changing the
        # row and freezing or thawing the container
        changed = True
        with container.publish() as draft:
            draft.state = draft.state.after_pause()
    ports.execs.adopt(container, status)
    run.settled.set()
    record = container.record
    log.info("adopted container %s (monitor %d, %s)", record.name, monitor.pid, status.phase)
    ports.background.start(lifecycle.supervise, ports, container, run)
    ports.background.start(probes.watch, ports, container, run)
    if record.paused_by_engine:  # an operation of the previous daemon paused the container
        ports.background.start(pausing.resume, ports, container)
    if record.sandbox is not None and len(record.sandbox.endpoints) > 1:
        ports.background.start(connections.keep_gateway, ports.networks, container)
    if changed:
        await _record(ports, container)


def _note_init(container: Container, init: InitRecord | None) -> bool:
    """Update the container's record with the data that the monitor has stored about the running process. Returns whether
    anything changed. The change is visible to clients before it is committed (see `_record`), because the process runs
    whether or not the commit succeeds."""
    state = container.record.state
    if init is None or (state.running and state.pid == init.pid):
        return False
    with container.publish() as draft:
        draft.state = state.after_adoption(init.pid, init.start_time, init.time_ns)
        draft.begin_log()
        draft.started_before = True
    return True


def _cgroup_by_name(config: Config, record: ContainerRecord) -> str:
    """The cgroup path that the container would get if it were started now. Returns "" if the path is invalid because the
    cgroup driver has been changed since the container's last start."""
    with suppress(InvalidParameter):
        return runtime.cgroup_path(config, record.id, record.host_config)
    return ""


def _is_accounted(record: ContainerRecord, run: Run) -> bool:
    """Whether the previous daemon has recorded the exit. If it has, only the cleanup remains to be done."""
    found = runs.exit_record(run.run_dir)
    return found is not None and found.time_ns == record.state.finished_ns


async def _record(ports: Ports, container: Container) -> None:
    """Commit the published record. Clients see its changes already. A full disk must not prevent an adoption, so the commit
    is retried until there is space."""
    try:
        await ports.rows.save(container)
    except OrlopError as error:
        log.error("cannot record the state of container %s yet: %s", container.name, error)
        ports.background.start(run_cleanup.record_again, ports, container)


async def _account_lost(ports: Ports, container: Container, *, never: bool = False) -> None:
    """Record the exit of a container whose monitor has ended. `never` is true if no client was told of the start. The
    container is then treated as if it had not been started. This function publishes the exit before its first await."""
    record = container.record
    run = Run(ports.paths.run_dir(record.id))
    left = os.path.isdir(run.run_dir)
    init = runs.init_record(run.run_dir) if left else None
    between = record.state.restarting and (init is None or _is_accounted(record, run))
    died = not between and (record.state.running or (init is not None and not never))
    # The container does not run, so clients must see this state even if the commit below fails
    with container.publish() as draft:
        if between:  # the exit is recorded; this daemon decides whether to restart the container
            draft.state = draft.state.after_cancelled_restart()
        elif died:
            _note_exit(draft, run, init)
    if died and (found := runs.exit_record(run.run_dir)) is not None:
        note_lost_log(ports, container, found.log_lost)
    if ports.state.networks_restored:
        await connections.release(ports, container)
    with container.publish() as draft:
        draft.sandbox = None
    if init is not None:
        await trio.to_thread.run_sync(runs.kill_cgroups, init)
    if left:
        await runtime.clean(ports, container)  # needed even if `init` is None: an interrupted start leaves runtime state
    if users := ports.volumes.users_for(record.id):
        ports.background.start(ports.volumes.unmount, users)  # in the background, because the volumes' driver may hang
    if between or died:
        await ports.rows.save(container)
    if died:
        ports.events.publish(container, "die", exitCode=str(container.record.state.exit_code), execDuration="0")


def _note_exit(draft: ContainerRecord, run: Run, init: InitRecord | None) -> None:
    found = runs.exit_record(run.run_dir)
    exited = (found.code, found.time_ns, found.oom) if found else (exits.UNKNOWN_EXIT, time.time_ns(), False)
    if init is not None and not draft.state.running:
        draft.state, draft.started_before = draft.state.after_unseen_exit(init.time_ns, *exited), True
        draft.begin_log()
    else:
        draft.state = draft.state.after_exit(*exited)
