"""A value that several tasks wait for, and a task that its asker cannot cut short."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar, TypeVarTuple, Unpack

import trio

__all__ = ["Future", "run_to_completion"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Future(Generic[T]):
    """Set once, read by any number of waiters, before or after."""

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
        """What was set. Only after that."""
        assert self._event.is_set()
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]  # T may include None


async def run_to_completion(nursery: trio.Nursery, operation: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
    """Run an operation in `nursery` and wait for it. When the waiter is cancelled the operation goes on to its end: a
    client that hangs up must not leave a container half made."""
    outcome: Future[T] = Future()

    async def run() -> None:
        try:
            outcome.set(await operation(*args))
        except Exception as error:
            outcome.fail(error)
        except BaseException:  # also a group with a cancellation in it
            outcome.fail(RuntimeError("the daemon is shutting down"))
            raise

    nursery.start_soon(run)
    return await outcome.get()
