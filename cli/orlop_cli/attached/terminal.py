"""The user's terminal: its size, and raw mode that is always undone."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # as typing.TYPE_CHECKING, without the time that its import takes
if TYPE_CHECKING:
    from types import TracebackType


def size(fd: int = 1) -> tuple[int, int] | None:
    """Rows and columns of the terminal behind a descriptor; None if it is not a terminal or has no size."""
    try:
        columns, rows = os.get_terminal_size(fd)
    except OSError:
        return None
    return (rows, columns) if rows and columns else None


class Raw:
    """Raw mode within a `with` block; restored at its end, and by atexit if the block is not left normally."""

    def __init__(self, fd: int) -> None:
        import termios

        self._fd = fd
        self._saved = termios.tcgetattr(fd)

    def __enter__(self) -> Raw:
        import atexit
        import termios
        import tty

        atexit.register(self.restore)
        tty.setraw(self._fd, termios.TCSANOW)
        # Output processing is off, as in Docker: the container's own tty does it.
        return self

    def restore(self) -> None:
        """Restore the terminal; may be called several times, also from a signal's thread."""
        import termios

        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal is gone

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        import atexit

        self.restore()
        atexit.unregister(self.restore)
