"""Messages of GELF 1.1, and their division into datagrams. The source is the specification at go2docs.graylog.org, "GELF via
UDP" and "GELF Payload Specification". This module does no I/O."""

from __future__ import annotations

import gzip
import secrets
import zlib
from collections.abc import Sequence

import msgspec

from orlop_sdk import LogInfo

__all__ = ["COMPRESSIONS", "Message", "chunks", "compress", "extra"]

COMPRESSIONS = frozenset({"gzip", "zlib", "none"})

# Bytes of a message in one datagram, so that the datagram fits into a frame of Ethernet; 12 is the header of a chunk
_CHUNK = 1420 - 12
_MOST_CHUNKS = 128
_LEVELS = {"stdout": 6, "stderr": 3}
_encode = msgspec.json.Encoder().encode


def extra(info: LogInfo, tag: str, attributes: dict[str, str]) -> dict[str, str]:
    """The additional fields of all messages of a container."""
    return {
        "_container_id": info.container_id,
        "_container_name": info.container_name.removeprefix("/"),
        "_image_id": info.image_id,
        "_image_name": info.image_name,
        "_command": info.command,
        "_tag": tag,
        "_created": info.created,
        **{f"_{name}": value for name, value in attributes.items()},
    }


class Message:
    """Encodes the lines of one container as JSON."""

    def __init__(self, host: str, fields: dict[str, str]) -> None:
        self._host = _encode(host)
        self._fields = _encode(fields)[1:]  # the text after the opening brace

    def __call__(self, stream: str, data: bytes, time_ns: int) -> bytes:
        text = _encode(data.decode("utf-8", "replace"))
        milliseconds = time_ns // 1_000_000
        return b'{"version":"1.1","host":%s,"short_message":%s,"timestamp":%d.%03d,"level":%d,%s' % (
            self._host, text, milliseconds // 1000, milliseconds % 1000, _LEVELS[stream], self._fields
        )  # fmt: skip


def compress(data: bytes, kind: str, level: int) -> bytes:
    if kind == "gzip":
        return gzip.compress(data, 6 if level < 0 else level, mtime=0)
    return zlib.compress(data, level) if kind == "zlib" else data


def chunks(data: bytes) -> Sequence[bytes]:
    """The datagrams of one message; empty if the message is too long."""
    if len(data) <= 1420:
        return (data,)
    count = -(-len(data) // _CHUNK)
    if count > _MOST_CHUNKS:
        return ()
    identity = secrets.token_bytes(8)
    return [
        b"\x1e\x0f%s%c%c%s" % (identity, number, count, data[number * _CHUNK : (number + 1) * _CHUNK])
        for number in range(count)
    ]
