"""Reads a log across its files, with tail, since, until and follow. Each record is returned once, even when files are
rotated or compressed meanwhile."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from orlop_sdk.errors import DriverError
from orlop_sdk.log import LogQuery, LogRecord

from ._format import RecordFormat
from ._segments import Packed, Plain, Segment, is_same, open_segments
from ._time import rfc3339
from ._watch import Watch

__all__ = ["FileLogReader"]

# with larger buffers, page faults take half of the decoding time, because malloc returns such buffers to the kernel
_CHUNK = 1 << 18
_CHUNK_MAX = 64 << 20  # bytes; a longer record is treated as damaged
_PROBE = 1 << 16


def _bound(time_ns: int) -> str:
    """`time_ns` as text without the final Z. In this form, texts sort in the order of their times, even if trailing zeros
    are left out."""
    return rfc3339(time_ns)[:-1] if time_ns else ""


class FileLogReader:
    """A `LogReader` of the files of `path`. Keeps each file open until it has read the file to its end."""

    def __init__(self, path: str, records: RecordFormat, query: LogQuery) -> None:
        self._path = path
        self._records = records
        self._follow = query.follow
        self._since = _bound(query.since)
        self._until = _bound(query.until)
        self._skip = 0
        self._done = False
        self._chunk = _CHUNK
        # Watch before opening the files, so that no write is missed.
        self._watch = Watch(os.path.dirname(path)) if query.follow else None
        self._segments: deque[Segment] = deque()
        try:
            self._segments.extend(open_segments(path))
            self._start(query)
        except BaseException as error:
            self.close()
            if isinstance(error, OSError):
                raise DriverError(f"cannot read log {path}: {error.strerror}") from error
            raise

    # --- start position ---------------------------------------------------------------------------------------------

    def _start(self, query: LogQuery) -> None:
        if not query.follow:
            for segment in self._segments:
                if isinstance(segment, Plain):
                    # Without a limit, the reader would never finish if the container writes faster than the reader reads.
                    segment.limit = segment.size()
        if query.tail is not None:
            self._seek_tail(query.tail)
        elif self._since:
            self._seek_since()

    def _drop_before(self, index: int) -> None:
        for _ in range(index):
            self._segments.popleft().close()

    def _seek_tail(self, wanted: int) -> None:
        for index in range(len(self._segments) - 1, -1, -1):
            segment = self._segments[index]
            if isinstance(segment, Plain):
                segment.offset, found = self._records.last(segment.fd, segment.size(), wanted)
            elif wanted:
                found = segment.count(self._records)
            else:
                found = 0
                segment.exhaust()
            if found >= wanted:
                self._skip = found - wanted
                self._drop_before(index)
                return
            wanted -= found

    def _seek_since(self) -> None:
        first = 0
        for index, segment in enumerate(self._segments):
            if isinstance(segment, Packed) and segment.last_time and segment.last_time[:-1] < self._since:
                first = min(index + 1, len(self._segments) - 1)  # `follow` needs the newest file to find later files
        self._drop_before(first)
        for segment in list(self._segments):
            if isinstance(segment, Plain) and not self._bisect(segment):
                return

    def _bisect(self, segment: Plain) -> bool:
        """Set `segment.offset` to a record shortly before `since`, by binary search in a large file. Times in a log
        increase, with two exceptions: the clock may be set back, and lines of different streams may be out of order. Each
        step of the search therefore reads a block of many records, and reading begins two blocks early. Returns true if all
        records that were found are earlier than `since`."""
        low, high = 0, segment.size() // _PROBE
        blocks = high
        while low < high:
            middle = (low + high) // 2
            if self._is_before(segment, middle * _PROBE):
                low = middle + 1
            else:
                high = middle
        if low > 2:
            start = (low - 2) * _PROBE
            segment.offset = start + self._records.sync(os.pread(segment.fd, 2 * _PROBE, start))
        return low >= blocks

    def _is_before(self, segment: Plain, offset: int) -> bool:
        data = os.pread(segment.fd, 2 * _PROBE, offset)
        data = data[self._records.sync(data) if offset else 0 :]
        times = [record.time[:-1] for record in self._records.decode(data[: self._records.complete_length(data)])]
        return bool(times) and max(times) < self._since

    # --- reading ----------------------------------------------------------------------------------------------------

    def read(self) -> Sequence[LogRecord]:
        try:
            if self._watch:
                self._watch.drain()
            return self._read()
        except OSError as error:
            raise DriverError(f"cannot read log {self._path}: {error.strerror}") from error

    def _read(self) -> Sequence[LogRecord]:
        while self._segments and not self._done:
            segment = self._segments[0]
            data = segment.fetch(self._chunk)
            length = self._records.complete_length(data)
            if not length and len(data) == self._chunk and self._chunk < _CHUNK_MAX:
                self._chunk *= 2
                continue
            if length or len(data) == self._chunk:
                batch = self._take(segment, data, length or len(data))
            elif len(self._segments) > 1:
                # The file is complete: bytes after its last record are damaged or torn.
                batch = self._take(segment, data, len(data))
                self._segments.popleft().close()
            elif self._advance(segment):
                continue
            else:
                return []
            if batch:
                return batch
        return self._read() if self._follow and not self._done and self._renew(None) else []

    def _take(self, segment: Segment, data: bytes, length: int) -> list[LogRecord]:
        self._chunk = _CHUNK
        piece = data if length == len(data) else data[:length]
        batch = self._records.decode(piece) if piece else []
        segment.consume(length)
        if self._skip and batch:
            # Count damaged entries here as well, because `last` has counted them.
            counted = self._records.count(piece)
            batch = batch[self._skip :]
            self._skip = max(0, self._skip - counted)
        return self._filter(batch) if batch and (self._since or self._until) else batch

    def _filter(self, batch: list[LogRecord]) -> list[LogRecord]:
        if since := self._since:
            batch = [record for record in batch if record.time[:-1] >= since]
        if until := self._until:
            kept = [record for record in batch if record.time[:-1] <= until]
            if batch and not kept:
                # This whole batch is later than `until`, so all following batches are later, too.
                self._done = True
            batch = kept
        return batch

    def _advance(self, segment: Segment) -> bool:
        """Called at the end of the newest known file. Returns true when there is more to read, in this file or in a newer
        file."""
        if not self._follow:
            return False
        if isinstance(segment, Plain):
            try:
                if os.stat(self._path).st_ino == segment.inode:
                    return False
            except FileNotFoundError:
                return False  # a rotation is in progress: the creation of the new file will wake the reader
        return self._renew(segment)

    def _renew(self, held: Segment | None) -> bool:
        """Open the files that are newer than `held`. `read` finishes `held` first, because its last records were written
        before the next file was created."""
        opened = open_segments(self._path)
        known = [index for index, segment in enumerate(opened) if held and is_same(held, segment)]
        newer = known[-1] + 1 if known else 0
        for segment in opened[:newer]:
            segment.close()
        self._segments.extend(opened[newer:])
        return len(opened) > newer

    def fileno(self) -> int:
        return self._watch.fd if self._watch else -1

    def close(self) -> None:
        while self._segments:
            self._segments.pop().close()
        if self._watch:
            self._watch.close()
            self._watch = None
        self._done = True
