"""Parsing of numbers that clients and images send as text."""

from __future__ import annotations

__all__ = ["natural"]


def natural(text: str, largest: int) -> int | None:
    """Parse a decimal number from 0 to `largest`; None for anything else. Python's `int` also accepts signs, blanks,
    underscores and the digits of every script, and raises on more than 4,300 digits."""
    if not (text.isascii() and text.isdecimal()):
        return None
    digits = text.lstrip("0") or "0"
    return number if len(digits) <= len(str(largest)) and (number := int(digits)) <= largest else None
