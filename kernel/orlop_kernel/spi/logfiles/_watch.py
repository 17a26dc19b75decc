"""A descriptor that polls readable when something happens in a directory: inotify, or a clock where there is none left."""

from __future__ import annotations

import ctypes
import os
import struct

__all__ = ["Watch"]

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_CLOCK_MONOTONIC = 1
_TICK_NS = 200_000_000

_libc = ctypes.CDLL(None, use_errno=True)


def _inotify(directory: str) -> int:
    """-1 when the kernel gives none: 128 instances a user are its default."""
    fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(directory), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE) < 0:
        os.close(fd)
        return -1
    return fd


def _ticker() -> int:
    """Readable five times a second."""
    fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    _libc.timerfd_settime(fd, 0, struct.pack("@llll", 0, _TICK_NS, 0, _TICK_NS), None)
    return fd


class Watch:
    """Watches a directory, not a file: a rotation puts another file in its place."""

    def __init__(self, directory: str) -> None:
        self.fd = _inotify(directory)
        if self.fd < 0:
            self.fd = _ticker()

    def drain(self) -> None:
        try:
            while len(os.read(self.fd, 4096)) > 2048:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        fd, self.fd = self.fd, -1
        if fd >= 0:
            os.close(fd)
