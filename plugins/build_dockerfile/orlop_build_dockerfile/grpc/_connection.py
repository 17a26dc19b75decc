"""A connection: reads and writes frames, runs the handlers of a server, opens the calls of a client."""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Protocol

import trio

from orlop_build_dockerfile.grpc._call import CONTENT_TYPE, Call
from orlop_build_dockerfile.grpc._http2 import (
    Began,
    Data,
    Ended,
    Event,
    GoingAway,
    HeadersReceived,
    Http2,
    Limits,
    PeerError,
    Reset,
    StreamGone,
    WindowOpened,
)
from orlop_build_dockerfile.grpc._status import (
    Code,
    Headers,
    RpcError,
    format_timeout,
    from_reset,
    parse_timeout,
    status_headers,
)

__all__ = ["ByteStream", "Connection", "Handler"]

log = logging.getLogger("orlop.build.grpc")

READ_SIZE = 1 << 18
HIGH_WATER = 1 << 18  # bytes of unwritten output above which senders wait
# Bytes of unwritten output (mostly acknowledgements of PING) above which no more input of the peer is read
READ_STOP = 1 << 20
SMALL_READ, SMALL_READS, SMALL_PAUSE = 16 << 10, 16, 0.001
"""If a peer sends `SMALL_READS` pieces of less than `SMALL_READ` bytes in sequence, without an answer in between, its data
is read only every `SMALL_PAUSE` seconds, because waking up for each piece costs more than processing it."""
NO_ERROR, REFUSED, CANCEL, CALM = 0, 7, 8, 11

Handler = Callable[[Call], Awaitable[None]]
"""Answers a call. An RpcError becomes the status of the call; any other exception is logged and becomes UNKNOWN. The handler
is cancelled when the client cancels the call, when its deadline passes, and when the connection ends."""


class ByteStream(Protocol):
    """A trio stream, or bytes in the messages of another call."""

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray: ...

    async def send_all(self, data: bytes) -> None: ...

    async def aclose(self) -> None: ...


