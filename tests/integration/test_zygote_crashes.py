"""Crashes of daemon, zygote and monitor, separately and together."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
from tests.integration.engine import until

from orlop_engine.commands import run_supervised
from orlop_engine.processes import runs
from orlop_engine.processes.monitor_client import MonitorClient, StartFailed
from orlop_engine.processes.zygote import Zygote
from orlop_engine.testing import MonitorCase, MonitorHost
from orlop_monitor.protocol import Attach, Event, Exited, MonitorRecord
from orlop_runtime_runc import Runc
from orlop_sdk import Runtime, RuntimeContext, Unavailable, linux
from orlop_sdk.testing.runtime import busybox_root

pytestmark = pytest.mark.root


@pytest.fixture
def top(tmp_path: Path) -> Iterator[Path]:
    busybox_root(tmp_path / "rootfs")
    (tmp_path / "state").mkdir()
    yield tmp_path
    runs.release_private_directory(str(tmp_path / "mnt"))
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def _runtime(top: Path, path: str | None = None) -> Runtime:
    return Runc(RuntimeContext("runc", path or shutil.which("runc") or "", str(top / "state")))


@asynccontextmanager
async def _host(top: Path, runtime: Runtime | None = None) -> AsyncIterator[tuple[MonitorHost, Zygote]]:
    async with Zygote.start(str(top), ["json-file"]) as zygote, trio.open_nursery() as nursery:
        host = MonitorHost(top, top / "rootfs", runtime or _runtime(top), zygote, nursery)
        try:
            with trio.fail_after(150):
                yield host, zygote
        except BaseException:
            host.close()  # removes leftovers if the test failed
            raise
        finally:
            nursery.cancel_scope.cancel()


def _run(top: Path, test: Callable[[MonitorHost, Zygote], Awaitable[None]], runtime: Runtime | None = None) -> None:
    async def main() -> None:
        async with _host(top, runtime) as (host, zygote):
            await test(host, zygote)

    trio.run(main)


async def _until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - what is waited for happens in processes that tell nobody
        await trio.sleep(0.005)


def _gone(pid: int) -> bool:
    try:
        return b") Z " in Path(f"/proc/{pid}/stat").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return True


async def _delete(case: MonitorCase) -> None:
    """The daemon's cleanup after a killed monitor: remove the runtime's state and the cgroups."""
    assert (await run_supervised(case.host.runtime.delete(case.task))).status == 0


@pytest.mark.parametrize("paused", [False, True])
def test_container_is_killed_when_its_monitor_is_killed(top: Path, paused: bool) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sh", "-c", "sleep 100 & sleep 101"])
        started = await case.start()
        _, exec_started, _ = await case.exec(["sleep", "102"])
        if paused:
            assert (await run_supervised(host.runtime.pause(case.task))).status == 0
        began = trio.current_time()
        case.monitor.kill()
        await case.monitor.ended()
        await _until(lambda: case.exit)
        took = trio.current_time() - began
        assert case.exit and case.exit.code == 137
        assert "monitor ended (signal 9)" in case.exit.error
        assert _gone(started.pid) and _gone(exec_started.pid)
        init = runs.init_record(case.run_dir)
        assert init and runs.kill_cgroups(init)  # no process was left
        assert took < 2
        await _delete(case)

    _run(top, test)


def test_killed_monitor_does_not_affect_other_containers(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        first, second = await host.case(["sleep", "100"]), await host.case(["sleep", "100"])
        await first.start()
        await second.start()
        first.monitor.kill()
        await _until(lambda: first.exit)
        assert (await second.monitor.state()).phase == "running"
        await second.monitor.signal(signal.SIGKILL)
        assert (await second.event(Exited)).code == 137
        await second.monitor.ended()
        await _delete(first)

    _run(top, test)


def test_container_is_killed_if_its_monitor_was_killed_while_the_runtime_works(top: Path) -> None:
    script = top / "slow"
    script.write_text('#!/bin/sh\n[ "$1$3" = --rootrun ] || case "$*" in *" run "*) sleep 100;; esac\nexec runc "$@"\n')
    script.chmod(0o755)

    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sleep", "100"])

        async def start() -> None:
            with pytest.raises(Unavailable):
                await case.start()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(start)
            await _until(lambda: _children(case.monitor.pid))
            (script_pid,) = _children(case.monitor.pid)
            case.monitor.kill()
        await _until(lambda: case.exit)
        assert _gone(script_pid)
        assert _children(zygote.pid) == []
        await _delete(case)

    _run(top, test, _runtime(top, str(script)))


def _children(parent: int) -> list[int]:
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        try:
            fields = Path(f"/proc/{name}/stat").read_bytes().rpartition(b") ")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[1]) == parent and fields[0] != b"Z":
            found.append(int(name))
    return found


def test_a_runtime_that_hangs_is_killed_at_its_deadline(top: Path) -> None:
    script = top / "hangs"
    script.write_text('#!/bin/sh\ncase "$*" in *" run "*) sleep 100 & sleep 101;; esac\nexec runc "$@"\n')
    script.chmod(0o755)

    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["true"])
        case.request = msgspec.structs.replace(case.request, run=msgspec.structs.replace(case.request.run, timeout=0.2))
        with pytest.raises(StartFailed) as failure:
            await case.start()
        assert failure.value.failed.timed_out
        await case.monitor.ended()
        assert _children(zygote.pid) == []

    _run(top, test, _runtime(top, str(script)))


def test_monitor_continues_after_its_zygote_was_killed(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sh", "-c", "read x; echo got $x; exit 4"], stdin=True)
        await case.start()
        old = zygote.pid
        os.kill(old, signal.SIGKILL)
        stream = await case.monitor.attach(Attach(stdin=True, stdout=True))
        await _until(lambda: zygote.pid != old)
        _, output = await host.run(["sh", "-c", "echo from the next zygote"])
        assert output == {1: b"from the next zygote\n"}
        await stream.send_all(b"it\n")
        assert await stream.receive_some() == b"\x01\0\0\0\0\0\0\x07got it\n"
        assert (await case.event(Exited)).code == 4
        await stream.aclose()
        await case.monitor.ended()

    _run(top, test)


def test_container_runs_until_the_daemons_next_start_if_monitor_and_zygote_were_killed(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sleep", "100"])
        started = await case.start()
        os.kill(zygote.pid, signal.SIGKILL)
        case.monitor.kill()
        await case.monitor.ended()
        assert not _gone(started.pid)
        assert await MonitorClient.adopt(case.run_dir, host.nursery, case.on_event) is None
        init = runs.init_record(case.run_dir)
        assert init
        assert await trio.to_thread.run_sync(runs.kill_cgroups, init)
        assert _gone(started.pid)
        await _delete(case)

    _run(top, test)


_DAEMON = """
import os, sys, trio
from pathlib import Path
from orlop_engine.processes.zygote import Zygote
from orlop_monitor.protocol import Attach, Log
from orlop_sdk import LogInfo, RuntimeContext
from orlop_engine.testing import MonitorHost
from orlop_runtime_runc import Runc

