"""Containers for tests of the layers below the engine: a monitor, a runtime and a busybox root, and nothing else.

`MonitorHost` launches these containers. With `FakeZygote` and `FakeRuntime` it needs no root privileges, and the containers
are ordinary processes without namespaces.

`decompress_here` replaces the worker that decompresses archives.
"""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import trio

from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_monitor.protocol import (
    Attach,
    Event,
    Exec,
    ExecExited,
    Exited,
    ExitRecord,
    Launch,
    Log,
    LogLost,
    Oom,
    Start,
    Started,
)
from orlop_monitor.unpack.stream import CompressedFile, decompress
from orlop_sdk import Execution, InvalidParameter, Mount, Runtime, Task, cgroups
from orlop_sdk.testing.runtime import oci_process, oci_spec

__all__ = ["FakeZygote", "MonitorCase", "MonitorHost", "decompress_here", "read_all", "unframe"]

_EventBody = TypeVar("_EventBody", Exited, ExecExited, Oom, LogLost)
_NO_SANDBOX = """
import socket, sys
from orlop_monitor import main, sandbox
main.run(socket.socket(fileno=int(sys.argv[1])), lambda launch: sandbox.Namespaces())
"""
_ids = itertools.count()


class _Spawner(Protocol):
    async def spawn(self, entry: str, connection: socket.socket, run_dir: str = "") -> int: ...


class FakeZygote:
    """Starts monitors as separate programs. These monitors build no sandbox. `close` kills and reaps them."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[bytes]] = []

    async def spawn(self, entry: str, connection: socket.socket, run_dir: str = "") -> int:
        assert entry == "monitor"
        argv = [sys.executable, "-I", "-c", _NO_SANDBOX, str(connection.fileno())]
        self._processes.append(subprocess.Popen(argv, pass_fds=[connection.fileno()]))  # noqa: ASYNC220 - it does not wait
        await trio.lowlevel.checkpoint()
        return self._processes[-1].pid

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()


def unframe(data: bytes) -> dict[int, bytes]:
    """Demultiplex Docker's stream: the payload of each stream."""
    streams: dict[int, bytearray] = {}
    while data:
        size = int.from_bytes(data[4:8], "big")
        streams.setdefault(data[0], bytearray()).extend(data[8 : 8 + size])
        data = data[8 + size :]
    return {number: bytes(payload) for number, payload in streams.items()}


async def read_all(stream: trio.SocketStream) -> bytes:
    """Read until the stream ends."""
    data = bytearray()
    async with stream:
        try:
            async for chunk in stream:
                data += chunk
        except trio.BrokenResourceError:
            pass  # the monitor ended before it had read all input, which also ends the stream
    return bytes(data)


class MonitorCase:
    """One container of a `MonitorHost`."""

    def __init__(self, host: MonitorHost, name: str, run_dir: str) -> None:
        self.host = host
        self.name = name
        self.run_dir = run_dir
        self.events: list[Exited | ExecExited | Oom | LogLost] = []
        self._more = trio.Event()
        self.monitor: MonitorClient
        self.request: Start

    @property
    def task(self) -> Task:
        return Task(self.name, self.run_dir, f"{self.run_dir}/pid", f"{self.run_dir}/log", self.request.console_socket)

    @property
    def exit(self) -> ExitRecord | None:
        return runs.exit_record(self.run_dir)

    def on_event(self, event: Event) -> None:
        self.events.append(event.body)
        self._more.set()
        self._more = trio.Event()

    async def event(self, kind: type[_EventBody]) -> _EventBody:
        """Wait for the first event of this kind."""
        while True:
            for event in self.events:
                if isinstance(event, kind):
                    return event
            await self._more.wait()

    async def start(self) -> Started:
        return await self.monitor.start(self.request)

    async def exec(
        self, args: Sequence[str], attach: Attach | None = None, *, terminal: bool = False, stdin: bool = False
    ) -> tuple[str, Started, trio.SocketStream | None]:
        """Run an exec. Returns its id, the `Started` answer and its stream."""
        exec_id = f"e{next(_ids)}"
        base = f"{self.run_dir}/{exec_id}"
        with open(f"{base}.json", "w") as file:
            json.dump(oci_process(args, terminal), file)
        execution = Execution(exec_id, f"{base}.json", f"{base}.pid", f"{base}.log", f"{base}.tty" if terminal else "")
        request = Exec(
            exec_id=exec_id,
            run=self.host.runtime.exec(self.task, execution),
            pid_file=execution.pid_file,
            log_file=execution.log,
            terminal=terminal,
            stdin=stdin,
            console_socket=execution.console_socket,
            console_size=(24, 80) if terminal else (0, 0),
            attach=attach,
        )
        started, stream = await self.monitor.exec(request)
        return exec_id, started, stream

    async def exec_exited(self, exec_id: str) -> ExecExited:
        while True:
            for event in self.events:
                if isinstance(event, ExecExited) and event.exec_id == exec_id:
                    return event
            await self._more.wait()


