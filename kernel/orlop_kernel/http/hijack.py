"""A connection after its hijack: raw bytes instead of HTTP."""

from __future__ import annotations

import trio

from orlop_kernel.http.transport import READ, Inbound, Transport

__all__ = ["HijackedStream"]


class HijackedStream:
    """Implements `messages.RawStream`. Bytes that the client sent after its request are read first."""

    __slots__ = ("_inbound", "_transport")

    def __init__(self, transport: Transport, inbound: Inbound) -> None:
        self._transport = transport
        self._inbound = inbound

    async def receive_some(self, limit: int = READ) -> bytes:
        """See RawStream."""
        inbound = self._inbound
        if inbound.buffer:
            await trio.lowlevel.checkpoint()
            data = inbound.buffer[:limit]
            inbound.leave(inbound.buffer[limit:])
            return data
        if inbound.eof:
            await trio.lowlevel.checkpoint()
            return b""
        data = await self._transport.receive(limit)
        if not data:
            inbound.eof = True
        return data

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """See RawStream. Raises trio.BrokenResourceError when the client has disconnected."""
        await self._transport.send(data)

    async def send_eof(self) -> None:
        """See RawStream. May be called twice."""
        await self._transport.send_eof()

    async def hung_up(self) -> None:
        """See RawStream."""
        await self._transport.hung_up()

    def share(self) -> tuple[int, bytes] | None:
        """See RawStream."""
        fd = self._transport.share()
        if fd is None:
            return None
        early = self._inbound.buffer
        self._inbound.leave(b"")
        return fd, early

    async def aclose(self) -> None:
        """See RawStream. May be called twice."""
        await self._transport.aclose()
