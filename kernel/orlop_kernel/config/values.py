"""Parses booleans and "key=value" in flags and in daemon.json. Pure.

Every function raises `ValueError` with a text that says what is wrong with the value; the caller adds the key's name.
"""

from __future__ import annotations

from orlop_sdk import numbers

__all__ = ["key_value", "parse_bool"]


def parse_bool(text: str) -> bool:
    """Go's strconv.ParseBool, as for dockerd's flags: `--icc=f` is false, `--icc=no` an error."""
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
