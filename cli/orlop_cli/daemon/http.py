"""HTTP/1.1 over one connected stream: the parts that the Engine API needs.

`http.client` is not used. Its import takes 12 ms (it imports `email`), and all requests of an `orlop ps` together take less.
This module has the three body framings, keep-alive, and the hijack (RFC 9110 section 7.8, Docker's `Upgrade: tcp`). After a
hijack, the connection belongs to the caller, including the bytes that were read after the head.

Only one thread at a time may use a Connection. An answer must be read to its end before the next request.
"""

from __future__ import annotations

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from typing import Protocol

    class Stream(Protocol):
        """A connected byte stream: a socket, or TLS over a socket."""

        def recv(self, size: int, /) -> bytes: ...
        def recv_into(self, buffer: memoryview, /) -> int: ...
        def sendall(self, data: bytes | memoryview, /) -> None: ...
        def shutdown(self, how: int, /) -> None: ...
        def settimeout(self, seconds: float | None, /) -> None: ...
        def fileno(self) -> int: ...
        def close(self) -> None: ...


RECEIVE = 256 * 1024
MAX_HEAD = 256 * 1024
_HEX = b"0123456789abcdefABCDEF"


class ProtocolError(ConnectionError):
    """The peer does not send valid HTTP/1.1, or has closed the connection in the middle of an answer."""


class Head:
    """Status line and headers of an answer; header names in lower case, the last of repeated headers wins."""

    __slots__ = ("headers", "status", "version")

    def __init__(self, raw: bytes) -> None:
        first, *lines = raw.decode("latin-1").split("\r\n")
        parts = first.split(" ", 2)
        if len(parts) < 2 or not parts[0].startswith("HTTP/1.") or not parts[1].isdecimal():
            raise ProtocolError(f"not an HTTP answer: {first[:60]!r}")
        self.version = parts[0]
        self.status = int(parts[1])
        self.headers: dict[str, str] = {}
        for line in lines:
            name, colon, value = line.partition(":")
            if colon:
                self.headers[name.strip().lower()] = value.strip()


class ChunkedDecoder:
    """Decoder of `Transfer-Encoding: chunked`, without I/O. feed() returns the joined data of all received chunks, because a
    log of small frames arrives in a million tiny chunks."""

    __slots__ = ("_left", "_pending", "done", "rest")

    def __init__(self) -> None:
        self._pending = b""
        self._left = 0  # bytes of the current chunk that have not arrived yet, with its CRLF
        self.done = False
        self.rest = b""

    def feed(self, data: bytes) -> bytes:
        """Decode bytes. After the last chunk, `done` is set, and `rest` contains the bytes after this chunk."""
        data = self._pending + data if self._pending else data
        self._pending = b""
        out: list[bytes] = []
        at, end, left = 0, len(data), self._left
        while True:
            if left:
                stop = min(at + left, end)
                payload_stop = min(at + max(left - 2, 0), end)
                if payload_stop > at:
                    out.append(data[at:payload_stop])
                left -= stop - at
                at = stop
                if left:
                    break
            eol = data.find(b"\r\n", at)
            if eol < 0:
                break
            size = _chunk_size(data[at:eol])
            if size == 0:
                blank = data.find(b"\r\n\r\n", eol)  # trailers, if any, are between the two
                if blank < 0:
                    break
                self.done, self.rest = True, data[blank + 4 :]
                return b"".join(out)
            at = eol + 2
            left = size + 2
        self._left = left
        self._pending = data[at:]
        return b"".join(out)


def _chunk_size(line: bytes) -> int:
    digits = line.partition(b";")[0].strip()
    if not digits or digits.strip(_HEX):  # int() would also accept a sign, "0x" and "_"
        raise ProtocolError(f"bad chunk size {line[:20]!r}")
    return int(digits, 16)


def _length(text: str) -> int:
    if not (text.isdecimal() and text.isascii()) or len(text) > 19:
        raise ProtocolError(f"bad Content-Length {text[:20]!r}")
    return int(text)


