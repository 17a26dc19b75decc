"""Finds the end of a request body: counted bytes or chunks (RFC 9112 section 7.1). Sans-IO.

A framing removes the body from the front of the connection's input. The remaining input is the next request or a hijacked
stream.
"""

from __future__ import annotations

import re
from typing import Protocol

from orlop_kernel.http.messages import BodyError

__all__ = ["Chunked", "Counted", "Framing"]

# At most 15 hex digits (63 bits), an ignored extension, and exactly CRLF. A lenient parser enables request smuggling
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;[^\x00-\x08\x0a-\x1f\x7f]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[^\x00-\x08\x0a-\x1f\x7f]*\r\n")
_LINE_LIMIT = 1024
_TRAILER_LIMIT = 8192


class Framing(Protocol):
    """`done` is true when the body has ended. `take` returns the content found in `data`, and the remaining input. If it
    returns no content and `done` is false, more input is needed. Raises BodyError(400)."""

    done: bool

    def take(self, data: bytes) -> tuple[bytes, bytes]: ...


class Counted:
    """A body of Content-Length bytes."""

    __slots__ = ("done", "left")

    def __init__(self, length: int) -> None:
        self.left = length
        self.done = not length

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """See Framing."""
        content = data if len(data) <= self.left else data[: self.left]
        self.left -= len(content)
        self.done = not self.left
        return content, data[len(content) :]


class Chunked:
    """A chunked body. Extensions and trailers are validated and dropped."""

    __slots__ = ("_ending", "_left", "_trailers", "done")

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # bytes left in the current chunk
        self._ending = b""  # the bytes that must come next: the CRLF after a chunk's data
        self._trailers = -1  # bytes of trailers seen; -1 before the last chunk

    def take(self, data: bytes) -> tuple[bytes, bytes]:
        """See Framing. An incomplete line stays in the input."""
        pieces: list[bytes] = []
        at, size = 0, len(data)
        while at < size and not self.done:
            if self._left:
                piece = data[at : at + self._left]
                pieces.append(piece)
                at += len(piece)
                self._left -= len(piece)
                continue
            following = self._line(data, at)
            if following == at:
                break
            at = following
        return (pieces[0] if len(pieces) == 1 else b"".join(pieces)), data[at:]

    def _line(self, data: bytes, at: int) -> int:
        """Parse the line at position `at`: the size of a chunk, the CRLF after its data, or a trailer. Returns the position
        after the line, or `at` if the line is incomplete."""
        if self._ending:
            return self._crlf(data, at)
        end = data.find(b"\n", at, at + _LINE_LIMIT)
        if end < 0:
            if len(data) - at >= _LINE_LIMIT:
                raise BodyError(400, "chunk line too long")
            return at
        if self._trailers >= 0:
            return self._trailer(data, at, end + 1)
        size = _SIZE.fullmatch(data, at, end + 1)
        if not size:
            raise BodyError(400, "malformed chunk")
        self._left = int(size.group(1), 16)
        if self._left:
            self._ending = b"\r\n"
        else:
            self._trailers = 0
        return end + 1

    def _crlf(self, data: bytes, at: int) -> int:
        there = data[at : at + len(self._ending)]
        if not self._ending.startswith(there):
            raise BodyError(400, "malformed chunk")
        self._ending = self._ending[len(there) :]
        return at + len(there)

    def _trailer(self, data: bytes, at: int, end: int) -> int:
        if data[at:end] == b"\r\n":
            self.done = True
            return end
        self._trailers += end - at
        if self._trailers > _TRAILER_LIMIT or not _TRAILER.fullmatch(data, at, end):
            raise BodyError(400, "malformed trailer")
        return end
