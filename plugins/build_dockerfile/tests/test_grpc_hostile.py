"""A gRPC server whose client violates the protocol. The server ends the connection or the call, and its memory stays
bounded."""

from __future__ import annotations

import socket
import struct
from collections.abc import Awaitable, Callable

import hpack
import pytest
import trio
import trio.testing

from orlop_build_dockerfile.grpc import Call, Connection, Limits
from orlop_build_dockerfile.grpc._http2 import PREFACE

DATA, HEADERS, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 5, 6, 7, 9
END_STREAM, END_HEADERS, PADDED = 1, 4, 8
REQUEST = [
    (":method", "POST"),
    (":scheme", "http"),
    (":path", "/e"),
    (":authority", "x"),
    ("content-type", "application/grpc"),
]


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


class Peer:
    """A client that sends single HTTP/2 frames."""

    def __init__(self, stream: trio.SocketStream, server: Connection) -> None:
        self.stream, self.server = stream, server
        self.encoder = hpack.Encoder()
        self.buffer = b""

    async def begin(self, stream: int = 1, headers: list[tuple[str, str]] = REQUEST, *, flags: int = END_HEADERS) -> None:
        await self.send(frame(HEADERS, flags, stream, self.encoder.encode(headers)))

    async def send(self, *frames: bytes) -> None:
        await self.stream.send_all(b"".join(frames))

    async def frames(self, kind: int) -> list[tuple[int, bytes]]:
        """All frames of this type, as (stream, payload), that arrive until the server closes the connection."""
        found = []
        try:
            while data := await self.stream.receive_some():
                self.buffer += data
        except trio.BrokenResourceError:
            pass
        rest = self.buffer
        while len(rest) >= 9:
            size = int.from_bytes(rest[:3], "big")
            if rest[3] == kind:
                found.append((int.from_bytes(rest[5:9], "big"), rest[9 : 9 + size]))
            rest = rest[9 + size :]
        return found

    async def closed_with(self) -> tuple[int, str]:
        """The code and text of the GOAWAY frame, after which the server closes the connection."""
        with trio.fail_after(10):
            [(_, payload)] = await self.frames(GOAWAY)
        return int.from_bytes(payload[4:8], "big"), payload[8:].decode()


async def echo(call: Call) -> None:
    while (message := await call.receive()) is not None:
        await call.send(message)


async def ignore(call: Call) -> None:
    await trio.sleep_forever()


def attack(
    test: Callable[[Peer], Awaitable[None]],
    handler: Callable[[Call], Awaitable[None]] = echo,
    limits: Limits | None = None,
    greeting: bytes = PREFACE + frame(SETTINGS, 0, 0),
) -> None:
    async def main() -> None:
        a, b = socket.socketpair()
        near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in (a, b))
        server = Connection(far, handlers={"/e": handler}, limits=limits)
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.run)
                async with near:
                    await near.send_all(greeting)
                    await test(Peer(near, server))

    trio.run(main)


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([frame(DATA, 0, 1, b"x")], 1),  # before any request
        ([frame(DATA, 0, 0, b"x")], 1),
        ([frame(HEADERS, 0, 1, b"\x82"), frame(DATA, 0, 1, b"x")], 1),  # within a header block
        ([frame(HEADERS, 0, 1, b"\x82"), frame(PING, 0, 0, bytes(8))], 1),
        ([frame(CONTINUATION, END_HEADERS, 1, b"\x82")], 1),
        ([frame(HEADERS, END_HEADERS, 1, b"\xff\xff\xff\xff\xff\xff\xff")], 1),  # HPACK: an index beyond the table
        ([frame(HEADERS, END_HEADERS, 1, b"\x82")], 1),  # no path
        ([frame(HEADERS, END_HEADERS, 2, b"\x82")], 1),  # a server's stream
        ([frame(PUSH_PROMISE, END_HEADERS, 1, bytes(4))], 1),
        ([frame(PING, 0, 0, b"short")], 6),
        ([frame(SETTINGS, 0, 0, b"odd")], 6),
        ([frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 31))], 3),  # a window beyond 2^31-1
        ([frame(DATA, 0, 1, bytes(16385))], 6),
        ([b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"], 6),
    ],
)
def test_protocol_violations_close_the_connection(frames: list[bytes], code: int) -> None:
    async def test(peer: Peer) -> None:
        await peer.send(*frames)
        assert (await peer.closed_with())[0] == code

    attack(test)


