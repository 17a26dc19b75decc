"""The client's HTTP: keep-alive, hijack, invalid HTTP, and the framings of bodies, with input that is split at any byte."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_cli.daemon.http import ChunkedDecoder, Connection, ProtocolError


class Wire:
    """A stream whose peer has already sent all data. The data is received in the given pieces."""

    def __init__(self, pieces: list[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent = b""

    def recv(self, size: int, /) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def recv_into(self, buffer: memoryview, /) -> int:
        data = self.recv(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def sendall(self, data: bytes | memoryview, /) -> None:
        self.sent += bytes(data)

    def shutdown(self, how: int, /) -> None: ...
    def settimeout(self, seconds: float | None, /) -> None: ...
    def fileno(self) -> int:
        return -1

    def close(self) -> None: ...


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """The data split at these positions."""
    places = sorted({place % (len(data) + 1) for place in at})
    return [data[start:stop] for start, stop in zip([0, *places], [*places, len(data)], strict=True)]


def chunks(pieces: list[bytes]) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces if piece) + b"0\r\n\r\n"


@given(st.lists(st.binary(max_size=40), max_size=12), st.lists(st.integers(0, 2000), max_size=30), st.binary(max_size=8))
def test_chunked_body_that_arrives_in_any_pieces_is_decoded(pieces: list[bytes], at: list[int], after: bytes) -> None:
    decoder = ChunkedDecoder()
    parts = [part for part in cut(chunks(pieces), at) if part]
    parts[-1] += after
    out = b""
    for part in parts:
        assert not decoder.done
        out += decoder.feed(part)
    assert decoder.done
    assert out == b"".join(pieces)
    assert decoder.rest == after


def test_many_chunks_are_joined() -> None:
    assert ChunkedDecoder().feed(chunks([b"ab"] * 1000)) == b"ab" * 1000


def test_chunk_extensions_and_trailers_are_ignored() -> None:
    decoder = ChunkedDecoder()
    assert decoder.feed(b"3;x=y\r\nabc\r\n0\r\nTrailer: 1\r\n\r\n") == b"abc"
    assert decoder.done


@pytest.mark.parametrize("size", [b"xyz", b"-1z", b""])
def test_invalid_chunk_size_is_refused(size: bytes) -> None:
    with pytest.raises(ProtocolError):
        ChunkedDecoder().feed(size + b"\r\n")


@given(st.lists(st.integers(0, 200), max_size=20))
def test_connection_is_reused_after_a_body_with_a_content_length(at: list[int]) -> None:
    wire = Wire(cut(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nApi-Version: 1.43\r\n\r\nhello", at))
    connection = Connection(wire, "h")
    first = connection.request("GET", "/a", {})
    assert not connection.idle
    assert first.read() == b"hello"
    assert first.headers["api-version"] == "1.43"
    assert connection.idle
    wire.pieces = [b"HTTP/1.1 204 No Content\r\n\r\n"]
    assert connection.request("POST", "/b", {}).status == 204
    assert connection.idle
    assert wire.sent.count(b"HTTP/1.1\r\nHost: h\r\n") == 2


def test_connection_is_not_reused_after_a_body_that_ends_at_eof() -> None:
    connection = Connection(Wire([b"HTTP/1.0 200 OK\r\n\r\nab", b"c"]), "h")
    assert connection.request("GET", "/", {}).read() == b"abc"
    assert not connection.idle


def test_connection_is_not_reused_after_the_header_connection_close() -> None:
    connection = Connection(Wire([b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 1\r\n\r\nx"]), "h")
    assert connection.request("GET", "/", {}).read() == b"x"
    assert not connection.idle


def test_informational_http_answers_are_skipped() -> None:
    connection = Connection(Wire([b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok"]), "h")
    answer = connection.request("POST", "/", {}, b"{}")
    assert (answer.status, answer.read()) == (201, b"ok")


def test_answer_to_a_head_request_has_no_body() -> None:
    connection = Connection(Wire([b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\n"]), "h")
    assert connection.request("HEAD", "/", {}).read() == b""


def test_hijacked_stream_keeps_bytes_received_together_with_the_answers_head() -> None:
    wire = Wire([b"HTTP/1.1 101 UPGRADED\r\nUpgrade: tcp\r\n\r\nearly"])
    stream, rest = Connection(wire, "h").request("POST", "/attach", {}).hijack()
    assert stream is wire
    assert rest == b"early"


def test_streamed_request_body_is_sent_in_chunks() -> None:
    wire = Wire([b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"])
    Connection(wire, "h").request("POST", "/load", {}, iter([b"abc", b"de"]))
    assert wire.sent.endswith(b"\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")


def test_early_error_is_read_although_the_body_could_not_be_sent() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(b"HTTP/1.1 400 Bad\r\nContent-Length: 2\r\n\r\nno")

        def body() -> Iterator[bytes]:
            yield b"first"
            theirs.shutdown(socket.SHUT_RD)
            for _ in range(1000):
                yield b"x" * 4096

        answer = Connection(ours, "h").request("POST", "/load", {}, body())
        assert (answer.status, answer.read()) == (400, b"no")


@pytest.mark.parametrize(
    "said",
    [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Le", b"HTTP/1.1 abc\r\n\r\n"],
    ids=["nothing", "ssh", "half a head", "no status"],
)
def test_answer_that_is_not_http_is_refused(said: bytes) -> None:
    with pytest.raises(ProtocolError):
        Connection(Wire([said]), "h").request("GET", "/", {})


@pytest.mark.parametrize("framing", [b"Content-Length: 9", b"Transfer-Encoding: chunked"])
def test_truncated_answer_body_raises_an_error(framing: bytes) -> None:
    connection = Connection(Wire([b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n5\r\nab"]), "h")
    with pytest.raises(ProtocolError, match="in the middle"):
        connection.request("GET", "/", {}).read()
