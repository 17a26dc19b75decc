"""Framing of a control connection to a monitor: requests, answers with the serial number of their request, and events.

The module `monitor_client` implements deadlines and reconnecting, and interprets the answers.
"""

from __future__ import annotations

import os
import socket
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec
import trio

from orlop_monitor import records
from orlop_monitor.protocol import FRAME_LIMIT, HEADER, Event, Failed, Reply, Request, Started, Status

__all__ = ["Body", "Control", "Disconnected", "connect", "encode", "receive"]

Body = Status | Started | Failed
_encode = msgspec.msgpack.Encoder().encode
_decoder: msgspec.msgpack.Decoder[Reply | Event] = msgspec.msgpack.Decoder(Reply | Event)


class Disconnected(Exception):
    """The monitor closed the connection, most likely by ending."""


def encode(request: Request) -> bytes:
    data = _encode(request)
    return HEADER.pack(len(data)) + data


async def connect(run_dir: str) -> trio.SocketStream:
    """Open a new connection to the monitor of a run. Raises `OSError` when no monitor listens."""
    sock = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    directory, path = records.socket_directory(run_dir)
    try:
        await sock.connect(path)
    except BaseException:
        sock.close()
        raise
    finally:
        os.close(directory)
    return trio.SocketStream(sock)


async def _exactly(stream: trio.SocketStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        try:
            more = await stream.receive_some(size - len(data))
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            raise Disconnected from None
        if not more:
            raise Disconnected
        data += more
    return data


async def receive(stream: trio.SocketStream) -> Reply | Event:
    """Read the next message. Reads no byte after the message, because a raw stream may follow. Raises `Disconnected`."""
    (length,) = HEADER.unpack(await _exactly(stream, HEADER.size))
    if length > FRAME_LIMIT:
        raise Disconnected
    data = await _exactly(stream, length)
    try:
        return _decoder.decode(data)
    except msgspec.MsgspecError:
        raise Disconnected from None  # the message is invalid, so the rest of the stream cannot be parsed


class Control:
    """A control connection. `run` reads the stream until its end; `ask` may be called by many tasks. `on_message()` is
    called for each message before the message is dispatched."""

    def __init__(
        self, stream: trio.SocketStream, on_event: Callable[[Event], None], on_message: Callable[[], None] = lambda: None
    ) -> None:
        self._stream = stream
        self._on_event = on_event
        self._on_message = on_message
        self._sending = trio.Lock()
        self._serial = 0
        self._waiting: dict[int, trio.Event] = {}
        self._answers: dict[int, Body] = {}
        self.ended = False

    async def run(self) -> None:
        try:
            while True:
                message = await receive(self._stream)
                self._on_message()
                if isinstance(message, Event):
                    self._on_event(message)
                elif (waiter := self._waiting.get(message.serial)) is not None:
                    self._answers[message.serial] = message.body
                    waiter.set()
        except Disconnected:
            pass
        finally:
            self.ended = True
            for waiter in self._waiting.values():
                waiter.set()
            with trio.CancelScope(shield=True, deadline=trio.current_time() + 1):
                await self._stream.aclose()

    async def ask(self, request: Callable[[int], Request], fds: Sequence[int] = ()) -> Body:
        """Send a request and return its answer. Raises `Disconnected`."""
        if self.ended:
            raise Disconnected
        self._serial += 1
        serial = self._serial
        self._waiting[serial] = waiter = trio.Event()
        try:
            await self._send(encode(request(serial)), fds)
            await waiter.wait()
            if serial not in self._answers:
                raise Disconnected
            return self._answers.pop(serial)
        finally:
            del self._waiting[serial]
            self._answers.pop(serial, None)

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        async with self._sending:
            try:
                if fds:
                    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array("i", fds).tobytes())
                    data = data[await self._stream.socket.sendmsg([data], [rights]) :]
                await self._stream.send_all(data)
            except (trio.BrokenResourceError, trio.ClosedResourceError, OSError):
                raise Disconnected from None
            except trio.Cancelled:
                # Close the connection, because only a part of a frame may have been sent.
                with suppress(OSError):
                    self._stream.socket.shutdown(socket.SHUT_RDWR)
                raise
