"""Builds answers. Every answer of the API begins with the same four headers, which clients use to negotiate."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import msgspec

from orlop_api_docker import API_VERSION
from orlop_kernel import __version__
from orlop_kernel.http.messages import Answer, Headers, Hijack, Response, Streaming

if TYPE_CHECKING:
    from orlop_kernel.routing.call import Call

__all__ = [
    "COMMON",
    "MULTIPLEXED",
    "RAW",
    "empty",
    "encode",
    "error_response",
    "hijack_head",
    "json_bytes",
    "json_response",
    "stdout_frame",
    "stream_head",
    "stream_type",
    "text_response",
    "with_common",
]

COMMON: Headers = (
    ("Api-Version", API_VERSION),
    ("Docker-Experimental", "false"),
    ("Ostype", "linux"),
    ("Server", f"Orlop/{__version__} (linux)"),
)

RAW = "application/vnd.docker.raw-stream"
MULTIPLEXED = "application/vnd.docker.multiplexed-stream"

_JSON: Headers = (*COMMON, ("Content-Type", "application/json"))
_encoder = msgspec.json.Encoder()

encode = _encoder.encode
"""JSON as Docker writes it: HTML characters are not escaped."""


def with_common(answer: Answer) -> Answer:
    """Add the common headers to an answer made without them."""
    if isinstance(answer, Hijack) or answer.headers[:1] == COMMON[:1]:
        return answer
    if isinstance(answer, Response):
        return Response(answer.status, answer.body, COMMON + answer.headers)
    return Streaming(answer.status, answer.pieces, COMMON + answer.headers)


def json_response(obj: Any, status: int = 200, headers: Headers = ()) -> Response:
    """An answer with a Struct or plain value, encoded as JSON."""
    return json_bytes(_encoder.encode(obj), status, headers)


def json_bytes(data: bytes, status: int = 200, headers: Headers = ()) -> Response:
    """An answer with encoded JSON, and with the newline that Go's encoder appends."""
    return Response(status, data + b"\n", _JSON + headers if headers else _JSON)


def text_response(text: str, status: int = 200, headers: Headers = ()) -> Response:
    """An answer with plain text."""
    return Response(status, text.encode(), (*COMMON, ("Content-Type", "text/plain; charset=utf-8"), *headers))


def empty(status: int = 204, headers: Headers = ()) -> Response:
    """An answer with headers only."""
    return Response(status, b"", COMMON + headers if headers else COMMON)


def error_response(status: int, message: str) -> Response:
    """Docker's error object; 304 has no body. File names in the message that are not UTF-8 are escaped."""
    if status == 304:
        return empty(304)
    clean = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Response(status, _encoder.encode({"message": clean}) + b"\n", _JSON)


def stream_head(
    pieces: AsyncIterator[bytes], content_type: str = "application/json", status: int = 200, headers: Headers = ()
) -> Streaming:
    """The head of a streaming answer, which is sent before the first piece exists."""
    return Streaming(status, pieces, (*COMMON, ("Content-Type", content_type), *headers))


def stream_type(version: tuple[int, int], terminal: bool) -> str:
    """The media type of a container's output. Before API 1.42, a multiplexed stream has the media type of a raw stream."""
    return RAW if terminal or version < (1, 42) else MULTIPLEXED


def stdout_frame(text: bytes) -> bytes:
    """A text of the daemon as a stdout frame of a multiplexed stream."""
    return b"\1\0\0\0" + len(text).to_bytes(4, "big") + text


def hijack_head(call: Call, terminal: bool, *, with_api_headers: bool = False) -> bytes:
    """The head of an answer before a raw stream, byte for byte the same as Docker's. The status is 101 if the client asked
    for an upgrade to any protocol, otherwise 200. With 200, the content type is always "raw". exec start adds the common
    headers; attach does not add them."""
    if "upgrade" in call.request.headers:
        kind = stream_type(call.version, terminal)
        lines = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n"
    if with_api_headers:
        lines += "".join(f"{name}: {value}\r\n" for name, value in COMMON)
    return (lines + "\r\n").encode("ascii")
