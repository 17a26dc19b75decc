"""One process of the container (its init or an exec). A `Task` begins with the runtime's command that makes the process, and
ends with the end of the process's output.

The runtime makes the process and writes its pid to a file. The monitor becomes the process's parent, because it is a
subreaper. The process may end before the runtime's command, so the loop keeps the exit status until the task asks for it.
"""

from __future__ import annotations

import errno
import os
import signal
import time
from collections.abc import Callable, Sequence

from orlop_monitor import commands, orphans
from orlop_sdk import linux, smallfiles
from orlop_sdk.common import Command

from .console import ConsoleSocket, set_size
from .loop import Loop
from .protocol import Failed, Started
from .streams import Input, Output

__all__ = ["DRAIN_SECONDS", "Stdio", "Task", "failure"]

DRAIN_SECONDS = 2.0
"""Seconds to wait for the end of the output when the process has ended, because a descendant may keep the output open.
dockerd waits as long."""
_TAIL = 64 << 10


def failure(what: str, error: OSError) -> Failed:
    name = f" {error.filename}" if error.filename else ""
    return Failed(f"{what}{name}: {error.strerror}", errno=error.errno or 0)


def _tail(path: str) -> bytes:
    try:
        return smallfiles.read(path)[-_TAIL:]
    except OSError:
        return b""


class Stdio:
    """The descriptors between a process and the monitor: pipes for the requested streams and /dev/null for all others, or a
    terminal. Owns both ends of each pipe. `close_theirs` closes the end that the process uses. The monitor's end is passed
    on to `Input` or `Output`. `given` are descriptors for the process's standard output, standard error and perhaps standard
    input, which are used instead of pipes to the monitor."""

    def __init__(
        self,
        loop: Loop,
        input_: Input,
        output: Output,
        terminal: bool,
        wanted: tuple[bool, bool, bool],
        given: Sequence[int] = (),
    ) -> None:
        self._loop = loop
        self._input = input_
        self._output = output
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self._theirs = [self._null] * 3
        self._ours: dict[str, int] = {}
        self.terminal = terminal
        self._console: ConsoleSocket | None = None
        self.master = -1
        if terminal:
            return
        try:
            self._open(wanted, given)
        except OSError:
            self.close_theirs()
            self.close()
            raise

    def _open(self, wanted: tuple[bool, bool, bool], given: Sequence[int]) -> None:
        if len(given) > 2:
            self._theirs[0] = given[2]
            self._input.close()
        elif wanted[0]:
            self._theirs[0], ours = os.pipe()
            self._input.open(ours)
        else:
            self._input.close()
        if given:
            self._theirs[1:] = given[:2]
            return
        for number, stream in ((1, "stdout"), (2, "stderr")):
            if wanted[number]:
                self._ours[stream], self._theirs[number] = os.pipe()

    def expect_console(self, path: str, size: tuple[int, int]) -> None:
        self._console = console = ConsoleSocket(self._loop, path)

        def arrived() -> None:
            # Separate descriptors for resizing, reading and writing, because they are closed at different times.
            self.master = console.take()
            if all(size):
                set_size(self.master, *size)
            self._input.open(os.dup(self.master))

        console.on_master = arrived

    @property
    def theirs(self) -> tuple[int, int, int]:
        return self._theirs[0], self._theirs[1], self._theirs[2]

    def close_theirs(self) -> None:
        for fd in {*self._theirs, self._null}:
            os.close(fd)
        self._theirs = []

    def connect(self) -> bool:
        """Called when the process runs: start reading its output. Returns false when the runtime did not send the
        terminal."""
        if self._console:
            self._console.poll()
            self._console.close()
            if self.master < 0:
                return False
            self._ours = {"stdout": os.dup(self.master)}
        self._output.start(self._ours)
        self._ours = {}
        return True

    def said(self) -> bytes:
        """The content of the standard error pipe, to which a failed runtime has written its error message."""
        try:
            fd = self._ours["stderr"]
            os.set_blocking(fd, False)
            return os.read(fd, _TAIL)
        except (KeyError, OSError):
            return b""

    def close(self) -> None:
        """Close the pipes and the terminal on the monitor's side. Called when the process has ended or was not started."""
        if self._console:
            self._console.close()
        self._input.close()
        for fd in {*self._ours.values(), self.master} - {-1}:
            os.close(fd)
        self._ours, self.master = {}, -1


