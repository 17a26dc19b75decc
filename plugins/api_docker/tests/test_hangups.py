"""Detecting that a client has disconnected: the difference between hang-up and half-close, and attachments that wait for a
start. Descriptors that no client receives are closed.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
import trio.testing
from engine_fixture import ID, asynced, engine_fixture

from orlop_api_docker.containers import routes
from orlop_engine.containers.attach import join, relay
from orlop_engine.containers.container import Joined
from orlop_engine.containers.log_info import log_info
from orlop_kernel.http.hijack import HijackedStream
from orlop_kernel.http.listeners import open_tcp_listeners
from orlop_kernel.http.messages import Hijack, Request
from orlop_kernel.http.transport import Inbound, Transport
from orlop_kernel.routing.call import Call
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, LogBlock, LogInfo, LogQuery, LogReader, linux
from orlop_sdk.testing.log import FakeLog


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[HijackedStream, socket.socket]]:
    """The daemon's end of a connection, and the client's end."""
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    transport = Transport(trio.SocketStream(trio.socket.from_stdlib_socket(ours)))
    try:
        yield HijackedStream(transport, Inbound(transport)), theirs
    finally:
        theirs.close()
        await transport.aclose()


@pytest.mark.parametrize("started", [True, False])
def test_stream_is_closed_if_its_client_disconnected_before_the_container_started(started: bool) -> None:
    state = SimpleNamespace(paused=False, restarting=False)
    container: Any = SimpleNamespace(id=ID, run=None, attach_waiters=[], record=SimpleNamespace(state=state))

    async def main() -> None:
        ours, theirs = trio.socket.socketpair()
        with theirs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(join, container, Attach())
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
                waiter = container.attach_waiters.pop()
                if started:
                    waiter.joined.set(Joined(trio.SocketStream(ours), cast("Any", None)))
                else:
                    waiter.joined.fail(Conflict("it could not be started"))
            assert (ours.fileno() == -1) == started
            ours.close()

    trio.run(main)


def test_half_closed_connection_does_not_count_as_disconnected() -> None:
    async def main() -> None:
        async with pair() as (stream, client):
            client.sendall(b"last")
            client.shutdown(socket.SHUT_WR)
            with trio.move_on_after(0.05) as scope:
                await stream.hung_up()
            assert scope.cancelled_caught
            client.close()
            with trio.fail_after(2):
                await stream.hung_up()
            assert await stream.receive_some() == b"last"  # the hang-up watcher has not read this data

    trio.run(main)


async def _relayed(stream: HijackedStream, inner: trio.SocketStream | None, stdin: bool = False) -> None:
    """Attach to `inner`; None stands for a container that is never started."""

    async def streams() -> trio.SocketStream | None:
        if inner is None:
            await trio.sleep_forever()
        return inner

    with trio.fail_after(5):
        await relay(stream, streams, stdin=stdin, detach_keys=None, end_on_stdin_eof=False)


@pytest.mark.parametrize("said", [b"", b"typed before the start"])
@pytest.mark.parametrize("half_closed", [False, True])
def test_attachment_to_a_container_that_never_starts_ends_when_the_client_disconnects(
    said: bytes, half_closed: bool
) -> None:
    async def main() -> None:
        async with pair() as (stream, client):
            client.sendall(said)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_relayed, stream, None)
                await trio.testing.wait_all_tasks_blocked()
                if half_closed:
                    client.shutdown(socket.SHUT_WR)
                    await trio.testing.wait_all_tasks_blocked()
                    assert nursery.child_tasks
                client.close()

    trio.run(main)


@pytest.mark.parametrize("stdin", [False, True])
def test_attachment_to_a_container_without_output_ends_when_the_client_disconnects(stdin: bool) -> None:
    async def main() -> None:
        ours, monitor = trio.socket.socketpair()
        with monitor:
            async with pair() as (stream, client), trio.open_nursery() as nursery:
                nursery.start_soon(_relayed, stream, trio.SocketStream(ours), stdin)
                client.sendall(b"word")
                client.close()
            assert await monitor.recv(100) == (b"word" if stdin else b"")  # data sent before the hang-up arrives
            if stdin:
                assert await monitor.recv(100) == b""

    trio.run(main)


def test_tcp_connections_use_keep_alive_probes() -> None:
    async def main() -> None:
        (listener,) = await open_tcp_listeners("127.0.0.1", 0)
        async with listener:
            with socket.create_connection(listener.socket.getsockname()):
                async with await listener.accept() as accepted:
                    assert accepted.socket.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                    assert accepted.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 15

    trio.run(main)


def test_descriptors_received_over_a_socket_are_not_inheritable() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs, open("/dev/null") as first, open("/dev/zero") as second:
        rights = array("i", [first.fileno(), second.fileno()]).tobytes()
        theirs.sendmsg([b"data"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        data, fds = linux.receive_fds(ours, 100, 10)
        try:
            assert data == b"data"
            assert [os.readlink(f"/proc/self/fd/{fd}") for fd in fds] == ["/dev/null", "/dev/zero"]
            assert not any(os.get_inheritable(fd) for fd in fds)
        finally:
            for fd in fds:
                os.close(fd)


# --- resources opened for a client ------------------------------------------------------------------------------------


def test_attach_request_opens_the_log_only_after_the_response_head_was_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If the client disconnects early, or a plugin withholds the answer, then `run` of the answer is never called, and could
    not close the log."""
    readers: list[Any] = []

    class Log(FakeLog):
        def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
            reader: Any = super().open_reader(info, options, query)
            readers.append(reader)
            close = reader.close

            def closing() -> None:
                readers.remove(reader)
                close()

            reader.close = closing
            return reader  # type: ignore[no-any-return]

    async def main() -> None:
        async with engine_fixture(tmp_path, monkeypatch) as h:
            log = Log()
            h.engine.drivers.log = asynced(log)
            attach: Any = next(each.handler for each in routes(h.engine) if each.pattern == "/containers/{id}/attach")
            log.open_writer(log_info(h.paths, h.container), {}).write([LogBlock("stdout", b"said\n", 1)])
            query = {"logs": ["1"], "stdout": ["1"]}
            request = Request("POST", "/", "/", query, {}, cast("Any", None), cast("Any", None))
            answer = await attach(Call(request, (1, 51), {"id": ID}))
            assert isinstance(answer, Hijack) and readers == []
            async with pair() as (stream, client):
                await answer.run(stream)
                assert client.recv(99) == b"\1\0\0\0\0\0\0\5said\n" and readers == []

    trio.run(main)
