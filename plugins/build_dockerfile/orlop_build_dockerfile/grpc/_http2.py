"""HTTP/2 without I/O: received bytes result in events, and method calls result in bytes to send.

h2 handles headers, settings, and the states of streams. This module handles DATA and PING, because h2 takes some 40 us for a
frame, and nearly all frames of a build have these types: a context of 500 MB arrives in 32,000 frames of DATA, and grpc-go
sends a PING with most messages. h2 gets an empty DATA frame at the end of a stream. This module also handles GOAWAY, because
h2 refuses all frames after a GOAWAY, although open calls continue (RFC 9113, 6.8).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions
import h2.settings

from orlop_build_dockerfile.grpc._status import Headers

__all__ = [
    "Began",
    "Data",
    "Ended",
    "Event",
    "GoingAway",
    "HeadersReceived",
    "Http2",
    "Limits",
    "PeerError",
    "Reset",
    "StreamGone",
    "WindowOpened",
]

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
MAX_FRAME = 16384  # the default of SETTINGS_MAX_FRAME_SIZE, and the size of the frames that grpc-go sends
DATA, HEADERS, PING, GOAWAY, WINDOW_UPDATE = 0x0, 0x1, 0x6, 0x7, 0x8
END_STREAM, ACK, END_HEADERS, PADDED = 0x1, 0x1, 0x4, 0x8
_FRAME = struct.Struct(">HBBBI")
_FIRST_WINDOW = 65535


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Limits of the data that this side must keep for a peer, in bytes. `window` and `connection_window` bound the received
    bytes that are not consumed yet, for a stream and for a connection. `message` bounds one message. `partial` bounds, for a
    connection, the parts of messages that are larger than a window."""

    window: int = 2 << 20
    connection_window: int = 8 << 20
    streams: int = 128
    message: int = 16 << 20
    partial: int = 32 << 20
    header_list: int = 128 << 10


