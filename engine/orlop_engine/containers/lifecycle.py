"""Lifecycle operations: start, stop, kill, restart, pause, unpause, rename. Each takes the container's lock, checks the
state (errors have Docker's messages), acts, commits, and publishes events.
"""

from __future__ import annotations

import logging
import math
import signal
from typing import TYPE_CHECKING

import trio

from orlop_engine.processes import runs
from orlop_kernel import process
from orlop_kernel.failures import as_orlop_error
from orlop_sdk import (
    Conflict,
    DeadlineExceeded,
    DriverError,
    InvalidParameter,
    NotFound,
    NotModified,
    OrlopError,
    Runtime,
    Unavailable,
)

from . import checkpoints, exits, health, needs, validate, volumes
from .container import Container, Run
from .launch import launch, task

if TYPE_CHECKING:
    from .service import Containers

__all__ = [
    "cancel_restart",
    "expedite",
    "kill",
    "pause",
    "rename",
    "restart",
    "resume",
    "start",
    "start_locked",
    "stop",
    "unpause",
]

log = logging.getLogger("orlop.containers")

KILL_DEADLINE = 10.0
_LOOK = 0.5  # seconds between two checks of a monitor that has not answered yet
_SIGNAL_FAILED = 2  # Docker's seconds for a container to end when sending the stop signal failed


async def start(containers: Containers, container: Container, checkpoint: str = "", directory: str = "") -> None:
    """Start a container. `checkpoint` names a checkpoint in `directory`, or in the container's own directory."""
    for key in needs.needed(containers, container.record):
        if (other := containers.index.get(key)) is not None:
            await other.boot_start_tried()
    async with container.lock:
        state = container.record.state
        if container.record.removing or state.dead:
            raise Conflict("container is marked for removal and cannot be started")
        if state.paused:
            raise Conflict("cannot start a paused container, try unpause instead")
        if state.running:  # also while a restart policy waits for the next try
            raise NotModified("container is already running")
        image = checkpoints.find(containers, container, checkpoint, directory) if checkpoint else ""
        container.record.restart_count = 0
        container.restart_delay = 0.0
        await start_locked(containers, container, image)


def cancel_restart(container: Container) -> None:
    """Cancel a pending start, by the restart policy or by the boot."""
    if container.restart_timer is not None:
        container.restart_timer.cancel()
    if container.record.state.restarting and (container.run is None or container.run.finished.is_set()):
        container.record.state = container.record.state.after_cancelled_restart()


async def start_locked(containers: Containers, container: Container, image: str = "", *, again: bool = False) -> None:
    """Start from any state but running; the lock is held. `image`: the directory of a checkpoint. `again`: a restart by
    policy, which is skipped if a stop or a kill came first."""
    record = container.record
    if record.removing or container.row_going or record.state.dead:
        raise Conflict("container is marked for removal and cannot be started")
    if containers.closing:
        raise Unavailable(f"cannot start container {container.id}: the daemon is shutting down")
    try:
        if container.run is not None:
            await exits.clean_up(containers, container, container.run)
        if again:
            if not record.state.restarting:
                return
            record.restart_count += 1
        container.stop_requested = False
        record.manually_stopped = False
        with containers.engine.counters.timed("container", "start"):
            run = await launch(containers, container, image)
    except Exception as error:
        failure = as_orlop_error(error, f"cannot start container {record.name}")
        raise await _failed(containers, container, failure) from error
    containers.background(exits.watch, containers, container, run)
    containers.background(health.watch, containers, container, run)
    # `launch` has committed the start. The pid is saved later: the next daemon reads it from the monitor's record.
    containers.background(containers.save, container)
    container.touch()
    containers.publish_network(container, "connect")
    volumes.announce(containers, container, "mount")
    containers.engine.events.publish("container", "start", container.id, containers.attributes(container))
    run.settled.set()


