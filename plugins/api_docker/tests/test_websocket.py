"""The server side of RFC 6455: handshakes, frames split at every byte, and a stream over an in-memory connection."""

from __future__ import annotations

import os
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair

from orlop_api_docker.websocket import (
    Close,
    Data,
    FrameParser,
    HandshakeError,
    Ping,
    ProtocolError,
    WebSocketStream,
    frame,
    handshake,
)
from orlop_kernel.http.messages import Peer, Request

KEY = "dGhlIHNhbXBsZSBub25jZQ=="  # RFC 6455 section 1.3


def asking(peer: str = "unix", **headers: str) -> Request:
    usual = {"upgrade": "websocket", "connection": "keep-alive, Upgrade", "sec-websocket-version": "13"}
    given = {**usual, "sec-websocket-key": KEY, "host": "here:2375", **{k.replace("_", "-"): v for k, v in headers.items()}}
    return Request("GET", "/", "/", {}, given, None, Peer(peer))  # type: ignore[arg-type]


def masked(opcode: int, data: bytes, *, final: bool = True, mask: bytes = b"\x01\x82\x03\xff") -> bytes:
    """A client's frame, which is masked."""
    whole = frame(opcode, b"")[:1] + frame(opcode, data)[1 : -len(data) or None]
    head = bytes((whole[0] if final else whole[0] & 0x7F, whole[1] | 0x80)) + whole[2:]
    return head + mask + bytes(byte ^ mask[at % 4] for at, byte in enumerate(data))


def test_handshake_answer_has_the_accept_key_of_the_rfc_example() -> None:
    head = handshake(asking())
    assert head.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in head
    assert head.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"upgrade": "tcp"}, 426),
        ({"connection": "close"}, 426),
        ({"sec_websocket_version": "8"}, 426),
        ({"sec_websocket_key": ""}, 400),
        ({"sec_websocket_key": "dG9vIHNob3J0"}, 400),
        ({"sec_websocket_key": "???"}, 400),
    ],
)
def test_invalid_handshakes_are_refused(headers: dict[str, str], status: int) -> None:
    with pytest.raises(HandshakeError) as caught:
        handshake(asking(**headers))
    assert caught.value.status == status


def test_cross_origin_handshakes_are_refused() -> None:
    for origin in ("http://here:2375", "HTTP://HERE:2375"):
        assert handshake(asking("tcp", origin=origin))
    for origin in ("http://elsewhere:2375", "http://here:80", "null", "http://[", "https://here"):
        with pytest.raises(HandshakeError, match="cross-origin") as caught:
            handshake(asking("tcp", origin=origin))
        assert caught.value.status == 403
        assert handshake(asking("unix", origin=origin))
    assert handshake(asking("tcp", origin="https://here", host="here:443"))


def read(*pieces: bytes) -> list[Any]:
    parser = FrameParser()
    return [event for piece in pieces for event in parser.feed(piece)]


def text_of(events: list[Any]) -> bytes:
    return b"".join(event.data for event in events if isinstance(event, Data))


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536, 200_001])
def test_frames_with_every_encoding_of_the_length_are_read_and_written(size: int) -> None:
    data = os.urandom(size)
    assert text_of(read(masked(2, data))) == data
    assert len(frame(2, data)) == size + (2 if size < 126 else 4 if size < 65536 else 10)


def test_websocket_frames_may_arrive_in_pieces_of_any_size() -> None:
    sent = masked(1, b"one ", final=False) + masked(9, b"are you?") + masked(0, b"two") + masked(8, b"\x03\xe8bye")
    for step in range(1, len(sent)):
        events = read(*(sent[at : at + step] for at in range(0, len(sent), step)))
        assert text_of(events) == b"one two"
        assert [event for event in events if not isinstance(event, Data)] == [Ping(b"are you?"), Close(b"\x03\xe8")]


def test_received_data_is_passed_on_before_the_frame_is_complete() -> None:
    assert text_of(read(masked(2, b"x" * 1000)[:508])) == b"x" * 500