class PeerError(Exception):
    """The peer violated the protocol; the connection must end. `code` is an error code of HTTP/2."""

    def __init__(self, message: str, code: int = h2.errors.ErrorCodes.PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class StreamGone(Exception):
    """The stream has been reset or has ended."""


class Began(NamedTuple):
    """A request has begun: its stream, and headers as latin-1 text."""

    stream: int
    headers: list[tuple[str, str]]


class HeadersReceived(NamedTuple):
    """The headers or the trailers of a response, or the trailers of a request."""

    stream: int
    headers: list[tuple[str, str]]


class Data(NamedTuple):
    """Data of a stream. `size` is the number of bytes to acknowledge once the data is consumed."""

    stream: int
    data: bytes
    size: int


class Ended(NamedTuple):
    stream: int


class Reset(NamedTuple):
    stream: int
    code: int


class WindowOpened(NamedTuple):
    """More data may be sent."""


class GoingAway(NamedTuple):
    """The peer handles no stream of this side above `last`."""

    last: int
    code: int
    text: str


Event = Began | HeadersReceived | Data | Ended | Reset | WindowOpened | GoingAway


class _Inbound:
    """Flow control of the data received on a stream, or on the connection (number 0). `credit` is the number of bytes that
    the peer may still send."""

    def __init__(self, number: int, window: int, credit: int) -> None:
        self.number, self.window, self.credit, self.consumed = number, window, credit, 0

    def receive(self, size: int) -> None:
        if size > self.credit:
            raise PeerError("more data than the flow-control window allows", h2.errors.ErrorCodes.FLOW_CONTROL_ERROR)
        self.credit -= size

    def consume(self, size: int) -> bytes:
        """Returns a WINDOW_UPDATE whenever a quarter of the window is consumed. A WINDOW_UPDATE for each message doubles the
        number of frames."""
        self.consumed += size
        if self.consumed < self.window // 4:
            return b""
        update = _frame(WINDOW_UPDATE, 0, self.number, struct.pack(">I", self.consumed))
        self.credit += self.consumed
        self.consumed = 0
        return update


def _frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    size = len(payload)
    return _FRAME.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


class Http2:
    """One connection, as server or as client. `backlog` is the number of bytes that `output` has not yet returned."""

    def __init__(self, *, client: bool, limits: Limits) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self._h2 = h2.connection.H2Connection(config)
        codes = h2.settings.SettingCodes
        # With `local_settings.update`, h2 would wait for the acknowledgement of a SETTINGS frame, and this frame is never
        # sent
        self._h2.local_settings = h2.settings.Settings(
            client=client,
            initial_values={
                codes.INITIAL_WINDOW_SIZE: limits.window,
                codes.MAX_CONCURRENT_STREAMS: limits.streams,
                codes.MAX_HEADER_LIST_SIZE: limits.header_list,
                codes.ENABLE_PUSH: 0,
            },
        )
        self._h2.decoder.max_header_list_size = limits.header_list
        self._client, self.limits = client, limits
        self._h2.initiate_connection()
        self._out = bytearray(self._h2.data_to_send())
        grow = limits.connection_window - _FIRST_WINDOW
        self._out += _frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", grow))
        self._inbound = _Inbound(0, limits.connection_window, limits.connection_window)
        self._streams: dict[int, _Inbound] = {}  # streams that may still receive data
        self._rest = b""
        self._greeted = client  # a server expects the preface first
        self._in_headers = False
        self._highest = 0

    # Receiving

    def receive(self, data: bytes | bytearray) -> list[Event]:
        """The events in received bytes. Raises PeerError."""
        data = self._rest + data if self._rest else bytes(data)
        position, end = 0, len(data)
        events: list[Event] = []
        if not self._greeted:
            if not PREFACE.startswith(data[: len(PREFACE)]):
                raise PeerError("the client does not speak HTTP/2")
            if end < len(PREFACE):
                self._rest = data
                return []
            position = len(PREFACE)
            self._greeted = True
            self._feed(PREFACE, events)
        while end - position >= 9:
            high, low, kind, flags, stream = _FRAME.unpack_from(data, position)
            size = high << 8 | low
            if size > MAX_FRAME:
                raise PeerError(
                    f"a frame of {size} bytes exceeds the limit of {MAX_FRAME}", h2.errors.ErrorCodes.FRAME_SIZE_ERROR
                )
            start = position + 9
            if end - start < size:
                break
            position = start + size
            stream &= 0x7FFFFFFF
            if self._in_headers:  # h2 refuses any frame except CONTINUATION
                self._in_headers = not flags & END_HEADERS
                self._feed(data[start - 9 : position], events)
            elif kind == DATA:
                if not flags and stream in self._streams:
                    position = self._run(stream, data, start, position, events)
                else:
                    self._data(stream, flags, data[start:position], events)
            elif kind == PING and size == 8 and stream == 0:
                if not flags & ACK:
                    self._out += _frame(PING, ACK, 0, data[start:position])
            elif kind == GOAWAY and size >= 8 and stream == 0:
                last, code = struct.unpack_from(">II", data, start)
                text = data[start + 8 : min(position, start + 200)].decode("utf-8", "replace")
                events.append(GoingAway(last & 0x7FFFFFFF, code, text))
            else:
                self._in_headers = kind == HEADERS and not flags & END_HEADERS
                self._feed(data[start - 9 : position], events)
        self._rest = data[position:]
        return events

    def _run(self, number: int, data: bytes, start: int, end: int, events: list[Event]) -> int:
        """Make one event for a DATA frame without flags and all DATA frames of the same stream that follow it in `data`.
        There are many such frames, because grpc-go sends each message in a separate frame. `start` and `end` are the limits
        of the first frame's payload. Returns the end of the last frame."""
        pieces, total = [data[start:end]], end - start
        unpack, limit = _FRAME.unpack_from, len(data) - 9
        while end <= limit:
            high, low, kind, flags, stream = unpack(data, end)
            start = end + 9
            following = start + (high << 8 | low)
            if kind != DATA or flags or stream != number or following > limit + 9 or following - start > MAX_FRAME:
                break
            pieces.append(data[start:following])
            total += following - start
            end = following
        self._inbound.receive(total)
        self._streams[number].receive(total)
        if total:
            events.append(Data(number, b"".join(pieces) if len(pieces) > 1 else pieces[0], total))
        return end

    def _data(self, number: int, flags: int, payload: bytes, events: list[Event]) -> None:
        size = len(payload)
        self._inbound.receive(size)
        stream = self._streams.get(number)
        if stream is None:
            if number == 0 or number > self._highest:
                raise PeerError(f"data on stream {number}, which is not open")
            self._out += self._inbound.consume(size)  # the peer has sent the data before it knew that the stream was reset
            return
        stream.receive(size)
        if flags & PADDED:
            if not payload or payload[0] >= size:
                raise PeerError("padding longer than its frame")
            payload = payload[1 : size - payload[0]]
        if size:
            events.append(Data(number, payload, size))
        if flags & END_STREAM:
            self._feed(_frame(DATA, END_STREAM, number, b""), events)

    def _feed(self, frame: bytes, events: list[Event]) -> None:
        try:
            found = self._h2.receive_data(frame)
        except h2.exceptions.ProtocolError as error:
            self._h2.clear_outbound_data_buffer()  # drops h2's GOAWAY, because the GOAWAY of this module contains a text
            code = getattr(error, "error_code", h2.errors.ErrorCodes.PROTOCOL_ERROR)
            raise PeerError(str(error)[:200] or type(error).__name__, code) from error
        for event in found:
            match event:
                case h2.events.RequestReceived():
                    self._open(event.stream_id)
                    events.append(Began(event.stream_id, _text(event.headers)))
                case h2.events.ResponseReceived() | h2.events.TrailersReceived():
                    events.append(HeadersReceived(event.stream_id, _text(event.headers)))
                case h2.events.StreamEnded():
                    self._streams.pop(event.stream_id, None)
                    events.append(Ended(event.stream_id))
                case h2.events.StreamReset():
                    self._streams.pop(event.stream_id, None)
                    events.append(Reset(event.stream_id, int(event.error_code)))
                case h2.events.WindowUpdated() | h2.events.RemoteSettingsChanged():
                    events.append(WindowOpened())

    def _open(self, stream: int) -> None:
        self._streams[stream] = _Inbound(stream, self.limits.window, self.limits.window)
        self._highest = max(self._highest, stream)

    def acknowledge(self, stream: int, size: int) -> None:
        """Report that received bytes are consumed, so that the peer may send the same number of bytes again."""
        self._out += self._inbound.consume(size)
        if found := self._streams.get(stream):
            self._out += found.consume(size)

    # Sending

    def open(self, headers: Headers) -> int:
        """A new stream of a client. Raises StreamGone if the peer accepts no more streams."""
        number: int = self._h2.get_next_available_stream_id()
        self.send_headers(number, headers)
        self._open(number)
        return number

    def send_headers(self, stream: int, headers: Headers, *, end: bool = False) -> None:
        fields = [(name.encode("latin-1", "replace"), value.encode("utf-8", "surrogateescape")) for name, value in headers]
        try:
            self._h2.send_headers(stream, fields, end_stream=end)
        except h2.exceptions.ProtocolError as error:
            raise StreamGone(str(error)) from error

    def sendable(self, stream: int) -> int:
        """How many bytes may be sent in one frame now. Raises StreamGone."""
        try:
            window: int = self._h2.local_flow_control_window(stream)
        except h2.exceptions.ProtocolError as error:
            raise StreamGone(str(error)) from error
        return max(0, min(window, self._h2.max_outbound_frame_size))

    def send_data(self, stream: int, data: bytes, *, end: bool = False) -> None:
        try:
            self._h2.send_data(stream, data, end_stream=end)
        except (h2.exceptions.ProtocolError, KeyError) as error:  # a KeyError means that h2 has forgotten the stream
            raise StreamGone(str(error)) from error
        self._collect()

    def reset(self, stream: int, code: int) -> None:
        """End a stream immediately. It is no error if the stream has ended."""
        self._streams.pop(stream, None)
        try:
            self._h2.reset_stream(stream, code)
        except h2.exceptions.ProtocolError:
            pass

    def go_away(self, code: int = 0, text: str = "") -> None:
        last = 0 if self._client else self._highest
        self._collect()
        self._out += _frame(GOAWAY, 0, 0, struct.pack(">II", last, code) + text.encode()[:100])

    def _collect(self) -> None:
        self._out += self._h2.data_to_send()

    @property
    def backlog(self) -> int:
        self._collect()
        return len(self._out)

    def output(self) -> bytes:
        self._collect()
        data = bytes(self._out)
        self._out.clear()
        return data


def _text(headers: Iterable[tuple[bytes, bytes]]) -> list[tuple[str, str]]:
    return [(bytes(name).decode("latin-1"), bytes(value).decode("utf-8", "surrogateescape")) for name, value in headers]
