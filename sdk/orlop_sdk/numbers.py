"""Parsing of numbers and booleans that clients, options and images give as text."""

from __future__ import annotations

__all__ = ["natural", "parse_bool"]

_VALUES = dict.fromkeys(("1", "t", "T", "TRUE", "true", "True"), True) | dict.fromkeys(
    ("0", "f", "F", "FALSE", "false", "False"), False
)


def natural(text: str, largest: int) -> int | None:
    """Parse a decimal number from 0 to `largest`; None for all other text. (Python's `int` also accepts signs, blanks,
    underscores and the digits of every script, and raises an error for more than 4,300 digits.)"""
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    return number if len(digits) <= len(str(largest)) and (number := int(digits)) <= largest else None


def parse_bool(text: str) -> bool:
    """Parse a text as Go's strconv.ParseBool does. Raises `ValueError` with Go's message."""
    if text not in _VALUES:
        raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')
    return _VALUES[text]