class MonitorHost:
    """`top` is a directory for run directories, roots and writable layers. `busybox_root` makes the root file system; None
    for containers that are ordinary processes."""

    def __init__(self, top: Path, rootfs: Path | None, runtime: Runtime, zygote: _Spawner, nursery: trio.Nursery) -> None:
        self.top = top
        self.rootfs = rootfs
        self.runtime = runtime
        self.zygote = zygote
        self.nursery = nursery
        if rootfs:
            runs.private_directory(str(top / "mnt"))

    async def case(
        self,
        args: Sequence[str],
        *,
        terminal: bool = False,
        stdin: bool = False,
        log: Log | None = None,
        resources: dict[str, Any] | None = None,
        edit: Callable[[dict[str, Any]], None] = lambda spec: None,
    ) -> MonitorCase:
        """Launch a case. Its sandbox is built and its bundle is written, but no process runs in the container yet."""
        name = f"orlop-case-{os.getpid()}-{next(_ids)}"
        case = MonitorCase(self, name, str(self.top / "run" / name))
        launch, root = self._launch(case, terminal, stdin, log)
        # A fake zygote has the same interface
        case.monitor, status = await MonitorClient.launch(self.zygote, launch, self.nursery, case.on_event)  # type: ignore[arg-type]
        assert status.phase == "launched"
        cgroup = f"/{name}"
        spec = oci_spec(root, args, cgroup=cgroup, terminal=terminal, network=case.monitor.netns_path, resources=resources)
        edit(spec)
        with open(f"{case.run_dir}/config.json", "w") as file:
            json.dump(spec, file)
        console = f"{case.run_dir}/console" if terminal else ""
        task = Task(name, case.run_dir, f"{case.run_dir}/pid", f"{case.run_dir}/log", console)
        case.request = Start(
            run=self.runtime.run(task),
            delete=self.runtime.delete(task),
            pid_file=task.pid_file,
            log_file=task.log,
            console_socket=console,
            console_size=(24, 80) if terminal else (0, 0),
            cgroup=cgroup,
        )
        return case

    def _launch(self, case: MonitorCase, terminal: bool, stdin: bool, log: Log | None) -> tuple[Launch, str]:
        root, network = "/", ""
        mounts: tuple[Mount, ...] = ()
        if self.rootfs:
            root, network = str(self.top / "mnt" / case.name), "new"
            upper, work = str(self.top / "layers" / case.name / "upper"), str(self.top / "layers" / case.name / "work")
            for path in (root, upper, work):
                os.makedirs(path)
            options = (f"lowerdir={self.rootfs}", f"upperdir={upper}", f"workdir={work}")
            mounts = (Mount("overlay", "overlay", "", options),)
        launch = Launch(
            id=case.name,
            run_dir=case.run_dir,
            root=root,
            mounts=mounts,
            network=network,
            detach=self.runtime.capabilities.detach_mounts,
            terminal=terminal,
            stdin=stdin,
            log=log,
        )
        return launch, root

    async def run(self, args: Sequence[str], **options: Any) -> tuple[MonitorCase, dict[int, bytes]]:
        """Launch, attach, start, and read to the end. Returns the case and its output by stream."""
        case = await self.case(args, **options)
        stream = await case.monitor.attach(Attach(stdout=True, stderr=True))
        await case.start()
        data = await read_all(stream)
        await case.monitor.ended()
        return case, {1: data} if options.get("terminal") else unframe(data)

    def close(self) -> None:
        """Release the private directory. Kill the processes of failed cases, and remove their cgroups."""
        for name in os.listdir(self.top / "run") if (self.top / "run").exists() else ():
            found = cgroups.named(f"/{name}")
            while not cgroups.kill(found):
                pass
            cgroups.remove(found)
        if self.rootfs:
            runs.release_private_directory(str(self.top / "mnt"))


async def decompress_here(
    zygote: Any, source: AsyncIterable[bytes], target: int, *, progress: Callable[[int], None] | None
) -> None:
    """Decompress in this process, without a sandboxed worker."""
    data = b"".join([piece async for piece in source])
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.seek(0)
        try:
            for piece in decompress(CompressedFile(file.fileno())):
                os.write(target, piece)
        except Exception as error:
            raise InvalidParameter(f"cannot decompress the archive: {error}") from error
