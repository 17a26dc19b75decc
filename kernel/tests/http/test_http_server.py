"""A server on real sockets: listeners, peers, back pressure, disconnects, draining, TLS."""

from __future__ import annotations

import errno
import gc
import logging
import os
import socket
import ssl
import stat
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from orlop_kernel.http.listeners import TlsListener, inherited_listener, open_tcp_listeners, open_unix_listener
from orlop_kernel.http.messages import Answer, Handler, Hijack, Limits, RawStream, Request, Response, Streaming
from orlop_kernel.http.server import Server

GET = b"GET / HTTP/1.1\r\nHost: d\r\n\r\n"


async def ok(request: Request) -> Answer:
    return Response(200, b"OK")


def serving(tmp_path: Path, handler: Handler, body: Callable[[Server, str], Awaitable[None]]) -> None:
    """Run `body` while a server answers at a unix socket, then drain the server without a grace period."""
    path = str(tmp_path / "s.sock")

    async def main() -> None:
        server = Server(handler, Limits())
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                await nursery.start(server.serve, [open_unix_listener(path)])
                await body(server, path)
                await server.drain(0)
        assert server.connections == 0
        assert not os.path.exists(path)

    trio.run(main)


async def answer_of(stream: trio.abc.Stream) -> bytes:
    got = b""
    while not got.endswith(b"OK"):
        data = await stream.receive_some()
        assert data, got
        got += data
    return got


def test_concurrent_unix_clients_are_identified(tmp_path: Path) -> None:
    seen = set()

    async def handler(request: Request) -> Answer:
        seen.add((request.peer.transport, request.peer.pid, request.peer.uid, request.peer.gid))
        return Response(200, b"OK")

    async def body(server: Server, path: str) -> None:
        async def client() -> None:
            async with await trio.open_unix_socket(path) as stream:
                for _ in range(5):
                    await stream.send_all(GET)
                    await answer_of(stream)

        async with trio.open_nursery() as clients:
            for _ in range(8):
                clients.start_soon(client)

    serving(tmp_path, handler, body)
    assert seen == {("unix", os.getpid(), os.getuid(), os.getgid())}


def test_stream_waits_for_a_slow_client_and_is_cancelled_when_the_client_disconnects(tmp_path: Path) -> None:
    produced = 0
    ended = trio.Event()

    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            nonlocal produced
            try:
                while True:
                    produced += 1
                    yield bytes(65536)
            finally:
                ended.set()

        return Streaming(200, pieces())

    async def body(server: Server, path: str) -> None:
        stream = await trio.open_unix_socket(path)
        await stream.send_all(GET)
        await stream.receive_some(1)
        await wait_all_tasks_blocked(0.05)
        assert 1 <= produced < 50
        before = produced
        for _ in range(200):
            await stream.receive_some(65536)
        assert produced > before
        await stream.aclose()
        await ended.wait()

    serving(tmp_path, handler, body)


@pytest.mark.parametrize("how", ["close", "half-close"])
def test_stream_without_data_is_cancelled_when_the_client_disconnects(tmp_path: Path, how: str) -> None:
    ended = trio.Event()

    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                await trio.sleep_forever()
                yield b""
            finally:
                ended.set()

        return Streaming(200, pieces())

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(GET)
            await stream.receive_some()
            await (stream.aclose() if how == "close" else stream.send_eof())
            await ended.wait()

    serving(tmp_path, handler, body)


def test_drain_closes_idle_connections_and_waits_for_busy_ones(tmp_path: Path) -> None:
    release = trio.Event()

    async def handler(request: Request) -> Answer:
        if request.method == "POST":
            await release.wait()
        return Response(200, b"OK")

    async def body(server: Server, path: str) -> None:
        idle, busy = await trio.open_unix_socket(path), await trio.open_unix_socket(path)
        await idle.send_all(GET)
        await answer_of(idle)
        await busy.send_all(b"POST / HTTP/1.1\r\nHost: d\r\n\r\n")
        await wait_all_tasks_blocked()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.drain, 10)
            assert await idle.receive_some() == b""
            await wait_all_tasks_blocked()
            with pytest.raises(OSError, match="No such file"):
                await trio.open_unix_socket(path)
            release.set()
            assert b"Connection: close\r\n" in await answer_of(busy)
            assert await busy.receive_some() == b""
            await busy.aclose()
            await idle.aclose()
        assert server.connections == 0

    serving(tmp_path, handler, body)


