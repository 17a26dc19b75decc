"""Worker threads for calls that may never return. Each kind of call has a separate limit, so that calls to a dead server do
not use up the threads of other calls.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import trio

__all__ = ["Abandonable"]

T = TypeVar("T")
# seconds after which a call is treated as stuck; it then waits for a device and does not compute, so another call may run
_STUCK = 0.5


class Abandonable:
    """Runs at most `most` calls at the same time, including abandoned calls. Create one `Abandonable` for each kind of call,
    at module level. `turns` is a smaller limit, which applies while calls return quickly. More threads do not compute
    faster, because they share the GIL, and each thread can keep the GIL from the event loop for up to 5 ms at a time."""

    def __init__(self, name: str, most: int, turns: int = 0) -> None:
        self._most = most
        self._turns = turns or most
        self._pool: trio.lowlevel.RunVar[_Pool] = trio.lowlevel.RunVar(name)

    async def run(self, work: Callable[[], T]) -> T:
        """Wait for a free turn, then run `work` on a thread, which is abandoned when the caller is cancelled."""
        try:
            pool = self._pool.get()
        except LookupError:
            pool = _Pool(self._most, self._turns)
            self._pool.set(pool)
        return await pool.run(work)


class _Pool:
    def __init__(self, most: int, turns: int) -> None:
        self._most = most
        self._usual = turns
        self._turns = trio.CapacityLimiter(turns)
        self._threads = trio.CapacityLimiter(math.inf)
        self._began: dict[_Job, float] = {}
        self._token = trio.lowlevel.current_trio_token()

    async def run(self, work: Callable[[], T]) -> T:
        job = _Job()
        await self._enter(job)
        try:
            await trio.lowlevel.checkpoint_if_cancelled()  # the last checkpoint before the thread starts
        except trio.Cancelled:
            self._leave(job)
            raise

        def thread() -> T:
            job.started = True
            try:
                return work()
            finally:
                with suppress(trio.RunFinishedError):
                    self._token.run_sync_soon(self._leave, job)

        try:
            return await trio.to_thread.run_sync(thread, abandon_on_cancel=True, limiter=self._threads)
        except RuntimeError:
            if not job.started:
                self._leave(job)
            raise

    async def _enter(self, job: _Job) -> None:
        while True:
            with trio.move_on_after(_STUCK) as waited:
                await self._turns.acquire_on_behalf_of(job)
            if not waited.cancelled_caught:
                self._began[job] = trio.current_time()
                return
            self._count_stuck()

    def _leave(self, job: _Job) -> None:
        del self._began[job]
        self._turns.release_on_behalf_of(job)
        self._count_stuck()

    def _count_stuck(self) -> None:
        """Increase the number of turns by the number of stuck calls."""
        late = trio.current_time() - _STUCK
        stuck = sum(began < late for began in self._began.values())
        self._turns.total_tokens = min(self._most, self._usual + stuck)


class _Job:
    __slots__ = ("started",)

    def __init__(self) -> None:
        self.started = False
