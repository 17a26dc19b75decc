"""A descriptor that polls readable when files in a directory change.

One inotify instance is used for the whole process, because the kernel allows a user only 128 instances. One thread reads the
instance and wakes the watches of the changed directory. An idle watch costs only its descriptor. Where inotify is not
available, a watch polls readable five times a second.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
import threading
import time
from collections.abc import Iterator

__all__ = ["Watch"]

_IN_MODIFY, _IN_MOVED_TO, _IN_CREATE = 0x2, 0x80, 0x100
_IN_IGNORED = 0x8000
_EVENT = struct.Struct("@iIII")  # wd, mask, cookie, length of the name that follows
_OVERFLOW = -1  # the wd of IN_Q_OVERFLOW, which reports lost events
_CLOCK_MONOTONIC = 1
_TICK_NS = 200_000_000
_MANY = 20  # this number of watches, or fewer, are woken without a pause
# seconds; if there are more watches than `_MANY`, the thread pauses after each watch that it wakes, so that other threads
# can run
_PACE = 0.0002

_libc = ctypes.CDLL(None, use_errno=True)


def _failed() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))


def _ticker() -> int:
    """A timerfd that becomes readable five times a second."""
    fd: int = _libc.timerfd_create(_CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if fd < 0:
        raise _failed()
    _libc.timerfd_settime(fd, 0, struct.pack("@llll", 0, _TICK_NS, 0, _TICK_NS), None)
    return fd


class _Dispatcher:
    """The inotify instance and its thread. Both are created for the first watch, and exist until the process ends. The
    instance uses one descriptor."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._fd = -1
        self._watches: dict[int, set[Watch]] = {}

    def add(self, directory: str, watch: Watch) -> int:
        """Wake `watch` when files in the directory change. Returns the watch descriptor for `remove`. Raises OSError."""
        with self._lock:
            if self._fd < 0:
                self._fd = self._start()
            wd: int = _libc.inotify_add_watch(self._fd, os.fsencode(directory), _IN_MODIFY | _IN_MOVED_TO | _IN_CREATE)
            if wd < 0:
                raise _failed()
            self._watches.setdefault(wd, set()).add(watch)
            return wd

    def remove(self, wd: int, watch: Watch) -> None:
        with self._lock:
            watches = self._watches.get(wd)
            if watches is not None:
                watches.discard(watch)
                if not watches:
                    del self._watches[wd]
                    _libc.inotify_rm_watch(self._fd, wd)

    def _start(self) -> int:
        fd: int = _libc.inotify_init1(os.O_CLOEXEC)
        if fd < 0:
            raise _failed()
        try:
            threading.Thread(target=self._run, args=(fd,), name="orlop-log-watch", daemon=True).start()
        except RuntimeError as error:  # the process cannot have more threads
            os.close(fd)
            raise OSError(errno.EAGAIN, str(error)) from error
        return fd

    def _run(self, fd: int) -> None:
        """The main function of the thread."""
        while True:
            woken = self._wake(set(_events(os.read(fd, 1 << 16))))
            if woken > _MANY:
                time.sleep(woken * _PACE)

    def _wake(self, events: set[tuple[int, bool]]) -> int:
        woken = 0
        with self._lock:
            lost = any(wd == _OVERFLOW for wd, _ in events)
            for wd in list(self._watches) if lost else {wd for wd, _ in events}:
                for watch in self._watches.get(wd, ()):
                    watch.wake()
                    woken += 1
            for wd, ignored in events:
                if ignored:
                    self._watches.pop(wd, None)  # the directory was removed, and the kernel dropped its watch
        return woken


def _events(data: bytes) -> Iterator[tuple[int, bool]]:
    """Yield (watch descriptor, whether the kernel removed the watch) for each event."""
    at = 0
    while at < len(data):
        wd, mask, _, length = _EVENT.unpack_from(data, at)
        yield wd, bool(mask & _IN_IGNORED)
        at += _EVENT.size + length


_dispatcher = _Dispatcher()


class Watch:
    """Watches a directory. A watch of the file is not possible, because a rotation replaces the file."""

    def __init__(self, directory: str) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._wd: int | None = None
        try:
            self._wd = _dispatcher.add(directory, self)
        except OSError:
            os.close(self.fd)
            self.fd = _ticker()

    def wake(self) -> None:
        """Make the descriptor readable. The dispatcher holds its lock when it calls this method, and does not call it after
        `remove`."""
        os.eventfd_write(self.fd, 1)

    def drain(self) -> None:
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        fd, wd = self.fd, self._wd
        if fd >= 0:
            if wd is not None:
                _dispatcher.remove(wd, self)
            self.fd = -1
            os.close(fd)
