"""Returns freed memory to the kernel. After large bodies, logs and lists, most of the heap is free, but malloc keeps it.

Small objects in use lie between large freed objects, and malloc itself only shrinks the end of the heap. `malloc_trim`
releases the free pages between the objects. The call takes milliseconds, and each released page that is used again costs a
page fault. Therefore `malloc_trim` is called only while the daemon is idle, or when there is much to release.
"""

from __future__ import annotations

import gc
import logging
import math
import os
import time
from collections.abc import Callable

import trio

from orlop_sdk import linux

__all__ = ["Releaser", "release_when_idle", "resident"]

_log = logging.getLogger("orlop.daemon")
_EVERY = 5.0
_IDLE = 0.02  # a daemon that uses less than this share of a processor is idle
_IDLE_GROWTH = 4 << 20  # bytes; an idle daemon that has grown by this much above its minimum releases memory
_URGENT_GROWTH = 64 << 20  # bytes; a busy daemon that has grown by this much since the last release releases memory
_MIN_WORK = 0.01  # seconds of processor time; less work than this cannot have freed much memory
_QUICK = 0.03  # seconds; after a collection that took longer, no collection runs for `_PAUSE`
_PAUSE = 600.0  # seconds
# a full collection takes 20 ms for this number of objects; it skips objects made at the start (gc.freeze)
_FEW_OBJECTS = 150_000
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that this process occupies. 0 if no descriptor is free to read the number."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


class Releaser:
    """Runs the garbage collector, then `malloc_trim`. An exception can leave a reference cycle of stack frames. The objects
    of these frames stay in memory until a full collection. After a collection that took long, the collector is not run for
    some minutes, because each collection delays all requests."""

    def __init__(self, clock: Callable[[], float] = time.monotonic, collect: Callable[[], object] = gc.collect) -> None:
        self._clock, self._collect = clock, collect
        self._next = -math.inf

    def __call__(self) -> None:
        if self._clock() >= self._next and len(gc.get_objects(generation=2)) < _FEW_OBJECTS:
            began = time.thread_time()
            self._collect()
            if time.thread_time() - began > _QUICK:
                self._next = self._clock() + _PAUSE
        linux.release_freed_memory()


async def release_when_idle(
    resident: Callable[[], int] = resident,
    processor: Callable[[], float] = time.process_time,
    release: Callable[[], None] | None = None,
) -> None:
    """Release memory, as the module's docstring describes, until the daemon stops. Only tests pass arguments."""
    release = release or Releaser()
    least = left = resident()
    worked = 0.0  # processor time at the last release
    while True:
        used = processor()
        await trio.sleep(_EVERY)
        now = resident()
        least = min(least, now)
        if processor() - used < _EVERY * _IDLE:
            due = now - least > _IDLE_GROWTH and processor() - worked > _MIN_WORK
        else:
            due = now - left > _URGENT_GROWTH
        if due:
            release()
            left, worked = resident(), processor()
            _log.debug("released %d KiB of free memory", (now - left) >> 10)
