"""The interface of handlers. A handler takes a request and returns one of three kinds of answer. Knows nothing of Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Protocol

import msgspec

__all__ = [
    "Answer",
    "Body",
    "BodyError",
    "Handler",
    "Hijack",
    "Limits",
    "Peer",
    "RawStream",
    "Request",
    "Response",
    "Streaming",
]

Headers = tuple[tuple[str, str], ...]


class BodyError(Exception):
    """The request's body cannot be read: too large (413), malformed (400), or too slow (408)."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Body(Protocol):
    """The request's body. Read it once, with `read` or by iteration; the server discards unread bytes."""

    async def read(self, limit: int) -> bytes:
        """Read the whole body. Raises `BodyError(413)` if it has more than `limit` bytes."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as they arrive. Sends `100 Continue` before the first piece, if the client waits for it."""
        ...


class Peer(msgspec.Struct, frozen=True):
    """The other end of a connection. `pid`, `uid` and `gid` are set for unix sockets, `address` for TCP. `subject`,
    `common_name` and `certificate` (DER) are set if the client presented a certificate that was verified."""

    transport: str
    pid: int = 0
    uid: int = -1
    gid: int = -1
    address: str = ""
    subject: str = ""
    common_name: str = ""
    certificate: bytes = b""


class Request(msgspec.Struct):
    """`path` is percent-decoded, without the query. `query` keeps all values of a name in order. Header names are lower
    case; repeated headers are joined by ", "."""

    method: str
    target: str
    path: str
    query: Mapping[str, list[str]]
    headers: Mapping[str, str]
    body: Body
    peer: Peer

    def arg(self, name: str, default: str = "") -> str:
        """The first value of a query parameter."""
        values = self.query.get(name)
        return values[0] if values else default


class Response(msgspec.Struct, frozen=True):
    """A complete answer. The server adds Content-Length and Date, and omits the body for HEAD, 204 and 304."""

    status: int
    body: bytes = b""
    headers: Headers = ()


class Streaming(msgspec.Struct, frozen=True):
    """An answer of unknown length, sent in chunks (for HTTP/1.0, ended by a close). The head is sent before the first piece
    is produced; each piece is sent immediately. If the client disconnects, the answer is cancelled. An exception in `pieces`
    breaks the connection, so that the client sees that the answer is incomplete."""

    status: int
    pieces: AsyncIterator[bytes]
    headers: Headers = ()


class RawStream(Protocol):
    """The connection after a hijack, beginning with bytes that the client had already sent."""

    async def receive_some(self, limit: int = 65536) -> bytes:
        """The next bytes; b"" after the client has shut down its side."""
        ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def send_eof(self) -> None:
        """Shut down our side; the client can still send. (TLS: close_notify.)"""
        ...

    async def hung_up(self) -> None:
        """Return when the client has closed both directions. A half-close is not enough."""
        ...

    def share(self) -> tuple[int, bytes] | None:
        """Let another process continue the connection. Returns a duplicate of the socket's descriptor, which the caller must
        close, and the bytes that were read already. Returns None if the connection is not a plain socket. After this call,
        this process must not read from the connection. Closing this stream shuts the socket down, so the other process sees
        an EOF."""
        ...

    async def aclose(self) -> None: ...


class Hijack(msgspec.Struct, frozen=True):
    """Take over the connection: `head` is sent byte for byte, then `run` owns the stream, which is closed afterwards."""

    head: bytes
    run: Callable[[RawStream], Awaitable[None]]


Answer = Response | Streaming | Hijack
Handler = Callable[[Request], Awaitable[Answer]]


class Limits(msgspec.Struct, frozen=True):
    """Limits for clients. Times are in seconds, sizes in bytes. For limits whose default is 0, 0 means no limit."""

    head: int = 64 << 10
    headers: int = 128
    head_timeout: float = 30.0
    """The time from the first byte of a request to the end of its head."""
    idle_timeout: float = 600.0
    """The time between two requests."""
    body_timeout: float = 300.0
    """The time between two pieces of a body."""
    send_timeout: float = 0.0
    """The time in which a client must take one piece; 0 means no limit."""
    connections: int = 0
    """Connections that all clients of a server may have open at the same time."""
    connections_by_peer: int = 0
    """Connections that one local user or one remote address may have open at the same time."""
    buffered_by_peer: int = 0
    """Bytes that `Body.read` may buffer of the incomplete bodies of one peer."""
    descriptors: int = 0
    """While the process has this many open files, new connections are refused."""
    descriptors_by_request: bool = False
    """Whether requests, too, are refused at `descriptors` open files. True for clients that must not delay others."""
