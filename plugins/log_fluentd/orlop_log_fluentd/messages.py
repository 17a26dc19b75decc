"""Messages of Fluentd's forward protocol, version 1, in message mode: `[tag, time, record, options]` in MessagePack. This
module does no I/O.

As in dockerd, the line is written as a MessagePack string without a conversion, so that bytes which are not UTF-8 arrive
unchanged.
"""

from __future__ import annotations

import struct

import msgspec

from orlop_sdk.logsending import LogLine

__all__ = ["Message"]

_encode = msgspec.msgpack.Encoder().encode
_ARRAY_OF_4 = b"\x94"
_EVENT_TIME = 0  # the extension type for a time with nanoseconds


def _text(data: bytes) -> bytes:
    size = len(data)
    if size < 32:
        return b"%c%s" % (0xA0 | size, data)
    if size < 0x100:
        return b"\xd9%c%s" % (size, data)
    return (b"\xda" + size.to_bytes(2) if size < 0x10000 else b"\xdb" + size.to_bytes(4)) + data


def _map(size: int) -> bytes:
    return b"%c" % (0x80 | size) if size < 16 else b"\xde" + size.to_bytes(2)


class Message:
    """Encodes the lines of one container. `fields` are the same in every record."""

    def __init__(self, tag: str, fields: dict[str, str], *, nanoseconds: bool) -> None:
        self._start = _ARRAY_OF_4 + _encode(tag)
        self._count = len(fields)
        self._fields = b"".join(_encode(text) for pair in fields.items() for text in pair)
        self._nanoseconds = nanoseconds

    def __call__(self, line: LogLine, chunk: str = "") -> bytes:
        """Encode a line. `chunk` identifies the message in its acknowledgement; "" requests no acknowledgement."""
        seconds, rest = divmod(line.time_ns, 1_000_000_000)
        extension = msgspec.msgpack.Ext(_EVENT_TIME, struct.pack(">II", seconds & 0xFFFF_FFFF, rest))
        time = _encode(extension if self._nanoseconds else seconds)
        parts = {} if line.part is None else {
            "partial_message": "true",
            "partial_id": line.part.id,
            "partial_ordinal": str(line.part.ordinal),
            "partial_last": "true" if line.part.last else "false",
        }  # fmt: skip
        return b"".join((
            self._start,
            time,
            _map(self._count + 2 + len(parts)),
            self._fields,
            _encode("source"),
            _encode(line.stream),
            *(_encode(text) for pair in parts.items() for text in pair),
            _encode("log"),
            _text(line.data),
            _encode({"chunk": chunk} if chunk else {}),
        ))  # fmt: skip
