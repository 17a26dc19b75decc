"""`ExecProcess`: one stream of messages with a frontend, for any number of processes in its containers.

The first process that is started in a container is the main process of the container: the container ends when this process
ends. As in BuildKit, a process that cannot be started is reported as started and ended. While a frontend does not read its
messages, no output is read from its processes. While a process does not read its input, no messages are read from the
frontend. So the builder needs little memory.
"""

from __future__ import annotations

import socket
import struct
import uuid
from collections import deque
from contextlib import suppress
from typing import Any

import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.control.errors import failed, status_message
from orlop_build_dockerfile.gateway.containers import Container, Containers
from orlop_build_dockerfile.grpc import Call, Code
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.ops.execute import NOT_STARTED, exit_detail
from orlop_build_dockerfile.pb import gateway_pb2 as pb
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.processes import STARTED, Streams
from orlop_sdk import NotFound, OrlopError, Unavailable

__all__ = ["ProcessStream"]

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_UNKNOWN, _KILLED = 255, 137  # BuildKit's exit codes if the real code is unknown, and if the process was killed
_FRAME = struct.Struct(">BxxxL")
_PIECE = 64 << 10
_CONTROLS = 16  # limit for the waiting resizes and signals of a process
_REMEMBERED = 1000  # number of ended processes to remember, because the frontend may still send input for them
_NAME = 128
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

Control = pb.ResizeMessage | pb.SignalMessage


class ProcessStream:
    """One call. If it is cancelled, its processes are killed. The end of the frontend's messages ends no process."""

    def __init__(self, call: Call, containers: Containers) -> None:
        self._call, self._containers = call, containers
        self._sending = trio.Lock()
        self._processes: dict[str, _Process] = {}
        self._ended: deque[str] = deque(maxlen=_REMEMBERED)

    async def run(self) -> None:
        async with nursery() as tasks:
            while (data := await self._call.receive()) is not None:
                await self._receive(pb.ExecMessage.FromString(data), tasks)

    async def send(self, message: pb.ExecMessage) -> None:
        async with self._sending:
            await self._call.send(message.SerializeToString())

    async def _receive(self, message: pb.ExecMessage, tasks: trio.Nursery) -> None:
        name, kind = message.ProcessID, message.WhichOneof("Input")
        if not name or len(name) > _NAME:
            raise BuildFailed("ProcessID required", code=Code.INVALID_ARGUMENT)
        if kind == "Init":
            self._start(name, message.Init, tasks)
            return
        process = self._processes.get(name)
        if process is None:
            if name not in self._ended:
                raise BuildFailed(f'IO for process "{name}" not found', code=Code.NOT_FOUND)
        elif kind == "File":
            await process.feed(message.File)
        elif kind == "Resize":
            await process.control(message.Resize)
        elif kind == "Signal":
            await process.control(message.Signal)

    def _start(self, name: str, init: pb.InitMessage, tasks: trio.Nursery) -> None:
        if name in self._processes or name in self._ended:
            raise BuildFailed(f"Process {name} already exists", code=Code.ALREADY_EXISTS)
        container = self._containers.get(init.ContainerID)
        self._containers.count_process(1)
        process = self._processes[name] = _Process(self, name, init, container)
        tasks.start_soon(self._run, name, process)

    async def _run(self, name: str, process: _Process) -> None:
        try:
            await process.run()
        finally:
            self._containers.count_process(-1)
            del self._processes[name]
            self._ended.append(name)


