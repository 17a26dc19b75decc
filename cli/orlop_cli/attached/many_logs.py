"""Logs of several containers, merged by the times of their lines.

One thread per container reads the log. Without --follow, a line is printed when every other log has a later line or has
ended, so the order is exact. With --follow, a line waits at most HOLD seconds for earlier lines of other containers.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from orlop_cli._errors import CliError
from orlop_cli.attached.streams import STDERR, STDOUT, Demultiplexer, write_all

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from typing import Any

    from orlop_cli.daemon.client import Engine, Query

__all__ = ["Inbox", "Line", "show", "split_lines"]

HOLD = 0.1
_LIMIT = 10_000  # lines of a container that wait for other containers
_COLOURS = (36, 33, 32, 35, 34, 96, 93, 92, 95, 94)  # ANSI foregrounds; red is left to programs' errors


class Line:
    """A line of a log: the time of the daemon, the stream, and the text with its newline."""

    __slots__ = ("arrived", "stamp", "stream", "text")

    def __init__(self, stamp: bytes, stream: int, text: bytes) -> None:
        self.stamp, self.stream, self.text = stamp, stream, text
        self.arrived = time.monotonic()


class Inbox:
    """The lines that have arrived from all logs. Readers wait if a log is far ahead of the others."""

    def __init__(self, number: int, hold: float | None) -> None:
        self._waiting: list[deque[Line]] = [deque() for _ in range(number)]
        self._ended = [False] * number
        self._hold = hold
        self._changed = threading.Condition()

    def put(self, source: int, lines: Sequence[Line]) -> None:
        """Add lines of a log, in the order of the log."""
        with self._changed:
            while len(self._waiting[source]) >= _LIMIT:
                self._changed.wait()
            self._waiting[source].extend(lines)
            self._changed.notify_all()

    def end(self, source: int) -> None:
        """Say that a log has no more lines."""
        with self._changed:
            self._ended[source] = True
            self._changed.notify_all()

    def take(self) -> list[tuple[int, Line]] | None:
        """Wait for lines, and return all lines that can be printed now, in the order of time. Returns None after the last
        line."""
        with self._changed:
            while True:
                taken: list[tuple[int, Line]] = []
                while len(taken) < _LIMIT and (source := self._first()) is not None:
                    taken.append((source, self._waiting[source].popleft()))
                if taken:
                    self._changed.notify_all()
                    return taken
                if all(self._ended) and not any(self._waiting):
                    return None
                self._changed.wait(self._patience())

    def _first(self) -> int | None:
        """The log with the earliest line; None if a log may still send an earlier line."""
        heads = [(lines[0].stamp, source) for source, lines in enumerate(self._waiting) if lines]
        if not heads:
            return None
        source = min(heads)[1]
        complete = all(lines or ended for lines, ended in zip(self._waiting, self._ended, strict=True))
        full = any(len(lines) >= _LIMIT for lines in self._waiting) and self._hold is not None
        late = self._hold is not None and time.monotonic() - self._waiting[source][0].arrived >= self._hold
        return source if complete or late or full else None

    def _patience(self) -> float | None:
        """The number of seconds after which the next line is printed, even if no other line has arrived. None means no
        limit."""
        arrived = [lines[0].arrived for lines in self._waiting if lines]
        if self._hold is None or not arrived:
            return None
        return max(0.0, min(arrived) + self._hold - time.monotonic())


def split_lines(chunks: Iterator[bytes], framed: bool) -> Iterator[list[Line]]:
    """The lines of an answer with timestamps. A last line without a newline gets one."""
    demultiplexer = Demultiplexer()
    rest = {STDOUT: b"", STDERR: b""}
    for chunk in chunks:
        lines: list[Line] = []
        for stream, pieces in demultiplexer.feed(chunk) if framed else [(STDOUT, [memoryview(chunk)])]:
            stream = stream or STDOUT
            *whole, rest[stream] = (rest[stream] + b"".join(pieces)).split(b"\n")
            lines += [_line(stream, text) for text in whole]
        yield lines
    yield [_line(stream, text) for stream, text in rest.items() if text]


def _line(stream: int, text: bytes) -> Line:
    return Line(_comparable(text.partition(b" ")[0]), stream, text + b"\n")


def _comparable(stamp: bytes) -> bytes:
    """The timestamp with nine digits of a second. The daemon may leave out zeros at the end."""
    head, _, fraction = stamp.rstrip(b"Z").partition(b".")
    return head + b"." + fraction.ljust(9, b"0")


def show(engine: Engine, names: Sequence[str], query: Query, follow: bool, stamps: bool, colour: bool) -> list[CliError]:
    """Print the logs of containers. Returns the errors of logs that could not be read."""
    from orlop_cli.daemon.client import segment

    found: list[dict[str, Any]] = []
    problems: list[CliError] = []
    for name in names:
        try:
            found.append(engine.get(f"/containers/{segment(name)}/json"))
        except CliError as error:
            problems.append(error)
    inbox = Inbox(len(found), HOLD if follow else None)
    for source, container in enumerate(found):
        arguments = (engine.fork(), container, {**query, "timestamps": 1}, inbox, source, problems)
        threading.Thread(target=_read, args=arguments, daemon=True).start()
    prefixes = _prefixes([container["Name"].removeprefix("/") for container in found], colour)
    while (lines := inbox.take()) is not None:
        _write(lines, prefixes, stamps)
    return problems


def _read(
    engine: Engine, container: dict[str, Any], query: Query, inbox: Inbox, source: int, problems: list[CliError]
) -> None:
    try:
        answer = engine.open("GET", f"/containers/{container['Id']}/logs", query)
        for lines in split_lines(answer.chunks(), not container["Config"]["Tty"]):
            inbox.put(source, lines)
    except CliError as error:
        problems.append(error)
    except OSError as error:
        problems.append(CliError(f"lost the connection to the daemon: {error}"))
    finally:
        inbox.end(source)


def _prefixes(names: Sequence[str], colour: bool) -> list[bytes]:
    width = max(map(len, names), default=0)
    padded = [f"{name:<{width}} | " for name in names]
    if colour:
        padded = [f"\x1b[{_COLOURS[at % len(_COLOURS)]}m{text}\x1b[0m" for at, text in enumerate(padded)]
    return [text.encode() for text in padded]


def _write(lines: list[tuple[int, Line]], prefixes: Sequence[bytes], stamps: bool) -> None:
    """Write lines to stdout and stderr, with one system call for adjacent lines of a stream."""
    pending: list[bytes] = []
    stream = STDOUT
    for source, line in lines:
        if line.stream != stream:
            write_all(stream, b"".join(pending))
            pending, stream = [], line.stream
        pending.append(prefixes[source] + (line.text if stamps else line.text.partition(b" ")[2] or b"\n"))
    write_all(stream, b"".join(pending))
