"""The log driver `mydriver`. Each record is a line: time, stream, L (line) or P (piece of a line), and text, between tabs.

`orlop_sdk.logfiles` implements rotation, compression, `tail`, `since` and `follow`. The driver implements the format.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

from orlop_sdk import LogBlock, LogCapabilities, LogInfo, LogQuery, LogReader, LogRecord, LogWriter, Register, hookimpl
from orlop_sdk.logfiles import FileLogReader, FileOptions, RotatingFile, check_options, file_options, rfc3339

__all__ = ["MyDriver", "orlop_log"]

OPTIONS = {"max-size", "max-file", "compress"}
DEFAULT = FileOptions(max_size=50_000_000, max_files=2)


class Records:
    """Implements `RecordFormat`. A newline ends each record, and occurs nowhere else."""

    def complete_length(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def next_end(self, data: bytes, offset: int) -> int:
        return data.index(b"\n", max(0, offset - 1)) + 1

    def count(self, data: bytes) -> int:
        return data.count(b"\n")

    def sync(self, data: bytes) -> int:
        return data.find(b"\n") + 1 or len(data)

    def decode(self, data: bytes) -> list[LogRecord]:
        records = []
        for line in data.split(b"\n"):
            time, _, rest = line.partition(b"\t")
            stream, _, rest = rest.partition(b"\t")
            kind, tab, text = rest.partition(b"\t")
            if tab and time.endswith(b"Z") and not line.startswith(b"\0"):  # skip damaged records
                text = text if kind == b"P" else text + b"\n"
                records.append(LogRecord(stream.decode(), text, time.decode()))
        return records

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        found, position = -1, end  # the first newline from the end only closes the last record
        while position > 0:
            start = max(0, position - 65536)
            block = os.pread(fd, position - start, start)
            at = len(block)
            while found < count and (at := block.rfind(b"\n", 0, at)) >= 0:
                found += 1
                if found == count:
                    return start + at + 1, count
            position = start
        return 0, max(0, found + 1)

    def valid_size(self, fd: int, size: int) -> int:
        return self.last(fd, size, 0)[0]


class Writer:
    """Implements `LogWriter`. It runs in the container's monitor, and the container's output waits for `write`."""

    def __init__(self, path: str, options: FileOptions) -> None:
        self._file = RotatingFile(path, options, Records())

    def write(self, blocks: Sequence[LogBlock]) -> None:
        data = b"".join(map(self._encode, blocks))  # one system call for all blocks
        self._file.append(data, max((block.time_ns for block in blocks), default=0))

    def _encode(self, block: LogBlock) -> bytes:
        kind = b"P" if block.partial else b"L"
        start = b"\t".join((rfc3339(block.time_ns).encode(), block.stream.encode(), kind, b""))
        text = block.data if block.partial else block.data[:-1]
        return start + text.replace(b"\n", b"\n" + start) + b"\n"

    def close(self) -> None:
        self._file.close()


class MyDriver:
    """Implements `LogDriver`."""

    capabilities = LogCapabilities(readable=True, stores=True)

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("mydriver", options, OPTIONS)
        file_options(options, DEFAULT)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        return Writer(self.path(info), file_options(options, DEFAULT))

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return FileLogReader(self.path(info), Records(), query)

    def path(self, info: LogInfo) -> str:
        return os.path.join(info.directory, "log.mydriver")


@hookimpl
def orlop_log(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1)
