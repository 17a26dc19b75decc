"""Limits on connections per server and per peer, and the handling of excess connections."""

from __future__ import annotations

import errno
import logging
import socket
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from orlop_kernel.http.admission import Admission, Lease, Refused, peer_key
from orlop_kernel.http.listeners import open_tcp_listeners, open_unix_listener
from orlop_kernel.http.messages import Answer, Limits, Request, Response
from orlop_kernel.http.server import Server

GET = b"GET / HTTP/1.1\r\nHost: d\r\n\r\n"
FEW = Limits(connections=6, connections_by_peer=3, descriptors=100)


def admitted(limits: Limits, *keys: str, wait: bool = True) -> tuple[Admission, list[Lease]]:
    admission = Admission(limits)
    leases = []
    for key in keys:
        leases.append(admission.admit(key))
        if wait:
            leases[-1].wait()
    return admission, leases


def ended(leases: list[Lease]) -> list[int]:
    return [index for index, lease in enumerate(leases) if lease.scope.cancel_called]


def run(main: Callable[[], Awaitable[None]]) -> None:
    trio.run(main, clock=MockClock(autojump_threshold=0))


def test_longest_idle_connections_of_a_peer_over_its_limit_are_closed() -> None:
    async def main() -> None:
        admission, leases = admitted(FEW, "a", "a", "a", "b")
        leases[0].work()
        leases[0].wait()  # this connection has had a request meanwhile
        admission.admit("a")
        assert ended(leases) == [1]
        admission.admit("a")
        assert ended(leases) == [1, 2]

    run(main)


def test_busy_connections_are_not_closed() -> None:
    async def main() -> None:
        admission, leases = admitted(FEW, "a", "a", "a", wait=False)
        with pytest.raises(Refused, match="a has 3 connections open"):
            admission.admit("a")
        assert ended(leases) == []
        admission.admit("b")
        leases[1].release()
        leases[1].release()
        admission.admit("a")
        with pytest.raises(Refused):
            admission.admit("a")

    run(main)


@pytest.mark.parametrize(("descriptor", "holders"), [(5, ("a", "a", "b", "b", "c", "d")), (100, ("a", "a", "b"))])
def test_peer_with_most_connections_loses_a_connection_at_the_total_limit(descriptor: int, holders: tuple[str, ...]) -> None:
    """The limit may be a number of connections or a number of descriptors."""

    async def main() -> None:
        admission, leases = admitted(FEW, *holders)
        admission.admit("new", descriptor)
        assert ended(leases) == [0]
        admission, leases = admitted(FEW, *holders, wait=False)
        with pytest.raises(Refused, match=r"on this listener|files open"):
            admission.admit("new", descriptor)
        leases[-1].wait()
        admission.admit("new", descriptor)
        assert ended(leases) == [len(holders) - 1]

    run(main)


def test_server_keeps_no_state_of_peers_without_connections() -> None:
    async def main() -> None:
        admission = Admission(FEW)
        for number in range(50):
            lease = admission.admit(f"address {number}")
            lease.wait()
            lease.release()
        full, leases = admitted(Limits(connections=1), "a", wait=False)
        for number in range(50):
            with pytest.raises(Refused):
                full.admit(f"address {number}")
        assert len(admission._peers) == 0 and len(full._peers) == 1
        leases[0].release()
        full.admit("b")

    run(main)


def test_unix_clients_are_counted_per_user_and_tcp_clients_per_address(tmp_path: Path) -> None:
    async def main() -> None:
        keys = []

        async def accept(listener: trio.abc.Listener[trio.SocketStream]) -> None:
            async with listener, await listener.accept() as stream:
                keys.append(peer_key(stream)[0])

        async with trio.open_nursery() as nursery:
            path = str(tmp_path / "s")
            nursery.start_soon(accept, open_unix_listener(path))
            (four,) = await open_tcp_listeners("127.0.0.1", 0)
            nursery.start_soon(accept, four)
            async with await trio.open_unix_socket(path):
                await wait_all_tasks_blocked()
            async with await trio.open_tcp_stream("127.0.0.1", four.socket.getsockname()[1]):
                await wait_all_tasks_blocked()
        assert keys[0].startswith("user ") and keys[1] == "address 127.0.0.1"

    trio.run(main)


# --- a server on real sockets -----------------------------------------------------------------------------------------


def serving(tmp_path: Path, limits: Limits, body: Callable[[Server, str], Awaitable[None]]) -> None:
    path = str(tmp_path / "s.sock")

    async def ok(request: Request) -> Answer:
        return Response(200, b"OK")

    async def main() -> None:
        server = Server(ok, limits)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, [open_unix_listener(path)])
                await body(server, path)
                await server.drain(0)

    trio.run(main)


async def answer(stream: trio.SocketStream, request: bytes = GET) -> bytes:
    if request:
        await stream.send_all(request)
    return await stream.receive_some(65536)


@pytest.mark.parametrize("beginning", [b"", b"GET / HTTP/1.1\r\nHost: d\r\nX-Slow: "])
def test_idle_connections_are_closed_in_favour_of_new_connections(tmp_path: Path, beginning: bytes) -> None:
    """The idle clients send nothing, or an incomplete request. The last client to connect is answered."""

    async def body(server: Server, path: str) -> None:
        async with AsyncExitStack() as stack:
            crowd = []
            for _ in range(10):
                crowd.append(await stack.enter_async_context(await trio.open_unix_socket(path)))
                if beginning:
                    await crowd[-1].send_all(beginning)
                await wait_all_tasks_blocked(0.001)
            assert server.connections == 3
            async with await trio.open_unix_socket(path) as late:
                assert (await answer(late)).startswith(b"HTTP/1.1 200")
            for stream in crowd[:7]:
                assert await stream.receive_some() == b""

    serving(tmp_path, FEW, body)


