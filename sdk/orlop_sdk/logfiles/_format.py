"""The interface between a log driver's record format and the code that manages the files."""

from __future__ import annotations

from typing import Protocol

from orlop_sdk.log import LogRecord

__all__ = ["RecordFormat"]


class RecordFormat(Protocol):
    """How the records of a file are encoded. The methods are pure functions of bytes, except that `last` and `valid_size`
    may call `os.pread`. A record may contain several log entries."""

    def complete_length(self, data: bytes) -> int:
        """The length of the longest prefix of `data` that ends at the end of a record; 0 if `data` contains no complete
        record. `data` begins at the beginning of a record. Bytes that can never become a record are treated as a record."""
        ...

    def next_end(self, data: bytes, offset: int) -> int:
        """The end of the first record that ends at `offset` or later. `data` contains whole records only."""
        ...

    def count(self, data: bytes) -> int:
        """The number of entries in the complete records of `data`, as `tail` counts them."""
        ...

    def decode(self, data: bytes) -> list[LogRecord]:
        """The entries of `data`, in order. Damaged records are left out."""
        ...

    def sync(self, data: bytes) -> int:
        """The offset of the first record that begins in `data`, which may begin within a record; len(data) if there is
        none."""
        ...

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        """Find the last `count` entries in [0, end) of the file. Returns (offset of a record, number of entries from there
        on). The number is greater than `count` if a record contains several entries, and less if the file has fewer entries.
        An incomplete record at the end is not counted."""
        ...

    def valid_size(self, fd: int, size: int) -> int:
        """The size to which a file that may end in a torn record must be truncated before appending."""
        ...