top, runc = Path(sys.argv[1]), sys.argv[2]

async def main():
    async with Zygote.start(str(top), ["json-file"]) as zygote, trio.open_nursery() as nursery:
        host = MonitorHost(top, top / "rootfs", Runc(RuntimeContext("runc", runc, str(top / "state"))), zygote, nursery)
        os.mkdir(top / "log")
        log = Log("json-file", LogInfo("c" * 64, "n", "i", "i", "c", "2024-01-01T00:00:00Z", str(top / "log")))
        script = "i=0; while true; do i=$((i+1)); echo $i; sleep 0.01; done"
        case = await host.case(["sh", "-c", script], log=log)
        stream = await case.monitor.attach(Attach(stdout=True))  # a reader that is slow, and dies with us
        await case.start()
        await stream.receive_some()
        print(zygote.pid, case.monitor.pid, case.run_dir, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


def test_next_daemon_adopts_the_monitors_of_a_killed_daemon(top: Path) -> None:
    daemon = subprocess.Popen(
        [sys.executable, "-c", _DAEMON, str(top), shutil.which("runc") or ""], stdout=subprocess.PIPE, text=True
    )
    with daemon:
        assert daemon.stdout
        zygote_pid, monitor_pid, run_dir = daemon.stdout.readline().split()
        daemon.kill()
    zygote_pidfd = os.pidfd_open(int(zygote_pid))
    (log,) = (top / "log").iterdir()
    events: list[Event] = []

    async def successor() -> None:
        before = log.stat().st_size
        await _until(lambda: log.stat().st_size > before + 200)  # the container runs without a daemon
        async with trio.open_nursery() as nursery:
            monitor = await MonitorClient.adopt(run_dir, nursery, events.append)
            assert monitor and monitor.pid == int(monitor_pid)
            assert (await monitor.subscribe()).phase == "running"
            assert os.path.exists(monitor.netns_path)
            os.kill(monitor.pid, signal.SIGTERM)  # a monitor ignores SIGTERM, which systemd sends when it stops a unit
            async with await monitor.attach(Attach(stdout=True)) as stream:
                assert await stream.receive_some()
            await monitor.signal(signal.SIGKILL)
            await monitor.ended()
            nursery.cancel_scope.cancel()
        # The zygote exited with its last child, because its daemon had ended.
        with trio.fail_after(5):
            await trio.lowlevel.wait_readable(zygote_pidfd)

    trio.run(successor)
    os.close(zygote_pidfd)
    (event,) = events
    assert isinstance(event.body, Exited) and event.body.code == 137
    record = runs.exit_record(run_dir)
    assert record and record.code == 137
    numbers = [int(json.loads(line)["log"]) for line in log.read_text().splitlines()]
    assert numbers == list(range(1, len(numbers) + 1))


def test_process_with_another_start_time_is_not_adopted_as_the_monitor(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sleep", "100"])
        await case.start()
        record = runs.monitor_record(case.run_dir)
        assert record and record.start_time == linux.process_start_time(case.monitor.pid)
        forged = msgspec.json.encode(MonitorRecord(record.pid, record.start_time + 1, record.container_id))
        Path(case.run_dir, "monitor.json").write_bytes(forged)
        assert await MonitorClient.adopt(case.run_dir, host.nursery, case.on_event) is None
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(top, test)


def test_container_process_has_only_standard_descriptors_and_no_blocked_signals(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sleep", "100"])
        started = await case.start()
        # The runtime says that the container has started a moment before the process executes the program
        comm = Path(f"/proc/{started.pid}/comm")
        await trio.to_thread.run_sync(until, lambda: comm.read_text() == "sleep\n", "the program is executed")
        assert sorted(os.listdir(f"/proc/{started.pid}/fd")) == ["0", "1", "2"]
        status = Path(f"/proc/{started.pid}/status").read_text()
        masks = dict(line.split(":\t") for line in status.splitlines() if line.startswith(("SigIgn", "SigBlk")))
        assert {int(mask, 16) for mask in masks.values()} == {0}
        monitor = case.monitor.pid
        assert Path(f"/proc/{monitor}/comm").read_text() == "orlop-monitor\n"
        assert Path(f"/proc/{monitor}/cmdline").read_bytes().startswith(b"orlop-monitor " + case.name[:12].encode())
        assert os.getsid(monitor) == monitor
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(top, test)


def test_zygotes_answer_to_a_cancelled_spawn_is_not_used_for_the_next_spawn(top: Path) -> None:
    """The zygote still answers the cancelled request. The next request must not get this answer."""

    async def test(host: MonitorHost, zygote: Zygote) -> None:
        assert (await host.run(["true"]))[0].exit
        with trio.move_on_after(0) as scope:
            await host.case(["true"])  # the zygote still answers this request
        assert scope.cancelled_caught
        _, output = await host.run(["echo", "hi"])
        assert output == {1: b"hi\n"}

    _run(top, test)


def test_monitor_uses_less_than_4_mb_of_private_memory(top: Path) -> None:
    async def test(host: MonitorHost, zygote: Zygote) -> None:
        case = await host.case(["sleep", "100"])
        await case.start()
        rollup = Path(f"/proc/{case.monitor.pid}/smaps_rollup").read_text()
        dirty = int(rollup.partition("Private_Dirty:")[2].split()[0])
        assert dirty < (2300 if sys.version_info >= (3, 12) else 3800)  # kB; 1,600 and 2,800 were measured
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(top, test)
