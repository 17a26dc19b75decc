"""The monitor's event loop: readiness (epoll), timers and child processes, in one thread.

trio is not used: a monitor needs only a few callbacks, and the zygote forks a monitor in 0.4 ms because few modules are
imported. A callback must not block. An exception in a callback deliberately ends the monitor, and thereby the container.
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
"""Seconds. After accept failed with one of `EXHAUSTED`, the listener is not watched for this time, because it stays
readable."""

Callback = Callable[[], None]


class Timer:
    """A pending call. `cancel` may be called at any time, and twice."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callback) -> None:
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Owns the epoll descriptor and the SIGCHLD wake-up. Create the loop after the fork. It is closed when the process
    ends."""

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
        self._wakeup = wakeup  # keep the socket open: the signal module has only the number of its descriptor
        self._wake.setblocking(False)
        wakeup.setblocking(False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup.fileno(), warn_on_full_buffer=False)
        self.on_readable(self._wake.fileno(), self._reap)

    def on_readable(self, fd: int, callback: Callback | None) -> None:
        """Call `callback` whenever `fd` is readable, at EOF or in error. If `callback` is None, stop watching."""
        self._set(self._readers, fd, callback)

    def on_writable(self, fd: int, callback: Callback | None) -> None:
        """Call `callback` whenever `fd` is writable or in error. If `callback` is None, stop watching."""
        self._set(self._writers, fd, callback)

    def on_hangup(self, fd: int, callback: Callback | None) -> None:
        """Call `callback` when both directions of the socket `fd` are shut down, or when the connection is broken. If only
        one direction is shut down, `callback` is not called. If `callback` is None, stop watching."""
        self._set(self._hangups, fd, callback)

    def forget(self, fd: int) -> None:
        """Stop watching `fd`. Call it before closing `fd`."""
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
        """Call `callback` once with the exit code (or the negated signal) when the child `pid` ends. If the child may
        end before this call, call `hold_unclaimed` before the child is started."""
        if pid in self._unclaimed:
            status = self._unclaimed.pop(pid)
            self.call_soon(lambda: callback(status))
        else:
            self._children[pid] = callback

    def hold_unclaimed(self) -> None:
        """Store the exit statuses of children for which `on_child` was not called, until `release_unclaimed`. Used while a
        runtime's command runs: the process that the runtime starts may end before `on_child` is called for this process."""
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
                # A subreaper also gets statuses of unrelated orphans. A status must not be kept longer than needed, because
                # pids are reused.
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
