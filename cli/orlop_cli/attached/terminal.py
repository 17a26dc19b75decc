"""The user's terminal: raw mode that is always undone, and its size."""

from __future__ import annotations

import atexit
import os
import termios
import tty
from types import TracebackType


def size(fd: int = 1) -> tuple[int, int] | None:
    """Rows and columns of the terminal behind a descriptor, None if there is none or it does not know."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


class Raw:
    """Raw mode within a `with`; restored on the way out, and by atexit when the way out is another."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._saved = termios.tcgetattr(fd)

    def __enter__(self) -> Raw:
        atexit.register(self.restore)
        tty.setraw(self._fd, termios.TCSANOW)
        # Docker leaves output processing on for nobody either: the container's own tty does it.
        return self

    def restore(self) -> None:
        """Put the terminal back as it was; may be called any number of times, also from a signal's thread."""
        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal is gone: nothing to restore

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.restore()
        atexit.unregister(self.restore)
