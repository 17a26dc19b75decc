"""Stop and kill. Each operation takes the container's lock, checks the state (errors have Docker's messages), acts,
commits, and publishes events.
"""

from __future__ import annotations

import logging
import math
import signal

import trio

from orlop_engine.config import Config
from orlop_engine.processes import runs
from orlop_sdk import Conflict, DeadlineExceeded, DriverError, NotModified, OrlopError, Unavailable

from .container import Container, Run
from .events import ContainerEvents
from .pausing import unpause_locked
from .ports import Ports
from .rows import Rows
from .signals import parse_signal
from .waits import KILL_DEADLINE, SIGNAL_FAILED, decided, unless_it_ended

__all__ = ["cancel_restart", "expedite", "kill", "kill_now", "stop", "stop_locked", "stop_signal", "stop_timeout"]

log = logging.getLogger("orlop.containers")


def cancel_restart(container: Container) -> None:
    """If the restart policy is about to start the container (after an exit, or after a start of the daemon), cancel this
    start."""
    if container.restart_timer is not None:
        container.restart_timer.cancel()
    if container.record.state.restarting and (container.run is None or container.run.finished.is_set()):
        with container.publish() as draft:  # clients see this change before the caller commits it
            draft.state = draft.state.after_cancelled_restart()


def _note_manual_stop(container: Container) -> None:
    """Record that a user stopped the container; the restart policy needs this. It is committed together with the exit."""
    with container.publish() as draft:
        draft.manually_stopped = True


async def _signal(container: Container, signum: int) -> None:
    """Send a signal through the monitor, because the monitor knows whether the process has just ended. If the monitor does
    not answer, send the signal directly."""
    run = container.run
    if run is None or run.monitor is None:
        raise Conflict(f"container {container.id} is not running")
    try:
        await run.monitor.signal(signum)
    except (Unavailable, DeadlineExceeded):
        if not (run.monitor.silent and runs.signal_init(run.run_dir, signum)):
            raise


def stop_signal(container: Container, given: str) -> int:
    text = given or container.record.config.stop_signal or "SIGTERM"
    return parse_signal(text)


async def stop(ports: Ports, container: Container, given: str = "", seconds: int | None = None) -> None:
    """Send the stop signal, wait, and send SIGKILL after `seconds`. If `seconds` is negative, wait for ever. The lock is
    released during the wait, so that a later stop can shorten the wait. If a restart holds the lock and waits for the exit,
    this stop shortens the restart's wait."""
    signum = stop_signal(container, given)
    expedite(ports.config, container, seconds)
    async with container.lock:
        if not container.record.state.running:
            raise NotModified("container is already stopped")
        run, patience = await _begin_stop(ports, container, signum, seconds)
    if run is not None:
        with trio.move_on_after(patience):
            await run.ended()
        await _end(ports, container, run)
    ports.events.publish(container, "stop")


def stop_timeout(config: Config, container: Container) -> int:
    """Seconds between the stop signal and SIGKILL; negative means for ever."""
    configured = container.record.config.stop_timeout
    return configured if isinstance(configured, int) else config.default_stop_timeout


async def stop_locked(ports: Ports, container: Container, signum: int, seconds: int | None) -> None:
    """Stop the container, and keep the lock during the wait, because the caller still needs the lock afterwards. `expedite`
    shortens the wait."""
    run, patience = await _begin_stop(ports, container, signum, seconds)
    if run is not None:
        await run.grace(patience)
        await _end(ports, container, run)


def expedite(config: Config, container: Container, seconds: int | None) -> None:
    """Shorten the wait of a task that is stopping the container and holds the container's lock meanwhile. A stop calls this
    function before it waits for the lock."""
    if container.run is not None:
        container.run.expedite(_patience(config, container, seconds))


def _patience(config: Config, container: Container, seconds: int | None) -> float:
    if seconds is None:
        seconds = stop_timeout(config, container)
    return seconds if seconds >= 0 else math.inf


