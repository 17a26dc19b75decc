"""One call: a stream of messages in each direction, and a status at the end."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Protocol

import trio

from orlop_build_dockerfile.grpc._http2 import Http2, StreamGone
from orlop_build_dockerfile.grpc._messages import PREFIX, MessageReader, encode
from orlop_build_dockerfile.grpc._status import Code, Headers, RpcError, from_http, status_of

__all__ = ["CONTENT_TYPE", "Call", "CallOwner"]

CONTENT_TYPE = ("content-type", "application/grpc")


class CallOwner(Protocol):
    """The interface of a connection for its calls."""

    http2: Http2
    client: bool

    def flush(self) -> None:
        """Write the output soon."""
        ...

    def sent(self) -> None:
        """Note that a message was sent, for which the peer may be waiting."""
        ...

    async def writable(self) -> None:
        """Wait until little output is left to write."""
        ...

    async def window_opened(self) -> None:
        """Wait until the peer allows more data on any stream, or until the connection ends."""
        ...

    def count_early(self, change: int) -> None:
        """Count bytes that were acknowledged but are still kept. Raises RpcError if there are too many."""
        ...


class _Received:
    """Messages that have arrived together. `size` is the number of their bytes, including their prefixes. `early` is the
    number of bytes of the first message that were acknowledged when they arrived."""

    __slots__ = ("early", "messages", "size")

    def __init__(self, messages: list[bytes], early: int) -> None:
        self.messages, self.early = deque(messages), early
        self.size = sum(map(len, messages)) + PREFIX * len(messages)


class Call:
    """A call. `metadata` are the headers of the request. `headers` are the headers of the response; only a client has them.
    One task may receive while another task sends."""

    def __init__(self, owner: CallOwner, stream: int, path: str, metadata: Mapping[str, list[str]], limit: int) -> None:
        self.path, self.metadata, self.stream = path, metadata, stream
        self.headers: Mapping[str, str] = {}
        self.error: RpcError | None = None
        self.scope = trio.CancelScope()  # cancels the handler, or the caller
        self.started = False
        self.mid_message = False
        self.sent_all = False
        self.ended = False  # whether the peer has sent all its messages
        self._owner = owner
        self._reader = MessageReader(limit)
        self._received: deque[_Received] = deque()
        self._early = 0  # bytes of the incomplete message that were acknowledged
        self._arrived = trio.Event()

    def values(self, name: str) -> list[str]:
        return self.metadata.get(name, [])

    # Data from the connection

    def deliver(self, data: bytes, size: int) -> None:
        """Process data of the peer; `size` bytes count against its window. Raises RpcError for invalid data."""
        acknowledge = self._owner.http2.acknowledge
        if self.error is not None:
            acknowledge(self.stream, size)
            return
        if size > len(data):
            acknowledge(self.stream, size - len(data))  # padding
        if messages := self._reader.feed(data):
            self._received.append(_Received(messages, self._early))
            self._early = 0
        # A message that is larger than the window only arrives if its parts are acknowledged
        new = self._reader.pending - self._early
        if new > 0 and self._reader.needed > self._owner.http2.limits.window // 2:
            self._early += new
            acknowledge(self.stream, new)
            self._owner.count_early(new)
        self._arrived.set()

    def deliver_headers(self, headers: list[tuple[str, str]]) -> None:
        """Process the headers of a response, its trailers, or headers that are also trailers."""
        found = dict(headers)
        status = found.get(":status", "200")
        if "grpc-status" in found:
            self.ended = True
            self.error = self.error or status_of(found)
        elif status != "200":
            self.fail(from_http(status))
        elif ":status" in found:
            self.headers = found
        self._arrived.set()

    def deliver_end(self) -> None:
        if self._owner.client and not self.ended:
            self.fail(RpcError(Code.INTERNAL, "the peer ended the call without a status"))
        self.ended = True
        self._arrived.set()

    def fail(self, error: RpcError) -> None:
        """End the call immediately. Messages that have not been received are lost."""
        self.close(error)
        self._arrived.set()
        if not self._owner.client:
            self.scope.cancel()

    def close(self, error: RpcError) -> None:
        """Stop receiving, and release the messages that have arrived."""
        self.error = self.error or error
        early = self._early
        unacknowledged = self._reader.pending - early
        for received in self._received:
            early += received.early
            unacknowledged += received.size - received.early
        self._received.clear()
        self._reader = MessageReader(0)
        self._early = 0
        self._owner.count_early(-early)
        self._owner.http2.acknowledge(self.stream, unacknowledged)

    # Receiving

    async def receive(self) -> bytes | None:
        """The next message, or None at the end. Raises RpcError for a status other than OK, and if the call has ended
        without a status."""
        batch = await self.receive_batch(1)
        return batch[0] if batch else None

    async def receive_batch(self, most: int = 1 << 20) -> list[bytes]:
        """The messages that have arrived, up to about `most` bytes. Waits for at least one message; returns an empty list at
        the end."""
        while not self._received:
            if self.error is not None:
                raise self.error
            if self.ended:
                return []
            self._arrived = trio.Event()
            await self._arrived.wait()
        batch: list[bytes] = []
        size = acknowledged = 0
        while self._received and size < most:
            received = self._received[0]
            if size + received.size <= most:
                batch += received.messages
                size += received.size
                acknowledged += received.early
                self._received.popleft()
                continue
            acknowledged += received.early
            received.early = 0
            while received.messages and size < most:
                batch.append(received.messages.popleft())
                size += PREFIX + len(batch[-1])
                received.size -= PREFIX + len(batch[-1])
            if not received.messages:
                self._received.popleft()
        self._owner.count_early(-acknowledged)
        self._owner.http2.acknowledge(self.stream, size - acknowledged)
        self._owner.flush()
        return batch

    async def receive_one(self) -> bytes:
        """The only message of the peer: the request of a unary call, or the response to it."""
        message = await self.receive()
        if message is None:
            raise RpcError(Code.INTERNAL, "the peer sent no message")
        if await self.receive() is not None:
            raise RpcError(Code.INTERNAL, "the peer sent more than one message")
        return message

    # Sending. All methods raise RpcError if the call has ended

    def start(self, metadata: Headers = ()) -> None:
        """Send the headers of the response, unless they have been sent. On the client's side this method does nothing,
        because the headers were sent with the request."""
        if self._owner.client or self.started:
            return
        self.started = True
        try:
            self._owner.http2.send_headers(self.stream, [(":status", "200"), CONTENT_TYPE, *metadata])
        except StreamGone as error:
            raise self._gone() from error
        self._owner.flush()

    async def send(self, *messages: bytes) -> None:
        """Send messages, several in one frame if they fit. If this method is cancelled in the middle of a message, the call
        fails."""
        self.start()
        http2 = self._owner.http2
        rest = memoryview(b"".join(map(encode, messages)))
        self.mid_message = True
        self._owner.sent()
        while rest:
            if self.error is not None:
                raise self.error
            try:
                size = http2.sendable(self.stream)
                if size:
                    http2.send_data(self.stream, bytes(rest[:size]))
            except StreamGone as error:
                raise self._gone() from error
            rest = rest[size:]
            self._owner.flush()
            if size:
                await self._owner.writable()
            else:
                await self._owner.window_opened()
        self.mid_message = False

    def finish_sending(self) -> None:
        """Tell the server that the client has sent all its messages. On a server, this has no effect: there, a call ends
        when its handler ends."""
        if self._owner.client and not self.sent_all:
            self.sent_all = True
            try:
                self._owner.http2.send_data(self.stream, b"", end=True)
            except StreamGone as error:
                if not self.ended:  # a server that has answered resets the rest of the request (RFC 9113, 8.1)
                    raise self._gone() from error
            self._owner.flush()

    def _gone(self) -> RpcError:
        return self.error or RpcError(Code.CANCELLED, "context canceled")