async def _failed(containers: Containers, container: Container, error: OrlopError) -> OrlopError:
    """Record why a start failed, with Docker's exit codes, which clients derive their own from."""
    text, code, answer = str(error), 128, error
    lower = text.lower() if "failed to create task" in text else ""  # only for errors of the runtime; others are 128
    if "permission denied" in lower or "is a directory" in lower:
        if "is a directory" in lower:
            text += ": permission denied"
        code, answer = 126, InvalidParameter(text)
    elif "not a directory" in lower:
        text += (
            ": Are you trying to mount a directory onto a file (or vice-versa)? Check if the specified host path exists "
            "and is the expected type"
        )
        code, answer = 127, InvalidParameter(text)
    elif any(
        words in lower
        for words in ("executable file not found", "no such file or directory", "system cannot find the file specified")
    ):
        code, answer = 127, InvalidParameter(text)
    elif lower:
        answer = DriverError(text)
    container.record.state = container.record.state.after_failed_start(code, text)
    container.touch()
    container.exit_announced(code)
    if container.record.host_config.auto_remove:
        containers.background(containers.auto_remove, container)
    else:
        try:
            await containers.save(container)
        except OrlopError as failure:
            log.error("cannot record why container %s did not start: %s", container.name, failure)
    return answer


async def _signal(container: Container, signum: int) -> None:
    """Send a signal through the monitor, which knows whether the process has just ended; directly if the monitor is
    silent."""
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
    return validate.parse_signal(text)


async def stop(containers: Containers, container: Container, given: str = "", seconds: int | None = None) -> None:
    """Signal, wait, kill. `seconds` below 0 waits for ever. The lock is released during the wait, so that a later stop
    can shorten it. A restart that holds the lock while it waits is cut short."""
    signum = stop_signal(container, given)
    expedite(containers, container, seconds)
    async with container.lock:
        if not container.record.state.running:
            raise NotModified("container is already stopped")
        run, patience = await _begin_stop(containers, container, signum, seconds)
    if run is not None:
        with trio.move_on_after(patience):
            await run.ended()
        await _end(containers, container, run)
    containers.engine.events.publish("container", "stop", container.id, containers.attributes(container))


def stop_timeout(containers: Containers, container: Container) -> int:
    """Seconds between the stop signal and SIGKILL; negative means for ever."""
    configured = container.record.config.stop_timeout
    return configured if isinstance(configured, int) else containers.engine.config.default_stop_timeout


async def stop_locked(containers: Containers, container: Container, signum: int, seconds: int | None) -> None:
    """Stop with the lock held during the wait, for callers that continue from there. `expedite` cuts it short."""
    run, patience = await _begin_stop(containers, container, signum, seconds)
    if run is not None:
        await run.grace(patience)
        await _end(containers, container, run)


def expedite(containers: Containers, container: Container, seconds: int | None) -> None:
    """Shorten the wait of a task that holds the lock to stop the container. Called before a stop waits for the lock."""
    if container.run is not None:
        container.run.expedite(_patience(containers, container, seconds))


def _patience(containers: Containers, container: Container, seconds: int | None) -> float:
    if seconds is None:
        seconds = stop_timeout(containers, container)
    return seconds if seconds >= 0 else math.inf


async def _begin_stop(
    containers: Containers, container: Container, signum: int, seconds: int | None
) -> tuple[Run | None, float]:
    """Send the stop signal, and prevent a restart. Returns the run and its seconds to end; None when it has ended
    already."""
    record, patience = container.record, _patience(containers, container, seconds)
    if not (containers.closing or containers.restarting_now(container)):
        record.manually_stopped = True
    container.stop_requested = True
    if record.state.restarting and (container.run is None or container.run.finished.is_set()):
        await _end_restarting(containers, container)
        return None, 0
    run = container.run
    assert run is not None
    await _thaw(containers, container)
    try:
        await _send(containers, container, signum)
    except (OSError, OrlopError):
        patience = _SIGNAL_FAILED  # the container is most likely just ending
    return run, patience


async def _end(containers: Containers, container: Container, run: Run) -> None:
    if not run.finished.is_set():  # `run` is still the current run, because no other can have begun
        await kill_now(containers, container)


async def _send(containers: Containers, container: Container, signum: int) -> None:
    try:
        await _signal(container, signum)
    except (OSError, OrlopError):
        if container.record.state.running and (container.run and not container.run.finished.is_set()):
            raise
    containers.engine.events.publish("container", "kill", container.id, containers.attributes(container, signal=str(signum)))


