"""Shared work. The work for a key runs only once, even if several tasks wait for it. When no task waits any more, the work
is cancelled."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

import trio

from orlop_build_dockerfile.contracts import BuildFailed

__all__ = ["SharedTasks"]

_log = logging.getLogger("orlop.build")
T = TypeVar("T")


class _Task(Generic[T]):
    def __init__(self) -> None:
        self.done = trio.Event()
        self.scope = trio.CancelScope()
        self.waiting = 0
        self.value: T | None = None
        self.error: Exception | None = None


def _fresh(error: Exception) -> Exception:
    """A copy of the error for one of several waiting tasks. Without a copy, each task lengthens the traceback."""
    return error.copy() if isinstance(error, BuildFailed) else error


class SharedTasks(Generic[T]):
    """Shared work by key. It runs in `nursery`, not in the nurseries of the callers. With `keep`, results are kept until
    `aclose`."""

    def __init__(self, nursery: trio.Nursery, *, keep: bool = False) -> None:
        self._nursery, self._keep = nursery, keep
        self._tasks: dict[Hashable, _Task[T]] = {}
        # also includes tasks that have not ended yet, although no caller waits for them
        self._running: set[_Task[T]] = set()
        self._closed = False

    def __len__(self) -> int:
        return len(self._tasks)

    def result(self, key: Hashable) -> T | None:
        """The result of work that has succeeded and is kept; None otherwise."""
        task = self._tasks.get(key)
        return task.value if task is not None and task.done.is_set() and task.error is None else None

    async def run(self, key: Hashable, work: Callable[[], Awaitable[T]]) -> T:
        """The result of `work`, or of equal work that already runs. Raises the error of the work, and BuildFailed after
        `aclose`."""
        if self._closed:
            raise _cancelled()
        task = self._tasks.get(key)
        if task is None:
            task = self._tasks[key] = _Task()
            self._running.add(task)
            self._nursery.start_soon(self._run, key, task, work)
        task.waiting += 1
        try:
            await task.done.wait()
        finally:
            task.waiting -= 1
            if not task.waiting and not task.done.is_set():
                self._forget(key, task)
                task.scope.cancel()
        if task.error is not None:
            raise _fresh(task.error)
        return task.value  # type: ignore[return-value]  # T may be optional

    async def _run(self, key: Hashable, task: _Task[T], work: Callable[[], Awaitable[T]]) -> None:
        try:
            with task.scope:
                task.value = await work()
        except Exception as error:
            task.error = _single(error)
            self._forget(key, task)
        except BaseException:
            task.error = _cancelled()
            self._forget(key, task)
            raise
        else:
            if task.scope.cancelled_caught:
                task.error = _cancelled()
            if task.scope.cancelled_caught or not self._keep:
                self._forget(key, task)
        finally:
            self._running.discard(task)
            task.done.set()

    def _forget(self, key: Hashable, task: _Task[T]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    async def aclose(self) -> None:
        """Cancel all running work, wait for its end, and forget all results. Waiting is necessary, because a thread that
        works on files does not end immediately."""
        self._closed = True
        for task in list(self._running):
            task.scope.cancel()
            await task.done.wait()
        self._tasks.clear()


def _cancelled() -> BuildFailed:
    return BuildFailed("context canceled", code=1)


def _single(error: Exception) -> Exception:
    """The error of a nursery's group that explains the failure."""
    while isinstance(error, ExceptionGroup):
        error = next((each for each in error.exceptions if isinstance(each, BuildFailed)), error.exceptions[0])
    if not isinstance(error, BuildFailed):
        _log.debug("a step failed", exc_info=error)
    return error
