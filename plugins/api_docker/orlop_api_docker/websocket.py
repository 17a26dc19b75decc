"""The server side of WebSockets (RFC 6455): the handshake, frames (sans-IO), and a byte stream over a hijacked connection.

All data of the client is one stream, which is passed on as it arrives. Message boundaries, types (text or binary) and
fragmentation are ignored, so no message is too large. Extensions and subprotocols are not offered.
"""

from __future__ import annotations

import base64
import codecs
import hashlib
from collections import deque
from dataclasses import dataclass
from urllib.parse import urlsplit

import trio

from orlop_kernel.http.messages import RawStream, Request

__all__ = [
    "Close",
    "Data",
    "FrameParser",
    "HandshakeError",
    "Ping",
    "ProtocolError",
    "WebSocketStream",
    "frame",
    "handshake",
]

_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_CONTINUATION, TEXT, BINARY, _CLOSE, _PING, _PONG = 0, 1, 2, 8, 9, 10
_CONTROL_LIMIT = 125
NORMAL, _PROTOCOL_ERROR = 1000, 1002


class HandshakeError(Exception):
    """The handshake cannot be accepted. Contains the status and headers of the answer."""

    def __init__(self, status: int, message: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers


class ProtocolError(Exception):
    """The client violated the protocol. The connection ends with close code 1002."""


def handshake(request: Request) -> bytes:
    """The head that accepts the connection (RFC 6455 section 4.2). Raises HandshakeError. A browser sends requests on behalf
    of any page, with the page's origin in a header. An origin other than this server is refused, except on a unix socket,
    because browsers cannot open unix sockets."""
    headers = request.headers
    if "websocket" not in _tokens(headers.get("upgrade", "")) or "upgrade" not in _tokens(headers.get("connection", "")):
        raise HandshakeError(426, "WebSocket upgrade required", (("Upgrade", "websocket"),))
    if headers.get("sec-websocket-version") != "13":
        raise HandshakeError(426, "only WebSocket version 13 is supported", (("Sec-WebSocket-Version", "13"),))
    key = headers.get("sec-websocket-key", "")
    try:
        if len(base64.b64decode(key, validate=True)) != 16:
            raise ValueError
    except ValueError:
        raise HandshakeError(400, "malformed Sec-WebSocket-Key header") from None
    origin = headers.get("origin")
    if origin and request.peer.transport != "unix" and not _same_host(origin, headers.get("host", "")):
        raise HandshakeError(403, f"cross-origin WebSocket refused: {origin[:200]}")
    accept = base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()
    return (
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Accept: {accept}\r\n\r\n"
    ).encode()


def _tokens(value: str) -> list[str]:
    return [word.strip().lower() for word in value.split(",")]


def _same_host(origin: str, host: str) -> bool:
    try:
        theirs = urlsplit(origin)
        own = urlsplit(f"{theirs.scheme}://{host}")
        default = {"http": 80, "https": 443}.get(theirs.scheme)
        same = (theirs.hostname, theirs.port or default) == (own.hostname, own.port or default)
        return same and bool(own.hostname)  # the origin "null" has no host
    except ValueError:
        return False


# --- frames ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Data:
    """A piece of the client's data."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Ping:
    data: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """The client's close frame. `data` is the payload to send back: the close code without the reason, or nothing."""

    data: bytes


def frame(opcode: int, data: bytes) -> bytes:
    """One whole frame. Frames of a server are not masked."""
    size = len(data)
    first = 0x80 | opcode
    if size < 126:
        return bytes((first, size)) + data
    if size < 1 << 16:
        return bytes((first, 126)) + size.to_bytes(2, "big") + data
    return bytes((first, 127)) + size.to_bytes(8, "big") + data


def _unmask(data: bytes, mask: bytes, at: int) -> bytes:
    """Unmask `data`, which begins at position `at` of its payload. The XOR uses one large integer, which is a hundred times
    faster than single bytes."""
    size = len(data)
    turned = mask[at % 4 :] + mask[: at % 4]
    pad = (turned * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pad, "little")).to_bytes(size, "little")


