"""Parses the small notations of daemon.json and its flags: sizes, ulimits, key=value, address pools. Pure.

Every function raises `ValueError` with a text that says what is wrong with the value; the caller adds the key's name.
"""

from __future__ import annotations

import re

__all__ = [
    "ULIMITS",
    "format_size",
    "key_value",
    "parse_bool",
    "parse_fields",
    "parse_size",
    "parse_size_decimal",
    "parse_ulimit",
]

_SIZE = re.compile(r"^(\d+(?:\.\d+)?) ?([kmgtp]?)(i?b?)$", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
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


def _size(text: str, base: int) -> int:
    match = _SIZE.match(text.strip())
    if match is None:
        raise ValueError(f"invalid size: '{text}'")
    number, unit, _ = match.groups()
    scale: int = base ** _POWERS[unit.lower()]
    return int(float(number) * scale) if "." in number else int(number) * scale


def parse_size(text: str) -> int:
    """A size in binary units (go-units RAMInBytes): "64M" and "64MiB" are 67108864."""
    return _size(text, 1024)


def parse_size_decimal(text: str) -> int:
    """A size in decimal units (go-units FromHumanSize): "10m" is 10000000. Used for the max-size of log drivers."""
    return _size(text, 1000)


def format_size(size: int) -> str:
    """A size in binary units, exact: 67108864 is "64M"."""
    for unit in "PTGMK":
        scale = 1024 ** _POWERS[unit.lower()]
        if size and size % scale == 0:
            return f"{size // scale}{unit}"
    return str(size)


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
