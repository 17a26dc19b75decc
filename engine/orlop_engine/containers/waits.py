"""Wait until a container's start has succeeded or failed, or wait for its exit or its removal."""

from __future__ import annotations

import trio

from orlop_engine.futures import Future
from orlop_sdk import Conflict, OrlopError

from .container import Container

__all__ = ["KILL_DEADLINE", "SIGNAL_FAILED", "decided", "unless_it_ended", "waiting"]

KILL_DEADLINE = 10.0
# seconds; as in Docker, if the stop signal could not be sent, the container has this time to end by itself
SIGNAL_FAILED = 2
_LOOK = 0.5  # seconds between two checks of a monitor that has not answered yet


async def decided(container: Container) -> None:
    """Wait until a start or an adoption that is in progress has succeeded or failed."""
    run = container.run
    if run is not None and not run.settled.is_set():
        with trio.move_on_after(KILL_DEADLINE):
            while not run.settled.is_set() and not (run.monitor is not None and run.monitor.silent):
                with trio.move_on_after(_LOOK):
                    await run.settled.wait()


async def unless_it_ended(container: Container, error: OrlopError) -> None:
    """If the operation failed because the container was ending, raise `Conflict` instead of the runtime's error."""
    run = container.run
    with trio.move_on_after(SIGNAL_FAILED):
        if run is not None:
            await run.finished.wait()
        raise Conflict(f"container {container.id} is not running") from error


def waiting(container: Container, condition: str) -> Future[int]:
    """A future that gets the exit code as soon as `condition` holds. No exit after this call is missed. The removal of the
    container ends every wait."""
    if condition == "removed" or container.removed.is_set():
        return container.removed
    if condition == "next-exit" or container.record.state.running:
        return container.next_exit
    ended: Future[int] = Future()
    ended.set(container.record.state.exit_code)
    return ended
