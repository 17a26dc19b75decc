"""Values of log options, parsed like in Go, with Go's error messages."""

from __future__ import annotations

import re
from collections.abc import Mapping

from orlop_sdk.errors import InvalidParameter
from orlop_sdk.numbers import parse_bool

__all__ = ["boolean", "duration", "unsigned"]

_UNITS = {"ns": 1e-9, "us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_DURATION = re.compile(r"[+-]?(?:0|(?:(?:\d+\.?\d*|\.\d+)(?:ns|us|µs|ms|s|m|h))+)", re.ASCII)
_TERM = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|ms|s|m|h)", re.ASCII)


def boolean(options: Mapping[str, str], key: str, default: bool = False) -> bool:
    value = options.get(key, "")
    if not value:
        return default
    try:
        return parse_bool(value)
    except ValueError as error:
        raise InvalidParameter(str(error)) from None


def unsigned(options: Mapping[str, str], key: str, default: int) -> int:
    value = options.get(key, "")
    if not value:
        return default
    if not re.fullmatch(r"\d{1,18}", value, re.ASCII):
        raise InvalidParameter(f'strconv.ParseUint: parsing "{value}": invalid syntax')
    return int(value)


def duration(options: Mapping[str, str], key: str, default: float) -> float:
    """Seconds, from Go's notation such as `1.5s` or `250ms`."""
    value = options.get(key, "")
    if not value:
        return default
    if not _DURATION.fullmatch(value):
        raise InvalidParameter(f'time: invalid duration "{value}"')
    total = sum(float(number) * _UNITS[unit] for number, unit in _TERM.findall(value))
    return -total if value.startswith("-") else total
