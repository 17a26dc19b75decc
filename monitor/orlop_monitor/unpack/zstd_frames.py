"""Follows the frames of a zstd stream (RFC 8878, section 3.1) while a decompressor reads it.

If a stream ends within a frame, the library returns the available data without an error, and does not report whether the
last frame was complete. So without this module, a truncated archive would be treated as complete.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import NamedTuple, Protocol

__all__ = ["ZstdFrames", "is_skippable"]

_RLE = 1  # the type of a block that repeats one byte


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Step(NamedTuple):
    """Skip `skip` bytes, then collect `wanted` bytes. `first`: the collected bytes begin a frame."""

    skip: int
    wanted: int
    first: bool = False


def is_skippable(magic: bytes) -> bool:
    """Whether these four bytes begin a frame without data. zstd:chunked layers contain such frames."""
    return magic[0] & 0xF0 == 0x50 and magic[1:] == b"\x2a\x4d\x18"


def _steps() -> Generator[_Step, bytes, None]:
    """Yields steps; the caller sends the bytes that each step collects. The decompressor reports invalid frames."""
    skip = 0
    while True:
        magic = yield _Step(skip, 4, first=True)
        if is_skippable(magic):
            skip = int.from_bytes((yield _Step(0, 4)), "little")
            continue
        (descriptor,) = yield _Step(0, 1)
        single = descriptor >> 5 & 1  # if set, the frame has no window descriptor
        skip = (1 - single) + (0, 1, 2, 4)[descriptor & 3] + (single, 2, 4, 8)[descriptor >> 6]
        last = 0
        while not last:
            block = int.from_bytes((yield _Step(skip, 3)), "little")
            last, kind, size = block & 1, block >> 1 & 3, block >> 3
            skip = 1 if kind == _RLE else size
        skip += 4 if descriptor & 4 else 0  # 4 bytes of checksum


class ZstdFrames:
    """A file object for a decompressor. It reads from `file`."""

    def __init__(self, file: _Readable) -> None:
        self._file = file
        self._steps = _steps()
        self._skip, self._wanted, self._first = next(self._steps)
        self._part = b""

    @property
    def complete(self) -> bool:
        """Whether the data that was read ends at the end of a frame."""
        return self._first and not self._skip and not self._part

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._follow(data)
        return data

    def _follow(self, data: bytes) -> None:
        at = 0
        while at < len(data):
            skipped = min(self._skip, len(data) - at)
            self._skip -= skipped
            at += skipped
            part = data[at : at + self._wanted - len(self._part)]
            self._part += part
            at += len(part)
            if len(self._part) == self._wanted:
                self._skip, self._wanted, self._first = self._steps.send(self._part)
                self._part = b""
