"""Splits long computations on the event loop into slices. A computation takes long if a request or an archive is large, and
other clients wait during each slice. The aim: no request delays another client's ping by more than 100 ms.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter

import trio

__all__ = ["Pace", "no_full_collection"]

SLICE = 0.01
"""Seconds that a computation may run before other tasks get their turn."""


class Pace:
    """Call `await pace()` for each item of a computation. When the slice is over, this call lets other tasks run; otherwise
    it takes some 100 ns.

    With `shielded`, the call never raises `Cancelled`, for work that must not be interrupted."""

    __slots__ = ("_checkpoint", "_until")

    def __init__(self, *, shielded: bool = False) -> None:
        self._checkpoint = trio.lowlevel.cancel_shielded_checkpoint if shielded else trio.lowlevel.checkpoint
        self._until = perf_counter() + SLICE

    async def __call__(self) -> None:
        if perf_counter() >= self._until:
            await self._checkpoint()
            self._until = perf_counter() + SLICE


@contextmanager
def no_full_collection() -> Iterator[None]:
    """Disable full garbage collections during work that creates hundreds of thousands of objects. A full collection visits
    all of them in one step, which `Pace` cannot split. Collections of young objects still happen."""
    young, middle, old = gc.get_threshold()
    gc.set_threshold(young, middle, 1 << 30)
    try:
        yield
    finally:
        if gc.get_threshold()[2] == 1 << 30:
            gc.set_threshold(young, middle, old)
