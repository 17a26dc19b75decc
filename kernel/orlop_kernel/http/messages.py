"""What a handler sees of HTTP: a request in, one of three kinds of answer out. Knows nothing of Docker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

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
    """The request's body. Read it once, by either method; what is left is discarded by the server."""

    async def read(self, limit: int) -> bytes:
        """All of it. `BodyError(413)` past `limit` bytes."""
        ...

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Pieces as they arrive. Sends `100 Continue` at the first, if the client waits for it."""
        ...


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end. `pid`, `uid`, `gid` on a unix socket; `address` on TCP; of a verified client certificate its
    `subject`, the common name alone, and the certificate itself (DER)."""

    transport: str
    pid: int = 0
    uid: int = -1
    gid: int = -1
    address: str = ""
    subject: str = ""
    common_name: str = ""
    certificate: bytes = b""


@dataclass(slots=True)
class Request:
    """`path` is percent-decoded, without the query; `query` keeps every value of a name, in order; header names are lower
    case, repeated ones joined by ", "."""

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


@dataclass(frozen=True, slots=True)
class Response:
    """A whole answer. The server adds Content-Length and Date, and leaves the body out for HEAD, 204 and 304."""

    status: int
    body: bytes = b""
    headers: Headers = ()


@dataclass(frozen=True, slots=True)
class Streaming:
    """An answer of unknown length, chunked (to HTTP/1.0 clients: until close). The head is sent before the first piece is
    asked for; each piece is sent as it comes. Cancelled when the client goes away. An exception out of `pieces` breaks the
    connection off, so that the client sees it was not whole."""

    status: int
    pieces: AsyncIterator[bytes]
    headers: Headers = ()


class RawStream(Protocol):
    """The connection after a hijack, with what the client had already sent in front."""

    async def receive_some(self, limit: int = 65536) -> bytes:
        """The next bytes; b"" when the client has shut its side down."""
        ...

    async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...

    async def send_eof(self) -> None:
        """Shut our side down; the client can still send. (TLS: close_notify.)"""
        ...

    async def hung_up(self) -> None:
        """Return when the client has gone altogether: it can neither send nor read any more. A half-close is not enough."""
        ...

    async def aclose(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Hijack:
    """Take the connection over: `head` is sent byte for byte, then `run` owns the stream; it is closed after it."""

    head: bytes
    run: Callable[[RawStream], Awaitable[None]]


Answer = Response | Streaming | Hijack
Handler = Callable[[Request], Awaitable[Answer]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What clients may do. Seconds, bytes, and numbers of which 0 means any."""

    head: int = 64 << 10
    headers: int = 128
    head_timeout: float = 30.0
    """From the first byte of a request to the end of its head."""
    idle_timeout: float = 600.0
    """Between requests."""
    body_timeout: float = 300.0
    """Between two pieces of a body."""
    send_timeout: float = 0.0
    """For one piece to be taken by a client; 0 = a slow reader may take for ever."""
    connections: int = 0
    """At once, of all clients of a server."""
    connections_by_peer: int = 0
    """At once, of one user of this machine or one address of another."""
    buffered_by_peer: int = 0
    """Bytes of bodies that are being read whole (`Body.read`) for one of these at once."""
    descriptors: int = 0
    """No connection is taken while the process has so many files open."""
    descriptors_by_request: bool = False
    """And no request is carried out: for clients that others must not be held up by."""
