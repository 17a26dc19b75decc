"""The lifecycle of one container: start, run, exit. When the container exits, the monitor takes these steps, in order:

output read to its end (2 s at most), log closed, `exit.json` written, `Exited` announced, attached streams ended, runtime
state deleted, monitor exits (which destroys the root mounts, network namespace and listeners). The last step may take long,
because the kernel writes dirty pages to disk, but the exit code is available before this step. The root of a bound container
(`protocol.Launch.bound`) is unmounted before `Exited`.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from orlop_monitor import commands, orphans, records
from orlop_sdk import cgroups, linux
from orlop_sdk.common import Command

from .connection import Connection
from .logs import LogSink, open_log
from .loop import Loop, Timer
from .oom import OomWatch
from .protocol import Attach, Exited, ExitRecord, Failed, InitRecord, Launch, LogLost, Oom, Start, Started
from .streams import Attachment, Input, Output
from .stubs import Stubs
from .task import Stdio, Task, failure

__all__ = ["Container"]

_STRAGGLER_SECONDS = 1.0
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 60.0  # seconds between two reports of lost log entries


class Container:
    """`announce(event)` sends an event to subscribers. `on_dead` is called after the exit is recorded, and before it is
    announced. `on_gone` is called after the last step."""

    def __init__(
        self, loop: Loop, launch: Launch, announce: Callable[[Exited | Oom | LogLost], object], outputs: Sequence[int] = ()
    ) -> None:
        """`outputs`: see `Launch`."""
        self._loop = loop
        self._launch = launch
        self._announce = announce
        self._log: LogSink | None = None
        self._lost = 0
        self._lost_timer: Timer | None = None
        self._lost_pause = _FIRST_PAUSE
        self._input = Input(loop, launch.terminal)
        self._output = Output(loop, self._write_log if launch.log else None, self._log_is_full)
        self._stdio = Stdio(loop, self._input, self._output, launch.terminal, (launch.stdin, True, True), outputs)
        self._stubs = Stubs(launch.root, launch.stubs, launch.ids) if launch.stubs else None
        self._task: Task | None = None
        self._start: Start | None = None
        self._oom = OomWatch(loop, "", lambda: None)
        self._null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        self.phase = "launched"
        self.exited: Exited | None = None
        self._doomed = False
        self.on_dead: Callable[[], None] = lambda: None
        self.on_gone: Callable[[], None] = lambda: None

    @property
    def pid(self) -> int:
        return self._task.pid if self._task and self.phase == "running" else 0

    @property
    def task(self) -> Task | None:
        """The container's init, while it runs."""
        return self._task if self.phase == "running" else None

    @property
    def started(self) -> bool:
        return self._start is not None

    @property
    def bound(self) -> bool:
        """Whether the container is killed when the monitor's first connection is closed."""
        return self._launch.bound

    def kill(self) -> None:
        """Kill the container's init. The kernel then kills all processes of the container. If the container is being
        started, it is killed as soon as it runs."""
        self._doomed = True
        if self.task:
            try:
                self.task.signal(signal.SIGKILL)
            except ProcessLookupError:
                pass

    def attachment(self, request: Attach) -> Callable[..., Attachment]:
        """Returns a function that attaches a channel to the container's streams. Can be called before the container is
        started."""
        process_input = self._input if self._launch.stdin else None
        return lambda channel: Attachment(channel, request, process_input, self._output, not self._launch.terminal)

    def _write_log(self, stream: str, data: bytes, time_ns: int) -> None:
        if self._log:
            self._log.write(stream, data, time_ns)
            if self._lost_timer is None and self._log.lost != self._lost:
                self._report_lost()

    @property
    def log_lost(self) -> int:
        """The number of entries of this run that the log driver did not log."""
        return self._log.lost if self._log else 0

    def _report_lost(self) -> None:
        """Tell the daemon how many log entries are lost. Further losses are reported after a pause."""
        self._lost_timer = None
        if self._log is None or self._log.lost == self._lost:
            return
        self._lost = self._log.lost
        self._announce(LogLost(self._lost, self._log.reason))
        self._lost_timer = self._loop.call_later(self._lost_pause, self._report_lost)
        self._lost_pause = min(_LONGEST_PAUSE, 2 * self._lost_pause)

    def _log_is_full(self) -> bool:
        return self._log is not None and self._log.full

    # --- start ------------------------------------------------------------------------------------------------------

    def start(self, connection: Connection, serial: int, request: Start) -> None:
        if self._start is not None:
            connection.reply(serial, Failed("the container was started already"))
            return
        self._start = request
        self._task = task = Task(self._loop, self._stdio, self._output)
        task.on_failed = lambda failed: self._failed(connection, serial, failed)
        task.on_started = lambda started: self._running(connection, serial, started)
        task.on_ended = self._ended
        try:
            if self._launch.log:
                self._log = open_log(self._launch.log)
        except BaseException as error:  # also SystemExit: a driver may raise anything, and the request must be answered
            self._failed(connection, serial, Failed(f"failed to initialize logging driver: {_reason(error)}"))
            return
        try:
            if self._launch.terminal:
                self._stdio.expect_console(request.console_socket, request.console_size)
        except OSError as error:
            self._failed(connection, serial, failure("cannot listen for the terminal", error))
            return
        task.start(request.run, request.pid_file, request.log_file)

    def _running(self, connection: Connection, serial: int, started: Started) -> None:
        assert self._start
        self.phase = "running"
        # Record the cgroups in /proc and also the cgroup in the spec, because /proc lists no v1 cgroups of a dead process.
        asked = cgroups.directories(started.pid, self._launch.id)
        found = tuple(dict.fromkeys((*asked, *cgroups.named(self._start.cgroup))))
        records.write(self._launch.run_dir, InitRecord(started.pid, started.start_time, started.time_ns, found))
        self._oom = OomWatch(self._loop, cgroups.oom_file(found), self._out_of_memory)
        connection.reply(serial, started)
        if self._doomed:
            self.kill()

    def _out_of_memory(self) -> None:
        self._announce(Oom(time.time_ns()))

    def _failed(self, connection: Connection, serial: int, failed: Failed) -> None:
        """Clean up, then answer: after the answer, the daemon may retry with the same names."""
        assert self._start
        self.phase = "ended"
        self._stdio.close()
        self._output.finish_attachments()
        if self._log:
            self._log.close()
        if self._stubs:
            self._stubs.remove()
        start = self._start

        def deleted(status: int) -> None:
            # The runtime may have been killed before it wrote its state. Then its command `delete` does not remove the
            # processes and cgroups
            if failed.status or failed.timed_out or status:
                self._sweep(start)
            connection.reply(serial, failed)
            self.on_gone()

        self._delete(start.delete, deleted)

    def _sweep(self, start: Start) -> None:
        """Kill the processes and remove the cgroups that an interrupted runtime left. Blocks for a bounded time, in which
        the monitor has nothing else to do."""
        found = cgroups.named(start.cgroup)
        deadline = time.monotonic() + _STRAGGLER_SECONDS
        while not (cgroups.kill(found) and orphans.kill_children(()) and cgroups.remove(found)):
            if time.monotonic() > deadline:
                return
            time.sleep(0.002)

    # --- end --------------------------------------------------------------------------------------------------------

    def _ended(self, code: int, time_ns: int) -> None:
        assert self._start
        self.phase = "ended"
        self._oom.check()
        self._oom.close()
        if self._log:
            self._log.close()
            self._report_lost()
        oom = self._oom.happened
        records.write(self._launch.run_dir, ExitRecord(code, time_ns, oom, log_lost=self.log_lost))
        self.exited = Exited(code, time_ns, oom, self.log_lost)
        if self._stubs:
            self._stubs.remove()
        if self.bound:
            self._unmount()
        self.on_dead()
        self._announce(self.exited)
        self._output.finish_attachments()
        self._delete(self._start.delete, self._deleted)

    def _unmount(self) -> None:
        """Unmount the root and the stage, because no process uses them any more. The overlay mount ends with this call. So
        the snapshot can be committed, and become a lower directory of the next snapshot, while the runtime deletes the
        container."""
        for directory in filter(None, (self._launch.root, self._launch.stage)):
            with suppress(OSError):  # the stage is not mounted if the container has no trees
                linux.umount(directory)

    def _deleted(self, status: int) -> None:
        assert self._start
        if status:
            self._sweep(self._start)
        self.on_gone()

    def _delete(self, command: Command, then: Callable[[int], None]) -> None:
        """Run the runtime's `delete`, then call `then(status)` with its exit code, or the negated signal."""

        def deleted(status: int, timed_out: bool) -> None:
            if status:
                print(f"`{command.argv[0]} delete` of container {self._launch.id} failed: status {status}", file=sys.stderr)
            then(status)

        try:
            commands.run(self._loop, command, (self._null, self._null, self._null), deleted)
        except OSError as error:
            print(f"{command.argv[0]}: {error}", file=sys.stderr)
            then(127)


def _reason(error: BaseException) -> str:
    return str(error) if isinstance(error, Exception) else f"{type(error).__name__}: {error}"
