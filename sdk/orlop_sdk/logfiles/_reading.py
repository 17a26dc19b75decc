"""Reads a log across its files: tail, since, until, follow. Each record once, whatever is rotated or compressed."""

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

_CHUNK = 1 << 18  # from 1 MiB on, decoding spends half its time on pages the allocator gave back
_CHUNK_MAX = 64 << 20  # a record longer than this is damage
_PROBE = 1 << 16


def _bound(time_ns: int) -> str:
    """Without the Z, times with trimmed fractions compare as text the way they compare in time."""
    return rfc3339(time_ns)[:-1] if time_ns else ""


class FileLogReader:
    """Implements `spi.LogReader` over the files of `path`. Holds each file open that it has still to read."""

    def __init__(self, path: str, records: RecordFormat, query: LogQuery) -> None:
        self._path = path
        self._records = records
        self._follow = query.follow
        self._since = _bound(query.since)
        self._until = _bound(query.until)
        self._skip = 0
        self._done = False
        self._chunk = _CHUNK
        # Before the files are opened: what is written from here on wakes us.
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

    # --- where to begin ---------------------------------------------------------------------------------------------

    def _start(self, query: LogQuery) -> None:
        if not query.follow:
            for segment in self._segments:
                if isinstance(segment, Plain):
                    # A container that writes faster than we read must not keep us here for ever.
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
                first = min(index + 1, len(self._segments) - 1)  # the newest one marks where `follow` goes on
        self._drop_before(first)
        for segment in list(self._segments):
            if isinstance(segment, Plain) and not self._bisect(segment):
                return

    def _bisect(self, segment: Plain) -> bool:
        """Begin near `since` in a big file, by probing. Times in a log rise but for the clock being set, and for two
        streams' lines of one moment: so a probe is a block of many records, and we begin two blocks earlier.
        True when nothing in the file is late enough, as far as the probes saw."""
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
        times = [record.time[:-1] for record in self._records.decode(data[: self._records.whole(data)])]
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
            length = self._records.whole(data)
            if not length and len(data) == self._chunk and self._chunk < _CHUNK_MAX:
                self._chunk *= 2
                continue
            if length or len(data) == self._chunk:
                batch = self._take(segment, data, length or len(data))
            elif len(self._segments) > 1:
                # Complete: whatever stands behind its last record is damage, or a record without its end.
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
            # Counted in entries as `last` and `count` count them, damaged ones included.
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
                # A whole batch is too late; so is what comes after it.
                self._done = True
            batch = kept
        return batch

    def _advance(self, segment: Segment) -> bool:
        """At the end of the newest file we know. True: there is more, in it or behind it."""
        if not self._follow:
            return False
        if isinstance(segment, Plain):
            try:
                if os.stat(self._path).st_ino == segment.inode:
                    return False
            except FileNotFoundError:
                return False  # in the middle of a rotation: the new file's creation wakes us
        return self._renew(segment)

    def _renew(self, held: Segment | None) -> bool:
        """Open what came after the newest file we know. `read` finishes that one first: its last words were written before
        the next one was made."""
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