def test_drain_cancels_requests_at_its_deadline(tmp_path: Path) -> None:
    cancelled = trio.Event()

    async def handler(request: Request) -> Answer:
        try:
            await trio.sleep_forever()
        finally:
            cancelled.set()

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(GET)
            await wait_all_tasks_blocked()
            await server.drain(0.01)
            assert cancelled.is_set()
            assert await stream.receive_some() == b""

    serving(tmp_path, handler, body)


def test_failing_connection_does_not_affect_other_connections(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Answer:
        if request.method == "POST":
            return None  # type: ignore[return-value]  # a faulty handler
        return Response(200, b"OK")

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as good, await trio.open_unix_socket(path) as bad:
            await bad.send_all(b"POST / HTTP/1.1\r\nHost: d\r\n\r\n")
            assert await bad.receive_some() == b""
            await good.send_all(GET)
            await answer_of(good)

    serving(tmp_path, handler, body)
    assert "connection lost" in caplog.text


def test_hijacked_stream_can_be_closed_while_it_is_read(tmp_path: Path) -> None:
    async def handler(request: Request) -> Answer:
        async def run(stream: RawStream) -> None:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await stream.receive_some()

                nursery.start_soon(read)
                await wait_all_tasks_blocked()
                await stream.aclose()
                await stream.aclose()

        return Hijack(b"HTTP/1.1 200 OK\r\n\r\n", run)

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(GET)
            assert await stream.receive_some() == b"HTTP/1.1 200 OK\r\n\r\n"
            assert await stream.receive_some() == b""

    serving(tmp_path, handler, body)


def test_connection_continues_in_another_process(tmp_path: Path) -> None:
    """The other process gets the descriptor and the bytes that were read already. When this process closes the stream, the
    other process notices."""

    async def handler(request: Request) -> Answer:
        async def run(stream: RawStream) -> None:
            shared = stream.share()
            assert shared is not None
            fd, early = shared
            assert not os.get_inheritable(fd)
            with socket.socket(fileno=fd) as other:  # plays the other process
                other.setblocking(False)
                other.sendall(b"early: " + early)
                await trio.lowlevel.wait_readable(other)
                other.sendall(b", later: " + other.recv(100))
                await stream.aclose()
                assert other.recv(1) == b""

        return Hijack(b"HTTP/1.1 101 UPGRADED\r\n\r\n", run)

    async def body(server: Server, path: str) -> None:
        async with await trio.open_unix_socket(path) as stream:
            await stream.send_all(GET + b"one")
            received = b""
            while not received.endswith(b"one"):
                received += await stream.receive_some()
            await stream.send_all(b"two")
            while data := await stream.receive_some():
                received += data
            assert received == b"HTTP/1.1 101 UPGRADED\r\n\r\nearly: one, later: two"

    serving(tmp_path, handler, body)


def test_unix_socket_gets_its_mode_and_group_and_is_removed_on_close(tmp_path: Path) -> None:
    path = str(tmp_path / "deep" / "s.sock")

    async def main() -> None:
        listener = open_unix_listener(path, 0o640, os.getgid())
        status = os.stat(path)
        assert stat.S_ISSOCK(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o640
        assert status.st_gid == os.getgid()
        assert os.listdir(tmp_path / "deep") == ["s.sock"]
        await listener.aclose()
        assert os.listdir(tmp_path / "deep") == []

    trio.run(main)


def test_stale_socket_is_replaced_but_not_a_live_socket_or_a_file(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(path)
    stale.close()

    async def main() -> None:
        async with open_unix_listener(path):
            with pytest.raises(OSError, match="another daemon") as caught:
                open_unix_listener(path)
            assert caught.value.errno == errno.EADDRINUSE
        file = tmp_path / "file"
        file.write_text("precious")
        with pytest.raises(FileExistsError):
            open_unix_listener(str(file))
        assert file.read_text() == "precious"

    trio.run(main)


def test_socket_of_another_daemon_is_not_removed(tmp_path: Path) -> None:
    path = str(tmp_path / "s.sock")

    async def main() -> None:
        first = open_unix_listener(path)
        os.unlink(path)
        second = open_unix_listener(path)
        await first.aclose()
        assert os.path.exists(path)
        await second.aclose()

    trio.run(main)


def test_server_accepts_clients_on_an_inherited_listening_socket(tmp_path: Path) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(tmp_path / "s.sock"))

    async def main() -> None:
        with pytest.raises(OSError, match="not a listening"):
            inherited_listener(sock.fileno())
        sock.listen(1)
        fd = os.dup(sock.fileno())
        server = Server(ok)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [inherited_listener(fd)])
            async with await trio.open_unix_socket(str(tmp_path / "s.sock")) as stream:
                await stream.send_all(GET)
                await answer_of(stream)
            await server.drain(0)

    trio.run(main)
    assert os.path.exists(tmp_path / "s.sock")
    sock.close()


def test_server_knows_the_address_and_port_of_a_tcp_client() -> None:
    peers = []

    async def handler(request: Request) -> Answer:
        peers.append(request.peer)
        return Response(200, b"OK")

    async def main() -> None:
        server = Server(handler)
        async with trio.open_nursery() as nursery:
            listeners = await open_tcp_listeners("127.0.0.1", 0)
            await nursery.start(server.serve, listeners)
            port = listeners[0].socket.getsockname()[1]
            async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
                await stream.send_all(GET)
                await answer_of(stream)
                assert peers[0].address == f"127.0.0.1:{stream.socket.getsockname()[1]}"
            await server.drain(0)

    trio.run(main)
    assert peers[0].transport == "tcp"


def certificate(directory: Path) -> tuple[str, str]:
    key, cert = str(directory / "key.pem"), str(directory / "cert.pem")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2"
    names = "-subj /O=crew/CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        [*command.split(), *names.split(), "-keyout", key, "-out", cert],
        check=True,
        capture_output=True,
    )
    return cert, key


