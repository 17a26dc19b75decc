"""The files of a log as a reader has them open: plain or compressed, oldest first.

A reader holds fds, so a rotation under its hands changes nothing for it. `open_segments` takes a consistent picture: names
are opened, then looked at again, and all is repeated if a rotation moved them meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from ._compression import read_header, unpack
from ._format import RecordFormat
from ._names import numbered

__all__ = ["Packed", "Plain", "Segment", "is_same", "open_segments"]

_TRIES = 64  # a rotation takes microseconds; nobody wins 64 times in a row


class Plain:
    """A file as it is written. `offset` is always where a record begins."""

    def __init__(self, fd: int) -> None:
        status = os.fstat(fd)
        self.fd = fd
        self.inode = status.st_ino
        self.offset = 0
        self.limit: int | None = None

    def size(self) -> int:
        return os.fstat(self.fd).st_size if self.limit is None else self.limit

    def fetch(self, length: int) -> bytes:
        """What follows, up to `length` bytes; it is there again until it is consumed."""
        if self.limit is not None:
            length = min(length, self.limit - self.offset)
        data = os.pread(self.fd, length, self.offset)
        if not data and self.offset and self.limit is None and os.fstat(self.fd).st_size < self.offset:
            self.offset = 0  # someone emptied the file
            data = os.pread(self.fd, length, 0)
        return data

    def consume(self, length: int) -> None:
        self.offset += length

    def close(self) -> None:
        os.close(self.fd)


class Packed:
    """A compressed file: complete, and read from its beginning only. `plain_inode` is the inode it had before."""

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
        """Stand at the end."""
        self._pieces, self._data = iter(()), b""

    def rewind(self) -> None:
        self._pieces, self._data = unpack(self.fd), b""

    def count(self, records: RecordFormat) -> int:
        """How many entries it holds; unpacks all of it."""
        total = 0
        while data := self.fetch(1 << 20):
            length = records.whole(data)
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
    """Is `other` the file that we hold open, maybe compressed since? As we hold it, no new file has its inode."""
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
    """All files of the log that there are, oldest first; the caller closes them."""
    for _ in range(_TRIES - 1):
        segments = _picture(path)
        if segments is not None:
            return segments
    return _picture(path, consistent=False) or []


def _picture(path: str, *, consistent: bool = True) -> list[Segment] | None:
    """One try. None when a rotation moved the names meanwhile. Whatever fails, such as for too many open files: what is open
    already is closed."""
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
