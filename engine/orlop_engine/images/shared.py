"""Runs work only once, even if several operations need the result, such as two pulls of the same layer.

The work runs in the engine's nursery, not in a waiting task. The work is cancelled when the last waiting task is cancelled.
That task then waits until the work has ended. If the work fails, only the task that started it gets the error. The other
tasks start the work again, because they may have a better source (another registry, other credentials).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

import trio

from .progress import Record, Report

__all__ = ["SharedWork"]

T = TypeVar("T")
_UNDO = 30.0  # seconds to wait until cancelled work has released its resources


class _Entry(Generic[T]):
    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.done = trio.Event()
        self.watchers: list[Report] = []
        self.last: Record | None = None
        self.result: T | None = None
        self.error: Exception | None = None

    def report(self, record: Record) -> None:
        self.last = record
        for watcher in self.watchers:
            watcher(record)


class SharedWork(Generic[T]):
    """Running work of one kind, by key."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._entries: dict[str, _Entry[T]] = {}

    def waiting(self, key: str) -> int:
        """The number of tasks that wait for this work."""
        entry = self._entries.get(key)
        return len(entry.watchers) if entry else 0

    async def _work(self, key: str, entry: _Entry[T], work: Callable[[Report], Awaitable[T]]) -> None:
        try:
            with entry.scope:
                entry.result = await work(entry.report)
        except Exception as error:
            entry.error = error  # `run` raises it in the task that started the work
        finally:
            del self._entries[key]
            entry.done.set()

    async def run(self, key: str, work: Callable[[Report], Awaitable[T]], report: Report) -> T:
        """The result of the work with this key. Starts the work, unless it is running already."""
        while True:
            entry = self._entries.get(key)
            starter = entry is None
            if entry is None:
                entry = self._entries[key] = _Entry()
                self._nursery.start_soon(self._work, key, entry, work)
            elif entry.scope.cancel_called:
                await entry.done.wait()  # The work was cancelled: wait until it has released its resources
                continue
            await self._watch(entry, report)
            if entry.error is not None:
                if starter:
                    raise entry.error
            elif not entry.scope.cancelled_caught:
                return entry.result  # type: ignore[return-value]  # set: no error, not cancelled

    async def _watch(self, entry: _Entry[T], report: Report) -> None:
        entry.watchers.append(report)
        try:
            if entry.last is not None:
                report(entry.last)
            await entry.done.wait()
        finally:
            entry.watchers.remove(report)
            if not entry.watchers:
                entry.scope.cancel()
                # Wait until the work has ended, because only then can a garbage collection find the content that the work
                # has stored
                with trio.move_on_after(_UNDO, shield=True):
                    await entry.done.wait()
