"""RFC 3339 times in UTC with up to nine fraction digits and no trailing zeros, as Go's time.RFC3339Nano."""

from __future__ import annotations

import time

__all__ = ["TimeFormatter", "rfc3339"]


class TimeFormatter:
    """Formats Unix times in nanoseconds. Caches the text of the last second, because successive records mostly have times
    within the same second."""

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
