"""Reads and writes the bytes of one connection. The transport owns the stream: no other object may close it.

Plain sockets are read and written by their fd, without trio's stream, so that a request waits in trio's scheduler only once.
(trio's receive and send each pass through the scheduler, which takes a quarter of a small request's time.) TLS and test
streams use trio's methods.
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
_SO_SNDBUFFORCE = 32  # may exceed the system-wide limit, and needs CAP_NET_ADMIN


class Transport:
    """After the peer has disconnected, even by a reset, reading returns b"", and writing raises trio.BrokenResourceError."""

    __slots__ = ("_ended", "_fd", "_receiving", "_send_timeout", "_shared", "stream")

    def __init__(self, stream: trio.abc.Stream, send_timeout: float = 0.0) -> None:
        self.stream = stream
        self._fd = stream.socket.fileno() if isinstance(stream, trio.SocketStream) else -1
        self._send_timeout = send_timeout
        self._ended = False
        self._shared = False
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
        """Send all data. If one write is enough, this call is not a checkpoint of trio; the caller must then make one."""
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
        """Send all data; waits while the socket is full."""
        if not self._send_timeout:
            await self.stream.send_all(data)
            return
        with trio.move_on_after(self._send_timeout) as scope:
            await self.stream.send_all(data)
        if scope.cancelled_caught:
            raise trio.BrokenResourceError("the client does not read")

    def widen(self) -> None:
        """Enlarge the send buffer, so that the next piece can be produced while the client reads the previous piece."""
        if isinstance(self.stream, trio.SocketStream):
            with suppress(OSError):
                self.stream.setsockopt(socket.SOL_SOCKET, _SO_SNDBUFFORCE, _STREAM_BUFFER)

    async def send_eof(self) -> None:
        """Shut down our side; further calls do nothing. On TLS, this ends both directions: every `receive` returns b""."""
        if self._ended:
            return
        self._ended = True
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            await self.stream.send_eof()
        elif isinstance(self.stream, trio.SSLStream):
            await self._close_notify(self.stream)

    async def _close_notify(self, stream: trio.SSLStream[trio.abc.Stream]) -> None:
        """Send close_notify: without it, Go's clients report an unexpected EOF. trio sends it only while no task reads."""
        while self._receiving:
            self._receiving.cancel()
            await trio.lowlevel.checkpoint()
        with trio.move_on_after(1):
            try:
                tcp, _ = await stream.unwrap()  # closing the TLS stream no longer closes `tcp`
                await trio.aclose_forcefully(tcp)
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the peer closed first

    async def hung_up(self) -> None:
        """Return when both directions are shut down or the connection is broken. Used by tasks that neither read nor send.
        If the client's machine is gone, TCP keepalive breaks the connection. Never returns for test streams."""
        stream = self.stream.transport_stream if isinstance(self.stream, trio.SSLStream) else self.stream
        if not isinstance(stream, trio.SocketStream):
            await trio.sleep_forever()
            return
        # trio can only wait for readability, and after a half-close the socket is always readable (EOF).
        with select.epoll() as hangups:  # EPOLLHUP is reported without being requested
            hangups.register(stream.socket.fileno(), 0)
            await trio.lowlevel.wait_readable(hangups.fileno())

    def share(self) -> int | None:
        """A duplicate of the descriptor; None if the stream is not a plain socket."""
        if self._fd < 0:
            return None
        self._shared = True
        return os.dup(self._fd)

    async def linger(self, seconds: float = 0.5) -> None:
        """After the last answer, wait until the client closes, and drain its input. A close with unread input resets the
        connection, and the reset can overtake the answer (RFC 9112 section 9.6)."""
        with trio.move_on_after(seconds):
            try:
                await self.send_eof()
                while await self.receive():
                    pass
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                pass  # the client has closed, as intended

    async def aclose(self) -> None:
        """Close, even when cancelled."""
        self._fd = -1  # the number may be reused for another file
        self._ended = True
        if self._shared and isinstance(self.stream, trio.SocketStream):
            with suppress(OSError, trio.ClosedResourceError):
                self.stream.socket.shutdown(socket.SHUT_RDWR)
        await trio.aclose_forcefully(self.stream)


class Inbound:
    """Input of a connection that is not consumed yet. Several tasks may wait for more input; one of them reads."""

    __slots__ = ("_reading", "_waiting", "buffer", "eof", "transport")

    def __init__(self, transport: Transport) -> None:
        self.transport = transport
        self.buffer = b""
        self.eof = False
        self._reading = False
        self._waiting = trio.lowlevel.ParkingLot()

    async def more(self, limit: int = READ) -> bool:
        """Wait for input; False at EOF. May return early without new input: check the buffer and call again."""
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
        """Return when the client has disconnected or shut down its side. Reads ahead at most one buffer."""
        while not self.eof:
            if len(self.buffer) < READ:
                await self.more()
            else:
                await self._waiting.park()

    def leave(self, rest: bytes) -> None:
        """Put back the part of `buffer` that its reader did not consume."""
        self.buffer = rest
        if self._waiting and not self._reading:
            self._waiting.unpark_all()  # `closed` may have stopped reading because the buffer was full
