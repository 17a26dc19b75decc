"""Terminals: the runtime makes a pty in the container and sends the descriptor of its master side to a socket
(`--console-socket` of OCI runtimes)."""

from __future__ import annotations

import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable

from orlop_sdk import linux

from .loop import Loop

__all__ = ["ConsoleSocket", "set_size"]

_WINSIZE = struct.Struct("HHHH")


def set_size(master: int, rows: int, columns: int) -> None:
    """Set the size of a terminal (TIOCSWINSZ). The kernel sends SIGWINCH to its foreground process group."""
    fcntl.ioctl(master, termios.TIOCSWINSZ, _WINSIZE.pack(rows & 0xFFFF, columns & 0xFFFF, 0, 0))


class ConsoleSocket:
    """Listens at `path` for one runtime, which connects and sends one descriptor, the pty's master. `take` returns the
    descriptor."""

    def __init__(self, loop: Loop, path: str) -> None:
        self._loop = loop
        self._path = path
        self._peer: socket.socket | None = None
        self._master = -1
        self.on_master: Callable[[], None] = lambda: None
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.unlink(path)
        except FileNotFoundError:
            pass
        self._listener.bind(path)
        self._listener.listen(1)
        self._listener.setblocking(False)
        loop.on_readable(self._listener.fileno(), self.poll)

    def poll(self) -> None:
        """Receive the master if it was sent. Also called when the runtime has ended, because the loop may not have reported
        the data yet."""
        try:
            if self._peer is None:
                self._peer, _ = self._listener.accept()
                self._peer.setblocking(False)
                self._loop.on_readable(self._peer.fileno(), self.poll)
            _, fds = linux.receive_fds(self._peer, 4096, 1)
        except BlockingIOError:
            return
        except OSError:
            fds = []
        if fds:
            self._master = fds[0]
        self._close_sockets()
        if fds:
            self.on_master()

    def take(self) -> int:
        """Return the master, which the caller then owns; -1 when none was received."""
        master, self._master = self._master, -1
        return master

    def _close_sockets(self) -> None:
        if self._peer is not None:
            self._loop.forget(self._peer.fileno())
            self._peer.close()
        if self._listener.fileno() >= 0:
            self._loop.forget(self._listener.fileno())
            self._listener.close()
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass

    def close(self) -> None:
        self._close_sockets()
        if self._master >= 0:
            os.close(self._master)
            self._master = -1
