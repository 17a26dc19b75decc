"""Splits output into single lines, and numbers the parts of long lines as Docker does."""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from orlop_sdk.log import LogBlock

__all__ = ["Item", "LogLine", "Numbering", "Part", "lines_of"]


class Part(msgspec.Struct, frozen=True, gc=False):
    """The number of a part of a long line. `id` has 64 hexadecimal digits, which are the same for all parts of one line.
    `ordinal` counts from 1."""

    id: str
    ordinal: int
    last: bool


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line without its newline. `part` is None for a line that was not split. `time_ns` is Unix time."""

    stream: str
    data: bytes
    time_ns: int
    part: Part | None = None


Item = LogLine | LogBlock
"""What a sender gets: a part of a long line, or a block of whole lines. Some senders encode a block faster than its lines
one by one."""


def lines_of(items: Iterable[Item]) -> Iterator[LogLine]:
    for item in items:
        if isinstance(item, LogLine):
            yield item
        else:
            for data in item.data.removesuffix(b"\n").split(b"\n"):
                yield LogLine(item.stream, data, item.time_ns)


class Numbering:
    """Numbers the parts of long lines. Remembers the last part of an incomplete long line for each stream."""

    def __init__(self) -> None:
        self._open: dict[str, Part] = {}

    def items(self, blocks: Sequence[LogBlock]) -> list[Item]:
        """Returns the blocks in order. A block that contains a part of a long line is replaced by a `LogLine`."""
        found: list[Item] = []
        for block in blocks:
            if block.partial or block.stream in self._open:
                part = self._part(block.stream, last=not block.partial)
                found.append(LogLine(block.stream, block.data.removesuffix(b"\n"), block.time_ns, part))
            else:
                found.append(block)
        return found

    def _part(self, stream: str, *, last: bool) -> Part:
        """As in dockerd, if the output of a process ends without a newline, its last piece is not marked as the last part of
        a line."""
        before = self._open.pop(stream, None)
        part = Part(before.id if before else secrets.token_hex(32), before.ordinal + 1 if before else 1, last)
        if not last:
            self._open[stream] = part
        return part
