"""The monitor: one process for one container. It is forked by the zygote and receives requests over its first connection.

A monitor exits when its container has ended and has been deleted, or when its first connection is closed before it has
started a container. A container that is bound to the first connection (see `protocol.Launch`) is killed when that connection
is closed.
"""

from __future__ import annotations

import errno
import os
import signal
import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from orlop_sdk import linux

from . import records, sandbox
from .channel import Channel
from .commands import IGNORED_SIGNALS, raise_file_limit
from .connection import Connection, Listener
from .container import Container
from .dns.names import Tables
from .dns.server import NameServer
from .execs import Execs
from .forward import Forwarder
from .loop import Loop
from .protocol import (
    Attach,
    Exec,
    ExecExited,
    Exited,
    Failed,
    Launch,
    LogLost,
    MonitorRecord,
    Oom,
    Request,
    Resize,
    Resolve,
    Serve,
    Signal,
    Start,
    State,
    Status,
    Subscribe,
)
from .sandbox import Namespaces
from .streams import Attachment
from .task import Task, failure

__all__ = ["run"]


class Monitor:
    """Owns the loop, the connections and the container. Dispatches requests."""

    def __init__(self, sock: socket.socket, build: Callable[[Launch], Namespaces]) -> None:
        self._loop = Loop()
        self._build = build
        self._connections: set[Connection] = set()
        self._channels: list[Channel] = []
        self._container: Container | None = None
        self._execs = Execs(self._loop, self._become_stream, self._announce)
        self._forwarder: Forwarder | None = None
        self._names: NameServer | None = None
        self._netns = self._userns = -1
        self._listener: Listener | None = None
        self._handlers: dict[type, Callable[[Connection, int, Any], None]] = {
            Launch: self._launch,
            Start: self._start,
            Serve: self._serve,
            Resolve: self._resolve,
            Attach: self._attach,
            Exec: self._exec,
            Resize: self._resize,
            Signal: self._signal,
            Subscribe: self._subscribe,
            State: self._state,
        }
        self._first = self._connect(sock)

    def run(self) -> None:
        self._loop.run()

    # --- connections ------------------------------------------------------------------------------------------------

    def _connect(self, sock: socket.socket) -> Connection:
        connection = Connection(self._loop, sock, self._request, self._disconnected)
        self._connections.add(connection)
        return connection

    def _accept(self, sock: socket.socket) -> None:
        self._connect(sock)

    def _disconnected(self, connection: Connection) -> None:
        self._connections.discard(connection)
        if connection is not self._first:
            return
        if not (self._container and self._container.started):
            self._loop.stop()
        elif self._container.bound:
            self._container.kill()

    def _request(self, connection: Connection, request: Request) -> None:
        self._handlers[type(request.body)](connection, request.serial, request.body)

    def _announce(self, event: Exited | ExecExited | Oom | LogLost) -> bool:
        """Send an event to all subscribers. Returns whether at least one is still connected."""
        subscribed = [connection for connection in self._connections if connection.subscribed]
        for connection in subscribed:
            connection.event(event)
        return any(not connection.closed for connection in subscribed)

    def _become_stream(self, connection: Connection, make: Callable[[Channel], Attachment]) -> None:
        channel, early = connection.become_stream()
        self._connections.discard(connection)
        self._channels = [other for other in self._channels if not other.closed]
        self._channels.append(channel)
        make(channel).join(early)

    def _dead(self) -> None:
        """Close the listeners. Called before the exit is announced, because a subscriber may want to reuse the ports
        immediately."""
        self._execs.end_all()
        if self._forwarder:
            self._forwarder.close()
        if self._names:
            self._names.close()

    def _gone(self) -> None:
        """The last step: write all queued data to the socket buffers, so that peers can read the data after the exit."""
        self._execs.end_all()
        for connection in tuple(self._connections):
            connection.push_out()
        for channel in self._channels:
            channel.push_out()
            channel.discard_input()
        self._loop.stop()

    # --- requests ---------------------------------------------------------------------------------------------------

    def _status(self) -> Status:
        container = self._container
        return Status(
            phase=container.phase if container else "",
            monitor_pid=os.getpid(),
            pid=container.pid if container else 0,
            netns_fd=self._netns,
            userns_fd=self._userns,
            execs=self._execs.pids,
            unreported_exits=self._execs.unreported_exits,
            log_lost=container.log_lost if container else 0,
        )

    def _launch(self, connection: Connection, serial: int, request: Launch) -> None:
        if self._container is not None:
            connection.reply(serial, Failed("the monitor was launched already"))
            return
        wanted = (3 if request.stdin else 2) if request.outputs else 0
        outputs = connection.take_fds(wanted)
        try:
            if len(outputs) != wanted:
                raise OSError(errno.EBADF, f"expected {wanted} descriptors for streams, got {len(outputs)}")
            records.clear(request.run_dir)
            self._netns, self._userns = self._build(request)
            self._container = container = Container(self._loop, request, self._announce, outputs)
            self._listener = Listener(self._loop, request.run_dir, self._accept)
            start_time = linux.process_start_time(os.getpid())
            records.write(request.run_dir, MonitorRecord(os.getpid(), start_time, request.id))
        except OSError as error:
            connection.reply(serial, failure("cannot build the sandbox:", error))
            self._gone()
            return
        container.on_dead = self._dead
        container.on_gone = self._gone
        connection.subscribed = True
        connection.reply(serial, self._status(), () if self._netns < 0 else (self._netns,))

    def _start(self, connection: Connection, serial: int, request: Start) -> None:
        if self._container is None:
            connection.reply(serial, Failed("the monitor is not launched yet"))
            return
        self._container.start(connection, serial, request)

    def _serve(self, connection: Connection, serial: int, request: Serve) -> None:
        fds = connection.take_fds(len(request.forwards))
        sockets = [socket.socket(fileno=fd) for fd in fds]
        if len(fds) != len(request.forwards):
            for sock in sockets:
                sock.close()
            connection.reply(serial, Failed(f"expected {len(request.forwards)} sockets, got {len(fds)}"))
            return
        if self._forwarder is None:
            self._forwarder = Forwarder(self._loop)
        self._forwarder.retarget(dict(request.moved))
        self._forwarder.serve(sockets, request.forwards)
        connection.reply(serial, self._status())

    def _resolve(self, connection: Connection, serial: int, request: Resolve) -> None:
        if self._names is not None or self._netns < 0:
            connection.reply(serial, self._status())
            return
        try:
            tables = Tables(request.path)
            ready = lambda: connection.reply(serial, self._status())  # noqa: E731
            self._names = NameServer(self._loop, self._netns, tables, ready)
        except OSError as error:
            connection.reply(serial, failure("cannot start the name server:", error))

    def _attach(self, connection: Connection, serial: int, request: Attach) -> None:
        container = self._container
        if container is None or container.phase == "ended":
            connection.reply(serial, Failed("the container is not running"))
            return
        connection.reply(serial, self._status())
        self._become_stream(connection, container.attachment(request))

    def _exec(self, connection: Connection, serial: int, request: Exec) -> None:
        if self._container is None or self._container.task is None:
            connection.reply(serial, Failed("the container is not running"))
            return
        self._execs.start(connection, serial, request)

    def _task(self, exec_id: str) -> Task | None:
        if exec_id:
            return self._execs.get(exec_id)
        return self._container.task if self._container else None

    def _on_task(self, connection: Connection, serial: int, exec_id: str, what: str, act: Callable[[Task], None]) -> None:
        task = self._task(exec_id)
        if task is None:
            connection.reply(serial, Failed(f"{what}: the process is not running", errno=3))
            return
        try:
            act(task)
        except OSError as error:
            connection.reply(serial, failure(what, error))
        else:
            connection.reply(serial, self._status())

    def _resize(self, connection: Connection, serial: int, request: Resize) -> None:
        rows, columns = request.rows, request.columns
        self._on_task(connection, serial, request.exec_id, "cannot resize", lambda task: task.resize(rows, columns))

    def _signal(self, connection: Connection, serial: int, request: Signal) -> None:
        self._on_task(
            connection, serial, request.exec_id, "cannot send the signal", lambda task: task.signal(request.signum)
        )

    def _subscribe(self, connection: Connection, serial: int, request: Subscribe) -> None:
        connection.subscribed = True
        connection.reply(serial, self._status())
        self._execs.unreported_exits = {}
        if self._container and self._container.exited:
            connection.event(self._container.exited)

    def _state(self, connection: Connection, serial: int, request: State) -> None:
        connection.reply(serial, self._status())


def run(connection: socket.socket, build: Callable[[Launch], Namespaces] = sandbox.build) -> None:
    """Run a monitor with `connection` as its first connection. Returns when the monitor has nothing left to do. `build`
    makes the sandbox and returns its namespaces; only this step needs root privileges."""
    for signum in IGNORED_SIGNALS:
        # The end of a systemd unit or a terminal must not end the container.
        signal.signal(signum, signal.SIG_IGN)
    linux.set_subreaper()
    raise_file_limit()
    os.chdir("/")
    os.umask(0o022)
    monitor = Monitor(connection, build)
    monitor.run()
    with suppress(OSError):
        sys.stderr.flush()
