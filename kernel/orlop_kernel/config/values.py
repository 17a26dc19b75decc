"""Parses the small notations of daemon.json and its flags: ulimits, key=value, address pools. Pure.

Every function raises `ValueError` with a text that says what is wrong with the value; the caller adds the key's name.
"""

from __future__ import annotations

__all__ = [
    "ULIMITS",
    "key_value",
    "parse_bool",
    "parse_fields",
    "parse_ulimit",
]

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})

ULIMITS = frozenset(
    {
        *("core", "cpu", "data", "fsize", "locks", "memlock", "msgqueue", "nice", "nofile", "nproc"),
        *("rss", "rtprio", "rttime", "sigpending", "stack"),
    }
)


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool, as for dockerd's flags: `--icc=f` is false, `--icc=no` an error."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError(f'"{text}" is neither true nor false')


def key_value(text: str) -> tuple[str, str]:
    """Split "key=value" at the first "="; the key must not be empty."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f'"{text}" is not of the form key=value')
    return key.strip(), value


def parse_fields(text: str) -> dict[str, str]:
    """Parse fields such as `base=10.10.0.0/16,size=24`."""
    return dict(key_value(part) for part in text.split(","))


def parse_ulimit(text: str) -> tuple[str, int, int]:
    """(name, soft, hard) of `nofile=1024:2048` or `nofile=1024` (both); -1 is unlimited (go-units ParseUlimit)."""
    name, value = key_value(text)
    if name not in ULIMITS:
        raise ValueError(f"invalid ulimit type: {name}")
    soft_text, colon, hard_text = value.partition(":")
    try:
        soft = int(soft_text)
        hard = int(hard_text) if colon else soft
    except ValueError:
        raise ValueError(f"invalid ulimit: {text}: limits are whole numbers") from None
    if hard != -1 and (soft > hard or soft == -1):
        raise ValueError(f"ulimit soft limit must be less than or equal to hard limit: {soft} > {hard}")
    return name, soft, hard