async def _end_restarting(containers: Containers, container: Container) -> None:
    """End a container that waits for its restart: the restart is cancelled, and tasks that wait for the exit are woken."""
    cancel_restart(container)
    container.exit_announced(container.record.state.exit_code)
    await containers.save(container)


async def _thaw(containers: Containers, container: Container) -> None:
    """Unpause before a signal that is to end the container. A failure is only logged, because SIGKILL may work all the
    same."""
    try:
        await _unpause(containers, container)
    except OrlopError as error:
        log.warning("%s", error)


async def decided(container: Container) -> None:
    """Wait until a start or an adoption that is in progress has succeeded or failed."""
    run = container.run
    if run is not None and not run.settled.is_set():
        with trio.move_on_after(KILL_DEADLINE):
            while not run.settled.is_set() and not (run.monitor is not None and run.monitor.silent):
                with trio.move_on_after(_LOOK):
                    await run.settled.wait()


async def kill_now(containers: Containers, container: Container) -> None:
    """Send SIGKILL and wait until the exit is accounted for. Publishes `kill`, not `stop`."""
    run = container.run
    if run is None or run.finished.is_set():
        return
    run.killed = True
    await decided(container)
    if run.finished.is_set():
        return
    await _thaw(containers, container)
    patience: float = KILL_DEADLINE
    try:
        await _send(containers, container, signal.SIGKILL)
    except (OSError, OrlopError):
        patience = _SIGNAL_FAILED
    with trio.move_on_after(patience):
        await run.ended()
        return
    # End a monitor that does not answer; the zygote then kills the container through its cgroup.
    if run.monitor is not None:
        run.monitor.kill()
    with trio.move_on_after(2 * KILL_DEADLINE):
        await run.finished.wait()
        return
    raise DriverError(f"cannot kill container: {container.id}: it did not end within {3 * KILL_DEADLINE:g} s of SIGKILL")


async def kill(containers: Containers, container: Container, given: str = "") -> None:
    signum = validate.parse_signal(given) if given else signal.SIGKILL
    record = container.record
    await container.boot_start_tried()
    await decided(container)
    if record.state.restarting and (container.run is None or container.run.finished.is_set()):
        record.manually_stopped = record.manually_stopped or not containers.closing
        container.stop_requested = True
        await _end_restarting(containers, container)
        return
    run = container.run
    if not record.state.running or run is None:
        raise Conflict(f"container {container.id} is not running")
    run.killed = run.killed or signum == signal.SIGKILL
    configured = record.config.stop_signal
    if signum == signal.SIGKILL or not configured or validate.parse_signal(configured) == signum:
        container.stop_requested = True
    record.manually_stopped = True
    try:
        await _send(containers, container, signum)
    except OrlopError as error:
        await _unless_it_ended(container, error)
        raise
    if record.state.paused and container.stop_requested:
        async with container.lock:
            await _unpause(containers, container)
    if signum == signal.SIGKILL:
        with trio.move_on_after(KILL_DEADLINE):
            await run.ended()


async def _unless_it_ended(container: Container, error: OrlopError) -> None:
    """Raise `Conflict` if an operation failed because the container was ending, instead of the runtime's error."""
    run = container.run
    with trio.move_on_after(_SIGNAL_FAILED):
        if run is not None:
            await run.finished.wait()
        raise Conflict(f"container {container.id} is not running") from error


async def restart(containers: Containers, container: Container, given: str = "", seconds: int | None = None) -> None:
    signum = stop_signal(container, given)
    expedite(containers, container, seconds)
    async with container.lock:
        containers.now_restarting.add(container.id)
        try:
            if container.record.state.running:
                await stop_locked(containers, container, signum, seconds)
                containers.engine.events.publish("container", "stop", container.id, containers.attributes(container))
            container.record.restart_count = 0
            container.restart_delay = 0.0
            await start_locked(containers, container)
        finally:
            containers.now_restarting.discard(container.id)
    containers.engine.events.publish("container", "restart", container.id, containers.attributes(container))