def test_mutual_tls_works_with_hijacked_connections_and_refuses_clients_without_tls(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = certificate(tmp_path)
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=cert)
    server_side.load_cert_chain(cert, key)
    server_side.verify_mode = ssl.CERT_REQUIRED
    client_side = ssl.create_default_context(cafile=cert)
    client_side.load_cert_chain(cert, key)
    caplog.set_level(logging.WARNING)
    subjects = []

    async def handler(request: Request) -> Answer:
        subjects.append(request.peer.subject)
        if request.method == "GET":
            return Response(200, b"OK")

        async def run(stream: RawStream) -> None:
            async with trio.open_nursery() as nursery:

                async def read() -> None:
                    assert await stream.receive_some() == b"in"
                    assert await stream.receive_some() == b""  # the server closes after the half-close of this client

                nursery.start_soon(read)
                await stream.send_all(b"out")
                await wait_all_tasks_blocked(0.05)
                await stream.send_eof()

        return Hijack(b"HTTP/1.1 101 UPGRADED\r\n\r\n", run)

    async def client(port: int) -> None:
        tcp = await trio.open_tcp_stream("localhost", port)
        async with trio.SSLStream(tcp, client_side, server_hostname="localhost") as stream:
            await stream.send_all(GET)
            await answer_of(stream)
            await stream.send_all(b"POST / HTTP/1.1\r\nHost: d\r\n\r\nin")
            got = b""
            while data := await stream.receive_some():  # raises unless the server sends close_notify
                got += data
            assert got == b"HTTP/1.1 101 UPGRADED\r\n\r\nout"
        async with await trio.open_tcp_stream("localhost", port) as plain:
            await plain.send_all(GET)
            assert b"Client sent an HTTP request to an HTTPS server." in await plain.receive_some()

    async def main() -> None:
        server = Server(handler)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                listeners = await open_tcp_listeners("localhost", 0)
                await nursery.start(server.serve, [TlsListener(listeners[0], server_side)])
                for extra in listeners[1:]:
                    await extra.aclose()
                await client(listeners[0].socket.getsockname()[1])
                await server.drain(1)

    trio.run(main)
    assert subjects == ["O=crew,CN=localhost"] * 2
    assert not caplog.records


