"""RFC 3339 with up to nine digits, UTC, as Go's time.RFC3339Nano prints it: trailing zeros trimmed."""

from __future__ import annotations

import time

__all__ = ["TimeFormatter", "rfc3339"]


class TimeFormatter:
    """Formats Unix nanoseconds; remembers the last second, as neighbours in a log mostly share it."""

    __slots__ = ("_prefix", "_second")

    def __init__(self) -> None:
        self._second = -1
        self._prefix = ""

    def __call__(self, time_ns: int) -> str:
        second, fraction = divmod(time_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._prefix = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        if not fraction:
            return self._prefix + "Z"
        return f"{self._prefix}.{fraction:09d}".rstrip("0") + "Z"


def rfc3339(time_ns: int) -> str:
    return TimeFormatter()(time_ns)
