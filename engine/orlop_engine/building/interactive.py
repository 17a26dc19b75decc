"""Steps whose processes a client controls: standard streams, terminal, signals, further processes.

The client of a process is a socket. It gets Docker's multiplexed frames (see `orlop_monitor.streams`): first `STARTED`, then
the process's output, whose end is a write shutdown. It sends standard input, which ends with a write shutdown; the input of
a terminal has no end. If a client does not read, no output is read from the process, so the daemon needs no memory for the
output.

When the first process of a step ends, the other processes end too, and the daemon releases the resources of the step. If
`run` is cancelled, the first process is ended.
"""

from __future__ import annotations

import os
import select
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial

import msgspec
import trio

from orlop_engine.containers import exits
from orlop_engine.containers.attach import relay
from orlop_engine.containers.container import AttachWaiter, Container, Run
from orlop_engine.containers.exec_state import ExecState
from orlop_engine.containers.launch import launch
from orlop_engine.containers.ports import Ports
from orlop_engine.containers.signals import parse_signal
from orlop_engine.processes.monitor_client import MonitorClient, MonitorFailed
from orlop_engine.terminals import rows_and_columns
from orlop_engine.types.containers import ExecConfig
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, DeadlineExceeded, InvalidParameter, NotFound, OrlopError, Unavailable

from .steps import StepRequest, Steps

__all__ = ["STARTED", "InteractiveSteps", "ProcessRequest", "Streams"]

STARTED = bytes(8)
"""A frame of stream 0, which no output has, without content: the process runs."""
_STARTING, _KILLING = 300.0, 30.0  # seconds within which a process must start, and a killed process must end


class Streams(msgspec.Struct, frozen=True, kw_only=True):
    """The streams that the client has. With `terminal`, all output is standard output."""

    terminal: bool = False
    stdin: bool = False
    stdout: bool = False
    stderr: bool = False


class ProcessRequest(msgspec.Struct, frozen=True, kw_only=True):
    """A further process of a step. It has the privileges and limits of the first process. If `user` is empty, it also has
    the user of the first process."""

    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    streams: Streams


class _Step:
    def __init__(self, container: Container, streams: Streams) -> None:
        self.container = container
        self.terminals = {"": streams.terminal}
        """Whether a process has a terminal, by the name of the process; "" is the first one."""
        self.execs: dict[str, ExecState] = {}

    def target(self, process: str) -> tuple[MonitorClient, str] | None:
        """The monitor, and its name for a running process. None if the process has ended."""
        run, exec_id = self.container.run, ""
        if process:
            if (state := self.execs.get(process)) is None or not state.running:
                return None
            exec_id = state.id
        return (run.monitor, exec_id) if run is not None and run.monitor is not None else None


