"""The frame format of a `local` log. One frame holds the output of one read: many lines with the same time.

All integers are little endian:

    magic    4 bytes   c5 4f 4c 01
    length   u32       of the body
    body               flags u8 (1: stderr, 2: partial) | attributes length u24 | entries u32 | time u64 (Unix ns)
                       | attributes (JSON object, or nothing) | output, unchanged
    crc      u32       CRC-32 of the body
    length   u32       again, so that a file can be read from its end

A file is a sequence of frames in the order of writing. A frame that is incomplete or does not match its crc is skipped, and
reading continues at the next magic.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator

import msgspec

from orlop_sdk import LogBlock, LogRecord
from orlop_sdk.logfiles import TimeFormatter

__all__ = ["Frames", "encode", "encode_attributes"]

MAGIC = b"\xc5OL\x01"
_START = struct.Struct("<4sI")
_BODY = struct.Struct("<IIQ")
_END = struct.Struct("<II")
_AROUND = _START.size + _END.size
_STDERR, _PARTIAL = 1, 2
_LENGTH_MAX = 64 << 20  # bytes; a frame with a greater length is treated as damaged
_WINDOW = 1 << 16

_decode_attributes = msgspec.json.Decoder(dict[str, str]).decode
_Frame = tuple[int, int, int]  # offset of its beginning, offset of its end, number of entries


def encode_attributes(attributes: dict[str, str]) -> bytes:
    """Encode attributes for `encode`. The result is empty if they exceed 16 MiB, the limit of the frame's length field."""
    encoded = msgspec.json.encode(attributes) if attributes else b""
    return encoded if len(encoded) < 1 << 24 else b""


def encode(block: LogBlock, attributes: bytes, limit: int) -> bytes:
    """Encode a block as one frame. A block of more than `limit` bytes is split at line ends into several frames."""
    data = block.data
    if len(data) <= limit:
        return _frame(block, data, attributes)
    frames = []
    while data:
        cut = len(data)
        if cut > limit:
            cut = data.rfind(b"\n", 0, limit) + 1 or data.find(b"\n") + 1 or cut
        frames.append(_frame(block, data[:cut], attributes))
        data = data[cut:]
    return b"".join(frames)


def _frame(block: LogBlock, data: bytes, attributes: bytes) -> bytes:
    flags = (_STDERR if block.stream == "stderr" else 0) | (_PARTIAL if block.partial else 0)
    entries = 1 if block.partial else data.count(b"\n")
    body = _BODY.pack(flags | len(attributes) << 8, entries, block.time_ns) + attributes + data
    return _START.pack(MAGIC, len(body)) + body + _END.pack(zlib.crc32(body), len(body))


def _frame_end(data: bytes, at: int) -> int:
    """The offset at which the frame at `at` ends. -1 if there is no valid frame at `at`; 0 if `data` contains only the
    beginning of the frame."""
    if len(data) - at < _START.size:
        return 0 if MAGIC.startswith(data[at : at + len(MAGIC)]) else -1
    magic, length = _START.unpack_from(data, at)
    if magic != MAGIC or not _BODY.size <= length <= _LENGTH_MAX:
        return -1
    end: int = at + length + _AROUND
    if end > len(data):
        return 0
    crc, again = _END.unpack_from(data, end - _END.size)
    if again != length or crc != zlib.crc32(memoryview(data)[at + _START.size : end - _END.size]):
        return -1
    return end


def _walk(data: bytes) -> Iterator[_Frame]:
    """The valid frames of `data`, in order."""
    at = 0
    while 0 <= at < len(data):
        end = _frame_end(data, at)
        if end > 0:
            yield at, end, _BODY.unpack_from(data, at + _START.size)[1]
            at = end
        else:
            at = data.find(MAGIC, at + 1)


class Frames:
    """Implements `RecordFormat`."""

    def __init__(self) -> None:
        self._time = TimeFormatter()
        self._attributes: dict[bytes, dict[str, str] | None] = {b"": None}

    def complete_length(self, data: bytes) -> int:
        at = 0
        while at < len(data):
            end = _frame_end(data, at)
            if end == 0:
                break
            if end < 0:
                end = data.find(MAGIC, at + 1)
                if end < 0:  # no further frame begins in `data`, but its end may be the beginning of a magic
                    return max(at, len(data) - len(MAGIC) + 1)
            at = end
        return at

    def next_end(self, data: bytes, offset: int) -> int:
        return next((end for _, end, _ in _walk(data) if end >= offset), len(data))

    def count(self, data: bytes) -> int:
        return sum(entries for _, _, entries in _walk(data))

    def sync(self, data: bytes) -> int:
        return next((at for at, _, _ in _walk(data)), len(data))

    def decode(self, data: bytes) -> list[LogRecord]:
        records: list[LogRecord] = []
        for at, end, _ in _walk(data):
            self._records(data, at, end, records)
        return records

    def _records(self, data: bytes, at: int, end: int, records: list[LogRecord]) -> None:
        start = at + _START.size
        flags, _, time_ns = _BODY.unpack_from(data, start)
        start += _BODY.size
        text = start + (flags >> 8)
        output = data[text : end - _END.size]
        attributes = self._known(data[start:text])
        stream, time = "stderr" if flags & _STDERR else "stdout", self._time(time_ns)
        if flags & _PARTIAL:
            records.append(LogRecord(stream, output, time, attributes))
            return
        lines = output.split(b"\n")
        lines.pop()
        records += [LogRecord(stream, line + b"\n", time, attributes) for line in lines]

    def _known(self, encoded: bytes) -> dict[str, str] | None:
        if encoded not in self._attributes:
            self._attributes[encoded] = _decode_attributes(encoded)
        return self._attributes[encoded]

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        found, at = 0, self.valid_size(fd, end)
        while at > 0 and found < count:
            frame = _frame_before(fd, at)
            if frame is None:
                return self._last_of_all(fd, at, count - found, found)
            at, found = frame[0], found + frame[2]
        return at, found

    def _last_of_all(self, fd: int, end: int, count: int, found: int) -> tuple[int, int]:
        """Read all frames from the beginning, because damage before `end` prevents reading backwards."""
        frames = _frames_of(fd, end)
        at = end
        while frames and count > 0:
            at, _, entries = frames.pop()
            count, found = count - entries, found + entries
        return at, found

    def valid_size(self, fd: int, size: int) -> int:
        if not size or _frame_before(fd, size) is not None:
            return size
        frames = _frames_of(fd, size)
        return frames[-1][1] if frames else 0


def _frame_before(fd: int, end: int) -> _Frame | None:
    """The valid frame that ends at `end`, found by its trailing length."""
    if end < _AROUND:
        return None
    (length,) = struct.unpack("<I", os.pread(fd, 4, end - 4))
    at = end - length - _AROUND
    if at < 0 or length > _LENGTH_MAX:
        return None
    data = os.pread(fd, end - at, at)
    return (at, end, _BODY.unpack_from(data, _START.size)[1]) if _frame_end(data, 0) == len(data) else None


def _frames_of(fd: int, end: int) -> list[_Frame]:
    """All valid frames in [0, end). Reads the whole range."""
    frames: list[_Frame] = []
    position, size = 0, _WINDOW
    while position < end:
        data = os.pread(fd, min(size, end - position), position)
        found = list(_walk(data))
        frames += [(position + at, position + stop, entries) for at, stop, entries in found]
        if found:
            position += found[-1][1]
        elif len(data) < size:
            break
        elif size < 2 * _LENGTH_MAX:
            size *= 2
        else:
            position += len(data) - _AROUND
    return frames
