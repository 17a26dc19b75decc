"""Requests such as `POST /build`: the daemon passes the body to the builder process, and passes the answer back to the
client."""

from __future__ import annotations

import logging
import socket
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, suppress

import trio

from orlop_sdk import OrlopError, Unavailable

__all__ = ["BuildAnswer"]

log = logging.getLogger("orlop.build")

_PIECE = 64 << 10
_ENDING = 30.0  # seconds for the builder to undo a build whose client has disconnected


class BuildAnswer:
    """The body of the answer. Iterate over it once; `aclose` ends the build, and may be called at any time.

    `serve` makes the builder process serve the other end of a connection. The caller must start `run` as a task."""

    def __init__(self, body: AsyncGenerator[bytes, None], serve: Callable[[int], Awaitable[None]]) -> None:
        ours, self._theirs = socket.socketpair()
        ours.setblocking(False)
        self._end = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        self._body, self._serve = body, serve
        self._scope = trio.CancelScope()
        self._done = trio.Event()
        self._error: Exception | None = None
        self._first: bytes | None = None

    async def run(self) -> None:
        """Pass the body to the builder process, until the build has ended."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._send)
                    try:
                        await self._serve(self._theirs.fileno())
                    except OrlopError as error:
                        self._error = error
                    nursery.cancel_scope.cancel()
        except Exception as error:  # for example, the request's body is incomplete
            self._error = error
        finally:
            self._theirs.close()  # this ends the answer, unless the builder still has its copy of the descriptor open
            self._done.set()

    async def _send(self) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async with aclosing(self._body) as pieces:
                async for piece in pieces:
                    await self._end.send_all(piece)
                await self._end.send_eof()

    async def ready(self) -> None:
        """Wait for the beginning of the answer. Raises the builder's error if the builder refuses the build before this."""
        try:
            self._first = await self._receive()
            if not self._first:
                await self._done.wait()
                raise self._error or Unavailable("the builder has given no answer")
        except BaseException:
            with trio.move_on_after(_ENDING, shield=True):
                await self.aclose()
            raise

    async def _receive(self) -> bytes:
        """The next part of the answer; b"" at the end. If the builder has not read the whole request, the connection is
        reset, which also counts as the end."""
        try:
            return bytes(await self._end.receive_some(_PIECE))
        except trio.BrokenResourceError:
            return b""

    def __aiter__(self) -> BuildAnswer:
        return self

    async def __anext__(self) -> bytes:
        data, self._first = self._first, None
        if data is None:
            data = await self._receive()
        if data:
            return data
        await self._done.wait()
        if self._error is not None:
            raise self._error  # breaks the connection, so that the client sees that the answer is incomplete
        raise StopAsyncIteration

    async def aclose(self) -> None:
        self._scope.cancel()
        await self._done.wait()
        await trio.aclose_forcefully(self._end)
