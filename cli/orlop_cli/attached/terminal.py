"""The user's terminal: its size, and its raw mode, which is always undone."""

from __future__ import annotations

import os

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
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
    """Raw mode of the terminal during a `with` block. The terminal is restored at the end of the block, or by atexit."""

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
        # As in Docker, output processing is off, because the container's tty processes the output.
        return self

    def restore(self) -> None:
        """Restore the terminal. May be called several times, also in the thread for signals."""
        import termios

        try:
            termios.tcsetattr(self._fd, termios.TCSADRAIN, self._saved)
        except termios.error:
            pass  # the terminal does not exist any more

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        import atexit

        self.restore()
        atexit.unregister(self.restore)
