"""The request body that handlers read."""

from __future__ import annotations

from typing import Self

import trio

from orlop_kernel.http.admission import Lease
from orlop_kernel.http.encode import CONTINUE
from orlop_kernel.http.framing import Chunked, Counted, Framing
from orlop_kernel.http.messages import BodyError
from orlop_kernel.http.transport import Inbound

__all__ = ["RequestBody"]

_PIECE = 256 << 10
_DISCARD = 256 << 10  # bytes, as in Go: to read and discard more is slower than to open a new connection


class RequestBody:
    """Implements `messages.Body`; `length` is -1 for a chunked body. After a failure every read fails, and the connection
    cannot be reused."""

    def __init__(
        self, inbound: Inbound, length: int, timeout: float, *, expects: bool = False, lease: Lease | None = None
    ) -> None:
        self._framing: Framing = Chunked() if length < 0 else Counted(length)
        self._declared = length
        self._inbound = inbound
        self._timeout = timeout
        self._lease = lease
        # The exception is not stored: its traceback refers to this object, and such a cycle would keep the data in memory
        # until a full garbage collection
        self._failure: tuple[int, str] | None = None
        self.expects = expects
        """The client waits for `100 Continue` before it sends the body."""

    @property
    def done(self) -> bool:
        """Whether the whole body was read from the connection."""
        return self._framing.done

    async def read(self, limit: int) -> bytes:
        """See Body."""
        if self._declared > limit:
            raise self._fail(413, f"request body too large: {self._declared} bytes, at most {limit} are allowed")
        pieces, size, buffered = [], 0, 0
        try:
            while piece := await self._next():
                size += len(piece)
                if size > limit:
                    raise self._fail(413, f"request body too large: at most {limit} bytes are allowed")
                pieces.append(piece)
                if self._lease and not self.done:
                    if not self._lease.buffer(len(piece)):
                        raise self._fail(503, "this client has too many unfinished request bodies: try again later")
                    buffered += len(piece)
        finally:
            if self._lease:
                self._lease.buffer(-buffered)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def __aiter__(self) -> Self:
        # not a generator, because a generator must be closed if a handler stops early
        return self

    async def __anext__(self) -> bytes:
        piece = await self._next()
        if not piece:
            raise StopAsyncIteration
        return piece

    async def _next(self) -> bytes:
        """The next piece; b"" only at the end."""
        inbound = self._inbound
        while True:
            if self._failure:
                raise BodyError(*self._failure)
            if self.done:
                return b""
            if inbound.buffer:
                piece = self._take()
                if piece or self.done:
                    return piece
            await self.invite()
            await self._wait()

    def _take(self) -> bytes:
        try:
            piece, rest = self._framing.take(self._inbound.buffer)
        except BodyError as error:
            self._failure = error.status, str(error)
            raise
        self._inbound.leave(rest)
        return piece

    async def invite(self) -> None:
        """Send `100 Continue` if the client waits for it."""
        if self.expects:
            self.expects = False
            try:
                await self._inbound.transport.answer(CONTINUE)
            except trio.BrokenResourceError:
                raise self._fail(400, "unexpected end of the request body") from None

    async def _wait(self) -> None:
        before = len(self._inbound.buffer)
        with trio.move_on_after(self._timeout):
            while await self._inbound.more(_PIECE):
                if len(self._inbound.buffer) != before:
                    return
            raise self._fail(400, "unexpected end of the request body")
        raise self._fail(408, "the request body did not arrive in time")

    def _fail(self, status: int, message: str) -> BodyError:
        self._failure = status, message
        return BodyError(status, message)

    @property
    def unrecoverable(self) -> bool:
        """True if the next request cannot be found, because the remaining part of this body is lost or too long."""
        if self._failure or (self.expects and not self.done):
            return True
        left = self._framing.left if isinstance(self._framing, Counted) else 0
        return left > _DISCARD

    async def discard(self) -> bool:
        """Read and drop the unread part of the body. Returns false if this part is too long or malformed."""
        size = 0
        try:
            while piece := await self._next():
                size += len(piece)
                if size > _DISCARD:
                    return False
        except BodyError:
            return False
        return True
