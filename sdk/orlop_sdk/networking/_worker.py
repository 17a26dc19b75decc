"""The network thread: the only thread that changes the network.

More threads do not help, because the kernel serializes these calls (RTNL lock), and more threads only make each call slower.
A dedicated thread is also needed to enter the namespaces of containers, because a failure must not leave a worker of a
thread pool in another network. The thread starts in the namespace of the thread that created it.
"""

from __future__ import annotations

import heapq
import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar

import outcome
import trio

from orlop_sdk import DriverError

__all__ = ["Worker"]

T = TypeVar("T")


class Worker:
    """Runs functions in order, one at a time."""

    def __init__(self, name: str) -> None:
        self._queue: queue.SimpleQueue[Callable[[], Any] | None] = queue.SimpleQueue()
        self._timers: list[tuple[float, int, Callable[[], Any]]] = []
        self._order = itertools.count()
        self._thread = threading.Thread(target=self._serve, name=name, daemon=True)
        self._thread.start()
        self._closed = False

    async def run(self, function: Callable[[], T], undo: Callable[[T], None] | None = None) -> T:
        """Run `function` in the thread. If the caller is cancelled before `function` starts, `function` is not run. If the
        caller is cancelled while `function` runs, `function` is completed. After that, `undo(result)` runs in the thread, so
        that no object remains without an owner."""
        if self._closed:
            raise DriverError("cannot change the network: the driver is closed")
        await trio.lowlevel.checkpoint_if_cancelled()
        task = trio.lowlevel.current_task()
        token = trio.lowlevel.current_trio_token()
        abandoned = False

        def abort(_: Callable[[], Any]) -> trio.lowlevel.Abort:
            nonlocal abandoned
            abandoned = True
            return trio.lowlevel.Abort.SUCCEEDED

        def take_back(result: outcome.Outcome[T]) -> None:
            if undo is not None and isinstance(result, outcome.Value):
                outcome.capture(undo, result.value)

        def hand_over(result: outcome.Outcome[T]) -> None:
            # This function and `abort` both run in trio's thread, so they cannot race.
            if abandoned:
                self._queue.put(lambda: take_back(result))
            else:
                trio.lowlevel.reschedule(task, result)

        def job() -> None:
            if abandoned:
                return
            result = outcome.capture(function)
            try:
                token.run_sync_soon(hand_over, result)
            except trio.RunFinishedError:
                take_back(result)

        self._queue.put(job)
        value: T = await trio.lowlevel.wait_task_rescheduled(abort)
        return value

    def submit(self, function: Callable[[], Any]) -> None:
        """Run `function` after the functions that are queued already. May be called in any thread. The result, or the
        exception, is discarded."""
        self._queue.put(lambda: outcome.capture(function))

    def later(self, seconds: float, function: Callable[[], Any]) -> None:
        """Run `function` once after `seconds`, or at `close`. Call it only in the thread."""
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), function))

    def _serve(self) -> None:
        while True:
            try:
                wait = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
                job = self._queue.get(timeout=wait)
            except queue.Empty:
                job = heapq.heappop(self._timers)[2]
                outcome.capture(job)
                continue
            if job is None:
                return
            job()

    def _run_timers(self) -> None:
        while self._timers:
            outcome.capture(heapq.heappop(self._timers)[2])

    async def close(self, last: Callable[[], None]) -> None:
        """Run all queued and delayed functions, then `last`, then end the thread. May be called twice."""
        if not self._closed:
            self._closed = True
            self._queue.put(self._run_timers)
            self._queue.put(last)
            self._queue.put(None)
            await trio.to_thread.run_sync(self._thread.join, abandon_on_cancel=True)