@pytest.mark.parametrize(
    ("request_", "answered"),
    [
        (b"", False),
        (b"GET / HTTP/1.1\r\nX-Slow: ", False),
        (GET, True),
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc", True),
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 3000\r\n\r\nabc", True),  # too large
        (b"POST / HTTP/1.1\r\nHost: d\r\nContent-Length: 300\r\n\r\nabc", False),
        (b"POST / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n", True),
        (b"no HTTP\r\n\r\n", True),
    ],
)
def test_closed_connection_leaves_no_reference_cycles(tmp_path: Path, request_: bytes, answered: bool) -> None:
    """A reference cycle would keep the connection's buffers until a full garbage collection."""

    async def handler(request: Request) -> Answer:
        if request.method == "POST":
            await request.body.read(1000)
        return Response(200, b"OK")

    async def body(server: Server, path: str) -> None:
        async def once() -> None:
            async with await trio.open_unix_socket(path) as stream:
                await stream.send_all(request_)
                if answered:
                    assert await stream.receive_some()
                else:
                    await wait_all_tasks_blocked(0.01)
            while server.connections:
                await server._changed.park()

        await once()
        gc.collect()
        gc.disable()
        try:
            await once()
            gc.set_debug(gc.DEBUG_SAVEALL)
            gc.collect()
            kinds = {type(one).__name__ for one in gc.garbage}
            assert not kinds & {"Connection", "Inbound", "RequestBody", "HttpRequestParser"}, kinds
        finally:
            gc.set_debug(0)
            gc.garbage.clear()
            gc.enable()

    gc.collect()
    gc.freeze()  # exclude objects of other tests, because their collection would block the event loop
    try:
        serving(tmp_path, handler, body)
    finally:
        gc.unfreeze()


@pytest.mark.parametrize("hijacked", [False, True])
def test_on_error_is_called_when_a_stream_fails_after_the_head_was_sent(
    tmp_path: Path, hijacked: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """The server itself logs nothing, because only `on_error` can tell errors of clients from bugs. The client sees that
    the answer is incomplete."""
    told = []

    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"some"
            raise ValueError("the container is gone")

        async def run(stream: RawStream) -> None:
            raise ValueError("the container is gone")

        return Hijack(b"HTTP/1.1 101 UPGRADED\r\n\r\n", run) if hijacked else Streaming(200, pieces())

    def on_error(request: Request, error: Exception) -> Response:
        told.append((request.target, str(error)))
        return Response(500)

    async def main() -> None:
        server = Server(handler, on_error=on_error)
        async with trio.open_nursery() as nursery:
            await nursery.start(server.serve, [open_unix_listener(str(tmp_path / "s.sock"))])
            async with await trio.open_unix_socket(str(tmp_path / "s.sock")) as stream:
                await stream.send_all(GET)
                got = b""
                while data := await stream.receive_some():
                    got += data
                assert got.startswith(b"HTTP/1.1 ") and not got.endswith(b"0\r\n\r\n")
            await server.drain(0)

    trio.run(main)
    assert told == [("/", "the container is gone")]
    assert not caplog.records
