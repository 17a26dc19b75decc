"""Limits of a step's output, with BuildKit's amounts and messages. Output that exceeds a limit is dropped."""

from __future__ import annotations

import math

__all__ = ["LogLimit"]

SIZE = 2 << 20
SPEED = 200 << 10  # bytes for each second since the step began


class LogLimit:
    """A stream of a step that began at `began` (seconds of any clock)."""

    def __init__(self, began: float) -> None:
        self._began = began
        self._size = 0
        self._clipping = False

    def take(self, data: bytes, now: float) -> bytes:
        """The part of the data that is kept. A remark is added when output is dropped for the first time."""
        allowed = math.ceil(now - self._began) * SPEED
        limit = "200KiB/s"
        if allowed > SIZE:
            allowed, limit = SIZE, "2MiB"
        kept = data[: max(0, allowed - self._size)]
        self._size += len(data)
        if len(kept) == len(data):
            self._clipping = False
            return data
        if self._clipping:
            return kept
        self._clipping = True
        return kept + f"\n[output clipped, log limit {limit} reached]\n".encode()
