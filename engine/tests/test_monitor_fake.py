"""A complete monitor and its client, on a runtime without containers: no root privileges, no namespaces."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import pytest
import trio

from orlop_engine.processes.control import connect, encode, receive
from orlop_engine.processes.monitor_client import MonitorClient, MonitorFailed, StartFailed
from orlop_engine.testing import FakeZygote, MonitorHost, read_all, unframe
from orlop_monitor.protocol import Attach, Event, Exec, Exited, Forward, Log, Reply, Request, State, Subscribe
from orlop_sdk import Command, LogInfo, Runtime, RuntimeContext, Unavailable
from orlop_sdk.testing.runtime import FakeRuntime, RuntimeSuite


class TestFakeRuntime(RuntimeSuite):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> Runtime:
        (tmp_path / "state").mkdir()
        return FakeRuntime(RuntimeContext("fake", "fake", str(tmp_path / "state")))


def _run(top: Path, test: Callable[[MonitorHost], Awaitable[None]]) -> None:
    (top / "state").mkdir()
    zygote = FakeZygote()

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            host = MonitorHost(top, None, FakeRuntime(RuntimeContext("fake", "fake", str(top / "state"))), zygote, nursery)
            with trio.fail_after(30):
                await test(host)
            nursery.cancel_scope.cancel()

    try:
        trio.run(main)
    finally:
        zygote.close()


def test_monitor_reports_output_and_exit_of_the_process(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case, output = await host.run(["sh", "-c", "echo out; echo err >&2; exit 5"])
        assert output == {1: b"out\n", 2: b"err\n"}
        assert (await case.event(Exited)).code == 5
        assert case.exit and case.exit.code == 5
        assert os.listdir(host.top / "state") == []  # the runtime's delete has removed the state

    _run(tmp_path, test)


def test_exit_code_of_a_process_killed_by_a_signal_is_128_plus_the_signal(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        await case.monitor.signal(signal.SIGTERM)
        assert (await case.event(Exited)).code == 143
        await case.monitor.ended()
        with pytest.raises(Unavailable):
            await case.monitor.signal(signal.SIGTERM)

    _run(tmp_path, test)


def test_monitor_reports_a_failed_start(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["nosuch"])
        with pytest.raises(StartFailed) as failure:
            await case.start()
        assert failure.value.failed.status == 1
        assert b'exec: \\"nosuch\\": executable file not found' in failure.value.failed.log
        assert b"executable file not found" in failure.value.failed.stderr
        await case.monitor.ended()

    _run(tmp_path, test)


def test_missing_runtime_is_reported(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["true"])
        run = msgspec.structs.replace(case.request.run, argv=("/no/such/runtime",))
        case.request = msgspec.structs.replace(case.request, run=run)
        with pytest.raises(StartFailed, match="cannot run the runtime /no/such/runtime: No such file or directory"):
            await case.start()

    _run(tmp_path, test)


def test_start_with_an_unknown_log_driver_fails(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["true"], log=Log("nosuch", LogInfo("i", "n", "i", "i", "c", "t", str(host.top))))
        with pytest.raises(StartFailed, match=r"failed to initialize logging driver: .*nosuch"):
            await case.start()

    _run(tmp_path, test)


def test_input_given_before_the_start_reaches_the_process(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["cat"], stdin=True)
        stream = await case.monitor.attach(Attach(stdin=True, stdout=True, stdin_once=True))
        await stream.send_all(b"x" * 300_000)  # more than the pipe holds
        await stream.send_eof()
        await case.start()
        assert unframe(await read_all(stream)) == {1: b"x" * 300_000}
        assert (await case.event(Exited)).code == 0

    _run(tmp_path, test)


def test_client_gets_only_the_output_streams_that_it_requested(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sh", "-c", "echo out; echo err >&2"])
        only = await case.monitor.attach(Attach(stderr=True))
        both = await case.monitor.attach(Attach(stdout=True, stderr=True))
        await case.start()
        results: list[dict[int, bytes]] = []

        async def read(stream: trio.SocketStream) -> None:
            results.append(unframe(await read_all(stream)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(read, only)
            nursery.start_soon(read, both)
        assert {1: b"out\n", 2: b"err\n"} in results
        assert {2: b"err\n"} in results

    _run(tmp_path, test)


def test_a_client_without_input_may_half_close(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sh", "-c", "read x; echo $x"], stdin=True)
        reader = await case.monitor.attach(Attach(stdout=True))
        await reader.send_eof()  # `docker run` without -i does this immediately
        await case.start()
        writer = await case.monitor.attach(Attach(stdin=True))
        await writer.send_all(b"later\n")
        assert unframe(await read_all(reader)) == {1: b"later\n"}
        await writer.aclose()

    _run(tmp_path, test)


def test_output_of_a_terminal_is_one_stream_with_carriage_returns(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        # The monitor sets the size when it gets the terminal; the fake runtime does not wait for that
        script = 'while [ "$(stty size)" = "0 0" ]; do sleep 0.01; done; stty size; echo err >&2'
        _, output = await host.run(["sh", "-c", script], terminal=True)
        assert output == {1: b"24 80\r\nerr\r\n"}

    _run(tmp_path, test)


def test_exec_ends_although_its_child_process_keeps_the_output_open(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        exec_id, _, stream = await case.exec(["sh", "-c", "sleep 5 & echo done; exit 3"], Attach(stdout=True))
        assert stream
        began = trio.current_time()
        assert unframe(await read_all(stream)) == {1: b"done\n"}
        assert 1.5 < trio.current_time() - began < 4
        assert (await case.exec_exited(exec_id)).code == 3
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(tmp_path, test)


def test_container_gets_signals_while_a_detached_exec_hangs(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        begun = tmp_path / "begun"
        hangs = tmp_path / "hangs"
        hangs.write_text(f"#!/bin/sh\n: >{begun}\nexec sleep 60\n")
        hangs.chmod(0o755)
        command = Command((str(hangs),), (("PATH", os.environ["PATH"]),))
        request = Exec(exec_id="e", run=command, pid_file=str(tmp_path / "p"), log_file=str(tmp_path / "l"), attach=None)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(case.monitor.exec, request)
            while not begun.exists():  # noqa: ASYNC110 - a file of another process
                await trio.sleep(0.01)
            with trio.fail_after(5):
                await case.monitor.signal(signal.SIGTERM)
                assert (await case.event(Exited)).code == 128 + signal.SIGTERM
            nursery.cancel_scope.cancel()

    _run(tmp_path, test)


def test_resize_without_a_terminal_is_refused(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        with pytest.raises(MonitorFailed, match="the process is not running"):
            await case.monitor.resize(1, 1)
        await case.start()
        with pytest.raises(MonitorFailed, match="it has no terminal"):
            await case.monitor.resize(1, 1)
        with pytest.raises(MonitorFailed, match="the process is not running"):
            await case.monitor.resize(1, 1, "no such exec")
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(tmp_path, test)


def test_monitor_serves_a_listening_socket_that_the_daemon_handed_over(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        target = await trio.open_tcp_listeners(0, host="127.0.0.1")
        target_port = target[0].socket.getsockname()[1]
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
            await case.monitor.serve([Forward("tcp", "127.0.0.1", target_port)], [listener])
        client = await trio.open_tcp_stream("127.0.0.1", port)
        server = await target[0].accept()
        await client.send_all(b"ping")
        assert await server.receive_some() == b"ping"
        for stream in (client, server, target[0]):
            await stream.aclose()

    _run(tmp_path, test)


def test_every_subscribed_client_is_told_of_the_exit(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        events: list[Event] = []
        other = await MonitorClient.adopt(case.run_dir, host.nursery, events.append)
        assert other and (await other.subscribe()).phase == "running"
        await other.signal(signal.SIGKILL)
        await other.ended()
        await case.monitor.ended()
        assert [event.body for event in events] == case.events == [await case.event(Exited)]
        assert await MonitorClient.adopt(case.run_dir, host.nursery, events.append) is None

    _run(tmp_path, test)


def test_invalid_message_closes_only_the_connection_of_its_sender(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        for nonsense in (b"\xff" * 100, b"\x03\0\0\0abc", encode(Request(1, Subscribe()))[:-1] + b"\xc1"):
            async with await connect(case.run_dir) as stream:
                await stream.send_all(nonsense)
                assert await stream.receive_some() == b""
        async with await connect(case.run_dir) as stream:
            await stream.send_all(encode(Request(7, State())) * 2)
            for _ in range(2):
                reply = await receive(stream)
                assert isinstance(reply, Reply) and reply.serial == 7
        await case.monitor.signal(signal.SIGKILL)
        await case.monitor.ended()

    _run(tmp_path, test)


def test_monitor_disconnects_a_daemon_that_reads_no_answers_and_accepts_its_next_connection(tmp_path: Path) -> None:
    async def test(host: MonitorHost) -> None:
        case = await host.case(["sleep", "60"])
        await case.start()
        deaf = await connect(case.run_dir)
        ask = encode(Request(1, State())) * 1000
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await deaf.send_all(ask)
        await deaf.aclose()
        assert case.monitor._control
        case.monitor._control._stream.socket.shutdown(socket.SHUT_RDWR)  # simulates a close by the daemon
        while True:
            try:
                await case.monitor.state()
                break
            except Unavailable:
                await trio.sleep(0.05)
        await case.monitor.signal(signal.SIGKILL)
        assert (await case.event(Exited)).code == 137
        await case.monitor.ended()

    _run(tmp_path, test)
