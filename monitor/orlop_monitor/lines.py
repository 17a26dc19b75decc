"""Splits output into `LogBlock`s for the log driver: blocks of complete lines, and pieces of long lines.

No I/O. Each stream has its own splitter, which keeps an incomplete line of at most 16 KiB in memory. If the monitor is
killed, at most this line is lost.
"""

from __future__ import annotations

from orlop_sdk.log import LogBlock

__all__ = ["LINE_LIMIT", "LineSplitter"]

LINE_LIMIT = 16384
"""Docker splits lines at this length (BufSize in its copier), and log shippers rely on the length to join the pieces. A line
that is longer, including its newline, is cut into pieces of exactly this length and a last piece. So a line of 16384 bytes
and a newline becomes one piece of 16384 bytes, and a block with only the newline."""


class LineSplitter:
    """Times are as in Docker: a line has the time at which its newline was read. All pieces of a long line have the time at
    which the first piece was complete."""

    __slots__ = ("_pending", "_piece_time", "_stream")

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._piece_time: int | None = None  # the time of a long line, until its newline is read

    def feed(self, data: bytes, time_ns: int) -> list[LogBlock]:
        """Split the data of one read. All complete lines form one block, unless a long line separates them."""
        blocks: list[LogBlock] = []
        end = data.rfind(b"\n") + 1
        if end:
            lines = bytes(self._pending) + data[:end] if self._pending else data[:end]
            self._pending.clear()
            self._lines(lines, time_ns, blocks)
            data = data[end:]
        if data:
            self._pending += data
            if len(self._pending) >= LINE_LIMIT:
                self._pieces(time_ns, blocks)
        return blocks

    def flush(self, time_ns: int) -> list[LogBlock]:
        """Called at the end of the stream. Returns the last line, which has no newline."""
        if not self._pending:
            return []
        time_ns = time_ns if self._piece_time is None else self._piece_time
        block = LogBlock(self._stream, bytes(self._pending), time_ns, partial=True)
        self._pending.clear()
        self._piece_time = None
        return [block]

    def _pieces(self, time_ns: int, blocks: list[LogBlock]) -> None:
        """Cut pieces from a pending line that is not complete yet."""
        whole = bytes(self._pending)
        end = len(whole) - len(whole) % LINE_LIMIT
        self._cut(whole, 0, end, time_ns, blocks)
        self._pending = bytearray(whole[end:])

    def _cut(self, data: bytes, start: int, end: int, time_ns: int, blocks: list[LogBlock]) -> None:
        if self._piece_time is None:
            self._piece_time = time_ns
        stamp = self._piece_time
        blocks += [LogBlock(self._stream, data[at : at + LINE_LIMIT], stamp, True) for at in range(start, end, LINE_LIMIT)]

    def _lines(self, data: bytes, time_ns: int, blocks: list[LogBlock]) -> None:
        """Split `data`, which ends in a newline, into blocks. The first line may be the last piece of a long line."""
        begin = position = 0  # data[begin:position] are short lines that are not in a block yet
        if self._piece_time is not None:
            begin = position = self._long(data, 0, time_ns, blocks)
        # Each search finds the last newline within the line limit, so data of many short lines needs only a few searches.
        while len(data) - position > LINE_LIMIT:
            newline = data.rfind(b"\n", position, position + LINE_LIMIT)
            if newline >= 0:
                position = newline + 1
                continue
            if begin < position:
                blocks.append(LogBlock(self._stream, data[begin:position], time_ns))
            begin = position = self._long(data, position, time_ns, blocks)
        if begin < len(data):
            blocks.append(LogBlock(self._stream, data[begin:] if begin else data, time_ns))

    def _long(self, data: bytes, start: int, time_ns: int, blocks: list[LogBlock]) -> int:
        """Cut a long line, or the last part of a long line, into pieces. The line begins at `start` and ends at its newline.
        Returns the offset of its end."""
        newline = data.index(b"\n", start)
        rest = newline - (newline - start) % LINE_LIMIT
        self._cut(data, start, rest, time_ns, blocks)
        assert self._piece_time is not None
        blocks.append(LogBlock(self._stream, data[rest : newline + 1], self._piece_time))
        self._piece_time = None
        return newline + 1
