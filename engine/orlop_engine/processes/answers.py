"""Noticing that a monitor does not answer, long before the deadline of a request that may take minutes.

A monitor works in small steps, so one that has said nothing for `PATIENCE` is stuck (its disk may be), and one whose process
is stopped (SIGSTOP, a debugger) says nothing until it is continued. Requests to it fail at once then, and again as soon as
they are made, until it is heard of again.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import trio

from orlop_sdk import Unavailable, linux

__all__ = ["PATIENCE", "Answers"]

T = TypeVar("T")

PATIENCE = 10.0
"""Seconds without a word after which a monitor that owes an answer is silent: half of them until it is sent a ping."""
_LOOK = 1.0  # seconds between two looks at one that owes an answer


class Answers:
    """`ping` has the monitor say anything, on the connection whose messages are reported to `heard`."""

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
        """Whether it has been found to answer nothing, and nothing was heard since."""
        if self._stopped and not linux.is_stopped(self._pid):
            self._silent = self._stopped = False
        return self._silent

    def complaint(self, what: str) -> Unavailable:
        how = f"is stopped: continue it by kill -CONT {self._pid}" if self._stopped else "does not answer"
        return Unavailable(
            f"cannot {what}: its monitor (pid {self._pid}) {how}. The container itself runs on; "
            "docker kill and docker rm -f work without its monitor"
        )

    async def wait(self, what: str, answer: Callable[[], Awaitable[T]]) -> T:
        """Await an answer. Raises `Unavailable` at once, or as soon as the monitor is found to be silent."""
        if self.silent:
            raise self.complaint(what)
        with trio.CancelScope() as scope:
            self._waiting[scope] = trio.current_time()
            if not self._looking:
                self._looking = True
                self._nursery.start_soon(self._look)
            try:
                return await answer()
            finally:
                del self._waiting[scope]
        raise self.complaint(what)

    def suspect(self, asked_at: float) -> None:
        """An answer is overdue that nobody awaits by `wait`."""
        if self._heard_at <= asked_at:
            self._stopped = linux.is_stopped(self._pid)
            self._silent = True

    async def _look(self) -> None:
        """One task, for as long as anybody waits."""
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
