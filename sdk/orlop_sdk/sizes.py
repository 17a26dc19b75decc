"""Parses sizes such as "10m", by the rules of Docker (go-units)."""

from __future__ import annotations

import re
from collections.abc import Mapping

__all__ = ["parse_size", "parse_size_decimal"]

_DECIMAL = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "t": 10**12, "p": 10**15}
_BINARY = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) ?(?:([kmgtp]?)(?:i?b)?|b)", re.IGNORECASE | re.ASCII)
_LONGEST = 64  # characters; Python refuses to parse thousands of digits


def _parse(text: str, units: Mapping[str, int]) -> int:
    found = _SIZE.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"invalid size: '{text}'")
    number, scale = found[1], units[(found[2] or "").lower()]
    size = int(float(number) * scale) if "." in number else int(number) * scale
    if size >= 1 << 63:
        raise ValueError(f"invalid size: '{text}'")
    return size


def parse_size(text: str) -> int:
    """Bytes of a size in binary units (RAMInBytes): "64M" and "64MiB" are 67108864. Raises ValueError."""
    return _parse(text, _BINARY)


def parse_size_decimal(text: str) -> int:
    """Bytes of a size in decimal units (FromHumanSize): "10m" is 10000000. Raises ValueError."""
    return _parse(text, _DECIMAL)
