"""Detect a monitor that does not answer, long before the deadline of a request that may take minutes.

A monitor works in small steps, so a monitor that has sent nothing for `PATIENCE` seconds is stuck (for example on its
disk). A monitor whose process is stopped (SIGSTOP, a debugger) sends nothing until it is continued. Pending and new
requests to such a monitor fail immediately, until a message from the monitor arrives.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from orlop_sdk import Unavailable, linux

__all__ = ["PATIENCE", "MonitorWatchdog"]

T = TypeVar("T")

PATIENCE = 10.0
"""If an answer is pending and the monitor has sent no message for this number of seconds, the monitor is treated as silent.
A ping is sent after half of this time."""
_LOOK = 1.0  # seconds between two checks while an answer is pending


class MonitorWatchdog:
    """Watches the answers of one monitor. `ping` makes the monitor send a message; the caller reports each message to
    `heard`."""

    def __init__(self, pid: int, ping: Callable[[], Awaitable[object]], nursery: trio.Nursery) -> None:
        self._pid, self._ping, self._nursery = pid, ping, nursery
        self._waiting: dict[trio.CancelScope, float] = {}
        self._looking = False
        self._heard_at = trio.current_time()
        self._silent = self._stopped = False

    def heard(self) -> None:
        self._heard_at = trio.current_time()
        self._silent = self._stopped = False

    @property
    def silent(self) -> bool:
        """Whether the monitor did not answer in time, and has sent no message since."""
        if self._stopped and not linux.is_stopped(self._pid):
            self._silent = self._stopped = False
        return self._silent

    def complaint(self, what: str) -> Unavailable:
        how = f"is stopped; `kill -CONT {self._pid}` resumes it" if self._stopped else "does not answer"
        return Unavailable(
            f"cannot {what}: its monitor (pid {self._pid}) {how}. The container itself keeps running; "
            "docker kill and docker rm -f work without its monitor"
        )

    async def wait(self, what: str, answer: Callable[[], Awaitable[T]], busy: float = 0.0) -> T:
        """Await an answer. Raises `Unavailable` if the monitor is silent already, or as soon as it is found to be silent.
        `busy`: the monitor may have to work for this number of seconds before it can answer anything."""
        if self.silent:
            raise self.complaint(what)
        with trio.CancelScope() as scope:
            self._waiting[scope] = trio.current_time() + busy
            if not self._looking:
                self._looking = True
                self._nursery.start_soon(self._look)
            try:
                return await answer()
            finally:
                del self._waiting[scope]
        raise self.complaint(what)

    def suspect(self, asked_at: float) -> None:
        """Called when an answer that is not awaited in `wait` is overdue."""
        if self._heard_at <= asked_at:
            self._stopped = linux.is_stopped(self._pid)
            self._silent = True

    async def _look(self) -> None:
        """Check the monitor while any request waits. At most one task runs this method."""
        try:
            while self._waiting:
                await trio.sleep(_LOOK)
                if self._waiting and not await self._answers():
                    for scope in tuple(self._waiting):
                        scope.cancel()
        finally:
            self._looking = False

    async def _answers(self) -> bool:
        if linux.is_stopped(self._pid):
            self._silent = self._stopped = True
            return False
        asked_at = min(self._waiting.values())
        if trio.current_time() - max(asked_at, self._heard_at) < PATIENCE / 2:
            return True
        before = self._heard_at
        with trio.move_on_after(PATIENCE / 2):
            await self._ping()
        self._silent = self._heard_at == before
        return not self._silent