class Response:
    """An answer whose body has not been read yet."""

    def __init__(self, connection: Connection, head: Head, rest: bytes, bodyless: bool) -> None:
        self.status = head.status
        self.headers = head.headers
        self._connection = connection
        self._rest = rest
        self._decoder: ChunkedDecoder | None = None
        self._length: int | None = None
        if bodyless or head.status in (204, 304):
            self._length = 0
        elif head.headers.get("transfer-encoding", "").lower() == "chunked":
            self._decoder = ChunkedDecoder()
        elif "content-length" in head.headers:
            self._length = _length(head.headers["content-length"])
        close = head.headers.get("connection", "").lower() == "close" or head.version == "HTTP/1.0"
        self._reusable = not close and (self._decoder is not None or self._length is not None)
        if self._length == 0:
            self._finish(rest)

    def _finish(self, rest: bytes) -> None:
        if self._reusable and not rest:
            self._connection.idle = True

    def chunks(self) -> Iterator[bytes]:
        """The body in pieces as they arrive, without empty pieces."""
        if self._decoder is not None:
            yield from self._chunked(self._decoder)
        elif self._length is not None:
            yield from self._counted(self._length)
        else:
            piece = self._rest or self._connection.receive()
            while piece:
                yield piece
                piece = self._connection.receive()

    def _chunked(self, decoder: ChunkedDecoder) -> Iterator[bytes]:
        piece = self._rest or self._connection.receive()
        while True:
            if not piece:
                raise ProtocolError("connection closed in the middle of an answer")
            data = decoder.feed(piece)
            if data:
                yield data
            if decoder.done:
                self._finish(decoder.rest)
                return
            piece = self._connection.receive()

    def _counted(self, left: int) -> Iterator[bytes]:
        piece = self._rest
        while left:
            piece = piece or self._connection.receive()
            if not piece:
                raise ProtocolError("connection closed in the middle of an answer")
            yield piece[:left]
            rest = piece[left:]
            left -= min(len(piece), left)
            piece = b""
            if not left:
                self._finish(rest)

    def read(self) -> bytes:
        """The whole body."""
        return b"".join(self.chunks())

    def hijack(self) -> tuple[Stream, bytes]:
        """Take over the connection. Returns the stream, and the bytes that were received together with the head."""
        return self._connection.stream, self._rest

    def close(self) -> None:
        """Close the connection, even if the answer is unread."""
        self._connection.close()


class Connection:
    """A connection to a daemon. `idle` is set if another request may be sent on it."""

    def __init__(self, stream: Stream, host: str) -> None:
        self.stream = stream
        self.host = host
        self.idle = True

    def receive(self) -> bytes:
        """Receive bytes; b"" at EOF. Raises only ConnectionError. Files never raise this error, so a caller that writes the
        bytes to a file can distinguish a lost connection from a full disk."""
        try:
            return self.stream.recv(RECEIVE)
        except ConnectionError:
            raise
        except OSError as error:
            raise ProtocolError(error.strerror or str(error)) from None

    def close(self) -> None:
        self.idle = False
        self.stream.close()

    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | Iterable[bytes] | None = None
    ) -> Response:
        """Send a request and return the answer after its head has arrived. An iterable body is sent chunked."""
        self.idle = False
        lines = [f"{method} {target} HTTP/1.1", f"Host: {self.host}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        if isinstance(body, bytes):
            lines.append(f"Content-Length: {len(body)}")
        elif body is not None:
            lines.append("Transfer-Encoding: chunked")
        elif method in ("POST", "PUT"):
            lines.append("Content-Length: 0")
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1", "replace")
        self.stream.sendall(head + body if isinstance(body, bytes) else head)
        if body is not None and not isinstance(body, bytes):
            self._send_chunked(body)
        return self._answer(method)

    def _send_chunked(self, body: Iterable[bytes]) -> None:
        # A daemon may answer and close the connection before the request is sent completely. Its answer contains the reason,
        # and the error of the pipe does not, so the error is ignored
        try:
            for piece in body:
                self.stream.sendall(b"%x\r\n" % len(piece))
                self.stream.sendall(piece)
                self.stream.sendall(b"\r\n")
            self.stream.sendall(b"0\r\n\r\n")
        except (BrokenPipeError, ConnectionResetError):
            pass

    def _answer(self, method: str) -> Response:
        buffer = b""
        while True:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                piece = self.receive()
                if not piece or len(buffer) > MAX_HEAD:
                    raise ProtocolError("connection closed before an answer" if not piece else "answer head too long")
                buffer += piece
                continue
            head = Head(buffer[:end])
            buffer = buffer[end + 4 :]
            if 100 <= head.status < 200 and head.status != 101:
                continue  # ignore 100 Continue and other interim answers
            return Response(self, head, buffer, bodyless=method == "HEAD" or head.status == 101)
