"""`Future`, and operations that complete even when their caller is cancelled."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, TypeVarTuple, Unpack

import trio

__all__ = ["Future", "run_to_completion"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Future(Generic[T]):
    """A value that is set once. Any number of tasks can wait for it and read it."""

    __slots__ = ("_error", "_event", "_value")

    def __init__(self) -> None:
        self._event = trio.Event()
        self._value: T | None = None
        self._error: BaseException | None = None

    def set(self, value: T) -> None:
        if not self._event.is_set():
            self._value = value
            self._event.set()

    def fail(self, error: BaseException) -> None:
        if not self._event.is_set():
            self._error = error
            self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    async def get(self) -> T:
        await self._event.wait()
        return self.result()

    def result(self) -> T:
        """Return the value, or raise the error. Call it only when `is_set`."""
        assert self._event.is_set()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # T may include None


async def run_to_completion(nursery: trio.Nursery, operation: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
    """Run an operation in `nursery` and wait for it. The operation completes even if the caller is cancelled, because a
    client that disconnects must not leave a half-created container."""
    outcome: Future[T] = Future()

    async def run() -> None:
        try:
            outcome.set(await operation(*args))
        except Exception as error:
            outcome.fail(error)
        except BaseException:  # also for a group that contains a cancellation
            outcome.fail(RuntimeError("the daemon is shutting down"))
            raise

    nursery.start_soon(run)
    return await outcome.get()
