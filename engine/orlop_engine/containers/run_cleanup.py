"""Clean up after a run whose exit is recorded: wait for the end of its monitor, and remove the runtime's state and the run
directory.
"""

from __future__ import annotations

import logging

import trio

from orlop_sdk import DeadlineExceeded, OrlopError

from . import runtime
from .container import Container, Run
from .paths import ContainerPaths
from .ports import Ports

__all__ = ["clean_up", "finish", "record_again", "settle"]

log = logging.getLogger("orlop.containers")

_RECORD_AGAIN = 1.0  # seconds between two attempts to commit
_CLEAN_UP = 30.0


async def clean_up(ports: Ports, container: Container, run: Run) -> None:
    """Wait until the exit of a run has been published and its monitor has ended, and end the run's uses of volumes. If the
    monitor died after it had reported the exit, this function completes the monitor's cleanup. If the monitor hangs, this
    function kills the monitor. Raises `DeadlineExceeded` when the monitor does not die."""
    await _end_monitor(ports, container, run)
    if run.volume_users:
        await ports.volumes.unmount(run.volume_users)


async def _end_monitor(ports: Ports, container: Container, run: Run) -> None:
    await run.finished.wait()
    monitor = run.monitor
    assert monitor is not None
    with trio.move_on_after(_CLEAN_UP) as patience:
        await monitor.ended()
    if not patience.cancelled_caught:
        if runtime.is_left(ports.paths, container, run):
            await runtime.clean(ports, container)
        return
    log.error("container %s has ended, but its monitor (pid %d) hangs; killing the monitor", container.name, monitor.pid)
    monitor.kill()
    with trio.move_on_after(_CLEAN_UP):
        await monitor.ended()
        await runtime.clean(ports, container)
        return
    raise DeadlineExceeded(
        f"container {container.name} is still being cleaned up: its monitor (pid {monitor.pid}) does not end"
    )


async def finish(ports: Ports, container: Container, run: Run) -> None:
    """Clean up after an exit without restart: wait until the run is cleaned up and its exit is recorded."""
    await clean_up(ports, container, run)
    if not run.recorded:
        await record_again(ports, container)
        run.recorded = True
    if container.run is run:
        settle(ports.paths, container)


async def record_again(ports: Ports, container: Container) -> None:
    """Retry the commit until it succeeds, because a full disk is temporary."""
    while container.id in ports.index:
        await trio.sleep(_RECORD_AGAIN)
        try:
            await ports.rows.save(container)
        except OrlopError:
            continue  # the failure has been logged already
        return


def settle(paths: ContainerPaths, container: Container) -> None:
    """Drop the data of a run whose monitor has cleaned up and ended."""
    container.run = None
    paths.remove_run_directories(container.id)
