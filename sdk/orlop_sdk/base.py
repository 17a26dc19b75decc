"""The two bases of all Structs, and Docker's way of writing times.

The wire tolerates what it does not know (clients are newer and older than we are), configuration does not (a misspelt key
in daemon.json must not be silently ignored).
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

__all__ = ["ZERO_TIME", "ConfigBase", "WireBase", "parse_rfc3339", "rfc3339"]


class WireBase(msgspec.Struct, rename="pascal", kw_only=True):
    """What crosses the API: `foo_bar` is `FooBar` on the wire (other spellings by `msgspec.field(name=...)`), unknown keys
    are ignored. `kw_only` is not inherited in msgspec: repeat it where required fields follow optional ones."""


class ConfigBase(msgspec.Struct, rename="kebab", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What an administrator writes: `foo_bar` is `foo-bar` in the file, an unknown key is an error that names it."""


ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time: what clients read as "never"."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(maxsize=256)
def _whole_seconds(seconds: int) -> str:
    # A list of containers shares its seconds, and time.strftime costs as much as the rest of an answer's row
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def rfc3339(ns: int) -> str:
    """Nanoseconds since the epoch as Go's RFC3339Nano in UTC: trailing zeros of the fraction trimmed, no point without a
    fraction. 0 stands for "never": `ZERO_TIME`."""
    if not ns:
        return ZERO_TIME
    seconds, fraction = divmod(ns, _SECOND)
    if not fraction:
        return f"{_whole_seconds(seconds)}Z"
    return f"{_whole_seconds(seconds)}.{fraction:09d}".rstrip("0") + "Z"


def parse_rfc3339(text: str) -> int:
    """The reverse, exact to the nanosecond; any offset; "" and the zero time are 0. Raises ValueError."""
    if not text or text == ZERO_TIME:
        return 0
    match = _RFC3339.fullmatch(text)
    if not match:
        raise ValueError(f"{text!r} is not an RFC 3339 time")
    date, clock, fraction, zone = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{clock}{'+00:00' if zone in 'Zz' else zone}")
    except ValueError as error:
        raise ValueError(f"{text!r} is not an RFC 3339 time: {error}") from error
    # Integers throughout: a float of seconds is exact to 200 ns only
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * _SECOND + int((fraction or "").ljust(9, "0"))
