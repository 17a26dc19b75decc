"""The execs of a container, from the request `Exec` to the event `ExecExited`."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from .connection import Connection
from .loop import Loop
from .protocol import Exec, ExecExited, Failed, Started
from .streams import Attachment, Input, Output
from .task import Stdio, Task, failure

__all__ = ["Execs"]


_UNHEARD = 1000  # maximum of stored exit codes; a monitor rarely stores any, because only a connected daemon starts execs


class Execs:
    """`attach(connection, make)` turns a connection into a stream and passes its channel to `make`, which returns the
    `Attachment`. `announce(event)` sends an event to subscribers, and returns whether there are any."""

    def __init__(
        self,
        loop: Loop,
        attach: Callable[[Connection, Callable[..., Attachment]], None],
        announce: Callable[[ExecExited], bool],
    ) -> None:
        self._loop = loop
        self._attach = attach
        self._announce = announce
        self._tasks: dict[str, Task] = {}
        self.unreported_exits: dict[str, int] = {}
        """Exit codes that no subscriber received, up to `_UNHEARD`."""

    @property
    def pids(self) -> dict[str, int]:
        return {exec_id: task.pid for exec_id, task in self._tasks.items() if task.pid}

    def get(self, exec_id: str) -> Task | None:
        return self._tasks.get(exec_id)

    def start(self, connection: Connection, serial: int, request: Exec) -> None:
        """Start an exec and answer on the connection. If `request.attach` is set, the connection becomes a stream after the
        answer."""
        if request.exec_id in self._tasks:
            connection.reply(serial, Failed(f"exec {request.exec_id} is already running"))
            return
        attach = request.attach
        wanted = (
            bool(attach and request.stdin and attach.stdin),
            bool(attach and attach.stdout),
            bool(attach and attach.stderr),
        )
        input_, output = Input(self._loop, request.terminal), Output(self._loop)
        stdio = None
        try:
            stdio = Stdio(self._loop, input_, output, request.terminal, wanted)
            if request.terminal:
                stdio.expect_console(request.console_socket, request.console_size)
        except OSError as error:
            if stdio is not None:
                stdio.close_theirs()
                stdio.close()
            connection.reply(serial, failure("cannot make the streams of the process", error))
            return
        task = Task(self._loop, stdio, output)
        self._tasks[request.exec_id] = task
        if attach is not None:
            connection.hold()  # the following bytes are standard input, not requests

        def started(answer: Started) -> None:
            connection.reply(serial, answer)
            if attach is None:
                return
            # Close the process's input when the client's input ends, because no other client can attach to an exec.
            once = msgspec.structs.replace(attach, stdin_once=True)
            process_input = input_ if request.stdin else None
            self._attach(connection, lambda channel: Attachment(channel, once, process_input, output, not request.terminal))

        def failed(answer: Failed) -> None:
            del self._tasks[request.exec_id]
            connection.reply(serial, answer)
            if attach is not None:
                connection.release()

        def ended(code: int, time_ns: int) -> None:
            del self._tasks[request.exec_id]
            if not self._announce(ExecExited(request.exec_id, code, time_ns)) and len(self.unreported_exits) < _UNHEARD:
                self.unreported_exits[request.exec_id] = code
            output.finish_attachments()

        task.on_started, task.on_failed, task.on_ended = started, failed, ended
        task.start(request.run, request.pid_file, request.log_file)

    def end_all(self) -> None:
        """Called when the container is dead. Kills execs that outlived the container's pid namespace, and stops waiting for
        output."""
        for task in tuple(self._tasks.values()):
            task.kill()