class InteractiveSteps:
    """The interactive steps of one workspace, by the names that the builder has given them."""

    def __init__(self, steps: Steps, ports: Ports) -> None:
        self._all, self._ports = steps, ports
        self._steps: dict[str, _Step] = {}

    async def run(self, name: str, request: StepRequest, streams: Streams, client: int) -> int:
        """Run the first process to its end, and return its exit code. When this method returns, raises or is cancelled,
        nothing is left of the step."""
        if name in self._steps:
            raise Conflict(f"step {name} exists already")
        container = await self._all.make(request, reads=streams.stdin, terminal=streams.terminal)
        self._steps[name] = _Step(container, streams)
        try:
            with self._all.listed(container):
                async with _client(client) as connection:
                    return await self._serve(container, streams, connection)
        finally:
            del self._steps[name]

    async def _serve(self, container: Container, streams: Streams, connection: _Client) -> int:
        waiter, started = AttachWaiter(_attach(streams)), trio.Event()
        container.attach_waiters.append(waiter)
        failure: OrlopError | None = None
        code = -1

        async def stream() -> trio.SocketStream | None:
            joined = await waiter.joined.get()
            if joined is None:
                return None
            try:
                await started.wait()
                await connection.say_started()
            except BaseException:
                joined.stream.socket.close()
                raise
            return joined.stream

        async with trio.open_nursery() as nursery:
            nursery.start_soon(
                partial(relay, stdin=streams.stdin, detach_keys=None, end_on_stdin_eof=False), connection, stream
            )
            try:
                with self._ports.counters.timed("build", "step"):
                    run = await launch(self._ports, container)
                run.settled.set()  # otherwise an exec would wait for the end of the start
                started.set()
                code = await self._outcome(container, run)
            except OrlopError as error:  # raised below, because the nursery would wrap it in a group
                failure = error
                nursery.cancel_scope.cancel()
        if failure is not None:
            raise failure
        return code

    async def _outcome(self, container: Container, run: Run) -> int:
        try:
            return (await exits.outcome(self._ports, container, run)).code
        finally:
            await self._all.end(container, run)
            self._ports.execs.container_ended(container)

    async def execute(self, name: str, process: str, request: ProcessRequest, client: int) -> int:
        """Run a further process to its end, and return its exit code. Cancelling kills the process."""
        step = self._find(name)
        if process in step.terminals:
            raise Conflict(f"process {process} exists already")
        step.terminals[process] = request.streams.terminal
        try:
            async with _client(client) as connection:
                return await self._execute(step, process, request, connection)
        finally:
            step.execs.pop(process, None)
            del step.terminals[process]

    async def _execute(self, step: _Step, process: str, request: ProcessRequest, connection: _Client) -> int:
        execs, streams = self._ports.execs, request.streams
        config = ExecConfig(
            cmd=list(request.args),
            env=list(request.env),
            working_dir=request.cwd or "/",
            user=request.user,
            tty=streams.terminal,
            attach_stdin=streams.stdin,
            attach_stdout=streams.stdout,
            attach_stderr=streams.stderr,
        )
        exec_id = execs.create(step.container, config)
        try:
            # A start that is cut off would leave a process that nothing refers to
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _STARTING) as starting:
                state, inner = await execs.begin(exec_id, framed=True)
            if starting.cancelled_caught:
                raise DeadlineExceeded("the process has not started in time")
            step.execs[process] = state
            try:
                return await self._attached(state, inner, streams, connection)
            finally:
                with trio.move_on_after(_KILLING, shield=True):
                    await execs.kill(state)
                    await state.ended.get()
        finally:
            execs.forget(exec_id)

    async def _attached(
        self, state: ExecState, inner: trio.SocketStream | None, streams: Streams, connection: _Client
    ) -> int:
        async def stream() -> trio.SocketStream | None:
            await connection.say_started()
            return inner

        try:
            await relay(connection, stream, stdin=streams.stdin, detach_keys=None, end_on_stdin_eof=False)
        finally:
            if inner is not None:
                await trio.aclose_forcefully(inner)
        return await state.ended.get()

    def _find(self, name: str) -> _Step:
        found = self._steps.get(name)
        if found is None:
            raise NotFound(f"step {name} does not exist")
        return found

    async def signal(self, name: str, process: str, signal: str) -> None:
        """Send a signal, which has the name that Docker's clients use. No error if the process has ended."""
        number = parse_signal(signal)
        if target := self._find(name).target(process):
            with suppress(MonitorFailed, Unavailable):
                await target[0].signal(number, target[1])

    async def resize(self, name: str, process: str, rows: int, columns: int) -> None:
        """Set the size of the terminal. Does nothing if the process has no terminal, or has ended."""
        step = self._find(name)
        if step.terminals.get(process) and (target := step.target(process)):
            with suppress(MonitorFailed, Unavailable):
                await target[0].resize(*rows_and_columns((rows, columns)), target[1])


def _attach(streams: Streams) -> Attach:
    return Attach(stdin=streams.stdin, stdout=streams.stdout, stderr=streams.stderr, stdin_once=True, framed=True)


@asynccontextmanager
async def _client(fd: int) -> AsyncIterator[_Client]:
    try:
        sock = socket.socket(fileno=os.dup(fd))
    except OSError as error:
        raise InvalidParameter(f"a process needs a socket: {error.strerror}") from None
    async with trio.SocketStream(trio.socket.from_stdlib_socket(sock)) as stream:
        yield _Client(stream)


class _Client:
    """Implements `attach.Duplex`."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream

    async def receive_some(self, limit: int = 65536) -> bytes:
        return bytes(await self._stream.receive_some(limit))

    async def send_all(self, data: bytes) -> None:
        await self._stream.send_all(data)

    async def say_started(self) -> None:
        with suppress(trio.BrokenResourceError):  # the client has closed its socket
            await self._stream.send_all(STARTED)

    async def send_eof(self) -> None:
        await self._stream.send_eof()

    async def hung_up(self) -> None:
        with select.epoll() as hangups:  # trio waits for readability, too, and the end of the input is always readable
            hangups.register(self._stream.socket.fileno(), 0)
            await trio.lowlevel.wait_readable(hangups.fileno())
