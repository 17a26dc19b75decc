"""The contract of a log driver. The writer lives in a container's monitor, the reader in the daemon.

Both are plain synchronous objects: the monitor has no event loop of trio's, and the daemon calls readers on a worker
thread. A module that implements them must not import trio (the zygote preloads it).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import msgspec

__all__ = ["LogBlock", "LogCapabilities", "LogDriver", "LogInfo", "LogQuery", "LogReader", "LogRecord", "LogWriter"]


class LogCapabilities(msgspec.Struct, frozen=True):
    """`readable`: `docker logs` works. `stores`: `LogPath` of inspect names a file."""

    readable: bool = True
    stores: bool = True


class LogInfo(msgspec.Struct, frozen=True):
    """The container whose output is logged. `directory` is the container's own (0710, exists): files go there, or
    nowhere."""

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
    """Output of one read. `data` is one or more whole lines, each ending in a newline and none longer than 16 KiB without
    it; or, when `partial`, exactly one piece without a newline: part of a longer line, or a last line without its end.
    `time_ns` (Unix time) is when the newline was read, as dockerd stamps lines; the pieces of a long line and its last
    part, which is a block of its own, share the time at which the first piece was complete."""

    stream: str
    data: bytes
    time_ns: int
    partial: bool = False


class LogRecord(msgspec.Struct, frozen=True, gc=False):
    """One entry as read back: a line with its newline, or a piece of one without. `time` is RFC 3339 with up to nine
    fraction digits, UTC, trailing zeros trimmed, ending in Z."""

    stream: str
    data: bytes
    time: str
    attrs: dict[str, str] | None = None


class LogQuery(msgspec.Struct, frozen=True):
    """What to read. `since`/`until` in ns of Unix time, inclusive, 0 = open; `tail` = last n entries, None = all, counted
    over rotated files before `since` cuts; `follow`: the reader will be read again after its end."""

    since: int = 0
    until: int = 0
    tail: int | None = None
    follow: bool = False


@runtime_checkable
class LogWriter(Protocol):
    """Appends for one run of a container. Used by one thread. Never blocks on anything but its own disk."""

    def write(self, blocks: Sequence[LogBlock]) -> None:
        """Append the records of all blocks, in order, with as few system calls as possible. On a full disk it drops,
        counts, and goes on: a container never stops for its log. Raises nothing."""
        ...

    def close(self) -> None:
        """Flush and close. May be called twice."""
        ...


@runtime_checkable
class LogReader(Protocol):
    """One reading of a container's log."""

    def read(self) -> Sequence[LogRecord]:
        """The next batch (up to about 1 MiB), oldest first. Empty: nothing more at the moment. With `follow`, later calls
        return what was written since, across rotations, each record once. A torn or damaged record is skipped."""
        ...

    def fileno(self) -> int:
        """A descriptor that polls readable when `read` may have more (inotify, for instance); only with `follow`.
        `read` drains it."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class LogDriver(Protocol):
    """Made once by its factory; no state of its own."""

    @property
    def capabilities(self) -> LogCapabilities: ...

    def validate(self, options: Mapping[str, str]) -> None:
        """Raise `InvalidParameter` for an option that is unknown or wrong: `unknown log opt 'X' for NAME log driver`."""
        ...

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        """Open for appending. Repairs what a crash tore at the end of the file first."""
        ...

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        """`NotImplementedHere("configured logging driver does not support reading")` where it cannot."""
        ...

    def path(self, info: LogInfo) -> str:
        """`LogPath` of inspect; "" when there is none."""
        ...