async def pause(containers: Containers, container: Container, *, paused_by_engine: bool = False) -> None:
    """Pause a container. `paused_by_engine`: the engine calls `resume` later; its row is committed before the container is
    frozen, so that a boot after a crash resumes it."""
    await container.boot_start_tried()
    async with container.lock:
        record, state = container.record, container.record.state
        if not state.running:
            raise Conflict(f"container {container.id} is not running")
        if state.paused:
            raise Conflict(f"Container {container.id} is already paused")
        if state.restarting:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        runtime = containers.engine.drivers.runtime(record.host_config.runtime)
        with container.change(paused_by_engine=paused_by_engine):
            if paused_by_engine:
                await containers.save(container)
        try:
            await _freeze(containers, container, runtime)
        except OrlopError:
            record.paused_by_engine = False
            raise
        record.state = record.state.after_pause()
        await containers.save(container)  # if this fails the container stays paused: its cgroup is frozen
        health.suspend(containers, container)
        container.touch()
    containers.engine.events.publish("container", "pause", container.id, containers.attributes(container))


async def _freeze(containers: Containers, container: Container, runtime: Runtime) -> None:
    """Freeze the cgroup. A failure resumes it: a container that is shown as running must not stay frozen, or freeze
    later."""
    try:
        await process.check(runtime.pause(task(containers, container)), f"pause container {container.id}")
    except DriverError as error:
        await _thaw_halfway(containers, container, runtime)
        await _unless_it_ended(container, error)
        raise
    state, run = container.record.state, container.run
    if not state.running or state.restarting:  # it exited meanwhile: exits take no lock
        await _thaw_halfway(containers, container, runtime)
        raise Conflict(f"container {container.id} is not running")
    if run is not None and run.killed:
        await process.check(runtime.resume(task(containers, container)), f"unpause container {container.id}")
        raise Conflict(f"container {container.id} is not running")


async def _thaw_halfway(containers: Containers, container: Container, runtime: Runtime) -> None:
    """Resume after a failed pause. A runtime that gives up, because a process is blocked in the kernel, leaves the
    freeze request in force: the container would freeze later, unnoticed. The runtime's error for a container that is not
    frozen is ignored."""
    with trio.move_on_after(KILL_DEADLINE, shield=True):
        try:
            await process.check(runtime.resume(task(containers, container)), f"unpause container {container.id}")
        except DriverError as error:
            log.info("after a pause that failed: %s", error)


async def resume(containers: Containers, container: Container) -> None:
    """Resume a container that the engine paused, unless a user has unpaused or paused it since."""
    async with container.lock:
        if container.record.paused_by_engine:
            await _unpause(containers, container)


async def unpause(containers: Containers, container: Container) -> None:
    async with container.lock:
        if not container.record.state.paused:
            raise DriverError(f"Container {container.id} is not paused")
        await _unpause(containers, container)


async def _unpause(containers: Containers, container: Container) -> None:
    """Resume, after committing the row: a boot detects that a container is frozen, but not that it should have been
    resumed. A container that the engine paused stays `paused_by_engine` until it has been resumed, so that a boot in
    between resumes it."""
    record = container.record
    if not record.state.paused:
        record.paused_by_engine = False
        return
    runtime = containers.engine.drivers.runtime(record.host_config.runtime)
    failure = None
    try:
        with container.change(state=record.state.after_resume()):
            try:
                await containers.save(container)
            except OrlopError as error:
                failure = error  # a full disk must not keep it frozen
            await process.check(runtime.resume(task(containers, container)), f"unpause container {container.id}")
    except BaseException:
        containers.background(containers.save, container)
        raise
    if record.paused_by_engine:
        record.paused_by_engine = False
        containers.background(containers.save, container)
    if failure is not None:
        raise failure
    containers.engine.events.publish("container", "unpause", container.id, containers.attributes(container))


async def rename(containers: Containers, container: Container, given: str) -> None:
    if not given:
        raise InvalidParameter("Neither old nor new names may be empty")
    async with container.lock:
        if container.record.removing or container.row_going:
            raise NotFound(f"No such container: {container.id}")
        old = container.record.name
        if given.removeprefix("/") == old:
            raise InvalidParameter("Renaming a container with the same name as its current name")
        await containers.rename(container, given)
    containers.engine.events.publish(
        "container", "rename", container.id, containers.attributes(container, oldName=f"/{old}")
    )
