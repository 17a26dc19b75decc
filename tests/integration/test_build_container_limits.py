"""Containers that a frontend or `docker buildx debug` starts: their limits and memory, and what is left of them after the
client, the builder or the daemon has ended."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from tests.crash.builds import builder
from tests.integration.building.gateway import Frontend, Processes
from tests.integration.building.protocol import ProtocolClient, executing
from tests.integration.engine import Engine, patience, until
from tests.integration.test_build_faults import memory

from orlop_build_dockerfile.grpc import Code, RpcError
from orlop_build_dockerfile.pb import gateway_pb2 as pb
from orlop_build_dockerfile.pb.status_pb2 import Status

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

MARK = "31557"  # seconds: no other process sleeps that long
KEPT = 40 << 10  # KiB that buffers may take


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    made = Engine({"shutdown-timeout": 3})
    made.start()
    made.load()
    yield made
    assert made.close() == []


@asynccontextmanager
async def frontend(engine: Engine) -> AsyncIterator[tuple[Frontend, str]]:
    """A frontend, and the ID of a reference to the files of busybox."""
    with trio.fail_after(patience(120)):
        async with (
            ProtocolClient.opened(engine) as client,
            client.session() as session,
            Frontend.opened(client, session) as opened,
        ):
            yield opened, await opened.base()


def sleeping() -> list[int]:
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes() == f"sleep\0{MARK}\0".encode():
                found.append(int(path.parent.name))
        except OSError:
            continue
    return found


def nothing_left(engine: Engine) -> None:
    until(lambda: not sleeping(), "the end of the processes")
    engine.until_sound()
    until(lambda: os.listdir(engine.exec_root / "run") == [], "no run is left")
    until(lambda: os.listdir(engine.exec_root / "mnt") == [], "no mount point is left")


async def two_processes(found: Frontend, ref: str, processes: Processes) -> None:
    """A container with two processes that sleep."""
    await found.new("c", ref)
    for name in ("p", "q"):
        await processes.start(name, "c", "sh", "-c", f"echo ready; exec sleep {MARK}")
        await processes.said(name, b"ready")
    await trio.to_thread.run_sync(lambda: until(lambda: len(sleeping()) == 2, "both processes"))


def test_frontend_cannot_have_more_than_32_containers(engine: Engine) -> None:
    async def main() -> None:
        async with frontend(engine) as (found, ref):
            for number in range(32):
                await found.new(f"c{number}", ref)
            with pytest.raises(RpcError, match="cannot have more than 32 containers") as caught:
                await found.new("more", ref)
            assert caught.value.code == Code.RESOURCE_EXHAUSTED
            await found.release("c7")
            await found.new("more", ref)
            for name in ("", "x" * 129):
                with pytest.raises(RpcError, match="1 to 128 characters"):
                    await found.new(name, ref)
            with pytest.raises(RpcError, match="no such ref"):
                await found.new("other", "none")

    trio.run(main)
    nothing_left(engine)


def test_frontend_cannot_run_more_than_64_processes(engine: Engine) -> None:
    async def main() -> None:
        async with frontend(engine) as (found, ref):
            await found.new("c", ref)
            async with found.processes(reading=False) as processes:
                with pytest.raises(RpcError, match="cannot run more than 64 processes") as caught:
                    await processes.start("first", "c", "sleep", MARK)
                    for number in range(64):
                        await processes.start(f"p{number}", "c", "sleep", MARK)
                    await processes.receive()
            assert caught.value.code == Code.RESOURCE_EXHAUSTED
            await trio.to_thread.run_sync(lambda: until(lambda: not sleeping(), "the end of the processes"))

    trio.run(main)
    nothing_left(engine)


def snapshots(engine: Engine) -> set[str]:
    return set(os.listdir(engine.data_root / "overlay2")) - {"l"}


async def kept(found: Frontend) -> dict[str, list[str]]:
    """Run a command that fails. Returns the IDs of its inputs and mounts, which the error contains."""
    failing = executing("sh", "-c", "echo written > /made; exit 3", meta={"cwd": "/tmp"})
    request = pb.SolveRequest(Definition=failing, allowResultReturn=True, allowResultArrayRef=True, Evaluate=True)
    with pytest.raises(RpcError, match="exit code: 3") as caught:
        await found.ask("Solve", request, pb.SolveResponse)
    details = {each.type_url: each.value for each in Status.FromString(caught.value.details).details}
    parsed: dict[str, list[str]] = json.loads(details.get("github.com/moby/buildkit/errdefs.Solve+json", b"{}"))
    return parsed


def test_frontend_can_start_a_container_on_the_files_of_a_failed_command(engine: Engine) -> None:
    before = snapshots(engine)

    async def main() -> None:
        async with frontend(engine) as (found, _), found.processes() as processes:
            names = await kept(found)
            for kind, out in (("mountIDs", b"written\n"), ("inputIDs", b"")):
                await found.new(kind, names[kind][0])
                await processes.start(kind, kind, "sh", "-c", "cat /made; touch /more")
                await processes.ended(kind)
                assert processes.out.get(kind, b"").startswith(out)
            request = pb.ReadFileRequest(Ref=names["mountIDs"][0], FilePath="/made")
            with pytest.raises(RpcError, match="no such ref"):
                await found.ask("ReadFile", request, pb.ReadFileResponse)
            for _ in range(15):
                assert await kept(found)
            assert not await kept(found)  # 16 are kept

    trio.run(main)
    nothing_left(engine)
    until(lambda: snapshots(engine) == before, "the removal of the kept files")


def test_release_of_a_container_kills_its_processes(engine: Engine) -> None:
    async def main() -> None:
        async with frontend(engine) as (found, ref), found.processes() as processes:
            await two_processes(found, ref, processes)
            await found.release("c")
            assert not sleeping()
            for name in ("p", "q"):
                exit = await processes.ended(name)
                assert exit.Code == 137 and exit.Error.message == "context canceled"
            await found.new("c", ref)
            await processes.start("again", "c", "sleep", MARK)
            with trio.fail_after(patience(5)):  # a further process does not wait for the end of a start
                await processes.start("further", "c", "true")
                assert (await processes.ended("further")).Code == 0

    trio.run(main)
    nothing_left(engine)


@pytest.mark.parametrize("how", ["stream", "build", "client", "builder"])
def test_processes_of_a_container_are_killed_when_its_client_build_or_builder_ends(engine: Engine, how: str) -> None:
    async def main() -> None:
        async with frontend(engine) as (found, ref), found.processes() as processes:
            await two_processes(found, ref, processes)
            if how == "stream":
                processes.call.scope.cancel()
            elif how == "build":
                assert engine.api("POST", f"/build/cancel?id={found.build}")[0] == 200
            elif how == "builder":
                os.kill(builder(engine), signal.SIGKILL)
            else:
                found.client.connection.close()
            await trio.to_thread.run_sync(lambda: until(lambda: not sleeping(), f"the end of the processes with the {how}"))

    try:
        trio.run(main)
    except* (RpcError, trio.BrokenResourceError):
        assert how != "build"
    nothing_left(engine)


def test_processes_of_frontend_containers_are_killed_when_the_daemon_is_killed() -> None:
    made = Engine({"shutdown-timeout": 3})
    made.start()
    made.load()

    async def main() -> None:
        async with frontend(made) as (found, ref), found.processes() as processes:
            await two_processes(found, ref, processes)
            made.kill()
            await trio.to_thread.run_sync(lambda: until(lambda: not sleeping(), "the end of the processes"))

    try:
        try:
            trio.run(main)
        except* (RpcError, trio.BrokenResourceError):
            pass
        made.start()
        nothing_left(made)
    finally:
        assert made.close() == []


def test_unread_output_of_a_process_is_not_kept_in_memory(engine: Engine) -> None:
    """The process writes 200 MB, and the client reads nothing."""
    assert engine.process is not None
    daemon = engine.process.pid

    async def main() -> None:
        async with frontend(engine) as (found, ref):
            await found.new("c", ref)
            async with found.processes(reading=False) as processes:
                await processes.start("first", "c", "sh", "-c", f"echo ready; exec sleep {MARK}")
                await processes.start("p", "c", "head", "-c", "200000000", "/dev/zero")
                pids = [daemon, builder(engine)]
                before = list(map(memory, pids))
                await trio.to_thread.run_sync(lambda: until(lambda: sleeping(), "the first process"))
                [monitor] = {int(Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()[1]) for pid in sleeping()}
                last, rounds = 0, 0
                while not last or rounds < 20:  # until nothing has been written for a second
                    await trio.sleep(0.05)
                    written = _written(engine)
                    rounds = rounds + 1 if written == last else 0
                    last = written
                assert last < 30_000_000
                after = list(map(memory, pids))
                assert all(now - old < KEPT for old, now in zip(before, after, strict=True)), (before, after)
                assert memory(monitor) < KEPT + (30 << 10)
            await found.release("c")

    trio.run(main)
    nothing_left(engine)


def _written(engine: Engine) -> int:
    """The most bytes that a process in a container has written."""
    found = [0]
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if engine.cgroup_parent in (path / "cgroup").read_text():
                found.append(int((path / "io").read_text().partition("wchar: ")[2].split()[0]))
        except OSError:
            continue
    return max(found)


def test_unread_input_of_a_process_is_not_kept_in_memory(engine: Engine) -> None:
    """The client sends 100 MB to a process that reads nothing, and waits. The release of the container ends the wait."""
    assert engine.process is not None
    daemon = engine.process.pid

    async def main() -> None:
        sent = 0

        async def offer(processes: Processes) -> None:
            nonlocal sent
            for _ in range(1600):
                await processes.send("p", File=pb.FdMessage(Fd=0, Data=bytes(1 << 16)))
                sent += 1 << 16

        async with frontend(engine) as (found, ref), found.processes() as processes, trio.open_nursery() as nursery:
            await found.new("c", ref)
            await processes.start("p", "c", "sh", "-c", f"echo ready; exec sleep {MARK}", fds=[0, 1])
            await processes.said("p", b"ready")
            pids = [daemon, builder(engine)]
            before = list(map(memory, pids))
            nursery.start_soon(offer, processes)
            last, rounds = -1, 0
            while rounds < 20:  # until nothing has been taken for a second
                rounds = rounds + 1 if sent == last else 0
                last = sent
                await trio.sleep(0.05)
            assert 0 < sent < 10 << 20
            after = list(map(memory, pids))
            assert all(now - old < KEPT for old, now in zip(before, after, strict=True)), (before, after)
            await found.release("c")
            await processes.ended("p")

    trio.run(main)
    nothing_left(engine)