def test_client_without_http2_preface_is_disconnected() -> None:
    async def test(peer: Peer) -> None:
        assert await peer.closed_with() == (1, "the client does not speak HTTP/2")

    attack(test, greeting=b"GET / HTTP/1.1\r\n")


def test_data_beyond_a_streams_window_closes_the_connection() -> None:
    async def test(peer: Peer) -> None:
        await peer.begin()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(frame(DATA, 0, 1, bytes(16384)))
        assert not peer.server._calls

    attack(test, handler=ignore, limits=Limits(window=1 << 18, connection_window=1 << 20))


def test_data_beyond_the_window_of_a_connection_closes_the_connection() -> None:
    async def test(peer: Peer) -> None:
        for stream in range(1, 41, 2):
            await peer.begin(stream)
        with pytest.raises(trio.BrokenResourceError):
            for _ in range(16):
                for stream in range(1, 41, 2):
                    await peer.send(frame(DATA, 0, stream, bytes(16384)))

    attack(test, handler=ignore, limits=Limits(window=1 << 18, connection_window=1 << 20))


@pytest.mark.parametrize("padding", [0, 1, 200, 255])
def test_padding_of_data_frames_is_removed_and_acknowledged(padding: int) -> None:
    async def test(peer: Peer) -> None:
        await peer.begin()
        for _ in range(200):  # more than the window, so padding must be acknowledged
            await peer.send(frame(DATA, PADDED, 1, bytes([padding]) + bytes(4) + b"\x04abcd" + bytes(padding)))
        await peer.send(frame(DATA, END_STREAM, 1))
        await trio.testing.wait_all_tasks_blocked(0.1)
        peer.server.close()
        data = b"".join(payload for _, payload in await peer.frames(DATA))
        assert data == (bytes(4) + b"\x04abcd") * 200

    attack(test, limits=Limits(window=1 << 14, connection_window=1 << 16))


def test_padding_longer_than_the_frame_closes_the_connection() -> None:
    async def test(peer: Peer) -> None:
        await peer.begin()
        await peer.send(frame(DATA, PADDED, 1, b"\x05abcd"))
        assert (await peer.closed_with())[0] == 1

    attack(test)


def _trailers(frames: list[tuple[int, bytes]]) -> dict[int, dict[str, str]]:
    decoder, found = hpack.Decoder(), dict[int, dict[str, str]]()
    for stream, payload in frames:
        found.setdefault(stream, {}).update(decoder.decode(payload))
    return found


@pytest.mark.parametrize(
    ("data", "status", "words"),
    [
        (struct.pack(">BI", 0, 1001), "8", "larger than the limit of 1000"),
        (struct.pack(">BI", 1, 3) + b"abc", "12", "compressed"),
    ],
)
def test_invalid_message_fails_only_its_call(data: bytes, status: str, words: str) -> None:
    async def test(peer: Peer) -> None:
        await peer.begin(1)
        await peer.begin(3)
        await peer.send(frame(DATA, 0, 1, data), frame(DATA, END_STREAM, 3, bytes(5)))
        await trio.testing.wait_all_tasks_blocked(0.1)
        peer.server.close()
        found = _trailers(await peer.frames(HEADERS))
        assert found[1]["grpc-status"] == status
        assert words in found[1]["grpc-message"]
        assert found[3]["grpc-status"] == "0"

    attack(test, limits=Limits(message=1000))


