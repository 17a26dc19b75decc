"""Statuses of calls, and their form in headers (gRPC over HTTP/2: PROTOCOL-HTTP2.md of grpc/grpc)."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Iterable, Mapping
from enum import IntEnum
from urllib.parse import quote, unquote

__all__ = [
    "Code",
    "Headers",
    "RpcError",
    "format_timeout",
    "from_http",
    "from_reset",
    "parse_timeout",
    "status_headers",
    "status_of",
]

Headers = Iterable[tuple[str, str]]


class Code(IntEnum):
    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


class RpcError(Exception):
    """A status other than OK. `details` is a serialized google.rpc.Status, which also contains the code and the message."""

    def __init__(self, code: int, message: str, details: bytes = b"") -> None:
        super().__init__(message)
        self.code, self.message, self.details = code, message, details


_PRINTABLE = "".join(chr(c) for c in range(0x20, 0x7F) if c != ord("%"))


def status_headers(error: RpcError | None) -> list[tuple[str, str]]:
    """The trailers that end a call. None means OK."""
    if error is None:
        return [("grpc-status", "0")]
    # HTTP/2 forbids white space around a value
    message = quote(error.message.encode("utf-8", "replace").strip(), safe=_PRINTABLE)
    headers = [("grpc-status", str(int(error.code))), ("grpc-message", message)]
    if error.details:
        headers.append(("grpc-status-details-bin", base64.b64encode(error.details).decode().rstrip("=")))
    return headers


def status_of(headers: Mapping[str, str]) -> RpcError | None:
    """The status in trailers. None means OK."""
    text = headers.get("grpc-status", "")
    if text == "0":
        return None
    if not re.fullmatch(r"\d{1,9}", text):
        return RpcError(Code.INTERNAL, "the peer ended the call without a valid status")
    raw = headers.get("grpc-status-details-bin", "")
    try:
        details = base64.b64decode(raw + "=" * (-len(raw) % 4), validate=True)
    except (binascii.Error, ValueError):
        details = b""
    return RpcError(int(text), unquote(headers.get("grpc-message", ""), errors="replace"), details)


_UNITS = {"H": 3600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}


def parse_timeout(text: str) -> float:
    """Seconds of `grpc-timeout`. Raises RpcError."""
    if not re.fullmatch(r"[0-9]{1,8}[HMSmun]", text):
        raise RpcError(Code.INTERNAL, f"malformed grpc-timeout: {text[:20]!r}")
    return int(text[:-1]) * _UNITS[text[-1]]


def format_timeout(seconds: float) -> str:
    """The text of `grpc-timeout`, in milliseconds up to a day, in whole seconds above, because at most eight digits are
    allowed."""
    milliseconds = max(1, math.ceil(seconds * 1000))
    return f"{milliseconds}m" if milliseconds < 10**8 else f"{min(math.ceil(seconds), 10**8 - 1)}S"


def from_reset(code: int) -> RpcError:
    """The status of a call that the peer resets with an error code of HTTP/2."""
    match code:
        case 8:
            return RpcError(Code.CANCELLED, "context canceled")
        case 7:
            return RpcError(Code.UNAVAILABLE, "the peer refused the call")
        case 11:
            return RpcError(Code.RESOURCE_EXHAUSTED, "the peer asks for fewer calls")
    return RpcError(Code.INTERNAL, f"the peer reset the call: HTTP/2 error code {code}")


def from_http(status: str) -> RpcError:
    """The gRPC status for an HTTP status other than 200. Such an HTTP status comes from a proxy, not from a gRPC server."""
    codes = {
        "400": Code.INTERNAL,
        "401": Code.UNAUTHENTICATED,
        "403": Code.PERMISSION_DENIED,
        "404": Code.UNIMPLEMENTED,
        "429": Code.UNAVAILABLE,
        "502": Code.UNAVAILABLE,
        "503": Code.UNAVAILABLE,
        "504": Code.UNAVAILABLE,
    }
    return RpcError(codes.get(status, Code.UNKNOWN), f"unexpected HTTP status {status[:10]}")
