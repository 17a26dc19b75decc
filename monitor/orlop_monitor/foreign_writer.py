"""Calls log drivers that are not part of this project. The monitor waits for each call, so a signal interrupts a call that
hangs.

After a writer has missed a deadline, the monitor does not call the writer for some time, and the entries of this time are
lost. The first pause takes 1 s; each further pause is twice as long, up to 1 minute. So the monitor continues to answer the
daemon, and the container's output is rarely blocked. Only code that holds the interpreter's lock in C cannot be interrupted.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from orlop_sdk.errors import DriverError
from orlop_sdk.log import CountingLogWriter, LogBlock, LogWriter, ThrottledLogWriter

__all__ = ["ForeignWriter", "interrupted"]

_CALL = 5.0  # seconds; less than the time after which the daemon regards a monitor as silent
_AGAIN = 1.0
_SHORTEST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0


class _Late(BaseException):
    """The signal handler raises this in a driver's code. Its base is not `Exception`, because drivers catch such errors and
    try again."""


@contextmanager
def interrupted(seconds: float, message: str) -> Iterator[None]:
    """Raise `DriverError(message)` when the block is not finished after `seconds`. The signal is repeated, because a driver
    may catch the exception. Used on the main thread."""
    is_open = True

    def interrupt(*_: object) -> None:
        if is_open:
            raise _Late

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, seconds, _AGAIN)
    try:
        yield
    except _Late:
        raise DriverError(message) from None
    finally:
        is_open = False  # a signal may have arrived already; from now on, its handler must not raise
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class ForeignWriter:
    """Implements `ThrottledLogWriter` and `CountingLogWriter`. Error messages begin with `label`, for example 'log driver
    "syslog"'."""

    def __init__(self, writer: LogWriter, label: str) -> None:
        self._writer = writer
        self._label = label
        self._throttled = writer if isinstance(writer, ThrottledLogWriter) else None
        self._counting = writer if isinstance(writer, CountingLogWriter) else None
        self._pause = 0.0
        self._again_at = 0.0
        self._why = ""
        self.dropped = 0

    @property
    def full(self) -> bool:
        if self._throttled is None or self._is_waiting():
            return False
        try:
            with self._deadline("say whether it is full"):
                return bool(self._throttled.full)
        except BaseException:  # an exception would end the monitor; `write` reports a broken writer
            return False

    def write(self, blocks: Sequence[LogBlock]) -> None:
        """Raises any exception of the writer, or `DriverError` when the writer hangs or has hung a moment ago."""
        if self._is_waiting():
            raise DriverError(self._why)
        with self._deadline("write"):
            self._writer.write(blocks)
            self._count()
        if not self._is_waiting():  # a writer that catches `_Late` returns without an error, but too late
            self._pause = 0.0

    def close(self) -> None:
        with self._deadline("close the log"):
            self._writer.close()
            self._count()

    def _count(self) -> None:
        if self._counting is not None and isinstance(dropped := self._counting.dropped, int):
            self.dropped = dropped

    def _is_waiting(self) -> bool:
        return time.monotonic() < self._again_at

    @contextmanager
    def _deadline(self, verb: str) -> Iterator[None]:
        why = f"{self._label} did not {verb} in {_CALL:g} s"
        began = time.monotonic()
        try:
            with interrupted(_CALL, why):
                yield
        finally:
            if time.monotonic() - began >= _CALL:
                self._why = why
                self._pause = min(_LONGEST_PAUSE, max(_SHORTEST_PAUSE, 2 * self._pause))
                self._again_at = time.monotonic() + self._pause