def test_total_size_of_concurrent_large_messages_is_bounded() -> None:
    """Each message is acknowledged as it arrives, so flow control alone would not limit their size."""

    async def test(peer: Peer) -> None:
        size = 1 << 20
        streams = range(1, 17, 2)
        for stream in streams:
            await peer.begin(stream)
            await peer.send(frame(DATA, 0, stream, struct.pack(">BI", 0, size)))
        for _ in range(size // 16384 - 1):
            for stream in streams:
                await peer.send(frame(DATA, 0, stream, bytes(16384)))
            await trio.testing.wait_all_tasks_blocked()
        await trio.testing.wait_all_tasks_blocked(0.1)
        assert peer.server._early <= 3 << 20
        assert sum(call._reader.pending for call in peer.server._calls.values()) <= 3 << 20
        peer.server.close()
        refused = [t for t in _trailers(await peer.frames(HEADERS)).values() if t.get("grpc-status") == "8"]
        assert len(refused) >= 5

    attack(test, limits=Limits(window=1 << 16, connection_window=1 << 20, message=1 << 20, partial=3 << 20))


def test_oversized_headers_close_the_connection() -> None:
    async def test(peer: Peer) -> None:
        await peer.begin(headers=[*REQUEST, ("x-big", "a" * 15000)])
        for stream in range(3, 9, 2):  # few bytes, because they refer to the dynamic table
            await peer.begin(stream, [*REQUEST, *[("x-table", "b" * 3000)] * 20])
        assert (await peer.closed_with())[0] in (9, 11)

    attack(test, limits=Limits(header_list=32 << 10))


def test_endless_header_block_closes_the_connection() -> None:
    async def test(peer: Peer) -> None:
        await peer.send(frame(HEADERS, 0, 1, b"\x82"))
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await peer.send(frame(CONTINUATION, 0, 1, b"\x40\x01a" + b"\x7f\x80\x7f" + bytes(16000)))

    attack(test)


def test_server_closes_a_connection_with_too_many_streams() -> None:
    async def test(peer: Peer) -> None:
        with pytest.raises(trio.BrokenResourceError):
            for stream in range(1, 5000, 2):
                await peer.begin(stream)
                await trio.lowlevel.checkpoint()

    attack(test, handler=ignore, limits=Limits(streams=10))


def test_number_of_rapidly_reset_streams_is_bounded() -> None:
    """CVE-2023-44487: the limit of streams does not include streams that the peer has reset."""
    running = most = 0

    async def stubborn(call: Call) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        try:
            await trio.sleep_forever()
        finally:
            with trio.move_on_after(0.5, shield=True):
                await trio.sleep_forever()
            running -= 1

    async def test(peer: Peer) -> None:
        with pytest.raises(trio.BrokenResourceError):
            for stream in range(1, 4001, 2):
                await peer.begin(stream)
                await peer.send(frame(RST_STREAM, 0, stream, struct.pack(">I", 8)))
                await trio.lowlevel.checkpoint()
        assert most <= 20

    attack(test, handler=stubborn, limits=Limits(streams=10))


def test_server_stops_reading_from_a_peer_that_pings_and_never_reads() -> None:
    async def test(peer: Peer) -> None:
        with trio.move_on_after(2) as scope:
            while True:
                await peer.send(frame(PING, 0, 0, b"12345678") * 1000)
        assert scope.cancelled_caught
        assert peer.server.http2.backlog < 8 << 20

    attack(test)


def test_memory_for_messages_to_a_peer_that_does_not_read_is_bounded() -> None:
    sent = 0

    async def talk(call: Call) -> None:
        nonlocal sent
        for _ in range(64):
            await call.send(bytes(1 << 20))
            sent += 1

    async def test(peer: Peer) -> None:
        await peer.send(frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 30)), frame(8, 0, 0, struct.pack(">I", 1 << 30)))
        await peer.begin()
        await trio.testing.wait_all_tasks_blocked(0.2)
        assert sent <= 3

    attack(test, handler=talk)


def test_data_of_a_reset_stream_is_acknowledged() -> None:
    async def refuse(call: Call) -> None:
        await call.receive()

    async def test(peer: Peer) -> None:
        await peer.begin(1)
        await peer.send(frame(DATA, 0, 1, bytes(5)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        for _ in range(100):
            await peer.send(frame(DATA, 0, 1, bytes(1000)))
            await trio.testing.wait_all_tasks_blocked()
        await peer.begin(3)
        await peer.send(frame(DATA, END_STREAM, 3, bytes(5)))
        await trio.testing.wait_all_tasks_blocked(0.05)
        peer.server.close()
        assert _trailers(await peer.frames(HEADERS))[3]["grpc-status"] == "0"

    attack(test, handler=refuse, limits=Limits(window=1 << 14, connection_window=1 << 16))


def test_request_whose_content_type_is_not_grpc_is_refused_with_415() -> None:
    async def test(peer: Peer) -> None:
        await peer.begin(headers=[*REQUEST[:4], ("content-type", "text/html")], flags=END_HEADERS | END_STREAM)
        await trio.testing.wait_all_tasks_blocked(0.05)
        peer.server.close()
        assert _trailers(await peer.frames(HEADERS))[1][":status"] == "415"

    attack(test)
