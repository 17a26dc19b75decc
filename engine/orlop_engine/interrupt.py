"""A deadline for a synchronous call on the main thread, where the event loop waits for it.

SIGALRM interrupts a system call that blocks (`time.sleep`, `recv`) as well as a loop in Python, and its handler raises in
the code that runs. It cannot interrupt a C function that keeps the interpreter's lock, nor a process in an uninterruptible
system call; the service manager's watchdog ends such a daemon.
"""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from types import FrameType
from typing import Any, TypeVar

__all__ = ["TooLong", "within"]

T = TypeVar("T")
_AGAIN = 0.1  # seconds until the next signal, if the called code swallowed the exception
_armed = False


class TooLong(BaseException):
    """Raised in the called code at the deadline. Not an Exception, so that few handlers catch it."""


def _raise(_signum: int, _frame: FrameType | None) -> None:
    if _armed:  # the last signal may be handled after the call has ended
        raise TooLong


def within(
    seconds: float, function: Callable[..., T], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> T:
    """Call the function; raises `TooLong` if it takes longer. Threads other than the main one, and calls within such a call,
    have no deadline of their own. A timer of SIGALRM that was set before goes on."""
    global _armed
    if _armed or threading.get_ident() != threading.main_thread().ident:
        return function(*args, **kwargs or {})
    handler = signal.signal(signal.SIGALRM, _raise)
    earlier, interval = signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    began = time.monotonic() if earlier else 0.0
    try:
        try:
            _armed = True
            return function(*args, **kwargs or {})
        finally:
            _armed = False
    finally:
        _armed = False  # the signal may have come before the line above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier:
            signal.setitimer(signal.ITIMER_REAL, max(earlier - (time.monotonic() - began), 1e-3), interval)
