"""Threads for work that may never come back: each kind of it has a limit of its own, so that a server that is gone uses up
no threads but those of who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import trio

__all__ = ["Abandonable"]

T = TypeVar("T")


class Abandonable:
    """At most `most` at once, those included that nobody waits for any more. One a kind of work, at module level."""

    def __init__(self, name: str, most: int) -> None:
        self._most = most
        self._limiter: trio.lowlevel.RunVar[trio.CapacityLimiter] = trio.lowlevel.RunVar(name)

    async def run(self, work: Callable[[], T]) -> T:
        """On a thread, which is left alone when this is cancelled. Waits for one of them to be free first."""
        try:
            limiter = self._limiter.get()
        except LookupError:
            limiter = trio.CapacityLimiter(self._most)
            self._limiter.set(limiter)
        return await trio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=limiter)
