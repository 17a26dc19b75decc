"""Splits the blocks of a log into single lines, and numbers the parts of long lines as Docker does."""

from __future__ import annotations

import secrets
from collections.abc import Iterable

import msgspec

from orlop_sdk.log import LogBlock

__all__ = ["Lines", "LogLine", "Part"]


class Part(msgspec.Struct, frozen=True, gc=False):
    """Which part of a long line this is. `id` is 64 hexadecimal digits, equal for all parts of one line. `ordinal` counts
    from 1."""

    id: str
    ordinal: int
    last: bool


class LogLine(msgspec.Struct, frozen=True, gc=False):
    """One line without its newline. `part` is None for a line that was not split. `time_ns` is Unix time."""

    stream: str
    data: bytes
    time_ns: int
    part: Part | None = None


class Lines:
    """Records, for each stream, the long line of which parts have arrived."""

    def __init__(self) -> None:
        self._open: dict[str, Part] = {}

    def split(self, blocks: Iterable[LogBlock]) -> list[LogLine]:
        found: list[LogLine] = []
        for block in blocks:
            stream, time_ns = block.stream, block.time_ns
            if block.partial:
                found.append(LogLine(stream, block.data, time_ns, self._part(stream, last=False)))
            elif stream in self._open:
                found.append(LogLine(stream, block.data.removesuffix(b"\n"), time_ns, self._part(stream, last=True)))
            else:
                found += [LogLine(stream, data, time_ns) for data in block.data.removesuffix(b"\n").split(b"\n")]
        return found

    def _part(self, stream: str, *, last: bool) -> Part:
        """As in dockerd, if the output of a process ends without a newline, its last piece is not marked as the last part of
        a line."""
        before = self._open.pop(stream, None)
        part = Part(before.id if before else secrets.token_hex(32), before.ordinal + 1 if before else 1, last)
        if not last:
            self._open[stream] = part
        return part
