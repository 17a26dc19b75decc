"""Bytes in and out of one connection. The transport owns the stream: nobody else may close it.

Plain sockets are read and written by their fd, past trio's stream: a request then costs one wait in epoll and nothing else
(trio's own receive and send each pass through the scheduler once more, a quarter of a small request). TLS and test streams
go the ordinary way.
"""

from __future__ import annotations

import os
import select
import socket
from contextlib import suppress

import trio

__all__ = ["Inbound", "Transport"]

READ = 64 << 10
_STREAM_BUFFER = 1 << 20
_SO_SNDBUFFORCE = 32  # past the machine's limit for everybody; root only


class Transport:
    """What is gone looks like an end: a reset reads as b"", writing to it raises trio.BrokenResourceError."""

    __slots__ = ("_ended", "_fd", "_receiving", "_send_timeout", "stream")

    def __init__(self, stream: trio.abc.Stream, send_timeout: float = 0.0) -> None:
        self.stream = stream
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._send_timeout = send_timeout
        self._ended = False
        self._receiving: trio.CancelScope | None = None

    async def receive(self, limit: int = READ) -> bytes:
        """The next bytes, b"" at the end."""
        while self._fd >= 0:
            await trio.lowlevel.wait_readable(self._fd)
            try:
                return os.read(self._fd, limit)
            except BlockingIOError:
                continue
            except OSError:
                return b""
        if self._ended and isinstance(self.stream, trio.SSLStream):
            return b""
        try:
            with trio.CancelScope() as self._receiving:
                return bytes(await self.stream.receive_some(limit))
        except trio.BrokenResourceError:
            pass
        finally:
            self._receiving = None
        return b""

    async def answer(self, data: bytes) -> None:
        """Send all of it. Not a checkpoint when the socket takes it at once: for answers that are followed by a wait."""
        if self._fd >= 0:
            try:
                sent = os.write(self._fd, data)
            except BlockingIOError:
                sent = 0
            except OSError as error:
                raise trio.BrokenResourceError from error
            if sent == len(data):
                return
            data = data[sent:]
        await self.send(data)

    async def send(self, data: bytes | bytearray | memoryview) -> None:
        """Send all of it; a full socket holds the sender back."""
        if not self._send_timeout:
            await self.stream.send_all(data)
            return
        with trio.move_on_after(self._send_timeout) as scope:
            await self.stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client takes nothing")

    def widen(self) -> None:
        """Room in the kernel for the next piece of a stream, so that its maker and its reader work at the same time."""
        if isinstance(self.stream, trio.SocketStream):
            with suppress(OSError):
                self.stream.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _STREAM_BUFFER)

    async def send_eof(self) -> None:
        """Shut our side down, once. On TLS that ends both sides: a pending `receive` returns b"", as all later ones do."""
        if self._ended:
            return
        self._ended = True
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            await self.stream.send_eof()
        elif isinstance(self.stream, trio.SSLStream):
            await self._close_notify(self.stream)

    async def _close_notify(self, stream: trio.SSLStream[trio.abc.Stream]) -> None:
        """Without it Go's clients report an unexpected end. trio sends it only while nobody reads."""
        while self._receiving:
            self._receiving.cancel()
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(1):
            try:
                tcp, _ = await stream.unwrap()  # no longer closed with `stream`
                await trio.aclose_forcefully(tcp)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it closed first

    async def hung_up(self) -> None:
        """Return when both directions are shut, or the connection broke: who neither reads nor sends would not notice. On
        TCP that is a reset, which keepalive provokes from who has gone. Never returns for test streams."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        if not isinstance(stream, trio.SocketStream):
            await trio.sleep_forever()
            return
        # trio waits for input too, and after a half-close there is always some: the end of it.
        with select.epoll() as hangups:  # told of without being asked for
            hangups.register(stream.socket.fileno(), 0)
            await trio.lowlevel.wait_readable(hangups.fileno())

    async def linger(self, seconds: float = 0.5) -> None:
        """After the last answer: wait for the client to close first, reading what it still sends. Closing with unread
        input resets the connection, and the reset can overtake the answer (RFC 9112 section 9.6)."""
        with trio.move_on_after(seconds):
            try:
                await self.send_eof()
                while await self.receive():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # it closed, which is what we wait for

    async def aclose(self) -> None:
        """Close, even when cancelled."""
        self._fd = -1  # the number may be another file's from now on
        self._ended = True
        await trio.aclose_forcefully(self.stream)


class Inbound:
    """The input of a connection that nobody has taken yet. Several tasks may wait for more; one of them reads."""

    __slots__ = ("_reading", "_waiting", "buffer", "eof", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.buffer = b""
        self.eof = False
        self._reading = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def more(self, limit: int = READ) -> bool:
        """Wait for input; False at the end. May return early with nothing new: look at the buffer, and come again."""
        if self.eof:
            return False
        if self._reading:
            await self._waiting.park()
            return not self.eof
        self._reading = True
        try:
            data = await self.transport.receive(limit)
        finally:
            self._reading = False
            if self._waiting:
                self._waiting.unpark_all()
        if not data:
            self.eof = True
            return False
        self.buffer = self.buffer + data if self.buffer else data
        return True

    async def closed(self) -> None:
        """Return when the client has gone, or has shut its side down. Reads ahead one buffer at most."""
        while not self.eof:
            if len(self.buffer) < READ:
                await self.more()
            else:
                await self._waiting.park()

    def leave(self, rest: bytes) -> None:
        """Put back what a reader of `buffer` did not take."""
        self.buffer = rest
        if self._waiting and not self._reading:
            self._waiting.unpark_all()  # `closed` may have stopped at a full buffer
