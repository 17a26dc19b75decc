"""Random and mutated requests must never cause a traceback, a stuck task, or an invalid HTTP response. Takes a few
seconds."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import AsyncIterator
from itertools import pairwise

import msgspec
import trio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from trio.testing import MockClock, memory_stream_pair

from orlop_api_docker.decode import decode_json
from orlop_api_docker.dialect import docker_router
from orlop_api_docker.errors import answer_error
from orlop_api_docker.responses import hijack_head, json_response, stream_head
from orlop_engine.types import WireBase
from orlop_kernel.http.framing import Chunked
from orlop_kernel.http.messages import Answer, Hijack, Limits, Peer, RawStream
from orlop_kernel.http.server import serve_connection
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk.errors import InvalidParameter

bounded = settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))

LIMITS = Limits(head=2048, headers=16, head_timeout=3, idle_timeout=5, body_timeout=3)

VALID = (
    b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n",
    b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: 5\r\n\r\nhello",
    b"POST /echo HTTP/1.1\r\nHost: d\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\n0\r\nT: v\r\n\r\n",
    b'POST /json?a=1&b=%20 HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 7\r\n\r\n{"a":1}',
    b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n",
    b"PUT /echo HTTP/1.1\r\nHost: d\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\nab",
    b"HEAD /stream HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
    b"OPTIONS * HTTP/1.1\r\nHost: d\r\n\r\n",
    b"POST /hijack HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Length: 0\r\n\r\nraw",
)
FRAGMENTS = (
    b"\r\n", b"\n", b"\r", b"\x00", b" ", b"\t", b":", b"0\r\n\r\n", b"ffffffffffffffff\r\n", b"-1", b"%", b"%zz", b"\xff",
    b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"Transfer-Encoding: gzip\r\n", b"Expect: 100-continue\r\n",
    b"Connection: close\r\n", b"Upgrade: tcp\r\n", b"HTTP/1.0", b"HTTP/9.9", b"Host: e\r\n", b" folded\r\n", b"A" * 3000,
)  # fmt: skip


async def ping(call: Call) -> Answer:
    return json_response("OK")


async def echo(call: Call) -> Answer:
    return json_response(len(await call.request.body.read(1000)))


async def as_json(call: Call) -> Answer:
    return json_response([await call.json(dict[str, int]), call.flag("a"), call.integer("a"), call.filters("b")])


async def stream(call: Call) -> Answer:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield b"piece"
            await trio.sleep(0.1)

    return stream_head(pieces())


async def hijack(call: Call) -> Answer:
    async def run(raw: RawStream) -> None:
        while data := await raw.receive_some():
            await raw.send_all(data)

    return Hijack(hijack_head(call, terminal=True), run)


API = docker_router(
    [
        Route("GET", "/_ping", ping),
        Route("POST", "/echo", echo),
        Route("PUT", "/echo", echo),
        Route("POST", "/json", as_json),
        Route("GET", "/stream", stream),
        Route("HEAD", "/stream", stream),
        Route("POST", "/hijack", hijack),
        Route("GET", "/containers/{id}/json", ping),
    ]
)


class Faults(logging.Handler):
    """Collects the server's log: with these handlers, no request may fail."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.texts: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.texts.append(self.format(record))


def exchange(pieces: list[bytes], *, leave: bool) -> bytes:
    """Send the pieces, then shut down the connection, or close it abruptly (`leave`). Returns the answer."""
    got = bytearray()

    async def client(ours: trio.abc.HalfCloseableStream) -> None:
        try:
            for piece in pieces:
                if piece:
                    await ours.send_all(piece)
                    await trio.sleep(0.01)
            if leave:
                await ours.aclose()
                return
            await ours.send_eof()
        except trio.BrokenResourceError:
            pass  # refused before everything was sent; the answer can still be read

    async def reader(ours: trio.abc.Stream) -> None:
        try:
            async for data in ours:
                got.extend(data)
        except trio.ClosedResourceError:
            pass

    async def main() -> None:
        ours, theirs = memory_stream_pair()
        with trio.fail_after(1000):  # on a mock clock, which jumps: only a stuck task reaches the limit
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader, ours)
                nursery.start_soon(client, ours)
                await serve_connection(theirs, API, Peer("unix"), LIMITS, on_error=answer_error)
                nursery.start_soon(ours.aclose)

    faults = Faults()
    logger = logging.getLogger("orlop")
    logger.addHandler(faults)
    try:
        trio.run(main, clock=MockClock(autojump_threshold=0))
    finally:
        logger.removeHandler(faults)
    assert not faults.texts
    return bytes(got)


