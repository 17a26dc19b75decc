"""Measures how long each phase of the daemon's start takes, for the log."""

from __future__ import annotations

import time

__all__ = ["Phases"]


class Phases:
    """`began` is the `time.monotonic()` when the start began. At the end of each phase, call `end` with its name."""

    def __init__(self, began: float) -> None:
        self._began = self._last = began
        self._taken: list[tuple[str, float]] = []

    def end(self, name: str) -> None:
        now = time.monotonic()
        self._taken.append((name, (now - self._last) * 1000))
        self._last = now

    def __str__(self) -> str:
        parts = ", ".join(f"{name} {taken:.0f}" for name, taken in self._taken)
        return f"{(self._last - self._began) * 1000:.0f} ms ({parts})"
