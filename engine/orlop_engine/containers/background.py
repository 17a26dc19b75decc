"""Runs work on containers in background tasks, so that no caller waits for the work."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import TypeVarTuple, Unpack

import trio

__all__ = ["Background"]

log = logging.getLogger("orlop.containers")

Args = TypeVarTuple("Args")


class Background:
    """Starts tasks in the engine's nursery."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self.nursery = nursery

    def start(self, operation: Callable[[Unpack[Args]], Awaitable[object]], *args: *Args) -> None:
        """Start a task. If the task raises an exception, the exception is logged, and other containers are not affected."""

        async def guarded() -> None:
            try:
                await operation(*args)
            except Exception:
                log.exception("a background task of a container failed")

        self.nursery.start_soon(guarded)
