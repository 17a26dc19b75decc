"""Splits a stream of output into what a log driver gets: blocks of whole lines, and the pieces of lines that are too long.

Pure: bytes and times in, `LogBlock`s out. One splitter a stream; it holds back the beginning of a line until its end comes
(at most 16 KiB), so what a killed monitor loses is at most that.
"""

from __future__ import annotations

from orlop_sdk.log import LogBlock

__all__ = ["LINE_LIMIT", "LineSplitter"]

LINE_LIMIT = 16384
"""Docker splits here (BufSize in its copier), and log shippers join on it: a line with its newline fits, or is cut into
pieces of exactly this length and a rest. So a line of 16384 bytes becomes one piece and a lone newline."""


class LineSplitter:
    """As Docker stamps them: a line has the time at which its newline was read; all pieces of a long line have the
    time at which the first of them was complete."""

    __slots__ = ("_pending", "_piece_time", "_stream")

    def __init__(self, stream: str) -> None:
        self._stream = stream
        self._pending = bytearray()
        self._piece_time: int | None = None  # set while we are inside a long line

    def feed(self, data: bytes, time_ns: int) -> list[LogBlock]:
        """What one read brought. Whole lines come as one block a read, unless there is a long one between them."""
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
        """The stream is at its end: what is left has no newline."""
        if not self._pending:
            return []
        time_ns = time_ns if self._piece_time is None else self._piece_time
        block = LogBlock(self._stream, bytes(self._pending), time_ns, partial=True)
        self._pending.clear()
        self._piece_time = None
        return [block]

    def _pieces(self, time_ns: int, blocks: list[LogBlock]) -> None:
        """Cut what is pending of a line that has no end yet."""
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
        """`data` ends in a newline; the first line may be the rest of a long one."""
        begin = position = 0  # [begin, position): short lines not given out yet
        if self._piece_time is not None:
            begin = position = self._long(data, 0, time_ns, blocks)
        # Hop from newline to newline as far as a line may reach: a handful of searches for a read of short lines.
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
        """The line at `start` is long, or the rest of a long one: its pieces and its last, with the newline. The end."""
        newline = data.index(b"\n", start)
        rest = newline - (newline - start) % LINE_LIMIT
        self._cut(data, start, rest, time_ns, blocks)
        assert self._piece_time is not None
        blocks.append(LogBlock(self._stream, data[rest : newline + 1], self._piece_time))
        self._piece_time = None
        return newline + 1
