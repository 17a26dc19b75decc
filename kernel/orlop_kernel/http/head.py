"""Parses the head of a request. Sans-IO.

llhttp (httptools) parses the lines; input that llhttp accepts, but RFC 9112 or Go's server rejects, is rejected here. llhttp
gets one head at a time and never the body: the exact end of a message must be known, because the bytes after it may belong
to the next request or to a hijacked stream.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import MappingProxyType
from urllib.parse import unquote_to_bytes

import httptools

from orlop_kernel.http.messages import Limits

__all__ = ["BadRequest", "Head", "HeadParser"]

_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]+) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n")
_TOKEN_START = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]")
_BAD_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2}).{0,2}", re.DOTALL)
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/?#]*")
_NO_QUERY: Mapping[str, list[str]] = MappingProxyType({})

_UNSUPPORTED_CODING = "unsupported transfer encoding"


class BadRequest(Exception):
    """The request violates HTTP. `status` and the text are sent to the peer, then the connection is closed."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


class Head:
    """A parsed head. `length` is the size of the body in bytes, -1 when it is chunked. `query_error` says why the query is
    invalid. An invalid query does not make the head invalid, so that the front end can send the error in its format."""

    __slots__ = ("expects", "headers", "keep_alive", "length", "method", "path", "query", "query_error", "target", "version")

    def __init__(self, method: str, target: str, version: str, headers: dict[str, str]) -> None:
        self.method = method
        self.target = target
        self.version = version
        self.headers = headers
        self.length = 0
        self.expects = False
        self.keep_alive = version == "1.1"
        self.query_error = ""
        self.query = _NO_QUERY
        path, mark, query = _origin_form(method, target).partition("?")
        self.path = _unescape(path)
        if mark:
            try:
                self.query = _parse_query(query)
            except BadRequest as error:
                self.query_error = str(error)
        if "connection" in headers:
            self._connection(headers["connection"])
        if "transfer-encoding" in headers:
            self._coding(headers["transfer-encoding"])
        elif "content-length" in headers:
            self.length = int(headers["content-length"])  # llhttp ensures a single header and a value below 2**64
        if "expect" in headers:
            self._expect(headers["expect"])

    def _connection(self, value: str) -> None:
        tokens = [token.strip() for token in value.lower().split(",")]
        if "close" in tokens:
            self.keep_alive = False
        elif "keep-alive" in tokens:
            self.keep_alive = True

    def _coding(self, value: str) -> None:
        if value.strip().lower() != "chunked":
            raise BadRequest(501, _UNSUPPORTED_CODING)
        if self.version == "1.0":
            raise BadRequest(400, "HTTP/1.0 has no Transfer-Encoding")
        self.length = -1

    def _expect(self, value: str) -> None:
        if value.strip().lower() != "100-continue":
            raise BadRequest(417, "unknown expectation")
        self.expects = self.version == "1.1" and self.length != 0


def _unescape(text: str) -> str:
    if "%" not in text:
        return text
    bad = _BAD_ESCAPE.search(text)
    if bad:
        raise BadRequest(400, f'invalid URL escape "{bad.group()}"')
    # A file name in ?path= need not be UTF-8: os.fsencode restores the original bytes
    return unquote_to_bytes(text).decode("utf-8", "surrogateescape")


def _parse_query(text: str) -> Mapping[str, list[str]]:
    if ";" in text:  # ";" is an obsolete separator; Go's server refuses it, and Go's url.Query drops pairs that contain it
        raise BadRequest(400, "invalid semicolon separator in query")
    query: dict[str, list[str]] = {}
    for pair in text.split("&"):
        if pair:
            name, _, value = pair.replace("+", " ").partition("=")
            query.setdefault(_unescape(name), []).append(_unescape(value))
    return query


def _origin_form(method: str, target: str) -> str:
    """Path and query of an origin-form, absolute-form or `*` target (RFC 9112 section 3.2). Fragments are refused, because
    implementations disagree whether a fragment ends the target."""
    if "#" in target:
        raise BadRequest(400, "malformed request target")
    if target[0] == "/" or target == "*" or method == "CONNECT":
        return target
    absolute = _ABSOLUTE.match(target)
    if not absolute:
        raise BadRequest(400, "malformed request target")
    rest = target[absolute.end() :]
    return rest if rest[:1] == "/" else "/" + rest


class _Headers:
    """The headers that llhttp finds in one head. This object is separate from `HeadParser`, because llhttp's parser refers
    to it: a reference cycle would keep each connection's memory until the next full garbage collection."""

    __slots__ = ("count", "found")

    def __init__(self) -> None:
        self.found: dict[str, str] = {}
        self.count = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Callback of llhttp."""
        self.count += 1
        key = name.decode("ascii").lower()
        text = value.decode("latin-1").rstrip(" \t")
        found = self.found
        if key in found:
            if key == "host":
                raise BadRequest(400, "too many Host headers")
            text = f"{found[key]}{'; ' if key == 'cookie' else ', '}{text}"
        found[key] = text


class HeadParser:
    """Parses heads from the front of a connection's input, one at a time."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._headers = _Headers()
        self._parser = httptools.HttpRequestParser(self._headers)

    def parse(self, data: bytes) -> tuple[Head, int] | None:
        """The head at the front of `data` and its length in bytes; None when more input is needed. Raises BadRequest as soon
        as the head cannot become valid."""
        end = data.find(b"\r\n\r\n", 0, self._limits.head)
        if end < 0:
            self._check_beginning(data)
            return None
        end += 4
        line = _LINE.match(data)
        if not line:
            raise BadRequest(400, "malformed request line")
        method, target, major, minor = line.groups()
        if major != b"1" or minor not in b"01":
            raise BadRequest(505, "unsupported protocol version")
        headers = self._headers
        headers.found, headers.count = {}, 0
        self._feed(data if end == len(data) else data[:end])
        if headers.count > self._limits.headers:
            raise BadRequest(431, "too many headers")
        version = "1.1" if minor == b"1" else "1.0"
        if version == "1.1" and "host" not in headers.found:
            raise BadRequest(400, "missing required Host header")
        head = Head(method.decode("ascii"), target.decode("ascii"), version, headers.found)
        if head.length or method == b"CONNECT" or "upgrade" in head.headers:
            # llhttp now expects a body, which it must not see
            self._parser = httptools.HttpRequestParser(self._headers)
        return head, end

    def _feed(self, head: bytes) -> None:
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            pass  # the request asks for another protocol (Upgrade or CONNECT); the handler decides whether to switch
        except httptools.HttpParserInvalidMethodError:
            # llhttp knows a fixed list of methods; an unknown method must reach the router
            self._parser = httptools.HttpRequestParser(self._headers)
            self._feed(b"GET" + head[head.index(b" ") :])
        except httptools.HttpParserError as error:
            cause = error.__context__
            if isinstance(cause, BadRequest):
                raise cause from None
            raise BadRequest(400, str(error).lower()) from error  # safe to send: llhttp's messages are constant strings

    def _check_beginning(self, data: bytes) -> None:
        """Reject TLS, HTTP/0.9 and garbage early: such input would never complete a head."""
        if len(data) >= self._limits.head:
            raise BadRequest(431, "header too large")
        if data and not _TOKEN_START.match(data):
            raise BadRequest(400, "malformed request line")
        if b"\n" in data and not _LINE.match(data):
            raise BadRequest(400, "malformed request line")
