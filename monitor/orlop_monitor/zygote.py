"""The zygote: the process from which monitors and unpack workers are forked. It is small, single-threaded and has imported
all modules.

    python -I -m orlop_monitor.zygote FD [LOG_DRIVER | /PATH/OF/A/RUNTIME]...

orlopd starts the zygote in a new session. The zygote is the parent of every monitor, and a subreaper: when a monitor dies,
its children (its container's init, an interrupted runtime) become children of the zygote. When a monitor ends without an
exit record, the zygote kills the processes in the container's cgroups and writes the record.

Crashes: when orlopd dies, the zygote reads EOF from the socket to orlopd. It then accepts no more requests, and exits when
its last child has ended. When the zygote dies, monitors continue as children of pid 1, and the daemon writes their exit
records instead.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable
from typing import NamedTuple, NoReturn

import msgspec

from orlop_monitor import logs, main, orphans, records, sealed, sharing
from orlop_monitor.unpack import worker
from orlop_sdk import cgroups, linux

from .commands import IGNORED_SIGNALS
from .forking import MESSAGE_LIMIT, Fork, Forked
from .loop import Loop
from .protocol import ExitRecord
from .title import Title

__all__ = ["Zygote"]

_ENTRIES: dict[str, Callable[[socket.socket], None]] = {"monitor": main.run, "unpack": worker.run}
_KILL_SECONDS = 10.0
_BUFFERS = 4 << 20  # bytes of freed memory that malloc keeps; monitors and unpack workers inherit the setting
_decoder = msgspec.msgpack.Decoder(Fork)
_encode = msgspec.msgpack.Encoder().encode


class _DeadMonitor(NamedTuple):
    """A monitor that ended without writing an exit record, and the cgroups of its container."""

    pid: int
    run_dir: str
    cgroups: tuple[str, ...]
    reason: str


def _is_of(run_dir: str, pid: int) -> bool:
    """Whether the records in `run_dir` belong to the monitor `pid`."""
    record = records.read_monitor(run_dir)
    return record is not None and record.pid == pid


class Zygote:
    """Owns the socket to the daemon, and is the parent of the child processes."""

    def __init__(self, control: socket.socket, title: Title) -> None:
        control.setblocking(False)
        self._title = title
        self._control = control
        self._loop = Loop()
        self._children: set[int] = set()
        self._pending_cleanups = 0
        self._orphaned = False
        self._loop.on_readable(control.fileno(), self._request)

    def run(self) -> None:
        self._loop.run()

    # --- forking ----------------------------------------------------------------------------------------------------

    def _request(self) -> None:
        try:
            data, fds = linux.receive_fds(self._control, MESSAGE_LIMIT, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._loop.forget(self._control.fileno())
            self._control.close()
            self._orphaned = True
            self._end_if_done()
            return
        request = _decoder.decode(data)
        try:
            answer = self._fork(request, fds)
        except OSError as error:
            answer = Forked(request.serial, 0, f"fork: {error.strerror}")
        for fd in fds:
            os.close(fd)
        try:
            self._control.send(_encode(answer))
        except OSError:
            pass  # the daemon has ended; the next read returns EOF

    def _fork(self, request: Fork, fds: list[int]) -> Forked:
        if request.entry not in _ENTRIES or len(fds) != 1:
            return Forked(request.serial, 0, "unknown kind of process, or no connection was passed")
        pid = os.fork()
        if pid == 0:
            self._title.set(f"orlop-{request.entry} {os.path.basename(request.run_dir)}".rstrip())
            _child(request.entry, fds[0])
        self._children.add(pid)
        self._loop.on_child(pid, lambda status: self._ended(pid, status, request.run_dir))
        return Forked(request.serial, pid)

    # --- the end of children ----------------------------------------------------------------------------------------

    def _ended(self, pid: int, status: int, run_dir: str) -> None:
        self._children.discard(pid)
        # A monitor exits with 0 when it has recorded its container's exit, or has never started a container.
        if run_dir and status and records.read_exit(run_dir) is None:
            how = f"signal {-status}" if status < 0 else f"exit status {status}"
            self._pending_cleanups += 1
            init = records.read_init(run_dir) if _is_of(run_dir, pid) else None
            dead = _DeadMonitor(pid, run_dir, init.cgroups if init else (), f"the container's monitor ended ({how})")
            self._clean_up_after(dead, time.monotonic(), 0.001)
        self._end_if_done()

    def _clean_up_after(self, dead: _DeadMonitor, since: float, pause: float) -> None:
        """Kill the remaining processes of a container repeatedly until none is left, then write the container's exit record.
        Meanwhile the container may have been started again in the same run directory; the new run and its records must not
        be changed."""
        empty = cgroups.kill(dead.cgroups)
        # A child that the zygote did not fork was a child of a dead monitor. The processes of all other containers have
        # living monitors as parents.
        empty = orphans.kill_children(self._children) and empty
        if not empty and time.monotonic() - since < _KILL_SECONDS:
            self._loop.call_later(pause, lambda: self._clean_up_after(dead, since, min(2 * pause, 0.1)))
            return
        reason = f"{dead.reason}; the container was killed"
        if not empty:
            reason += f", but some of its processes did not end within {_KILL_SECONDS:g} s"
        try:
            if _is_of(dead.run_dir, dead.pid):
                records.write(dead.run_dir, ExitRecord(137, time.time_ns(), error=reason))
        except OSError:
            pass  # the daemon has removed the run directory
        self._pending_cleanups -= 1
        self._end_if_done()

    def _end_if_done(self) -> None:
        if self._orphaned and not self._children and not self._pending_cleanups:
            self._loop.stop()


def _child(entry: str, fd: int) -> NoReturn:
    """Run the child. The calling frames must keep references to the zygote's objects: if these objects were freed, they
    would close descriptor numbers that the child has reused."""
    status = 70
    try:
        linux.close_other_fds([fd, *sealed.descriptors()])
        os.setsid()
        signal.set_wakeup_fd(-1)
        for signum in (*IGNORED_SIGNALS, signal.SIGCHLD):
            signal.signal(signum, signal.SIG_DFL)
        _ENTRIES[entry](socket.socket(fileno=fd))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def reset_oom_score(path: str = "/proc/self/oom_score_adj") -> None:
    """Reset a negative oom_score_adj, which this process has inherited. The value must protect only the daemon."""
    with open(path, "r+") as file:
        if int(file.read()) < 0:
            file.seek(0)
            file.write("0\n")


def _main(arguments: list[str]) -> None:
    for signum in IGNORED_SIGNALS:
        signal.signal(signum, signal.SIG_IGN)
    linux.set_subreaper()
    linux.keep_freed_memory(_BUFFERS)
    reset_oom_score()
    os.chdir("/")
    control = socket.socket(fileno=int(arguments[0]))
    os.set_inheritable(control.fileno(), False)
    linux.close_other_fds([control.fileno()])
    logs.preload(name for name in arguments[1:] if not name.startswith("/"))
    sealed.hold(name for name in arguments[1:] if name.startswith("/"))
    title = Title()
    sharing.freeze()
    title.set("orlop-zygote")
    Zygote(control, title).run()
    os._exit(0)  # nothing is left to clean up, and finalizing the interpreter would be slow


if __name__ == "__main__":
    _main(sys.argv[1:])