class _Process:
    def __init__(self, owner: ProcessStream, name: str, init: pb.InitMessage, container: Container) -> None:
        self._owner, self._name, self._init, self._container = owner, name, init, container
        self._is_first = not container.has_first
        container.has_first = True
        self._target = "" if self._is_first else uuid.uuid4().hex
        fds = set(init.Fds)
        self._outputs = sorted(fds & {_STDOUT, _STDERR})
        self._streams = Streams(
            terminal=init.Tty, stdin=_STDIN in fds, stdout=_STDOUT in fds, stderr=_STDERR in fds and not init.Tty
        )
        self._input, self._inputs = trio.open_memory_channel[pb.FdMessage](0)
        self._control, self._controls = trio.open_memory_channel[Control](_CONTROLS)
        self._started, self._shown = trio.Event(), trio.Event()

    # --- messages of the frontend

    async def feed(self, message: pb.FdMessage) -> None:
        """Pass on input. Input that the process does not read any more is dropped."""
        if message.Fd == _STDIN and self._streams.stdin:
            with suppress(trio.BrokenResourceError):
                await self._input.send(message)

    async def control(self, message: Control) -> None:
        with suppress(trio.BrokenResourceError):
            await self._control.send(message)

    # --- messages to the frontend

    async def run(self) -> None:
        ours, theirs = socket.socketpair()
        async with trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream, nursery() as tasks:
            tasks.start_soon(self._pass_input, stream)
            tasks.start_soon(self._pass_controls)
            tasks.start_soon(self._pass_output, stream)
            try:
                code, error = await self._execute(theirs.fileno())
            finally:
                theirs.close()
            await self._shown.wait()
            tasks.cancel_scope.cancel()
        await self._tell(code, error)

    async def _tell(self, code: int, error: BuildFailed | None) -> None:
        """Report the end of the process. A process that could not be started is first reported as started."""
        if not self._started.is_set():
            await self._send(Started=pb.StartedMessage())
        if error is not None and NOT_STARTED in error.message:  # as in BuildKit, print the error, and report the exit code 1
            if self._outputs:
                await self._write(_STDOUT if self._init.Tty else self._outputs[-1], f"{error.message}\n".encode())
            code, error = 1, None
        for fd in self._outputs:
            await self._send(File=pb.FdMessage(Fd=fd, EOF=True))
        exit = pb.ExitMessage(Code=code)
        if code and error is None:
            error = BuildFailed(f"exit code: {code}", details=[exit_detail(code)])
        if error is not None:
            exit.Error.CopyFrom(status_message(error))
        await self._send(Exit=exit)
        await self._send(Done=pb.DoneMessage())

    async def _write(self, fd: int, data: bytes) -> None:
        await self._send(File=pb.FdMessage(Fd=fd, Data=data))

    async def _send(self, **content: Any) -> None:
        await self._owner.send(pb.ExecMessage(ProcessID=self._name, **content))

    # --- the process

    async def _execute(self, client: int) -> tuple[int, BuildFailed | None]:
        """Run the process to its end. Returns its exit code, and an error unless it has ended by itself."""
        container, init = self._container, self._init
        given = init.Meta
        op = ops_pb2.ExecOp(security=init.Security, secretenv=init.secretenv)
        op.meta.MergeFrom(ops_pb2.Meta(args=given.args, env=_environment(init), cwd=given.cwd, user=given.user))
        try:
            with container.process() as inner:
                if self._is_first:
                    return await inner.run(op, self._streams, client), None
                await container.running.wait()
                if container.is_over:
                    raise BuildFailed(f"container {container.name} has stopped")
                return await inner.execute(self._target, op, self._streams, client), None
        except (OrlopError, BuildFailed) as error:
            return _UNKNOWN, failed(error)
        finally:
            if self._is_first:
                container.is_over = True
                container.running.set()
            self._inputs.close()  # wakes `feed`, which may be waiting to pass on more input
        return _KILLED, BuildFailed("context canceled", code=Code.CANCELLED)

    async def _pass_input(self, stream: trio.SocketStream) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError), self._inputs:
            async for message in self._inputs:
                if message.Data:
                    await stream.send_all(message.Data)
                if message.EOF and not self._init.Tty:  # the input of a terminal has no end
                    await stream.send_eof()
                    return

    async def _pass_controls(self) -> None:
        await self._started.wait()
        with self._controls:
            async for message in self._controls:
                with suppress(NotFound, Unavailable), self._container.process() as inner:  # the process may have ended
                    if isinstance(message, pb.ResizeMessage):
                        await inner.resize(self._target, message.Rows, message.Cols)
                    else:
                        await inner.signal(self._target, message.Name)

    async def _pass_output(self, stream: trio.SocketStream) -> None:
        buffer = bytearray()
        with suppress(trio.BrokenResourceError):
            while data := await stream.receive_some(_PIECE):
                buffer += data
                while len(buffer) >= _FRAME.size:
                    fd, size = _FRAME.unpack_from(buffer)
                    end = _FRAME.size + size
                    if len(buffer) < end:
                        break
                    await self._frame(fd, bytes(buffer[_FRAME.size : end]))
                    del buffer[:end]
        self._shown.set()

    async def _frame(self, fd: int, data: bytes) -> None:
        if fd != STARTED:
            await self._write(fd, data)
            return
        await self._send(Started=pb.StartedMessage())
        self._started.set()
        if self._is_first:
            self._container.running.set()


def _environment(init: pb.InitMessage) -> list[str]:
    """The environment that the frontend has given, with BuildKit's defaults."""
    env = list(init.Meta.env)
    names = {entry.partition("=")[0] for entry in env}
    defaults = {"PATH": _PATH, **({"TERM": "xterm"} if init.Tty else {})}
    return [*env, *(f"{name}={value}" for name, value in defaults.items() if name not in names)]
