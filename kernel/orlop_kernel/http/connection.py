"""One client's connection, from its first request to its close.

One task answers requests strictly in order. A second task exists only during a `Streaming` answer, to detect that the client
has disconnected. A request that arrives in one piece and is answered by a `Response` costs one wait, one read and one write.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import trio

from orlop_kernel import descriptors
from orlop_kernel.failures import forget_frames
from orlop_kernel.http.admission import Admission, Lease
from orlop_kernel.http.body import RequestBody
from orlop_kernel.http.encode import LAST_CHUNK, BadHeader, chunk, plain_error, stream_head, whole
from orlop_kernel.http.head import BadRequest, Head, HeadParser
from orlop_kernel.http.hijack import HijackedStream
from orlop_kernel.http.messages import Answer, BodyError, Handler, Hijack, Limits, Peer, Request, Response, Streaming
from orlop_kernel.http.transport import Inbound, Transport

__all__ = ["Connection", "OnError", "default_on_error"]

log = logging.getLogger("orlop.http")

OnError = Callable[[Request, Exception], Response]
"""Turns an exception of a handler into an answer. Must not raise; called once for each failure, so it may log."""


def default_on_error(request: Request, error: Exception) -> Response:
    """The default `on_error`: sends the text of errors that the client caused, and hides all other errors."""
    if isinstance(error, BodyError | BadRequest):
        return Response(error.status, str(error).encode(), (("Content-Type", "text/plain; charset=utf-8"),))
    log.error("cannot answer %s %s", request.method, request.target, exc_info=error)
    return Response(500, b"internal server error", (("Content-Type", "text/plain; charset=utf-8"),))


class Connection:
    """Cancelling `scope` ends the connection; `lease` may cancel it. `lease` also records whether a request is running."""

    def __init__(
        self,
        stream: trio.abc.Stream,
        handler: Handler,
        peer: Peer,
        limits: Limits,
        on_error: OnError = default_on_error,
        lease: Lease | None = None,
    ) -> None:
        self.scope = trio.CancelScope()
        self._lease = lease or Admission(limits).admit("")
        self._lease.scope = self.scope
        self._transport = Transport(stream, limits.send_timeout)
        self._inbound = Inbound(self._transport)
        self._no_body = RequestBody(self._inbound, 0, 0)
        self._parser = HeadParser(limits)
        self._handler = handler
        self._peer = peer
        self._limits = limits
        self._on_error = on_error
        self._last = False

    def finish(self) -> None:
        """End the connection: if it is idle, immediately; otherwise after the current answer."""
        self._last = True
        if self._lease.waits and not self._inbound.buffer:
            self.scope.cancel()

    async def run(self) -> None:
        """Serve until either side closes. Owns the stream, and closes it before returning."""
        try:
            with self.scope:
                try:
                    while await self._exchange(await self._next_head()):
                        pass
                except BadRequest as error:
                    await self._transport.answer(plain_error(error.status, str(error)))
                if not self._inbound.eof:
                    await self._transport.linger()
        except (EOFError, trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the client disconnected
        except Exception:
            log.exception("connection lost")  # a bug must not end the other connections
        finally:
            await self._transport.aclose()

    async def _next_head(self) -> Head:
        """Read the next request's head. Raises EOFError when the client has closed."""
        inbound = self._inbound
        self._lease.wait()
        if not inbound.buffer:
            if self._last or not await inbound.more():
                raise EOFError
        else:
            # Other clients must be served between the requests of a client that pipelines
            await trio.lowlevel.checkpoint()
        head = self._parse() or await self._slow_head()
        self._lease.work()
        return head

    def _parse(self) -> Head | None:
        inbound = self._inbound
        if inbound.buffer[:1] == b"\r":
            # A leading empty line is ignored (RFC 9112 section 2.2)
            while inbound.buffer.startswith(b"\r\n"):
                inbound.buffer = inbound.buffer[2:]
            if inbound.buffer in (b"", b"\r"):
                return None
        parsed = self._parser.parse(inbound.buffer)
        if parsed is None:
            return None
        head, size = parsed
        inbound.buffer = inbound.buffer[size:]
        return head

    async def _slow_head(self) -> Head:
        with trio.move_on_after(self._limits.head_timeout):
            while await self._inbound.more():
                head = self._parse()
                if head:
                    return head
            if self._inbound.buffer.strip(b"\r\n"):
                raise BadRequest(400, "unexpected end of the request")
            raise EOFError
        raise BadRequest(408, "the request did not arrive in time")

    async def _exchange(self, head: Head) -> bool:
        """Answer one request. Returns false when the connection must close after this answer."""
        body = self._no_body
        if head.length:
            body = RequestBody(
                self._inbound, head.length, self._limits.body_timeout, expects=head.expects, lease=self._lease
            )
        request = Request(head.method, head.target, head.path, head.query, head.headers, body, self._peer)
        answer: Answer
        try:
            if head.query_error:
                raise BadRequest(400, head.query_error)
            if self._limits.descriptors_by_request and descriptors.in_use() >= self._limits.descriptors:
                raise BadRequest(503, "the daemon has too many open files: try again later")
            answer = await self._handler(request)
        except Exception as error:
            answer = self._on_error(request, error)
            forget_frames(error)
        try:
            if isinstance(answer, Response):
                return await self._respond(head, body, answer)
            if isinstance(answer, Streaming):
                return await self._stream(head, body, answer, request)
        except BadHeader as error:
            return await self._respond(head, body, self._on_error(request, error))
        await self._hijack(body, answer, request)
        return False

    async def _respond(self, head: Head, body: RequestBody, answer: Response) -> bool:
        keep = head.keep_alive and not self._last and (body.done or not body.unrecoverable)
        await self._transport.answer(
            whole(head.version, answer.status, answer.headers, answer.body, head_only=head.method == "HEAD", keep=keep)
        )
        return keep and (body.done or await body.discard())

    async def _stream(self, head: Head, body: RequestBody, answer: Streaming, request: Request) -> bool:
        keep = head.keep_alive and not self._last and head.version == "1.1"
        try:
            beginning = stream_head(head.version, answer.status, answer.headers, keep=keep)
        except BadHeader:
            await _close(answer)
            raise
        complete = False
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._cancel_when_gone, nursery.cancel_scope)
            try:
                if not body.done:
                    await body.invite()  # now, because `100 Continue` cannot be sent after the head of the answer
                await self._transport.answer(beginning)
                if head.method != "HEAD":
                    await self._produce(answer, chunked=head.version == "1.1")
                complete = True
            except Exception as error:
                if not _client_left(error):
                    self._on_error(request, error)  # this only logs the error, because the head has already been sent
            finally:
                await _close(answer)
            nursery.cancel_scope.cancel()
        if not complete:
            raise EOFError
        return keep and not body.unrecoverable and (body.done or await body.discard())

    async def _produce(self, answer: Streaming, *, chunked: bool) -> None:
        send = self._transport.send
        self._transport.widen()
        async for piece in answer.pieces:
            if piece:
                await send(chunk(piece) if chunked else piece)
        if chunked:
            await send(LAST_CHUNK)

    async def _cancel_when_gone(self, scope: trio.CancelScope) -> None:
        await self._inbound.closed()
        scope.cancel()

    async def _hijack(self, body: RequestBody, answer: Hijack, request: Request) -> None:
        if not body.done and not body.expects:
            await body.discard()
        await self._transport.send(answer.head)
        stream = HijackedStream(self._transport, self._inbound)
        try:
            await answer.run(stream)
        except Exception as error:
            if not _client_left(error):
                self._on_error(request, error)


def _client_left(error: BaseException) -> bool:
    """Whether the error means that the client disconnected, possibly within a body. Such errors are not logged."""
    if isinstance(error, BaseExceptionGroup):
        return all(_client_left(inner) for inner in error.exceptions)
    return isinstance(error, trio.BrokenResourceError | trio.ClosedResourceError | BodyError)


async def _close(answer: Streaming) -> None:
    """Close the generator, within a time limit, even if the client has disconnected or the daemon stops."""
    aclose = getattr(answer.pieces, "aclose", None)
    if aclose is None:
        return
    with trio.move_on_after(5, shield=True):
        try:
            await aclose()
        except Exception:
            log.exception("cannot end a stream cleanly")
