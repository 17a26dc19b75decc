"""Parsing of sizes such as "10m"."""

from __future__ import annotations

import pytest

from orlop_sdk.sizes import parse_size, parse_size_decimal


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("64M", 64 << 20),
        ("64mb", 64 << 20),
        ("1.5GiB", 3 << 29),
        ("10", 10),
        ("10b", 10),
        ("32 kB", 32768),
        (".5k", 512),
        ("0", 0),
        (f"{(1 << 63) - 1}", (1 << 63) - 1),
    ],
)
def test_sizes_are_parsed_in_binary_units(text: str, size: int) -> None:
    assert parse_size(text) == size


def test_sizes_are_parsed_in_decimal_units() -> None:
    assert parse_size_decimal("10m") == 10_000_000


@pytest.mark.parametrize("text", ["", "M", "-1", "1x", "1 2", "0x10", "1..5m", f"{1 << 63}", "9" * 5000])
def test_invalid_sizes_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="invalid size"):
        parse_size(text)
