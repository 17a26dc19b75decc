"""Memory of bursts is given back: bodies, logs and lists leave a heap of which most is free, and malloc keeps it.

Small objects that live on lie scattered between the large ones that have gone, so that only its end would ever shrink by
itself. `malloc_trim` gives back the pages in between. It takes milliseconds, and pages that are needed again have to be
faulted in: so it is done while the daemon is idle, or where there is much.
"""

from __future__ import annotations

import gc
import logging
import os
import time
from collections.abc import Callable

import trio

from orlop_kernel import linux

__all__ = ["release_when_idle", "resident"]

_log = logging.getLogger("orlop.daemon")
_EVERY = 5.0
_IDLE = 0.02  # of a processor
_SOME = 4 << 20  # grown by so much, it is released while idle
_MUCH = 64 << 20  # and by so much, at once
_PAGE = os.sysconf("SC_PAGE_SIZE")


def resident() -> int:
    """Bytes of memory that this process occupies; 0 when that cannot be told, for lack of a descriptor."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * _PAGE
    except OSError:
        return 0


def _release() -> None:
    """Failed requests leave cycles of frames, which hold their bodies until a full collection."""
    gc.collect()
    linux.release_freed_memory()


async def release_when_idle(
    resident: Callable[[], int] = resident,
    processor: Callable[[], float] = time.process_time,
    release: Callable[[], None] = _release,
) -> None:
    """Run for as long as the daemon. The parameters are for tests."""
    least = resident()
    while True:
        used = processor()
        await trio.sleep(_EVERY)
        now = resident()
        least = min(least, now)
        idle = processor() - used < _EVERY * _IDLE
        if now - least > (_SOME if idle else _MUCH):
            release()
            least = resident()  # what is left is in use
            _log.debug("%d KiB of memory given back", (now - least) >> 10)
