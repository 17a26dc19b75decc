"""The formats of syslog messages, the same as dockerd's. This module does no I/O.

    ""             <PRI>Nov 29 10:40:41 TAG[PID]: TEXT              what syslog(3) writes
    rfc3164        <PRI>Nov 29 10:40:41 HOST TAG[PID]: TEXT
    rfc5424        <PRI>1 2026-11-29T10:40:41Z HOST TAG PID TAG - TEXT
    rfc5424micro   with microseconds

Each message ends in a newline. With rfc5424 over TLS, its length comes first (RFC 5425, section 4.3).
"""

from __future__ import annotations

import time

__all__ = ["FACILITIES", "FORMATS", "Encoder"]

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


class Encoder:
    """Encodes the lines of one container. `counted`: the length precedes the message if the format is rfc5424. As in
    dockerd, an empty line results in no message."""

    def __init__(self, form: str, facility: int, tag: str, host: str, pid: int, *, counted: bool) -> None:
        self._clock = _Clock(form)
        self._priorities = {stream: facility * 8 + severity for stream, severity in _SEVERITIES.items()}
        modern = form.startswith("rfc5424")
        place = f" {host}" if form else ""
        self._middle = f"{place} {tag} {pid} {tag} - " if modern else f"{place} {tag}[{pid}]: "
        self._version = "1 " if modern else ""
        self._counted = counted and modern

    def _head(self, stream: str, time_ns: int) -> bytes:
        return f"<{self._priorities[stream]}>{self._version}{self._clock(time_ns)}{self._middle}".encode()

    def line(self, stream: str, text: bytes, time_ns: int) -> bytes:
        """The message of a line without its newline."""
        if not text:
            return b""
        message = b"%s%s\n" % (self._head(stream, time_ns), text)
        return b"%d %s" % (len(message), message) if self._counted else message

    def block(self, stream: str, data: bytes, time_ns: int) -> bytes:
        """The messages of whole lines, which end in newlines."""
        if self._counted or data.startswith(b"\n") or b"\n\n" in data:
            return b"".join([self.line(stream, text, time_ns) for text in data[:-1].split(b"\n")])
        head = self._head(stream, time_ns)
        return b"%s%s\n" % (head, data[:-1].replace(b"\n", b"\n" + head))
