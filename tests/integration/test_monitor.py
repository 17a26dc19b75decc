"""Monitors with a real runtime: the start and run of containers, reports to the daemon, and cleanup."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient, MonitorFailed, StartFailed
from orlop_engine.processes.zygote import Zygote
from orlop_engine.testing import MonitorHost, read_all, unframe
from orlop_monitor.protocol import Attach, ExecExited, Exited, Log, Oom
from orlop_runtime_runc import Runc
from orlop_sdk import LogInfo, RuntimeContext
from orlop_sdk.testing.runtime import busybox_root

pytestmark = pytest.mark.root


class Place:
    """A directory and a runtime, and the leftovers of their containers on the host."""

    def __init__(self, top: Path, runtime: str) -> None:
        self.top = top
        self.rootfs = busybox_root(top / "rootfs")
        (top / "state").mkdir()
        path = shutil.which(runtime)
        assert path, f"{runtime} is not installed"
        self.runtime = Runc(RuntimeContext(runtime, path, str(top / "state")))

    @asynccontextmanager
    async def open(self) -> AsyncIterator[MonitorHost]:
        async with Zygote.start(str(self.top), ["json-file"]) as zygote, trio.open_nursery() as nursery:
            host = MonitorHost(self.top, self.rootfs, self.runtime, zygote, nursery)
            try:
                with trio.fail_after(150):
                    yield host
            except BaseException:
                host.close()  # removes leftovers if the test failed
                raise
            finally:
                nursery.cancel_scope.cancel()

    def run(self, test: Callable[[MonitorHost], Awaitable[None]]) -> None:
        async def main() -> None:
            async with self.open() as host:
                await test(host)

        trio.run(main)

    def traces(self) -> list[str]:
        """The leftovers of containers: mounts, cgroups, processes, runtime state."""
        with open("/proc/self/mountinfo") as file:
            found = [line for line in file if str(self.top) in line]
        marker = f"orlop-case-{os.getpid()}-"
        for directory, names, _ in os.walk("/sys/fs/cgroup"):
            found += [os.path.join(directory, name) for name in names if marker in name]
            if directory.count("/") > 5:
                names.clear()
        for pid in filter(str.isdecimal, os.listdir("/proc")):
            try:
                command = Path(f"/proc/{pid}/cmdline").read_bytes()
            except OSError:
                continue
            if marker.encode() in command:
                found.append(f"{pid} {command!r}")
        return found + os.listdir(self.top / "state")


@pytest.fixture(params=["runc", "crun"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, request.param)
    yield made
    runs.release_private_directory(str(tmp_path / "mnt"))
    assert made.traces() == []


@pytest.fixture
def runc(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path, "runc")
    yield made
    runs.release_private_directory(str(tmp_path / "mnt"))
    assert made.traces() == []


def _log(place: Place) -> tuple[Log, Path]:
    directory = place.top / "log"
    directory.mkdir()
    info = LogInfo("c" * 64, "name", "sha256:0", "image", "command", "2024-01-01T00:00:00Z", str(directory))
    return Log("json-file", info), directory


def _logged(directory: Path) -> list[tuple[str, str]]:
    (file,) = directory.iterdir()
    records = [json.loads(line) for line in file.read_text().splitlines()]
    return [(record["stream"], record["log"]) for record in records]


def test_exit_code_and_output_are_reported_and_recorded(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case, output = await host.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
        assert output == {1: b"out\n", 2: b"err\n"}
        exited = await case.event(Exited)
        assert (exited.code, exited.oom) == (3, False)
        assert case.exit and (case.exit.code, case.exit.time_ns, case.exit.error) == (3, exited.time_ns, "")

    place.run(test)


def test_root_file_system_of_a_running_container_is_not_mounted_on_the_host(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        started = await case.start()
        root = str(host.top / "mnt" / case.name)
        assert os.listdir(root) == []
        assert root not in Path("/proc/self/mountinfo").read_text()
        assert "busybox" in os.listdir(f"/proc/{case.monitor.pid}/root{root}/bin")
        assert os.stat(case.monitor.netns_path).st_ino == os.stat(f"/proc/{started.pid}/ns/net").st_ino
        init = runs.init_record(case.run_dir)
        assert init and init.pid == started.pid
        assert init.cgroups and all(case.name in directory for directory in init.cgroups)
        assert str(started.pid) in Path(init.cgroups[0], "cgroup.procs").read_text().split()
        await case.monitor.signal(signal.SIGKILL)
        assert (await case.event(Exited)).code == 137
        await case.monitor.ended()

    place.run(test)


def test_log_of_a_container_is_complete_when_its_exit_is_reported(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        log, directory = _log(runc)
        case = await host.case(["sh", "-c", "echo one; echo two >&2; echo -n three"], log=log)
        await case.start()
        await case.event(Exited)
        assert sorted(_logged(directory)) == [("stderr", "two\n"), ("stdout", "one\n"), ("stdout", "three")]
        await case.monitor.ended()

    runc.run(test)


def test_terminal_can_be_resized_and_passes_input(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(
            ["sh", "-c", "until stty size; do :; done; read line; stty size; echo got $line"], terminal=True, stdin=True
        )
        stream = await case.monitor.attach(Attach(stdin=True, stdout=True, stderr=True))
        await case.start()
        data = b""
        while b"24 80\r\n" not in data:
            data += await stream.receive_some()
        await case.monitor.resize(30, 100)
        await stream.send_all(b"hello\n")
        data += await read_all(stream)
        assert data.endswith(b"24 80\r\nhello\r\n30 100\r\ngot hello\r\n")
        await case.monitor.ended()

    place.run(test)


def test_standard_input_of_fifty_megabytes_arrives_complete(runc: Place) -> None:
    size = 50 << 20

    async def test(host: MonitorHost) -> None:
        case = await host.case(["sh", "-c", "cat | wc -c; echo end"], stdin=True)
        stream = await case.monitor.attach(Attach(stdin=True, stdout=True, stderr=True, stdin_once=True))
        await case.start()
        block = bytes(1 << 20)
        for _ in range(size // len(block)):
            await stream.send_all(block)
        await stream.send_eof()
        assert unframe(await read_all(stream)) == {1: f"{size}\nend\n".encode()}
        await case.monitor.ended()

    runc.run(test)


def test_input_of_a_container_stays_open_when_one_attached_client_ends_its_input(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["cat"], stdin=True)
        first = await case.monitor.attach(Attach(stdin=True, stdout=True))
        await case.start()
        await first.send_all(b"one\n")
        await first.send_eof()
        assert unframe(await read_all(first)).get(1, b"") in (b"", b"one\n")  # attach ended, with or without output
        second = await case.monitor.attach(Attach(stdin=True, stdout=True, stdin_once=True))
        await second.send_all(b"two\n")
        await second.send_eof()
        assert unframe(await read_all(second))[1].endswith(b"two\n")
        assert (await case.event(Exited)).code == 0
        await case.monitor.ended()

    runc.run(test)


def test_exec_passes_streams_and_exit_code(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        both = Attach(stdin=True, stdout=True, stderr=True)
        exec_id, _, stream = await case.exec(["sh", "-c", "cat; echo err >&2; exit 7"], both, stdin=True)
        assert stream
        await stream.send_all(b"given")
        await stream.send_eof()
        assert unframe(await read_all(stream)) == {1: b"given", 2: b"err\n"}
        assert (await case.exec_exited(exec_id)).code == 7

        exec_id, _, stream = await case.exec(["sh", "-c", "kill -9 $$"])
        assert stream is None
        assert (await case.exec_exited(exec_id)).code == 137

        # crun starts the process before it sets the size, so `stty` may find none
        script = "until stty size; do :; done; read x; stty size"
        exec_id, _, stream = await case.exec(["sh", "-c", script], both, terminal=True, stdin=True)
        assert stream
        data = b""
        while b"24 80\r\n" not in data:
            data += await stream.receive_some()
        await case.monitor.resize(31, 101, exec_id)
        await stream.send_all(b"\n")
        assert (data + await read_all(stream)).endswith(b"31 101\r\n")
        assert (await case.exec_exited(exec_id)).code == 0

        with pytest.raises(StartFailed) as failure:
            await case.exec(["nosuch"], both)
        assert b"nosuch" in failure.value.failed.log
        assert (await case.monitor.state()).execs == {}
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    place.run(test)


def test_an_exec_ends_with_its_container(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        exec_id, started, _ = await case.exec(["sleep", "61"])
        assert (await case.monitor.state()).execs == {exec_id: started.pid}
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()
        assert [type(event) for event in case.events] in ([ExecExited, Exited], [Exited, ExecExited])
        assert (await case.exec_exited(exec_id)).code == 137

    runc.run(test)


def test_failed_start_is_reported(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        log, directory = _log(place)
        case = await host.case(["nosuch"], log=log)
        stream = await case.monitor.attach(Attach(stdout=True, stderr=True))
        with pytest.raises(StartFailed) as failure:
            await case.start()
        failed = failure.value.failed
        assert failed.status == 1
        assert b"executable file" in failed.log
        assert b"nosuch" in failed.log
        assert await read_all(stream) == b""  # the runtime's error messages are not the container's output
        assert all(not file.read_bytes() for file in directory.iterdir())
        await case.monitor.ended()
        assert case.exit is None

    place.run(test)


def test_sandbox_that_cannot_be_built_is_reported(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        shutil.rmtree(runc.rootfs)
        with pytest.raises(MonitorFailed, match="cannot build the sandbox"):
            await host.case(["true"])

    runc.run(test)


def test_out_of_memory_is_reported(place: Place) -> None:
    async def test(host: MonitorHost) -> None:
        limit = {"memory": {"limit": 20 << 20, "swap": 20 << 20}}
        case = await host.case(["dd", "if=/dev/zero", "of=/dev/null", "bs=60M", "count=1"], resources=limit)
        await case.start()
        exited = await case.event(Exited)
        assert (exited.code, exited.oom) == (137, True)
        assert (await case.event(Oom)).time_ns > 0
        await case.monitor.ended()
        assert case.exit and case.exit.oom

    place.run(test)


def test_slow_reader_gets_all_of_two_hundred_megabytes_of_output(runc: Place) -> None:
    size = 200_000_000

    async def test(host: MonitorHost) -> None:
        case = await host.case(["head", "-c", str(size), "/dev/zero"])
        stream = await case.monitor.attach(Attach(stdout=True))
        await case.start()
        with trio.move_on_after(0.3):
            await case.event(Exited)  # no client reads, so the container blocks
        assert (await case.monitor.state()).phase == "running"
        total = frames = 0
        rest = b""
        async with stream:
            async for chunk in stream:
                rest += chunk
                while len(rest) >= 8 and len(rest) >= 8 + (length := int.from_bytes(rest[4:8], "big")):
                    assert rest[0] == 1
                    total += length
                    frames += 1
                    rest = rest[8 + length :]
        assert (total, rest) == (size, b"")
        await case.monitor.ended()

    runc.run(test)


def test_disconnected_client_does_not_block_the_container(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["head", "-c", "20000000", "/dev/zero"])
        stream = await case.monitor.attach(Attach(stdout=True))
        await case.start()
        await stream.receive_some(10)
        await stream.aclose()
        assert (await case.event(Exited)).code == 0
        await case.monitor.ended()

    runc.run(test)


def test_monitor_without_a_container_exits_when_its_daemon_disconnects(runc: Place) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["true"])
        pid = case.monitor.pid
        assert isinstance(await MonitorClient.adopt(case.run_dir, host.nursery, case.on_event), MonitorClient)
        assert case.monitor._control
        case.monitor._control._stream.socket.close()
        await case.monitor.ended()
        assert not os.path.exists(f"/proc/{pid}/exe")

    runc.run(test)