def test_frames_after_a_close_frame_are_ignored() -> None:
    assert read(masked(8, b"") + masked(2, b"x"), masked(2, b"y")) == [Close(b"")]


@pytest.mark.parametrize(
    "sent",
    [
        frame(2, b"not masked"),
        b"\xc2\x80\0\0\0\0",  # a reserved bit
        masked(3, b""),
        masked(11, b""),
        masked(0, b"continues nothing"),
        masked(2, b"a", final=False) + masked(2, b"begins inside"),
        masked(9, b"", final=False),
        masked(9, b"x" * 126),
        masked(8, b"\x03"),
        b"\x82\xfe\0\x05" + bytes(9),  # two bytes for a length of 5
        b"\x82\xff" + bytes(7) + b"\x05" + bytes(9),
        b"\x82\xff\x80" + bytes(11),
    ],
)
def test_protocol_errors_are_detected(sent: bytes) -> None:
    with pytest.raises(ProtocolError):
        read(sent)


class Raw:
    """An in-memory hijacked connection."""

    def __init__(self, stream: Any) -> None:
        self.stream = stream
        self.gone = trio.Event()

    async def receive_some(self, limit: int = 65536) -> bytes:
        return bytes(await self.stream.receive_some(limit))

    async def send_all(self, data: Any) -> None:
        await self.stream.send_all(data)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def hung_up(self) -> None:
        await self.gone.wait()

    async def aclose(self) -> None:
        await self.stream.aclose()


def test_websocket_stream_passes_messages_in_both_directions() -> None:
    async def main() -> None:
        ours, theirs = memory_stream_pair()
        socket = WebSocketStream(Raw(ours), binary=True)
        await theirs.send_all(masked(9, b"ping") + masked(1, b"hello"))
        assert await socket.receive_some() == b"hello"
        assert bytes(await theirs.receive_some()) == frame(10, b"ping")
        await socket.send_all(b"output")
        assert bytes(await theirs.receive_some()) == b"\x82\x06output"
        await theirs.send_all(masked(8, b"\x03\xe9going"))
        assert await socket.receive_some() == b""
        assert bytes(await theirs.receive_some()) == frame(8, b"\x03\xe9")
        with trio.fail_after(1):
            await socket.hung_up()
        with pytest.raises(trio.BrokenResourceError):
            await socket.send_all(b"late")
        await socket.send_eof()  # a second call does nothing

    trio.run(main)


def test_protocol_error_is_reported_and_closes_the_connection() -> None:
    async def main() -> None:
        ours, theirs = memory_stream_pair()
        socket = WebSocketStream(Raw(ours), binary=True)
        await theirs.send_all(masked(2, b"well") + frame(2, b"not masked"))
        assert await socket.receive_some() in (b"well", b"")
        assert await socket.receive_some() == b""
        assert bytes(await theirs.receive_some()) == frame(8, b"\x03\xea")

    trio.run(main)


def test_output_split_within_a_character_is_sent_as_valid_utf8() -> None:
    async def main() -> None:
        ours, theirs = memory_stream_pair()
        socket = WebSocketStream(Raw(ours), binary=False)
        for piece in (b"a\xc3", b"\xa4", b"\xff"):
            await socket.send_all(piece)
        await socket.send_eof()
        received = b""
        while not received.endswith(frame(8, b"\x03\xe8")):
            received += bytes(await theirs.receive_some())
        assert received == frame(1, b"a") + frame(1, "\u00e4".encode()) + frame(1, "\ufffd".encode()) + frame(8, b"\x03\xe8")

    trio.run(main)


def test_disconnect_of_the_client_ends_the_websocket_stream() -> None:
    async def main() -> None:
        ours, theirs = memory_stream_pair()
        socket = WebSocketStream(Raw(ours), binary=True)
        await theirs.aclose()
        assert await socket.receive_some() == b""
        with trio.fail_after(1):
            await socket.hung_up()

    trio.run(main)