def test_new_client_gets_503_when_no_other_connection_is_idle(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def body(server: Server, path: str) -> None:
        gate = trio.Event()

        async def slow(request: Request) -> Answer:
            await gate.wait()
            return Response(200, b"OK")

        server._handler = slow
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(3)]
            for stream in crowd:
                await stream.send_all(GET)
            await wait_all_tasks_blocked(0.01)
            for _ in range(100):
                async with await trio.open_unix_socket(path) as late:
                    refused = await answer(late, b"")
                    assert refused.startswith(b"HTTP/1.1 503 Service Unavailable\r\n"), refused
                    assert b"Retry-After: 1\r\n" in refused and b"Connection: close\r\n" in refused
                    assert b"has 3 connections open, which is the limit for a client" in refused
            gate.set()
            for stream in crowd:
                assert (await answer(stream, b"")).startswith(b"HTTP/1.1 200")

    serving(tmp_path, FEW, body)
    assert {record.__dict__["throttle"] for record in caplog.records} == {"connection refused"}


def test_refused_client_gets_the_answer_even_if_it_writes_its_request_late(tmp_path: Path) -> None:
    """The client sends its request after the refusal. Many other refused clients never close their connections."""

    async def body(server: Server, path: str) -> None:
        async def slow(request: Request) -> Answer:
            await trio.sleep_forever()
            raise AssertionError

        server._handler = slow
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(3)]
            for stream in crowd:
                await stream.send_all(GET)
            await wait_all_tasks_blocked(0.01)
            crowd = [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(100)]
            await wait_all_tasks_blocked(0.01)
            await crowd[-1].send_all(GET)
            assert (await answer(crowd[-1], b"")).startswith(b"HTTP/1.1 503 ")
            with pytest.raises(trio.BrokenResourceError):
                await crowd[0].send_all(GET)

    serving(tmp_path, FEW, body)


def test_requests_are_refused_when_file_descriptors_run_out(tmp_path: Path) -> None:
    limits = Limits(descriptors=500, descriptors_by_request=True)

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as stream:
            assert (await answer(stream)).startswith(b"HTTP/1.1 200")
            held = [socket.socket() for _ in range(600)]
            try:
                assert (await answer(stream)).startswith(b"HTTP/1.1 503")
            finally:
                for each in held:
                    each.close()
            assert (await answer(stream)).startswith(b"HTTP/1.1 200")

    serving(tmp_path, limits, body)


def test_memory_of_unfinished_bodies_is_limited(tmp_path: Path) -> None:
    """The bytes of incomplete bodies are limited per client; a complete body no longer counts."""
    head = b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 1001\r\n\r\n"

    async def body(server: Server, path: str) -> None:
        async def read(request: Request) -> Answer:
            return Response(200, b"%d" % len(await request.body.read(5000)))

        server._handler = read
        async with AsyncExitStack() as stack:
            crowd = [await stack.enter_async_context(await trio.open_unix_socket(path)) for _ in range(4)]
            for stream in crowd:
                await stream.send_all(head + b"a" * 1000)
                await wait_all_tasks_blocked(0.01)
            assert (await crowd[3].receive_some()).startswith(b"HTTP/1.1 503")
            await crowd[0].send_all(b"a")
            assert (await crowd[0].receive_some()).endswith(b"1001")
            await crowd[0].send_all(head + b"a" * 1000)
            await wait_all_tasks_blocked(0.01)
            await crowd[1].aclose()
            for stream in (crowd[0], crowd[2]):
                await stream.send_all(b"a")
                assert (await stream.receive_some()).endswith(b"1001")
            assert server._admission._peers[next(iter(server._admission._peers))].buffered == 0

    serving(tmp_path, Limits(buffered_by_peer=3500), body)


class Failing(trio.abc.Listener[trio.SocketStream]):
    """A listener whose `accept` raises an OSError with each of these error numbers, and then waits for ever."""

    def __init__(self, *numbers: int) -> None:
        self.numbers = list(numbers)
        self.calls = 0

    async def accept(self) -> trio.SocketStream:
        self.calls += 1
        await trio.lowlevel.checkpoint()
        if self.numbers:
            raise OSError(self.numbers.pop(), "no")
        await trio.sleep_forever()
        raise AssertionError

    async def aclose(self) -> None:
        pass


def test_failed_accept_is_retried_after_a_pause(caplog: pytest.LogCaptureFixture) -> None:
    """An immediate retry would be a busy loop. The failure of one connection does not end the server."""

    async def ok(request: Request) -> Answer:
        return Response(200)

    async def main() -> None:
        listener = Failing(errno.ECONNABORTED, *[errno.EMFILE] * 5, errno.EPROTO)
        server = Server(ok)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [listener])
            began = trio.current_time()
            await trio.sleep(10)
            assert listener.calls == 8
            assert trio.current_time() - began >= 0.5
            await server.drain(0)

    run(main)
    assert len(caplog.records) == 5 and all(record.exc_info for record in caplog.records)
    assert caplog.records[0].levelno == logging.ERROR
