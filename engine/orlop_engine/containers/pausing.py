"""Pause and unpause: freeze a container's cgroup, and thaw it."""

from __future__ import annotations

import logging

import trio

from orlop_engine import commands
from orlop_engine.calls import asked
from orlop_sdk import Conflict, DriverError, OrlopError, Runtime

from . import probes
from .container import Container
from .paths import ContainerPaths
from .ports import Ports
from .runtime import task
from .waits import KILL_DEADLINE, unless_it_ended

__all__ = ["pause", "resume", "unpause", "unpause_locked"]

log = logging.getLogger("orlop.containers")


async def pause(ports: Ports, container: Container, *, paused_by_engine: bool = False) -> None:
    """Pause a container. `paused_by_engine`: the engine pauses the container for its own purposes, and calls `resume` later.
    In this case the row is committed before the container is frozen, so that after a crash the next daemon resumes the
    container."""
    await container.boot_start_tried()
    async with container.lock:
        state = container.record.state
        if not state.running:
            raise Conflict(f"container {container.id} is not running")
        if state.paused:
            raise Conflict(f"Container {container.id} is already paused")
        if state.restarting:
            raise Conflict(f"Container {container.id} is restarting, wait until the container is running")
        runtime = await ports.drivers.runtime(*container.record.runtime)
        if paused_by_engine:
            async with ports.rows.change(container) as draft:
                draft.paused_by_engine = True
        else:
            _publish_pause_by_engine(container, False)
        try:
            await _freeze(ports, container, runtime)
        except OrlopError:
            _publish_pause_by_engine(container, False)
            raise
        with container.publish() as draft:  # clients see this even if the commit fails, because the cgroup is frozen
            draft.state = draft.state.after_pause()
        await ports.rows.save(container)
        probes.suspend(container)
    ports.events.publish(container, "pause")


def _publish_pause_by_engine(container: Container, value: bool) -> None:
    """Set `paused_by_engine` in memory, without a commit. Call this function only while the container is not frozen. The row
    has the old value until the next commit. This does no harm, because a starting daemon resumes only containers that are
    frozen."""
    with container.publish() as draft:
        draft.paused_by_engine = value


async def _freeze(ports: Ports, container: Container, runtime: Runtime) -> None:
    """Freeze the cgroup. If the runtime fails, thaw the cgroup. Otherwise a container that clients see as running could stay
    frozen, or become frozen later."""
    try:
        await commands.check(await asked(runtime.pause, task(ports.paths, container)), f"pause container {container.id}")
    except DriverError as error:
        await _thaw_halfway(ports.paths, container, runtime)
        await unless_it_ended(container, error)
        raise
    state, run = container.record.state, container.run
    if not state.running or state.restarting:  # the container has exited meanwhile; an exit needs no lock
        await _thaw_halfway(ports.paths, container, runtime)
        raise Conflict(f"container {container.id} is not running")
    if run is not None and run.killed:
        await commands.check(await asked(runtime.resume, task(ports.paths, container)), f"unpause container {container.id}")
        raise Conflict(f"container {container.id} is not running")


async def _thaw_halfway(paths: ContainerPaths, container: Container, runtime: Runtime) -> None:
    """Resume after a failed pause. If a process is blocked in the kernel, the runtime gives up, but the kernel keeps the
    freeze request and freezes the container later. The runtime's error for a container that is not frozen is ignored."""
    with trio.move_on_after(KILL_DEADLINE, shield=True):
        try:
            await commands.check(await asked(runtime.resume, task(paths, container)), f"unpause container {container.id}")
        except DriverError as error:
            log.info("cannot resume a container after a failed pause: %s", error)


async def resume(ports: Ports, container: Container) -> None:
    """Resume a container that the engine paused. Does nothing if a user has paused or unpaused the container since then."""
    async with container.lock:
        if container.record.paused_by_engine:
            await unpause_locked(ports, container)


async def unpause(ports: Ports, container: Container) -> None:
    async with container.lock:
        if not container.record.state.paused:
            raise DriverError(f"Container {container.id} is not paused")
        await unpause_locked(ports, container)


async def unpause_locked(ports: Ports, container: Container) -> None:
    """Unpause a container; the caller holds the lock. The row is committed before the container is resumed. The reason:
    after a crash, the next daemon can see that a container is frozen, but only the row can tell it that a client has
    unpaused the container. If the engine paused the container, `paused_by_engine` stays true until the container has been
    resumed. If the daemon dies before that, the next daemon resumes the container."""
    record = container.record
    if not record.state.paused:
        _publish_pause_by_engine(container, False)
        return
    runtime = await ports.drivers.runtime(*record.runtime)
    failure = None
    try:
        with container.published(state=record.state.after_resume()):
            try:
                await ports.rows.save(container)
            except OrlopError as error:
                failure = error  # a full disk must not keep the container frozen
            await commands.check(
                await asked(runtime.resume, task(ports.paths, container)), f"unpause container {container.id}"
            )
    except BaseException:
        ports.background.start(ports.rows.save, container)
        raise
    if container.record.paused_by_engine:
        _publish_pause_by_engine(container, False)
        ports.background.start(ports.rows.save, container)
    if failure is not None:
        raise failure
    ports.events.publish(container, "unpause")
