"""Records the lines that a test reaches."""

from __future__ import annotations

import sys
import threading
from collections.abc import Collection
from types import CodeType, FrameType

__all__ = ["LinesReached"]

_Line = tuple[str, int]


class LinesReached:
    """Collects the lines of `sources` that this process reaches."""

    def __init__(self, sources: Collection[str]) -> None:
        self._sources = frozenset(sources)
        self._reached: set[_Line] = set()
        if sys.version_info < (3, 12):
            threading.settrace(self._call)  # type: ignore[arg-type]
            sys.settrace(self._call)  # type: ignore[arg-type]
            return
        events = sys.monitoring.events.LINE
        sys.monitoring.use_tool_id(sys.monitoring.COVERAGE_ID, "orlop-mutation")
        sys.monitoring.register_callback(sys.monitoring.COVERAGE_ID, events, self._seen)
        sys.monitoring.set_events(sys.monitoring.COVERAGE_ID, events)

    def take(self) -> list[_Line]:
        """The lines reached since the last call."""
        reached = sorted(self._reached)
        self._reached.clear()
        if sys.version_info >= (3, 12):
            sys.monitoring.restart_events()
        return reached

    def _seen(self, code: CodeType, number: int) -> object:
        if code.co_filename in self._sources:
            self._reached.add((code.co_filename, number))
        return sys.monitoring.DISABLE

    def _call(self, frame: FrameType, event: str, _: object) -> object:
        return self._line(frame, event, None) if frame.f_code.co_filename in self._sources else None

    def _line(self, frame: FrameType, event: str, _: object) -> object:
        self._reached.add((frame.f_code.co_filename, frame.f_lineno))
        return self._line
