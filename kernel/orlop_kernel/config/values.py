"""Parses booleans and "key=value" in flags and in daemon.json. Pure.

Every function raises `ValueError` for a bad value. Its text gives the reason; the caller adds the key's name.
"""

from __future__ import annotations

from orlop_sdk import numbers

__all__ = ["key_value", "parse_bool"]


def parse_bool(text: str) -> bool:
    """Like Go's strconv.ParseBool, which parses dockerd's flags: `--icc=f` is false, and `--icc=no` is an error."""
    try:
        return numbers.parse_bool(text)
    except ValueError:
        raise ValueError(f'"{text}" is neither true nor false') from None


def key_value(text: str) -> tuple[str, str]:
    """Split "key=value" at the first "="; the key must not be empty."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f'"{text}" is not of the form key=value')
    return key.strip(), value
