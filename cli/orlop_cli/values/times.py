"""Timestamps of the API (RFC 3339 with nanoseconds), and the values of --since and --until."""

from __future__ import annotations

import time

from orlop_cli._errors import CliError
from orlop_cli.values.units import parse_duration

_RFC3339 = r"(\d{4})-(\d\d)-(\d\d)(?:T(\d\d):?(\d\d)?(?::(\d\d))?(\.\d+)?)?(Z|[+-]\d\d:\d\d)?"
_STAMP = r"\d+(\.\d{1,9})?"


def parse_nanoseconds(text: str) -> int:
    """Convert an RFC 3339 timestamp to nanoseconds since 1970. A timestamp without a zone is local time. Raises
    ValueError."""
    import re

    match = re.fullmatch(_RFC3339, text)
    if not match:
        raise ValueError(f"not a time stamp: {text}")
    year, month, day = int(match[1]), int(match[2]), int(match[3])
    hour, minute, second = (int(match[i] or 0) for i in (4, 5, 6))
    import calendar

    zone = match[8]
    if zone is None:
        seconds = int(time.mktime((year, month, day, hour, minute, second, 0, 0, -1)))
    else:
        seconds = calendar.timegm((year, month, day, hour, minute, second))
        if zone != "Z":
            offset = int(zone[1:3]) * 3600 + int(zone[4:6]) * 60
            seconds -= -offset if zone[0] == "-" else offset
    fraction = (match[7] or ".")[1:10].ljust(9, "0")
    return seconds * 10**9 + int(fraction)


def query_time(text: str | None, now: float | None = None, flag: str = "") -> str | None:
    """Convert --since or --until to the API's form `seconds[.nanoseconds]`. Unix times stay unchanged; a duration means a
    time before now."""
    if not text:
        return None
    import re

    if re.fullmatch(_STAMP, text):
        return text
    try:
        nanoseconds = parse_nanoseconds(text)
    except ValueError:
        try:
            nanoseconds = int((time.time() if now is None else now) * 10**9) - parse_duration(text)
        except ValueError:
            prefix = f'invalid value for "{flag}": ' if flag else ""
            raise CliError(f'{prefix}failed to parse value as time or duration: "{text}"') from None
    return f"{nanoseconds // 10**9}.{nanoseconds % 10**9:09d}"


def local_text(seconds: int) -> str:
    """Format a time as `2026-01-02 15:04:05 +0100 CET`, the format of Docker's CreatedAt columns."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def go_text(stamp: str) -> str:
    """Convert an RFC 3339 timestamp to the format of Go's time.Time: `2026-01-02 15:04:05.123 +0000 UTC`."""
    import re

    match = re.fullmatch(_RFC3339, stamp)
    if not match or not match[4]:
        return stamp
    zone = "+0000 UTC" if match[8] in (None, "Z") else match[8].replace(":", "") + " " + match[8].replace(":", "")
    return f"{stamp[:10]} {stamp[11:19]}{match[7] or ''} {zone}"


def local_rfc3339(nanoseconds: int) -> str:
    """Format a time as RFC 3339 with nanoseconds in local time, for `events`."""
    local = time.localtime(nanoseconds // 10**9)
    zone = time.strftime("%z", local)
    zone = "Z" if local.tm_gmtoff == 0 else f"{zone[:3]}:{zone[3:]}"
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', local)}.{nanoseconds % 10**9:09d}{zone}"


def ago(stamp: str) -> str:
    """A text such as `3 hours ago` for an RFC 3339 timestamp; "" for the zero time."""
    from orlop_cli.values.units import human_duration

    if not stamp or stamp.startswith("0001-"):
        return ""
    return f"{human_duration(time.time() - parse_nanoseconds(stamp) / 1e9)} ago"


def go_duration(nanoseconds: int) -> str:
    """A duration in the format of Go's time.Duration: `1h30m0s`, `1.5s`, `100ms`."""
    sign, left = ("-" if nanoseconds < 0 else ""), abs(nanoseconds)
    if left < 10**9:
        for unit, size in (("ms", 10**6), ("µs", 10**3)):
            if left >= size:
                return f"{sign}{_decimal(left, size)}{unit}"
        return f"{sign}{left}ns" if left else "0s"
    hours, left = divmod(left, 3600 * 10**9)
    minutes, left = divmod(left, 60 * 10**9)
    text = f"{hours}h{minutes}m" if hours else f"{minutes}m" if minutes else ""
    return f"{sign}{text}{_decimal(left, 10**9)}s"


def _decimal(number: int, unit: int) -> str:
    whole, rest = divmod(number, unit)
    fraction = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{fraction}" if fraction else str(whole)
