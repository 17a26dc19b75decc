"""The seam between a record format and the files it is kept in."""

from __future__ import annotations

from typing import Protocol

from orlop_sdk.log import LogRecord

__all__ = ["RecordFormat"]


class RecordFormat(Protocol):
    """How records follow each other in a file. Pure: bytes in, values out (`last` and `sound` may `os.pread`)."""

    def whole(self, data: bytes) -> int:
        """The length of the longest prefix of `data` that ends where a record ends; 0 if no record does. `data` begins
        where a record begins. Bytes that can never become a record count as one."""
        ...

    def next_end(self, data: bytes, offset: int) -> int:
        """The end of the first record that ends at `offset` or later. `data` holds whole records only."""
        ...

    def count(self, data: bytes) -> int:
        """How many entries the whole records of `data` hold: what `tail` counts."""
        ...

    def decode(self, data: bytes) -> list[LogRecord]:
        """The entries of `data`, in order; what is damaged is left out."""
        ...

    def sync(self, data: bytes) -> int:
        """Where the first record begins in `data`, which was cut anywhere; len(data) if none does."""
        ...

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        """Where to begin in [0, end) to have the last `count` entries: (offset of a record, entries from there on). They
        may be more (a record of several entries) or fewer (the file has no more). An incomplete record at the end is
        not counted."""
        ...

    def sound(self, fd: int, size: int) -> int:
        """The size to which a file that a crash may have torn is cut before it is appended to."""
        ...
