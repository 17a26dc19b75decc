"""A lock of which one can ask who holds it and since when: for `GET /debug/locks`."""

from __future__ import annotations

import trio

__all__ = ["StateLock"]


class StateLock:
    """`async with lock`: a `trio.Lock`, fair and not reentrant."""

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
        """How many tasks wait for it."""
        return self._lock.statistics().tasks_waiting

    @property
    def held_for(self) -> float:
        """Seconds; 0.0 when nobody holds it."""
        return trio.current_time() - self._since if self.locked() else 0.0