class FrameParser:
    """Parses bytes into events. Input after a `Close` is ignored."""

    def __init__(self) -> None:
        self._buffer = b""
        self._opcode = -1
        self._mask = b""
        self._left = self._at = 0
        """The number of bytes of the current payload that have not arrived yet, and the number that have arrived."""
        self._in_message = False
        self._closed = False

    def feed(self, data: bytes) -> list[Data | Ping | Close]:
        """Raises ProtocolError."""
        self._buffer += data
        events: list[Data | Ping | Close] = []
        while not self._closed and (self._opcode >= 0 or self._head()):
            if self._opcode >= _CLOSE:
                if len(self._buffer) < self._left:
                    break
                self._control(events)
            else:
                piece = self._take(min(self._left, len(self._buffer)))
                if piece:
                    events.append(Data(piece))
                if self._left:
                    break
            self._opcode = -1
        return events

    def _take(self, size: int) -> bytes:
        piece, self._buffer = _unmask(self._buffer[:size], self._mask, self._at), self._buffer[size:]
        self._left -= size
        self._at += size
        return piece

    def _head(self) -> bool:
        """Parse the next frame's head if it is complete (RFC 6455 section 5.2)."""
        buffer = self._buffer
        if len(buffer) < 2:
            return False
        final, opcode, short = bool(buffer[0] & 0x80), buffer[0] & 0x0F, buffer[1] & 0x7F
        if buffer[0] & 0x70:
            raise ProtocolError("reserved bits are set")
        if not buffer[1] & 0x80:
            raise ProtocolError("a frame of the client is not masked")
        if opcode not in (_CONTINUATION, TEXT, BINARY, _CLOSE, _PING, _PONG):
            raise ProtocolError(f"unknown opcode {opcode}")
        if opcode >= _CLOSE:
            if not final or short > _CONTROL_LIMIT:
                raise ProtocolError("a control frame is too long or fragmented")
        elif (opcode == _CONTINUATION) != self._in_message:
            raise ProtocolError("a fragment is out of order")
        extra = {126: 2, 127: 8}.get(short, 0)
        if len(buffer) < 2 + extra + 4:
            return False
        size = int.from_bytes(buffer[2 : 2 + extra], "big") if extra else short
        if size >= 1 << 63 or (extra and size < (126 if extra == 2 else 1 << 16)):
            raise ProtocolError("a length is not in its shortest encoding")
        self._mask = buffer[2 + extra : 6 + extra]
        self._buffer = buffer[6 + extra :]
        self._opcode, self._left, self._at = opcode, size, 0
        if opcode < _CLOSE:
            self._in_message = not final
        return True

    def _control(self, events: list[Data | Ping | Close]) -> None:
        opcode, data = self._opcode, self._take(self._left)
        if opcode == _PING:
            events.append(Ping(data))
        elif opcode == _CLOSE:
            if len(data) == 1:
                raise ProtocolError("a close code has one byte")
            self._closed = True
            events.append(Close(data[:2]))


# --- the connection -------------------------------------------------------------------------------------------------


class WebSocketStream:
    """Implements `messages.RawStream` on a hijacked connection. Closing one direction closes both directions. Data is sent
    as binary messages, or as text in which invalid UTF-8 is replaced."""

    def __init__(self, raw: RawStream, *, binary: bool) -> None:
        self._raw = raw
        self._opcode = BINARY if binary else TEXT
        self._decoder = None if binary else codecs.getincrementaldecoder("utf-8")("replace")
        self._parser = FrameParser()
        self._received: deque[bytes] = deque()
        self._sending = trio.Lock()
        self._closing = False
        self._over = trio.Event()

    async def receive_some(self, limit: int = 65536) -> bytes:
        """See RawStream. Answers pings while it waits."""
        while not self._received:
            if self._over.is_set():
                await trio.lowlevel.checkpoint()
                return b""
            data = await self._raw.receive_some(limit)
            if not data:
                self._over.set()
                continue
            try:
                events = self._parser.feed(data)
            except ProtocolError:
                await self._close(_PROTOCOL_ERROR.to_bytes(2, "big"))
                self._over.set()
                continue
            for event in events:
                await self._take(event)
        return self._received.popleft()

    async def _take(self, event: Data | Ping | Close) -> None:
        if isinstance(event, Data):
            self._received.append(event.data)
        elif isinstance(event, Ping):
            await self._send(frame(_PONG, event.data))
        else:
            await self._close(event.data)
            self._over.set()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See RawStream."""
        if self._closing:
            raise trio.BrokenResourceError("the websocket is closed")
        content = bytes(data)
        if self._decoder is not None:
            content = self._decoder.decode(content).encode()
        if content:
            await self._send(frame(self._opcode, content))

    async def _send(self, data: bytes) -> None:
        async with self._sending:
            if not self._closing:
                await self._raw.send_all(data)

    async def _close(self, data: bytes) -> None:
        """Send the close frame."""
        async with self._sending:
            if not self._closing:
                self._closing = True
                try:
                    await self._raw.send_all(frame(_CLOSE, data))
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass  # the client did not wait for the close frame

    async def send_eof(self) -> None:
        """See RawStream. Closes both directions."""
        await self._close(NORMAL.to_bytes(2, "big"))

    async def hung_up(self) -> None:
        """See RawStream."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._broken, nursery.cancel_scope)
            await self._over.wait()
            nursery.cancel_scope.cancel()

    async def _broken(self, scope: trio.CancelScope) -> None:
        await self._raw.hung_up()
        scope.cancel()

    def share(self) -> None:
        """See RawStream. Returns None, because only this process can parse the frames."""

    async def aclose(self) -> None:
        """See RawStream."""
        await self._raw.aclose()
