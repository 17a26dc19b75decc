"""The open files of a log reader, plain or compressed, oldest first.

A rotation does not disturb a reader, because the reader has the files open. `open_segments` returns a consistent set of
files: it opens all names, then checks them again, and starts over if a rotation renamed files meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ._compression import read_header, unpack
from ._format import RecordFormat
from ._names import numbered

__all__ = ["Packed", "Plain", "Segment", "is_same", "open_segments"]

_TRIES = 64  # a rotation takes microseconds, so it cannot interfere 64 times in a row


class Plain:
    """An uncompressed file. `offset` is always the beginning of a record. `limit` is the offset at which reading ends, None
    for the end of the file."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.inode = status.st_ino
        self.offset = 0
        self.limit: int | None = None

    def size(self) -> int:
        return os.fstat(self.fd).st_size if self.limit is None else self.limit

    def fetch(self, length: int) -> bytes:
        """The next bytes, at most `length`. Returns the same bytes again until `consume` is called."""
        if self.limit is not None:
            length = min(length, self.limit - self.offset)
        data = os.pread(self.fd, length, self.offset)
        if not data and self.offset and self.limit is None and os.fstat(self.fd).st_size < self.offset:
            self.offset = 0  # a user emptied the file
            data = os.pread(self.fd, length, 0)
        return data

    def consume(self, length: int) -> None:
        self.offset += length

    def close(self) -> None:
        os.close(self.fd)


class Packed:
    """A compressed file, which is complete and can be read only from its beginning. `plain_inode` is the inode of the file
    before compression."""

    def __init__(self, fd: int) -> None:
        header = read_header(fd)
        self.fd = fd
        self.inode = os.fstat(fd).st_ino
        self.plain_inode = header.inode
        self.last_time = header.last_time
        self._pieces: Iterator[bytes] = unpack(fd)
        self._data = b""

    def fetch(self, length: int) -> bytes:
        while len(self._data) < length and (piece := next(self._pieces, b"")):
            self._data += piece
        return self._data[:length]

    def consume(self, length: int) -> None:
        self._data = self._data[length:]

    def exhaust(self) -> None:
        """Skip all remaining content."""
        self._pieces, self._data = iter(()), b""

    def rewind(self) -> None:
        self._pieces, self._data = unpack(self.fd), b""

    def count(self, records: RecordFormat) -> int:
        """The number of entries. Decompresses the whole file."""
        total = 0
        while data := self.fetch(1 << 20):
            length = records.complete_length(data)
            total += records.count(data[:length])
            if not length and len(data) < 1 << 20:
                break
            self.consume(length or len(data))
        self.rewind()
        return total

    def close(self) -> None:
        os.close(self.fd)


Segment = Plain | Packed


def is_same(held: Segment, other: Segment) -> bool:
    """Whether `other` is the file `held`, or the compressed form of this file. `held` is open, so no other file can have its
    inode."""
    if isinstance(held, Plain) and isinstance(other, Packed):
        return other.plain_inode == held.inode
    return type(held) is type(other) and other.inode == held.inode


def _names(path: str) -> list[str]:
    files = numbered(path)
    return [files[number] for number in sorted(files, reverse=True)] + [path]


def _open(name: str) -> Segment | None:
    try:
        fd = os.open(name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    try:
        return Packed(fd) if name.endswith(".gz") else Plain(fd)
    except BaseException:
        os.close(fd)
        raise


def _inode(name: str) -> int:
    try:
        return os.stat(name).st_ino
    except FileNotFoundError:
        return -1


def open_segments(path: str) -> list[Segment]:
    """Open all files of the log, oldest first. The caller must close them."""
    for _ in range(_TRIES - 1):
        segments = _picture(path)
        if segments is not None:
            return segments
    return _picture(path, consistent=False) or []


def _picture(path: str, *, consistent: bool = True) -> list[Segment] | None:
    """Try once to open all files. Returns None if a rotation renamed files meanwhile. After an error, such as too many open
    files, all files are closed."""
    opened: list[Segment] = []
    try:
        names, seen = _names(path), []
        for name in names:
            segment = _open(name)
            if segment is not None:
                opened.append(segment)
            seen.append(segment.inode if segment else -1)
        if not consistent or (names == _names(path) and seen == [_inode(name) for name in names]):
            segments, opened = opened, []
            return segments
        return None
    finally:
        for segment in opened:
            segment.close()