class Connection:
    """An HTTP/2 connection. A server has `handlers`, by path ("/package.Service/Method"), and may have a handler for all
    `others`; a client uses `unary` and `call`. `run` reads and writes the stream, and must be running."""

    def __init__(
        self,
        stream: ByteStream,
        *,
        client: bool = False,
        handlers: Mapping[str, Handler] | None = None,
        others: Handler | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.client = client
        self.limits = limits or Limits()
        self.http2 = Http2(client=client, limits=self.limits)
        self._stream, self._handlers, self._others = stream, handlers or {}, others
        self._calls: dict[int, Call] = {}
        self._early = 0
        self._over: RpcError | None = None  # set when no more calls are accepted
        self._draining = False
        self._sent = False  # whether a message was sent since the last read
        self._ready = trio.Event()
        self._output = trio.Event()
        self._written = trio.lowlevel.ParkingLot()
        self._window = trio.lowlevel.ParkingLot()
        self._idle = trio.lowlevel.ParkingLot()
        self._reading = trio.CancelScope()
        self._nursery: trio.Nursery | None = None

    async def run(self, initial: bytes = b"") -> None:
        """Serve until one side closes the connection and all handlers have ended. `initial` are bytes that were read
        before."""
        try:
            async with trio.open_nursery() as self._nursery:
                self._nursery.start_soon(self._write)
                self._ready.set()
                await self._read(initial)
                self._end(RpcError(Code.UNAVAILABLE, "the connection is closed"))
                self._nursery.cancel_scope.deadline = trio.current_time() + 1
        finally:
            self._end(RpcError(Code.UNAVAILABLE, "the connection is closed"))
            with trio.move_on_after(1, shield=True):
                await self._stream.aclose()

    def close(self) -> None:
        """Make `run` return. Calls in progress are cancelled."""
        self._reading.cancel()

    async def drain(self, reason: str = "") -> None:
        """Accept no more calls (GOAWAY), and close the connection when the calls in progress have ended."""
        if not self._draining:
            self._draining = True
            self.http2.go_away(text=reason)
            self.flush()
        while self._calls and self._over is None:
            await self._idle.park()
        self.close()

    # Reading and writing

    async def _read(self, data: bytes | bytearray) -> None:
        small = 0
        with self._reading:
            try:
                while True:
                    if data:
                        events = self.http2.receive(data)
                        for event in events:
                            self._handle(event)
                        self.flush()
                        alone = len(data) < SMALL_READ and all(type(event) is Data for event in events)
                        small = small + 1 if alone and not self._sent else 0
                        self._sent = False
                    while self.http2.backlog > READ_STOP and self._over is None:
                        await self._written.park()
                    if small >= SMALL_READS:  # the peer sends a long list, one entry at a time
                        await trio.sleep(SMALL_PAUSE)
                    data = await self._stream.receive_some(READ_SIZE)
                    if not data:
                        return
            except PeerError as error:
                log.info("a gRPC connection ends: %s", error)
                self.http2.go_away(error.code, str(error))
            except (trio.BrokenResourceError, trio.ClosedResourceError):
                return

    async def _write(self) -> None:
        try:
            while True:
                if data := self.http2.output():
                    await self._stream.send_all(data)
                    self._written.unpark_all()
                elif self._over is not None:
                    return
                else:
                    self._output = trio.Event()
                    await self._output.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            self.close()

    def _end(self, error: RpcError) -> None:
        if self._over is not None:
            return
        self._over = error
        for call in list(self._calls.values()):
            if not call.ended or not self.client:
                call.fail(error)
        self._ready.set()
        self._output.set()
        for lot in (self._written, self._window, self._idle):
            lot.unpark_all()

    # Methods for calls (see CallOwner)

    def flush(self) -> None:
        self._output.set()

    def sent(self) -> None:
        self._sent = True

    async def writable(self) -> None:
        while self.http2.backlog > HIGH_WATER and self._over is None:
            await self._written.park()

    async def window_opened(self) -> None:
        if self._over is None:
            await self._window.park()

    def count_early(self, change: int) -> None:
        self._early += change
        if change > 0 and self._early > self.limits.partial:
            raise RpcError(Code.RESOURCE_EXHAUSTED, "too many large messages at the same time")

    # Events

    def _handle(self, event: Event) -> None:
        match event:
            case Data(stream, data, size):
                call = self._calls.get(stream)
                if call is None:
                    self.http2.acknowledge(stream, size)
                    return
                try:
                    call.deliver(data, size)
                except RpcError as error:
                    call.fail(error)
                    if self.client:
                        self.http2.reset(stream, CANCEL)
                        self._window.unpark_all()
            case Began(stream, headers):
                self._begin(stream, headers)
            case HeadersReceived(stream, headers):
                if self.client and (call := self._calls.get(stream)):
                    call.deliver_headers(headers)
                    self._window.unpark_all()
            case Ended(stream):
                if call := self._calls.get(stream):
                    call.deliver_end()
            case Reset(stream, code):
                if (call := self._calls.get(stream)) and not (self.client and call.ended):
                    call.fail(from_reset(code))
                self._window.unpark_all()
            case WindowOpened():
                self._window.unpark_all()
            case GoingAway(last, _, text):
                self._draining = True
                for number, call in list(self._calls.items()):
                    if self.client and number > last:
                        call.fail(RpcError(Code.UNAVAILABLE, f"the peer closes the connection: {text}"))

    # The server

    def _begin(self, stream: int, headers: list[tuple[str, str]]) -> None:
        if self._draining:
            self.http2.reset(stream, REFUSED)
            return
        if len(self._calls) >= 2 * self.limits.streams:
            # The peer opens and resets streams faster than their handlers end (CVE-2023-44487)
            raise PeerError("too many cancelled calls have not finished", CALM)
        metadata: dict[str, list[str]] = {}
        for name, value in headers:
            metadata.setdefault(name, []).append(value)
        if not metadata.get("content-type", [""])[0].startswith("application/grpc"):
            self.http2.send_headers(stream, [(":status", "415")], end=True)
            self.http2.reset(stream, NO_ERROR)
            return
        call = Call(self, stream, metadata[":path"][0], metadata, self.limits.message)
        self._calls[stream] = call
        assert self._nursery is not None
        self._nursery.start_soon(self._serve, call)

    async def _serve(self, call: Call) -> None:
        status: RpcError | None = None
        try:
            with call.scope:
                await self._call_handler(call)
        except Exception as error:
            status = _status(call.path, error)
        else:
            if call.scope.cancelled_caught:
                status = call.error or RpcError(Code.DEADLINE_EXCEEDED, "context deadline exceeded")
        finally:
            self._calls.pop(call.stream, None)
            if not self._calls:
                self._idle.unpark_all()
        call.close(RpcError(Code.CANCELLED, "context canceled"))
        self._answer(call, status)

    async def _call_handler(self, call: Call) -> None:
        handler = self._handlers.get(call.path, self._others)
        if handler is None:
            raise RpcError(Code.UNIMPLEMENTED, f"unknown method {call.path}")
        if timeout := call.values("grpc-timeout"):
            call.scope.deadline = trio.current_time() + parse_timeout(timeout[0])
        await handler(call)

    def _answer(self, call: Call, status: RpcError | None) -> None:
        try:
            # Reset the stream, because the peer parses trailers in the middle of a message as a part of the message
            if call.mid_message and status is not None:
                self.http2.reset(call.stream, CANCEL)
            else:
                first = [] if call.started else [(":status", "200"), CONTENT_TYPE]
                self.http2.send_headers(call.stream, [*first, *status_headers(status)], end=True)
                if not call.ended:
                    self.http2.reset(call.stream, NO_ERROR)
        except StreamGone:
            pass  # the client has cancelled the call
        self.flush()

    # The client

    @asynccontextmanager
    async def call(self, path: str, metadata: Headers = (), *, timeout: float = math.inf) -> AsyncIterator[Call]:
        """A call to the peer. It is cancelled if the block ends before the peer has answered. Raises RpcError."""
        await self._ready.wait()
        if self._over is not None or self._draining:
            raise self._over or RpcError(Code.UNAVAILABLE, "the peer closes the connection")
        headers = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "localhost")]
        headers += [CONTENT_TYPE, ("te", "trailers"), ("user-agent", "orlop")]
        if timeout != math.inf:
            headers.append(("grpc-timeout", format_timeout(timeout)))
        try:
            stream = self.http2.open([*headers, *metadata])
        except StreamGone as error:
            raise RpcError(Code.UNAVAILABLE, str(error)) from error
        call = self._calls[stream] = Call(self, stream, path, {}, self.limits.message)
        self.flush()
        try:
            call.scope.deadline = trio.current_time() + timeout
            with call.scope:
                yield call
            if call.scope.cancelled_caught:
                raise RpcError(Code.DEADLINE_EXCEEDED, f"{path}: no answer within {timeout:g} seconds")
        finally:
            del self._calls[stream]
            call.close(RpcError(Code.CANCELLED, "context canceled"))
            if not (call.ended and call.sent_all):
                self.http2.reset(stream, CANCEL)
            self.flush()

    async def unary(self, path: str, message: bytes, metadata: Headers = (), *, timeout: float = math.inf) -> bytes:
        """Call a method with one message and one answer. Raises RpcError."""
        async with self.call(path, metadata, timeout=timeout) as call:
            await call.send(message)
            call.finish_sending()
            return await call.receive_one()


def _status(path: str, error: Exception) -> RpcError:
    """The status for an exception of a handler, alone or in a group that a nursery made."""
    found: list[Exception] = []

    def collect(error: BaseException) -> None:
        if isinstance(error, BaseExceptionGroup):
            for inner in error.exceptions:
                collect(inner)
        elif isinstance(error, Exception):
            found.append(error)

    collect(error)
    for inner in found:
        if isinstance(inner, RpcError):
            return inner
    log.error("cannot answer a call of %s", path, exc_info=error)
    return RpcError(Code.UNKNOWN, str(found[0]) or type(found[0]).__name__)
