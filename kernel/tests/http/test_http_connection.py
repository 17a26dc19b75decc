"""One HTTP connection, on memory streams and a mock clock."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from orlop_kernel.http.messages import (
    Answer,
    BodyError,
    Handler,
    Hijack,
    Limits,
    Peer,
    RawStream,
    Request,
    Response,
    Streaming,
)
from orlop_kernel.http.server import serve_connection

Client = trio.abc.HalfCloseableStream
PEER = Peer("unix", pid=1, uid=0, gid=0)
GET = b"GET %b HTTP/1.1\r\nHost: d\r\n\r\n"


def talk(handler: Handler, client: Callable[[Client], Awaitable[None]], limits: Limits | None = None) -> None:
    """Run `client` and `handler` on one connection. When the client closes, the connection must end, and no task may
    hang."""

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        with trio.fail_after(10_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve_connection, theirs, handler, PEER, limits or Limits())
                await client(ours)
                await ours.aclose()

    trio.run(main, clock=MockClock(autojump_threshold=0))


def conversation(handler: Handler, sent: bytes, limits: Limits | None = None, *, eof: bool = False) -> bytes:
    """All bytes that the server sends in answer to the bytes `sent`."""
    got = bytearray()

    async def client(stream: Client) -> None:
        await stream.send_all(sent)
        if eof:
            await stream.send_eof()
        with trio.move_on_after(1):
            async for data in stream:
                got.extend(data)

    talk(handler, client, limits)
    return bytes(got)


def bodies(answers: bytes) -> list[bytes]:
    """The bodies of the answers. All answers must have a Content-Length."""
    found = []
    while answers:
        head, _, answers = answers.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        found.append(answers[:length])
        answers = answers[length:]
    return found


async def echo(request: Request) -> Answer:
    return Response(200, request.target.encode() + b":" + await request.body.read(1 << 20))


async def until(stream: Client, text: bytes) -> bytes:
    got = b""
    while text not in got:
        data = await stream.receive_some()
        assert data, f"closed after {got!r}"
        got += data
    return got


def test_connection_is_kept_until_the_client_asks_to_close_it() -> None:
    async def client(stream: Client) -> None:
        for _ in range(3):
            await stream.send_all(GET % b"/a")
            assert b"HTTP/1.1 200 OK" in await until(stream, b"/a:")
        await stream.send_all(b"GET /b HTTP/1.1\r\nHost: d\r\nConnection: close\r\n\r\n")
        assert b"Connection: close\r\n" in await until(stream, b"/b:")
        assert await stream.receive_some() == b""

    talk(echo, client)


def test_pipelined_requests_are_answered_in_order() -> None:
    sent = (
        GET % b"/1"
        + b"POST /2 HTTP/1.1\r\nHost: d\r\nContent-Length: 3\r\n\r\nabc"
        + b"POST /3 HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\r\n"
        + GET % b"/4"
    )
    assert bodies(conversation(echo, sent)) == [b"/1:", b"/2:abc", b"/3:de", b"/4:"]


def test_unread_body_is_skipped_before_the_next_request() -> None:
    async def handler(request: Request) -> Answer:
        return Response(200, request.target.encode())

    sent = b"POST /1 HTTP/1.1\r\nHost: d\r\nContent-Length: 30\r\n\r\n" + (GET % b"/evil") + (GET % b"/2")
    length = len(GET % b"/evil")
    sent = sent.replace(b"Content-Length: 30", b"Content-Length: %d" % length)
    assert bodies(conversation(handler, sent)) == [b"/1", b"/2"]


def test_connection_closes_after_an_unread_long_body() -> None:
    async def handler(request: Request) -> Answer:
        return Response(404, b"no")

    got = conversation(handler, b"PUT / HTTP/1.1\r\nHost: d\r\nContent-Length: 1000000\r\n\r\nabc")
    assert got.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Connection: close\r\n" in got


@pytest.mark.parametrize("keep", [b"", b"Connection: keep-alive\r\n"])
def test_http_1_0_connection_stays_open_only_if_the_client_requests_keep_alive(keep: bytes) -> None:
    sent = b"GET /1 HTTP/1.0\r\n" + keep + b"\r\n"
    got = conversation(echo, sent * 2)
    assert bodies(got) == ([b"/1:"] * 2 if keep else [b"/1:"])
    assert got.startswith(b"HTTP/1.0 200 OK\r\n")


def test_status_100_is_sent_when_the_handler_reads_the_body() -> None:
    async def client(stream: Client) -> None:
        await stream.send_all(b"PUT /x HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
        assert await stream.receive_some() == b"HTTP/1.1 100 Continue\r\n\r\n"
        await stream.send_all(b"abc")
        assert b"100" not in await until(stream, b"/x:abc")
        await stream.send_all(GET % b"/y")
        await until(stream, b"/y:")

    talk(echo, client)


def test_status_100_is_not_sent_when_the_handler_does_not_read_the_body() -> None:
    async def handler(request: Request) -> Answer:
        return Response(401, b"no")

    got = conversation(handler, b"PUT / HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 401 Unauthorized\r\n")
    assert b"Connection: close\r\n" in got


def test_status_100_is_sent_before_the_head_of_a_streaming_answer() -> None:
    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            async for piece in request.body:
                yield piece.upper()

        return Streaming(200, pieces())

    async def client(stream: Client) -> None:
        await stream.send_all(b"POST /x HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 6\r\n\r\n")
        got = await until(stream, b"chunked\r\n")
        assert got.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n")
        await stream.send_all(b"abc")
        await until(stream, b"3\r\nABC\r\n")
        await stream.send_all(b"def" + GET % b"/2")
        await until(stream, b"3\r\nDEF\r\n0\r\n\r\n")
        await until(stream, b"0\r\n\r\n")

    talk(handler, client)


@pytest.mark.parametrize("announced", [True, False])
def test_too_large_body_is_refused(announced: bool) -> None:
    async def handler(request: Request) -> Answer:
        return Response(200, await request.body.read(10))

    framing = b"Content-Length: 11" if announced else b"Transfer-Encoding: chunked"
    body = b"x" * 11 if announced else b"b\r\n" + b"x" * 11 + b"\r\n0\r\n\r\n"
    got = conversation(handler, b"PUT / HTTP/1.1\r\nHost: d\r\n" + framing + b"\r\n\r\n" + body)
    assert got.startswith(b"HTTP/1.1 413 Request Entity Too Large\r\n")
    assert got.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("body", [b"zz\r\n", b"3\r\nabcd", b"3\r\nab"])
def test_invalid_chunks_are_refused(body: bytes) -> None:
    got = conversation(echo, b"PUT / HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n" + body, eof=True)
    assert got.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert got.count(b"HTTP/1.1") == 1


def test_malformed_request_gets_400_and_the_connection_closes() -> None:
    got = conversation(echo, GET % b"/1" + b"GET / HTTP/1.1\r\n\r\n" + GET % b"/3")
    assert bodies(got) == [b"/1:", b"400 Bad Request: missing required Host header"]


def test_an_unfinished_request_gets_400() -> None:
    assert conversation(echo, b"GET / HTTP/1.1\r\nHos", eof=True).startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert conversation(echo, b"", eof=True) == b""
    assert conversation(echo, b"\r\n", eof=True) == b""


def test_connection_stays_open_after_an_invalid_query() -> None:
    got = conversation(echo, GET % b"/x?a=%zz" + GET % b"/2")
    assert bodies(got) == [b'invalid URL escape "%zz"', b"/2:"]


def test_head_requests_get_no_body() -> None:
    async def handler(request: Request) -> Answer:
        if request.path == "/stream":
            return Streaming(200, endless())
        return Response(200, b"four")

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b"x"

    got = conversation(handler, b"HEAD /stream HTTP/1.1\r\nHost: d\r\n\r\nHEAD / HTTP/1.1\r\nHost: d\r\n\r\n")
    assert got.count(b"HTTP/1.1 200 OK") == 2
    assert got.endswith(b"\r\n\r\n")
    assert b"four" not in got and b"1\r\nx" not in got


def test_exception_of_a_handler_is_answered_with_500(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Answer:
        if request.path == "/header":
            return Response(200, b"", (("X", "a\r\nb"),))
        raise RuntimeError("secret")

    got = conversation(handler, GET % b"/" + GET % b"/header")
    assert bodies(got) == [b"internal server error"] * 2
    assert got.startswith(b"HTTP/1.1 500 Internal Server Error\r\n")
    assert "secret" in caplog.text
    assert "control character" in caplog.text


def test_request_after_a_chunked_stream_is_answered() -> None:
    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"
            yield b""
            yield b"d" * 16

        return Streaming(201, pieces(), (("X", "y"),)) if request.path == "/s" else Response(200, b"next")

    got = conversation(handler, GET % b"/s" + GET % b"/n")
    head, _, rest = got.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 201 Created\r\nX: y\r\nTransfer-Encoding: chunked\r\nDate: ")
    assert rest.startswith(b"3\r\nabc\r\n10\r\n" + b"d" * 16 + b"\r\n0\r\n\r\nHTTP/1.1 200 OK")


def test_stream_to_an_http_1_0_client_closes_the_connection() -> None:
    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"
            yield b"def"

        return Streaming(200, pieces())

    got = conversation(handler, b"GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n")
    assert got.endswith(b"\r\n\r\nabcdef")
    assert b"chunked" not in got and b"keep-alive" not in got


def test_head_of_a_stream_is_sent_before_its_first_piece() -> None:
    gone = trio.Event()

    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            try:
                await trio.sleep_forever()
                yield b""
            finally:
                gone.set()

        return Streaming(200, pieces())

    async def client(stream: Client) -> None:
        await stream.send_all(GET % b"/wait")
        assert (await until(stream, b"\r\n\r\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        await stream.send_eof()
        # As in Go's server, a client that shuts down writing counts as disconnected. An idle stream must end then, too
        await gone.wait()
        assert await stream.receive_some() == b""

    talk(handler, client)


def test_failed_stream_has_no_final_chunk(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Answer:
        async def pieces() -> AsyncIterator[bytes]:
            yield b"abc"
            raise OSError("disk on fire")

        return Streaming(200, pieces())

    got = conversation(handler, GET % b"/")
    assert got.endswith(b"3\r\nabc\r\n")
    assert "disk on fire" in caplog.text


def test_handler_runs_to_its_end_although_the_client_disconnects() -> None:
    done = []

    async def handler(request: Request) -> Answer:
        await trio.sleep(5)
        done.append(True)
        return Response(204)

    async def client(stream: Client) -> None:
        await stream.send_all(GET % b"/")

    talk(handler, client)
    assert done


def test_disconnect_of_a_client_during_its_upload_is_not_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    failures: list[int] = []

    async def handler(request: Request) -> Answer:
        try:
            return Response(200, await request.body.read(100))
        except BodyError as error:
            failures.append(error.status)
            raise

    async def client(stream: Client) -> None:
        await stream.send_all(b"PUT / HTTP/1.1\r\nHost: d\r\nContent-Length: 9\r\n\r\nabc")
        await wait_all_tasks_blocked()

    talk(handler, client)
    assert failures == [400]
    assert not caplog.records


async def shout(stream: RawStream) -> None:
    while data := await stream.receive_some():
        await stream.send_all(data.upper())
    await stream.send_all(b"bye")
    await stream.send_eof()


@pytest.mark.parametrize("headers", [b"", b"Connection: Upgrade\r\nUpgrade: tcp\r\n"])
@pytest.mark.parametrize("body", [b"", b"{}", b"0\r\n\r\n"])
def test_hijacked_stream_contains_the_bytes_sent_after_the_request(headers: bytes, body: bytes) -> None:
    async def handler(request: Request) -> Answer:
        return Hijack(b"HTTP/1.1 101 UPGRADED\r\n\r\n", shout)

    framing = b"Transfer-Encoding: chunked\r\n" if b"\r\n" in body else b"Content-Length: %d\r\n" % len(body)

    async def client(stream: Client) -> None:
        await stream.send_all(b"POST /x HTTP/1.1\r\nHost: d\r\n" + headers + framing + b"\r\n" + body + b"GET \x00")
        assert await until(stream, b"GET \x00") == b"HTTP/1.1 101 UPGRADED\r\n\r\nGET \x00"
        await stream.send_all(b"more")
        await until(stream, b"MORE")
        await stream.send_eof()  # after this half-close, the other direction stays open
        assert await until(stream, b"bye") == b"bye"
        assert await stream.receive_some() == b""

    talk(handler, client)


def test_exception_in_a_hijacked_connection_closes_the_connection(caplog: pytest.LogCaptureFixture) -> None:
    async def handler(request: Request) -> Answer:
        async def run(stream: RawStream) -> None:
            raise RuntimeError("lost")

        return Hijack(b"HTTP/1.1 200 OK\r\n\r\n", run)

    assert conversation(handler, GET % b"/") == b"HTTP/1.1 200 OK\r\n\r\n"
    assert "lost" in caplog.text


LIMITS = Limits(head_timeout=3, idle_timeout=60, body_timeout=7)


@pytest.mark.parametrize(
    ("sent", "seconds", "answer"),
    [
        (b"", 60, b""),
        (b"G", 3, b"HTTP/1.1 408 Request Timeout"),
        (b"PUT / HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\na", 7, b"HTTP/1.1 408 Request Timeout"),
    ],
)
def test_idle_clients_and_slow_requests_are_disconnected_after_their_time_limits(
    sent: bytes, seconds: float, answer: bytes
) -> None:
    async def client(stream: Client) -> None:
        began = trio.current_time()
        if sent:
            await stream.send_all(sent)
        data = await stream.receive_some()
        assert trio.current_time() - began == pytest.approx(seconds)
        assert data.startswith(answer)
        if answer:
            assert b"Connection: close" in data
            await stream.aclose()

    talk(echo, client, LIMITS)


def test_idle_time_of_a_connection_starts_after_the_last_answer() -> None:
    async def slow(request: Request) -> Answer:
        await trio.sleep(100)  # a request in progress is not idle
        return Response(200, b"done")

    async def client(stream: Client) -> None:
        await trio.sleep(50)
        await stream.send_all(GET % b"/")
        await until(stream, b"done")
        assert trio.current_time() >= 150
        began = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() - began == pytest.approx(60)

    talk(slow, client, LIMITS)


def test_request_head_sent_byte_by_byte_has_one_deadline() -> None:
    async def client(stream: Client) -> None:
        got = b""
        for byte in GET % b"/very-slow":
            try:
                await stream.send_all(bytes([byte]))
            except trio.BrokenResourceError:
                break
            with trio.move_on_after(1):
                got += await stream.receive_some()
                break
        assert got.startswith(b"HTTP/1.1 408")

    talk(echo, client, LIMITS)


def test_handler_gets_method_path_query_and_headers() -> None:
    seen: list[Request] = []

    async def handler(request: Request) -> Answer:
        seen.append(request)
        return Response(204)

    conversation(handler, b"DELETE /a%20b?x=1&x=2 HTTP/1.1\r\nHost: d\r\nX-A: b\r\n\r\n")
    (request,) = seen
    assert (request.method, request.path, request.target) == ("DELETE", "/a b", "/a%20b?x=1&x=2")
    assert (request.arg("x"), request.arg("y", "z"), request.headers["x-a"]) == ("1", "z", "b")
    assert request.peer is PEER
