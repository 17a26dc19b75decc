"""Limits of time for tests on a machine that is also doing other work."""

from __future__ import annotations

import os

__all__ = ["tolerated"]

_BLOCKED, _BLOCKED_BUSY = 0.1, 0.4
_BUSY = 1.25  # runnable tasks per processor


def tolerated() -> float:
    """Seconds that an event loop may be blocked in a test.

    The watchdog does not count the time in which the event loop waited for a processor. Nevertheless the event loop is
    slower on a busy machine: caches are cold, and a virtual processor is not always scheduled. ORLOP_TEST_SLOWNESS says how
    much slower an emulated processor is. The load of the emulated machine does not include other programs of the host, so an
    emulated machine always counts as busy."""
    slowness = float(os.environ.get("ORLOP_TEST_SLOWNESS", "1"))
    busy = slowness > 1 or os.getloadavg()[0] > _BUSY * (os.cpu_count() or 1)
    return (_BLOCKED_BUSY if busy else _BLOCKED) * slowness
