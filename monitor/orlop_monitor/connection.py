"""The monitor's side of the protocol: frames on channels, and the listening socket for later connections.

A connection exists until its peer closes it, or until `become_stream` transfers its channel. If the peer does not read its
answers, the monitor closes the connection, so the monitor never waits for a daemon.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable

import msgspec

from . import records
from .channel import Channel
from .loop import BACK_OFF, EXHAUSTED, Loop
from .protocol import FRAME_LIMIT, HEADER, Event, ExecExited, Exited, Failed, LogLost, Oom, Reply, Request, Started, Status

__all__ = ["Connection", "FrameParser", "Listener"]

_QUEUE_LIMIT = 4 << 20
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(Request)


class FrameParser:
    """Splits a byte stream into complete frames. No I/O. Raises `ValueError` for a frame that is too long."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> None:
        self._buffer += data

    def next(self) -> bytes | None:
        if len(self._buffer) < HEADER.size:
            return None
        (length,) = HEADER.unpack_from(self._buffer)
        if length > FRAME_LIMIT:
            raise ValueError(f"a frame of {length} bytes exceeds the limit of {FRAME_LIMIT}")
        if len(self._buffer) < HEADER.size + length:
            return None
        frame = bytes(self._buffer[HEADER.size : HEADER.size + length])
        del self._buffer[: HEADER.size + length]
        return frame

    def rest(self) -> bytes:
        rest = bytes(self._buffer)
        self._buffer.clear()
        return rest


class Connection:
    """Calls `on_request(connection, request)` for each request, and `on_end(connection)` once, unless the connection became
    a stream."""

    def __init__(
        self,
        loop: Loop,
        sock: socket.socket,
        on_request: Callable[[Connection, Request], None],
        on_end: Callable[[Connection], None],
    ) -> None:
        self._channel = Channel(loop, sock)
        self._parser = FrameParser()
        self._fds: list[int] = []
        self._on_request = on_request
        self._on_end = on_end
        self._held = False
        self._given_away = False
        self.subscribed = False
        self._channel.on_data = self._data
        self._channel.on_eof = self.close
        self._channel.on_gone = self.close
        self._channel.resume()

    def _data(self, data: bytes, fds: list[int]) -> None:
        self._parser.feed(data)
        self._fds += fds
        self._dispatch()

    def _dispatch(self) -> None:
        try:
            while not self._held and not self._given_away and (frame := self._parser.next()) is not None:
                self._on_request(self, _DECODER.decode(frame))
        except (ValueError, msgspec.MsgspecError):
            self.close()  # after invalid data, the rest of the stream cannot be parsed

    def hold(self) -> None:
        """Handle no further request until `release` or `become_stream` is called, because the current request is still in
        progress."""
        self._held = True

    def release(self) -> None:
        self._held = False
        self._dispatch()

    def take_fds(self, count: int) -> list[int]:
        """The descriptors that arrived with the current request. The caller owns them."""
        taken, self._fds = self._fds[:count], self._fds[count:]
        return taken

    def reply(self, serial: int, body: Status | Started | Failed, fds: tuple[int, ...] = ()) -> None:
        self._send(Reply(serial, body), fds)

    def event(self, body: Exited | ExecExited | Oom | LogLost) -> None:
        self._send(Event(body))

    def _send(self, message: Reply | Event, fds: tuple[int, ...] = ()) -> None:
        data = _ENCODER.encode(message)
        self._channel.send([HEADER.pack(len(data)) + data], fds)
        if self._channel.pending > _QUEUE_LIMIT:
            self.close()

    def become_stream(self) -> tuple[Channel, bytes]:
        """Return the channel, and the bytes that the peer has sent already. The `Connection` must not be used after this
        call."""
        self._given_away = True
        self._drop_fds()
        self._channel.pause()
        self._channel.takes_fds = False
        return self._channel, self._parser.rest()

    def _drop_fds(self) -> None:
        for fd in self._fds:
            os.close(fd)
        self._fds = []

    @property
    def closed(self) -> bool:
        """True after the connection was closed, or has become a stream."""
        return self._given_away

    def push_out(self) -> None:
        self._channel.push_out()

    def close(self) -> None:
        if not self._given_away:
            self._given_away = True
            self._drop_fds()
            self._channel.close()
            self._on_end(self)


class Listener:
    """The listening socket `sock` in the run directory. The directory's mode 0700 is the access control. The socket is
    closed when the process ends."""

    def __init__(self, loop: Loop, run_dir: str, on_socket: Callable[[socket.socket], None]) -> None:
        self._loop = loop
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._on_socket = on_socket
        directory, path = records.socket_directory(run_dir)
        try:
            self._socket.bind(path)
        finally:
            os.close(directory)
        self._socket.listen(128)
        self._socket.setblocking(False)
        self._listen()

    def _listen(self) -> None:
        self._loop.on_readable(self._socket.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            sock, _ = self._socket.accept()
        except OSError as error:
            if error.errno in EXHAUSTED:  # no descriptor or memory is free: try again later
                self._loop.on_readable(self._socket.fileno(), None)
                self._loop.call_later(BACK_OFF, self._listen)
            return  # the peer has closed the connection
        self._on_socket(sock)
