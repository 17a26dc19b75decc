"""Encodes answers. The module does no I/O, but reads the clock.

Order: status line, the handler's headers, Content-Length or Transfer-Encoding, Date, Connection. Handlers never set these
last four headers.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from http import HTTPStatus

from orlop_kernel.http.messages import Headers

__all__ = ["CONTINUE", "LAST_CHUNK", "BadHeader", "chunk", "plain_error", "stream_head", "whole"]

CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
LAST_CHUNK = b"0\r\n\r\n"

_BODILESS = frozenset({204, 304})
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_FORBIDDEN_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS = frozenset({"content-length", "transfer-encoding", "date", "connection"})
_REASONS = {int(status): status.phrase for status in HTTPStatus} | {413: "Request Entity Too Large"}  # 413: Go's phrase


class BadHeader(ValueError):
    """A header set by a handler cannot be sent. Raised before any byte is sent."""


_date: tuple[int, bytes] = (0, b"")


def _date_line() -> bytes:
    global _date
    now = int(time.time())
    if now != _date[0]:
        days, months = "Mon Tue Wed Thu Fri Sat Sun".split(), "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()
        at = time.gmtime(now)
        # strftime is not used, because names of days and months must not depend on the daemon's locale
        text = f"Date: {days[at.tm_wday]}, {at.tm_mday:02d} {months[at.tm_mon - 1]} {at.tm_year:04d} "
        _date = now, (text + f"{at.tm_hour:02d}:{at.tm_min:02d}:{at.tm_sec:02d} GMT\r\n").encode("ascii")
    return _date[1]


@lru_cache(maxsize=512)
def _beginning(version: str, status: int, headers: Headers) -> bytes:
    """Status line and the handler's headers. Cached: most answers use one of a few dozen header sets."""
    lines = [f"HTTP/{version} {status} {_REASONS.get(status, 'Unknown')}\r\n"]
    for name, value in headers:
        if not _NAME.fullmatch(name) or name.lower() in _OURS:
            raise BadHeader(f"a handler must not set the header {name!r}")
        if _FORBIDDEN_IN_VALUE.search(value):
            raise BadHeader(f"the value of the header {name} has a control character")
        lines.append(f"{name}: {value}\r\n")
    return "".join(lines).encode("utf-8", "replace")


def _connection(version: str, keep: bool) -> bytes:
    if version == "1.1":
        return b"" if keep else b"Connection: close\r\n"
    return b"Connection: keep-alive\r\n" if keep else b""


def whole(version: str, status: int, headers: Headers, body: bytes, *, head_only: bool, keep: bool) -> bytes:
    """A complete answer, sent in one piece. With `head_only`, the body is omitted, but Content-Length is still sent."""
    beginning = _beginning(version, status, headers)
    connection = _connection(version, keep)
    if status in _BODILESS:
        return b"%b%b%b\r\n" % (beginning, _date_line(), connection)
    return b"%bContent-Length: %d\r\n%b%b\r\n%b" % (
        beginning,
        len(body),
        _date_line(),
        connection,
        b"" if head_only else body,
    )


def stream_head(version: str, status: int, headers: Headers, *, keep: bool) -> bytes:
    """The head of an answer of unknown length. The answer is chunked; with HTTP/1.0, a close ends it."""
    coding = b"Transfer-Encoding: chunked\r\n" if version == "1.1" else b""
    return b"%b%b%b%b\r\n" % (_beginning(version, status, headers), coding, _date_line(), _connection(version, keep))


def chunk(piece: bytes) -> bytes:
    """One chunk. The piece must not be empty: an empty chunk ends the body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)


def plain_error(status: int, message: str, more: Headers = ()) -> bytes:
    """The answer to a peer that violates HTTP, in the words of Go's server. The server then closes the connection."""
    reason = _REASONS.get(status, "Unknown")
    body = f"{status} {reason}: {message}".encode("utf-8", "replace")
    headers = (("Content-Type", "text/plain; charset=utf-8"), *more)
    return whole("1.1", status, headers, body, head_only=False, keep=False)
