"""A deadline for a synchronous call on the main thread, which blocks the event loop.

SIGALRM interrupts a blocking system call (`time.sleep`, `recv`) and also a loop in Python. Its handler raises an exception
in the running code. The signal can interrupt neither a C function that keeps the interpreter's lock, nor a process in an
uninterruptible system call. In these cases the service manager's watchdog ends the daemon.
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
_AGAIN = 0.1  # seconds until the signal is sent again, because the called code may have caught the exception
_armed = False


class TooLong(BaseException):
    """Raised in the called code at the deadline. It is no subclass of Exception, so that few handlers catch it."""


def _raise(_signum: int, _frame: FrameType | None) -> None:
    if _armed:  # `_armed` is False if the last signal is handled after the call has ended
        raise TooLong


def within(
    seconds: float, function: Callable[..., T], args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
) -> T:
    """Call the function. Raises `TooLong` if it takes longer than `seconds`. Nested calls, and calls on threads other than
    the main thread, have no deadline. A SIGALRM timer that was set before the call continues after the call."""
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
        _armed = False  # a signal may have prevented the assignment above
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if earlier:
            signal.setitimer(signal.ITIMER_REAL, max(earlier - (time.monotonic() - began), 1e-3), interval)
