"""The contract of a log driver. The writer runs in a container's monitor, the reader in the daemon.

Both are synchronous objects: the monitor does not run trio, and the daemon calls readers on a worker thread. A driver's
module must not import trio, because the zygote (the process from which monitors are forked) imports it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

__all__ = [
    "CountingLogWriter",
    "LogBlock",
    "LogCapabilities",
    "LogDriver",
    "LogInfo",
    "LogQuery",
    "LogReader",
    "LogRecord",
    "LogWriter",
    "ThrottledLogWriter",
    "entries",
]


class LogCapabilities(msgspec.Struct, frozen=True):
    """`readable`: the driver has a reader, so `docker logs` works. `stores`: `LogDriver.path` names a file."""

    readable: bool = True
    stores: bool = True


class LogInfo(msgspec.Struct, frozen=True):
    """The container whose output is logged. `directory` is the container's directory, which exists with mode 0710. The
    driver may write files only in this directory. `created` is an RFC 3339 time. `env` contains texts of the form
    NAME=VALUE. `hostname` is the name of the host."""

    container_id: str
    container_name: str
    image_id: str
    image_name: str
    command: str
    created: str
    directory: str
    labels: dict[str, str] = {}
    env: tuple[str, ...] = ()
    hostname: str = ""
    daemon_name: str = "orlop"


class LogBlock(msgspec.Struct, frozen=True, gc=False):
    """Output of a container. `stream` is "stdout" or "stderr". `data` is one or more whole lines. Each line ends in a
    newline and has at most 16 KiB before the newline. If `partial` is true, `data` is exactly one piece without a newline: a
    part of a longer line, or the end of the output if no newline follows. `time_ns` (Unix time, nanoseconds) is the time at
    which the newline was read, as in dockerd. The last part of a long line is a separate block. All parts of a long line
    have the time at which the first part was complete."""

    stream: str
    data: bytes
    time_ns: int
    partial: bool = False


def entries(blocks: Iterable[LogBlock]) -> int:
    """The number of log entries in the blocks: lines, and pieces of lines."""
    return sum(block.data.count(b"\n") or 1 for block in blocks)


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry that was read from a log: a line with its newline, or a piece of a line without a newline. `time` has the
    format of RFC 3339, in UTC: it ends in Z, and its fraction has up to nine digits and no trailing zeros. `attrs` are the
    container's extra attributes; None if there are none."""

    stream: str
    data: bytes
    time: str
    attrs: dict[str, str] | None = None


class LogQuery(msgspec.Struct, frozen=True):
    """The entries to read. `since` and `until` are Unix times in nanoseconds, and both are inclusive; 0 means no limit.
    `tail`: take only the last `tail` entries of all files of the log, before `since` is applied; None means all entries.
    `follow`: `read` will be called again after it has returned no entries."""

    since: int = 0
    until: int = 0
    tail: int | None = None
    follow: bool = False


@runtime_checkable
class LogWriter(Protocol):
    """Appends the output of one run of a container. Used by one thread. May wait only for the disk that it writes to."""

    def write(self, blocks: Sequence[LogBlock]) -> None:
        """Append the records of all blocks in order, with as few system calls as possible. Must not raise an error, because
        a failing log must not stop the container. If the disk is full, drop the records, count them, and accept later
        records."""
        ...

    def close(self) -> None:
        """Flush and close. May be called twice."""
        ...


@runtime_checkable
class ThrottledLogWriter(LogWriter, Protocol):
    """A writer that has a queue, and can make the container wait while the queue is full. While `full` is true, the monitor
    reads no output of the container. It checks `full` again every 20 ms."""

    @property
    def full(self) -> bool: ...


@runtime_checkable
class CountingLogWriter(LogWriter, Protocol):
    """A writer that counts the log entries (lines, or pieces of lines) of this run that it has dropped without raising. The
    monitor reads `dropped` after each `write` and after `close`. The monitor itself counts the entries of each `write` that
    has raised an exception. The daemon shows the sum of the two numbers: see docs/operations.md."""

    @property
    def dropped(self) -> int: ...


@runtime_checkable
class LogReader(Protocol):
    """Reads a container's log, from the oldest requested entry to the newest. The daemon calls one method at a time, but not
    always on the same thread."""

    def read(self) -> Sequence[LogRecord]:
        """The next entries (up to about 1 MiB), the oldest first. The result is empty if there are no more entries. If the
        query has `follow`, later calls return the entries that were written since the previous call. Each entry is returned
        exactly once, even if files are rotated. Torn and damaged records are skipped. Raises `DriverError`."""
        ...

    def fileno(self) -> int:
        """A descriptor that polls readable when `read` may return more entries (inotify, for instance). Called only if the
        query has `follow`. `read` must drain it."""
        ...

    def close(self) -> None:
        """Close all descriptors. May be called twice."""
        ...


@runtime_checkable
class LogDriver(Protocol):
    """A log driver. The factory is called once per process; the object keeps no state of individual containers.

    The daemon calls `validate` and `path` on threads, several at the same time, and abandons a call after 5 seconds: these
    methods should only compute. `capabilities` is read once."""

    @property
    def capabilities(self) -> LogCapabilities: ...

    def validate(self, options: Mapping[str, str]) -> None:
        """Raise `InvalidParameter` for an invalid option. For an unknown option, use Docker's message: `unknown log opt 'X'
        for NAME log driver`."""
        ...

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        """Open the log for appending. If a crash left a torn record at the end of the log, remove it first. Raises
        `DriverError`."""
        ...

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        """Open the log for reading. A driver without the capability `readable` raises `NotImplementedHere("configured
        logging driver does not support reading")`."""
        ...

    def path(self, info: LogInfo) -> str:
        """The path of the log file, which `docker inspect` shows as `LogPath`. "" if the driver has no file."""
        ...