_STATUS = re.compile(rb"HTTP/1\.[01] (100|101|200|400|404|408|413|417|431|501|505) [A-Za-z ]+\r\n")


def assert_sound(answers: bytes) -> None:
    assert not answers or _STATUS.match(answers), answers[:200]
    assert b"Traceback" not in answers
    assert b" 500 " not in answers


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


PLACES = st.lists(st.integers(0, 10_000), max_size=4)
MUTATION = st.tuples(st.integers(0, 10_000), st.integers(0, 6), st.sampled_from(FRAGMENTS))


@bounded
@given(st.binary(max_size=300), PLACES, st.booleans())
def test_random_bytes_do_not_break_the_server(data: bytes, places: list[int], leave: bool) -> None:
    assert_sound(exchange(cut(data, places), leave=leave))


@bounded
@given(
    st.lists(st.sampled_from(VALID), min_size=1, max_size=3),
    st.lists(MUTATION, min_size=1, max_size=3),
    PLACES,
    st.booleans(),
)
def test_mutated_requests_do_not_break_the_server(
    requests: list[bytes], mutations: list[tuple[int, int, bytes]], places: list[int], leave: bool
) -> None:
    data = b"".join(requests)
    for place, length, fragment in mutations:
        at = place % (len(data) + 1)
        data = data[:at] + fragment + data[at + length :]
    assert_sound(exchange(cut(data, places), leave=leave))


@bounded
@given(st.lists(st.binary(max_size=20), max_size=4), PLACES)
def test_pipelined_requests_split_at_any_bytes_are_answered_in_order(bodies: list[bytes], places: list[int]) -> None:
    data = b"".join(b"POST /echo HTTP/1.1\r\nHost: d\r\nContent-Length: %d\r\n\r\n%b" % (len(b), b) for b in bodies)
    answers = exchange(cut(data, places), leave=False)
    assert re.findall(rb"\r\n\r\n(\d+)\n", answers) == [b"%d" % len(b) for b in bodies]


@bounded
@given(st.lists(st.binary(min_size=1, max_size=30), max_size=5), st.binary(max_size=5), PLACES)
def test_chunked_body_split_at_any_bytes_is_decoded_unchanged(pieces: list[bytes], behind: bytes, places: list[int]) -> None:
    wire = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n"
    framing, content, waiting = Chunked(), b"", b""
    for part in [*cut(wire, places), behind]:
        waiting += part
        while waiting and not framing.done:
            taken, waiting = framing.take(waiting)
            content += taken
            if not taken:
                break
    assert (content, waiting, framing.done) == (b"".join(pieces), behind, True)


class Inner(WireBase):
    number: int = 0
    names: list[str] | None = None


class Outer(WireBase):
    inner: Inner = msgspec.field(default_factory=Inner)
    table: dict[str, Inner | None] = msgspec.field(default_factory=dict)
    flag: bool = False


KEYS = st.sampled_from(["Inner", "inner", "TABLE", "Number", "names", "Flag", "x"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@bounded
@given(VALUES)
def test_any_json_value_is_decoded_or_refused_as_an_invalid_parameter(value: object) -> None:
    try:
        assert isinstance(decode_json(json.dumps(value).encode(), Outer), Outer)
    except InvalidParameter as error:
        assert str(error).startswith("invalid JSON: ")


@bounded
@given(st.binary(max_size=60))
def test_any_bytes_are_decoded_as_json_or_refused_as_an_invalid_parameter(data: bytes) -> None:
    try:
        decode_json(data, Outer)
    except InvalidParameter as error:
        assert "Traceback" not in str(error)
