"""Handles signals in a separate thread while a container is attached: forwards them, or sends the terminal's size.

Python runs signal handlers in the main thread, which copies output and must not wait for a request to the daemon. So the
handlers do nothing, and `set_wakeup_fd` passes the numbers to a thread with its own connection.
"""

from __future__ import annotations

import os
import signal
import threading

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


# Docker does not forward SIGURG, because Go's scheduler uses it. Python does not use it, but scripts rely on Docker's list
NOT_FORWARDED = {signal.SIGCHLD, signal.SIGPIPE, signal.SIGURG, signal.SIGKILL, signal.SIGSTOP}
FORWARDED = sorted(
    set(signal.Signals) - NOT_FORWARDED - {signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT}
)


class SignalThread:
    """Calls `handle(signal)` in its own thread for each of `signals`, from start() to stop()."""

    def __init__(self, signals: Iterable[int], handle: Callable[[signal.Signals], None]) -> None:
        self._signals = list(signals)
        self._handle = handle
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._writer, False)
        self._before: dict[int, object] = {}
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        self._thread.start()
        signal.set_wakeup_fd(self._writer, warn_on_full_buffer=False)
        for number in self._signals:
            self._before[number] = signal.signal(number, _ignore)

    def stop(self) -> None:
        """Restore the previous handlers. Signals that arrived before this are still handled."""
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]  # what signal.signal gave us
        signal.set_wakeup_fd(-1)
        os.close(self._writer)
        self._thread.join(timeout=1)

    def _loop(self) -> None:
        while True:
            numbers = os.read(self._reader, 512)
            if not numbers:
                os.close(self._reader)
                return
            for number in numbers:
                if number in self._signals:
                    self._handle(signal.Signals(number))


def _ignore(number: int, frame: object) -> None:
    """A handler without effect. A handler must exist, because otherwise Python does not write to the wakeup descriptor."""
