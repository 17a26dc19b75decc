"""The interface between a log driver's record format and the code that manages the files."""

from __future__ import annotations

from typing import Protocol

from orlop_sdk.log import LogRecord

__all__ = ["RecordFormat"]


class RecordFormat(Protocol):
    """How log entries (`LogRecord`) are encoded as the records of a file. In this module, a record is one encoded unit of
    the file, which may contain several log entries. The methods are pure functions of bytes, except that `last` and
    `valid_size` may call `os.pread`."""

    def complete_length(self, data: bytes) -> int:
        """The total length of the complete records at the beginning of `data`; 0 if `data` contains no complete record.
        `data` begins at the beginning of a record. Bytes that can never become a record are treated as a record."""
        ...

    def next_end(self, data: bytes, offset: int) -> int:
        """The offset at which a record ends: the first such offset that is not less than `offset`. `data` contains whole
        records only."""
        ...

    def count(self, data: bytes) -> int:
        """The number of log entries in the complete records of `data`. `LogQuery.tail` counts entries in the same way."""
        ...

    def decode(self, data: bytes) -> list[LogRecord]:
        """The log entries in the records of `data`, in order. Damaged records are skipped."""
        ...

    def sync(self, data: bytes) -> int:
        """The offset in `data` at which the first record begins. (`data` may begin in the middle of a record.) len(data) if
        no record begins in `data`."""
        ...

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        """Find the last `count` entries in the first `end` bytes of the file. Returns the offset of a record, and the number
        of entries from this offset on. The number can be greater than `count` if records contain several entries. It is less
        than `count` if the file has fewer entries. An incomplete record at the end is not counted."""
        ...

    def valid_size(self, fd: int, size: int) -> int:
        """The size to which the file must be truncated before records are appended, because it may end in a torn record."""
        ...
