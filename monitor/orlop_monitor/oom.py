"""Detects that a container is out of memory: the kernel has killed one of its processes, or has stopped one because the OOM
killer is disabled. Checks at each event of the kernel, and again at the container's end.

In cgroup v2, inotify reports that the kernel has modified `memory.events`. In v1, an eventfd that is registered with
`memory.oom_control` reports the event. Both events only trigger a check; the content of the file decides.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable

from orlop_sdk import cgroups, smallfiles

from .loop import Loop, Timer

__all__ = ["OomWatch"]

_IN_MODIFY = 2
_AGAIN = (0.02, 0.2, 1.0)  # seconds after a wake-up at which the counter is checked again
_libc = ctypes.CDLL(None, use_errno=True)


def _inotify(path: str) -> int:
    fd = int(_libc.inotify_init1(os.O_CLOEXEC | os.O_NONBLOCK))
    if fd >= 0 and _libc.inotify_add_watch(fd, os.fsencode(path), _IN_MODIFY) < 0:
        os.close(fd)
        fd = -1
    if fd < 0:
        raise OSError(ctypes.get_errno(), "inotify", path)
    return fd


def _eventfd(path: str) -> int:
    fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        control = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            smallfiles.write(os.path.join(os.path.dirname(path), "cgroup.event_control"), f"{fd} {control}".encode())
        finally:
            os.close(control)
    except OSError:
        os.close(fd)
        raise
    return fd


class OomWatch:
    """Calls `on_oom()` each time that the counter of OOM kills in `file` has grown, or a process was stopped. `happened`:
    whether `on_oom` was called."""

    def __init__(self, loop: Loop, file: str, on_oom: Callable[[], None]) -> None:
        self._loop = loop
        self._file = file
        self._on_oom = on_oom
        self._fd = -1
        self._kills = 0
        self._timers: list[Timer] = []
        self.happened = False
        if not file:
            return
        try:
            self._fd = _eventfd(file) if file.endswith("oom_control") else _inotify(file)
        except OSError:
            pass  # without events, the counter is checked only at the container's end
        else:
            loop.on_readable(self._fd, self._woken)
        self.check()

    def _woken(self) -> None:
        try:
            os.read(self._fd, 4096)
        except BlockingIOError:
            return
        # Report blocked processes at each wake-up, even if they were reported before: the kernel sends no event when they
        # continue, so they may have been blocked again
        if cgroups.oom_stopped(self._file):
            self._out_of_memory()
        else:
            # v1 reports the lack of memory before the kill is counted (mem_cgroup_oom)
            self._timers = [self._loop.call_later(seconds, self.check) for seconds in _AGAIN]
            self.check()

    def check(self) -> None:
        kills = cgroups.oom_kills(self._file)
        if kills > self._kills or (cgroups.oom_stopped(self._file) and not self.happened):
            self._kills = kills
            self._out_of_memory()

    def _out_of_memory(self) -> None:
        self.happened = True
        self._on_oom()

    def close(self) -> None:
        """Stop watching. Call it before the cgroup is removed, because the removal triggers an event too."""
        for timer in self._timers:
            timer.cancel()
        if self._fd >= 0:
            self._loop.forget(self._fd)
            os.close(self._fd)
            self._fd = -1
