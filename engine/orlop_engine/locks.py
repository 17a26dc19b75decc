"""A lock that reports its owner and how long it has been held, for `GET /debug/locks`."""

from __future__ import annotations

import trio

__all__ = ["StateLock"]


class StateLock:
    """A `trio.Lock` (fair, not reentrant), used as `async with lock`."""

    __slots__ = ("_lock", "_since")

    def __init__(self) -> None:
        self._lock = trio.Lock()
        self._since = 0.0

    async def acquire(self) -> None:
        await self._lock.acquire()
        self._since = trio.current_time()

    def release(self) -> None:
        self._lock.release()

    async def __aenter__(self) -> None:
        await self.acquire()

    async def __aexit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self._lock.locked()

    @property
    def owner(self) -> trio.lowlevel.Task | None:
        return self._lock.statistics().owner

    @property
    def waiting(self) -> int:
        """The number of tasks that wait for the lock."""
        return self._lock.statistics().tasks_waiting

    @property
    def held_for(self) -> float:
        """Seconds since the lock was acquired; 0.0 when it is free."""
        return trio.current_time() - self._since if self.locked() else 0.0
