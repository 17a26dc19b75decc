"""The formats of syslog messages, the same as dockerd's. This module does no I/O.

    ""             <PRI>Nov 29 10:40:41 TAG[PID]: TEXT              what syslog(3) writes
    rfc3164        <PRI>Nov 29 10:40:41 HOST TAG[PID]: TEXT
    rfc5424        <PRI>1 2026-11-29T10:40:41Z HOST TAG PID TAG - TEXT
    rfc5424micro   with microseconds

Each message ends in a newline. With rfc5424 over TLS, its length comes first (RFC 5425, section 4.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable

__all__ = ["FACILITIES", "FORMATS", "encoder"]

FACILITIES = {
    name: number
    for number, name in enumerate(
        "kern user mail daemon auth syslog lpr news uucp cron authpriv ftp".split()
    )
} | {f"local{number}": 16 + number for number in range(8)}  # fmt: skip
FORMATS = frozenset({"", "rfc3164", "rfc5424", "rfc5424micro"})

_SEVERITIES = {"stdout": 6, "stderr": 3}  # informational, error
_MONTHS = "Jan Feb Mar Apr May Jun Jul Aug Sep Oct Nov Dec".split()


class _Clock:
    """Formats times. The last text is kept, because most lines are written in the same second as the line before."""

    def __init__(self, form: str) -> None:
        self._form = form
        self._second = -1
        self._text = ("", "")

    def __call__(self, time_ns: int) -> str:
        second = time_ns // 1_000_000_000
        if second != self._second:
            self._second, self._text = second, self._format(time.localtime(second))
        before, after = self._text
        return f"{before}.{time_ns % 1_000_000_000 // 1000:06}{after}" if self._form == "rfc5424micro" else before + after

    def _format(self, found: time.struct_time) -> tuple[str, str]:
        if not self._form.startswith("rfc5424"):
            day = f"{_MONTHS[found.tm_mon - 1]} {found.tm_mday:2}"
            return f"{day} {found.tm_hour:02}:{found.tm_min:02}:{found.tm_sec:02}", ""
        minutes = found.tm_gmtoff // 60
        zone = f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}" if minutes else "Z"
        return time.strftime("%Y-%m-%dT%H:%M:%S", found), zone


def encoder(form: str, facility: int, tag: str, host: str, pid: int, *, counted: bool) -> Callable[[str, bytes, int], bytes]:
    """A function (stream, text, time in Unix nanoseconds) -> message. `counted`: the length precedes the message."""
    clock = _Clock(form)
    priorities = {stream: facility * 8 + severity for stream, severity in _SEVERITIES.items()}
    middle = {
        "": f" {tag}[{pid}]: ",
        "rfc3164": f" {host} {tag}[{pid}]: ",
    }.get(form, f" {host} {tag} {pid} {tag} - ")
    version = "1 " if form.startswith("rfc5424") else ""
    counted = counted and bool(version)

    def encode(stream: str, text: bytes, time_ns: int) -> bytes:
        if not text:
            return b""  # as in dockerd, empty lines are not sent
        head = f"<{priorities[stream]}>{version}{clock(time_ns)}{middle}".encode()
        message = head + text if text.endswith(b"\n") else head + text + b"\n"
        return b"%d %s" % (len(message), message) if counted else message

    return encode
