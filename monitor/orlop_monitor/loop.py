"""The monitor's event loop: readiness, timers and children, in one thread, on epoll.

Not trio: a monitor is forked in 0.4 ms from a process that has imported next to nothing, and what it does is a handful of
callbacks. A callback must not block; an exception in one is the monitor's end (and so the container's), by design.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import os
import select
import signal
import socket
import time
from collections.abc import Callable

__all__ = ["BACK_OFF", "EXHAUSTED", "Loop", "Timer"]

EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})
BACK_OFF = 0.1
"""Seconds to look away from a listener when it cannot be accepted from for one of these: it stays readable meanwhile."""

Callback = Callable[[], None]


class Timer:
    """A pending call; `cancel` may be called at any time, also twice."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Owns the epoll fd and the SIGCHLD wake-up; made after the fork, closed by the process's end."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._writers: dict[int, Callback] = {}
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._children: dict[int, Callable[[int], None]] = {}
        self._hangups: dict[int, Callback] = {}
        self._unclaimed: dict[int, int] = {}
        self._claimants = 0
        self._stopped = False
        self._wake, wakeup = socket.socketpair()
        self._wakeup = wakeup  # kept: its fd is the signal module's
        self._wake.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self.on_readable(self._wake.fileno(), self._reap)

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call whenever `fd` is readable, at EOF or in error; None stops that."""
        self._set(self._readers, fd, callback)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call whenever `fd` is writable or in error; None stops that."""
        self._set(self._writers, fd, callback)

    def on_hangup(self, fd: int, callback: Callback | None) -> None:
        """Call when both directions of the socket `fd` are shut, or it broke; not at a half-close. None stops that."""
        self._set(self._hangups, fd, callback)

    def forget(self, fd: int) -> None:
        """Watch `fd` no more. Must come before its close."""
        self._set(self._readers, fd, None)
        self._set(self._writers, fd, None)
        self._set(self._hangups, fd, None)

    def _watched(self, fd: int) -> bool:
        return fd in self._readers or fd in self._writers or fd in self._hangups

    def _set(self, table: dict[int, Callback], fd: int, callback: Callback | None) -> None:
        known = self._watched(fd)
        if callback is None:
            table.pop(fd, None)
        else:
            table[fd] = callback
        events = (select.EPOLLIN if fd in self._readers else 0) | (select.EPOLLOUT if fd in self._writers else 0)
        wanted = self._watched(fd)
        if wanted and known:
            self._epoll.modify(fd, events)
        elif wanted:
            self._epoll.register(fd, events)
        elif known:
            self._epoll.unregister(fd)

    def call_later(self, seconds: float, callback: Callback) -> Timer:
        timer = Timer(callback)
        heapq.heappush(self._timers, (time.monotonic() + seconds, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callback) -> Timer:
        return self.call_later(0, callback)

    def on_child(self, pid: int, callback: Callable[[int], None]) -> None:
        """Call once with the exit code (minus the signal) when child `pid` ends; also when it ended before this call,
        provided that its status was being held (`hold_unclaimed`)."""
        if pid in self._unclaimed:
            status = self._unclaimed.pop(pid)
            self.call_soon(lambda: callback(status))
        else:
            self._children[pid] = callback

    def hold_unclaimed(self) -> None:
        """Keep the statuses of children nobody asked for, until `release_unclaimed`: a command runs whose child we shall
        claim, and that child may end before the command does."""
        self._claimants += 1

    def release_unclaimed(self) -> None:
        self._claimants -= 1
        if not self._claimants:
            self._unclaimed.clear()

    def _reap(self) -> None:
        try:
            while self._wake.recv(4096):
                pass
        except BlockingIOError:
            pass
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            callback = self._children.pop(pid, None)
            if callback is not None:
                callback(code)
            elif self._claimants:
                # A subreaper is handed strangers too. Kept no longer than needed: a pid comes again, an old status must not.
                self._unclaimed[pid] = code

    def stop(self) -> None:
        self._stopped = True

    def run(self) -> None:
        """Serve until `stop`."""
        while not self._stopped:
            for fd, events in self._epoll.poll(self._timeout()):
                if events & ~select.EPOLLOUT and (reader := self._readers.get(fd)):
                    reader()
                if events & ~select.EPOLLIN and (writer := self._writers.get(fd)):
                    writer()
                if events & (select.EPOLLHUP | select.EPOLLERR) and (hangup := self._hangups.get(fd)):
                    hangup()
            self._run_timers()

    def _timeout(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        return max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None

    def _run_timers(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            callback, timer.callback = timer.callback, None
            if callback:
                callback()
