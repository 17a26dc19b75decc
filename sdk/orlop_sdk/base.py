"""The base classes of all Structs, and the time format of Docker's API.

API messages ignore unknown fields, because clients may be newer or older than the daemon. Configuration rejects unknown
fields, so that a misspelt key in daemon.json is not silently ignored.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from functools import lru_cache

import msgspec

__all__ = ["ZERO_TIME", "ConfigBase", "WireBase", "parse_rfc3339", "rfc3339"]


class WireBase(msgspec.Struct, rename="pascal", kw_only=True):
    """Base of API messages. The field `foo_bar` is `FooBar` on the wire; `msgspec.field(name=...)` sets another name.
    Unknown fields are ignored. msgspec does not inherit `kw_only`: a class in which required fields follow optional fields
    must set it again."""


class ConfigBase(msgspec.Struct, rename="kebab", kw_only=True, frozen=True, forbid_unknown_fields=True):
    """Base of configuration files. The field `foo_bar` is `foo-bar` in the file. An unknown key is an error, whose message
    names the key."""


ZERO_TIME = "0001-01-01T00:00:00Z"
"""Go's zero time, which clients show as "never"."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 1_000_000_000
_RFC3339 = re.compile(r"(\d{4}-\d\d-\d\d)[Tt ](\d\d:\d\d:\d\d)(?:[.,](\d{1,9})\d*)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)


@lru_cache(maxsize=256)
def _whole_seconds(seconds: int) -> str:
    # Cached, because containers in a list often have times within the same second, and time.strftime is slow
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def rfc3339(ns: int) -> str:
    """Format nanoseconds since the epoch in UTC, like Go's RFC3339Nano. The fraction has no trailing zeros. If there is no
    fraction, there is no decimal point. 0 means "never" and becomes `ZERO_TIME`."""
    if not ns:
        return ZERO_TIME
    seconds, fraction = divmod(ns, _SECOND)
    if not fraction:
        return f"{_whole_seconds(seconds)}Z"
    return f"{_whole_seconds(seconds)}.{fraction:09d}".rstrip("0") + "Z"


def parse_rfc3339(text: str) -> int:
    """Parse an RFC 3339 time with any UTC offset into nanoseconds since the epoch, exactly. "" and `ZERO_TIME` become 0.
    Raises ValueError."""
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
    # Compute with integers: a float of seconds is exact only to 200 ns
    since = moment - _EPOCH
    return (since.days * 86400 + since.seconds) * _SECOND + int((fraction or "").ljust(9, "0"))