class Task:
    """Calls either `on_started` or `on_failed`. After `on_started`, `on_ended(code, time_ns)` is called when the process has
    ended and its output has been read."""

    def __init__(self, loop: Loop, stdio: Stdio, output: Output) -> None:
        self._loop = loop
        self._stdio = stdio
        self._output = output
        self._pidfd = -1
        self.pid = 0
        self.code: int | None = None
        self.time_ns = 0
        self.on_started: Callable[[Started], None] = lambda started: None
        self.on_failed: Callable[[Failed], None] = lambda failed: None
        self.on_dead: Callable[[], None] = lambda: None
        self.on_ended: Callable[[int, int], None] = lambda code, time_ns: None

    def start(self, command: Command, pid_file: str, log_file: str) -> None:
        try:
            os.unlink(pid_file)
        except OSError:
            pass
        try:
            commands.run(
                self._loop,
                command,
                self._stdio.theirs,
                lambda status, timed_out: self._command_ended(status, timed_out, pid_file, log_file),
            )
        except OSError as error:
            self._stdio.close_theirs()
            self._fail(failure("cannot run the runtime", error))
        else:
            self._stdio.close_theirs()

    def _command_ended(self, status: int, timed_out: bool, pid_file: str, log_file: str) -> None:
        if timed_out:
            orphans.kill_child_of_file(pid_file)  # the runtime may have made the process before it hung
        if status or timed_out:
            stderr = self._stdio.said()
            log = _tail(log_file)
            self._fail(Failed("the runtime failed", status=status, stderr=stderr, log=log, timed_out=timed_out))
            return
        try:
            self.pid = int(smallfiles.read(pid_file))
        except (OSError, ValueError):
            self._fail(Failed("the runtime reported success, but no process id", log=_tail(log_file)))
            return
        if not self._stdio.connect():
            self._kill_unseen()
            self._fail(Failed("the runtime did not send the terminal", log=_tail(log_file)))
            return
        self._started()

    def _started(self) -> None:
        start_time = 0
        try:
            self._pidfd = os.pidfd_open(self.pid)
            start_time = linux.process_start_time(self.pid)
        except ProcessLookupError:
            pass  # the process is dead and reaped; the loop has its exit status
        self.on_started(Started(self.pid, start_time, time.time_ns()))
        self._loop.on_child(self.pid, self._dead)

    def _kill_unseen(self) -> None:
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def _fail(self, failed: Failed) -> None:
        self._stdio.close()
        self.on_failed(failed)

    def _dead(self, status: int) -> None:
        self.code = status if status >= 0 else 128 - status
        self.time_ns = time.time_ns()
        if self._pidfd >= 0:
            os.close(self._pidfd)
            self._pidfd = -1
        self.on_dead()
        self._output.end(DRAIN_SECONDS, self._ended)

    def _ended(self) -> None:
        self._stdio.close()
        assert self.code is not None
        self.on_ended(self.code, self.time_ns)

    def resize(self, rows: int, columns: int) -> None:
        """Set the terminal's size. Raises `OSError` when the process has no terminal, or when the terminal is closed."""
        if self._stdio.master < 0:
            raise OSError(errno.ENOTTY, "it has no terminal")
        set_size(self._stdio.master, rows, columns)

    def signal(self, signum: int) -> None:
        """Raises `ProcessLookupError` when the process is dead."""
        if self._pidfd < 0:
            raise ProcessLookupError(errno.ESRCH, "no such process")
        linux.pidfd_send_signal(self._pidfd, signum)

    def kill(self) -> None:
        """Kill an exec whose container has ended. If the exec's process is dead already, stop waiting for its output."""
        if self.code is not None:
            self._output.end_now()
        elif self._pidfd >= 0:
            try:
                linux.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass
