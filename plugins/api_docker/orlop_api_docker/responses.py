"""What handlers answer with. Every answer of the API begins with the same four headers, which clients negotiate by."""

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
"""JSON as Docker writes it: the characters of HTML stay as they are."""


def with_common(answer: Answer) -> Answer:
    """The answer with the common headers, for handlers that made it without them."""
    if isinstance(answer, Hijack) or answer.headers[:1] == COMMON[:1]:
        return answer
    if isinstance(answer, Response):
        return Response(answer.status, answer.body, COMMON + answer.headers)
    return Streaming(answer.status, answer.pieces, COMMON + answer.headers)


def json_response(obj: Any, status: int = 200, headers: Headers = ()) -> Response:
    """A Struct or plain value as JSON."""
    return json_bytes(_encoder.encode(obj), status, headers)


def json_bytes(data: bytes, status: int = 200, headers: Headers = ()) -> Response:
    """What is JSON already, with the newline that Go's encoder ends with."""
    return Response(status, data + b"\n", _JSON + headers if headers else _JSON)


def text_response(text: str, status: int = 200, headers: Headers = ()) -> Response:
    """Plain text."""
    return Response(status, text.encode(), (*COMMON, ("Content-Type", "text/plain; charset=utf-8"), *headers))


def empty(status: int = 204, headers: Headers = ()) -> Response:
    """Headers alone."""
    return Response(status, b"", COMMON + headers if headers else COMMON)


def error_response(status: int, message: str) -> Response:
    """Docker's error object; 304 has none. A message with file names that are no UTF-8 is made readable first."""
    if status == 304:
        return empty(304)
    clean = message.encode("utf-8", "surrogateescape").decode("utf-8", "replace")
    return Response(status, _encoder.encode({"message": clean}) + b"\n", _JSON)


def stream_head(
    pieces: AsyncIterator[bytes], content_type: str = "application/json", status: int = 200, headers: Headers = ()
) -> Streaming:
    """An answer whose head goes out at once, before the first piece is there."""
    return Streaming(status, pieces, (*COMMON, ("Content-Type", content_type), *headers))


def stream_type(version: tuple[int, int], terminal: bool) -> str:
    """The media type of a container's output. Before 1.42 a framed stream called itself raw as well."""
    return RAW if terminal or version < (1, 42) else MULTIPLEXED


def stdout_frame(text: bytes) -> bytes:
    """A text of ours in a framed stream, as output."""
    return b"\1\0\0\0" + len(text).to_bytes(4, "big") + text


def hijack_head(call: Call, terminal: bool, *, with_api_headers: bool = False) -> bytes:
    """The head of a hijack, byte for byte Docker's: 101 when the client asked to upgrade, whatever it asked to upgrade to,
    else 200 and always "raw". exec start adds the common headers, attach does not."""
    if "upgrade" in call.request.headers:
        kind = stream_type(call.version, terminal)
        lines = f"HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n"
    else:
        lines = f"HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n"
    if with_api_headers:
        lines += "".join(f"{name}: {value}\r\n" for name, value in COMMON)
    return (lines + "\r\n").encode("ascii")