async def _begin_stop(ports: Ports, container: Container, signum: int, seconds: int | None) -> tuple[Run | None, float]:
    """Send the stop signal, and prevent a restart. Returns the run (None if it has ended already), and the seconds until
    SIGKILL."""
    patience = _patience(ports.config, container, seconds)
    if not (ports.state.closing or container.being_restarted):
        _note_manual_stop(container)
    container.stop_requested = True
    if container.record.state.restarting and (container.run is None or container.run.finished.is_set()):
        await _end_restarting(ports.rows, container)
        return None, 0
    run = container.run
    assert run is not None
    await _thaw(ports, container)
    try:
        await _send(ports.events, container, signum)
    except (OSError, OrlopError):
        patience = SIGNAL_FAILED  # most likely the container is about to end
    return run, patience


async def _end(ports: Ports, container: Container, run: Run) -> None:
    if not run.finished.is_set():  # `run` is still the container's current run, because no other run can have begun
        await kill_now(ports, container)


async def _send(events: ContainerEvents, container: Container, signum: int) -> None:
    try:
        await _signal(container, signum)
    except (OSError, OrlopError):
        if container.record.state.running and (container.run and not container.run.finished.is_set()):
            raise
    events.publish(container, "kill", signal=str(signum))


async def _end_restarting(rows: Rows, container: Container) -> None:
    """End a container that waits for its restart. The restart is cancelled, and tasks that wait for the exit are woken."""
    cancel_restart(container)
    container.exit_announced(container.record.state.exit_code)
    await rows.save(container)


async def _thaw(ports: Ports, container: Container) -> None:
    """Unpause the container. Called before a signal is sent that should end the container. A failure is only logged, because
    SIGKILL may still work."""
    try:
        await unpause_locked(ports, container)
    except OrlopError as error:
        log.warning("%s", error)


async def kill_now(ports: Ports, container: Container) -> None:
    """Send SIGKILL and wait until the exit is published. Publishes the event `kill`, not `stop`."""
    run = container.run
    if run is None or run.finished.is_set():
        return
    run.killed = True
    await decided(container)
    if run.finished.is_set():
        return
    await _thaw(ports, container)
    patience: float = KILL_DEADLINE
    try:
        await _send(ports.events, container, signal.SIGKILL)
    except (OSError, OrlopError):
        patience = SIGNAL_FAILED
    with trio.move_on_after(patience):
        await run.ended()
        return
    # Kill a monitor that does not answer. The zygote (the parent process of all monitors) then kills the container's cgroup.
    if run.monitor is not None:
        run.monitor.kill()
    with trio.move_on_after(2 * KILL_DEADLINE):
        await run.finished.wait()
        return
    raise DriverError(f"cannot kill container: {container.id}: it did not end within {3 * KILL_DEADLINE:g} s of SIGKILL")


async def kill(ports: Ports, container: Container, given: str = "") -> None:
    signum = parse_signal(given) if given else signal.SIGKILL
    await container.boot_start_tried()
    await decided(container)
    if container.record.state.restarting and (container.run is None or container.run.finished.is_set()):
        if not ports.state.closing:
            _note_manual_stop(container)
        container.stop_requested = True
        await _end_restarting(ports.rows, container)
        return
    run = container.run
    if not container.record.state.running or run is None:
        raise Conflict(f"container {container.id} is not running")
    run.killed = run.killed or signum == signal.SIGKILL
    configured = container.record.config.stop_signal
    if signum == signal.SIGKILL or not configured or parse_signal(configured) == signum:
        container.stop_requested = True
    _note_manual_stop(container)
    try:
        await _send(ports.events, container, signum)
    except OrlopError as error:
        await unless_it_ended(container, error)
        raise
    if container.record.state.paused and container.stop_requested:
        async with container.lock:
            await unpause_locked(ports, container)
    if signum == signal.SIGKILL:
        with trio.move_on_after(KILL_DEADLINE):
            await run.ended()
