"""Types of flag values. Errors have pflag's messages and Docker's exit code 125."""

from __future__ import annotations

from orlop_cli.values import units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

__all__ = ["BYTES", "CPUS", "DURATION", "INT", "SWAP", "Parsed", "boolean"]


class Parsed:
    """A type with a function that parses its values. The function raises ValueError for an invalid value."""

    __slots__ = ("name", "parse")

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name, self.parse = name, parse


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _swap(text: str) -> int:
    return -1 if text == "-1" else units.parse_bytes(text)


def boolean(text: str) -> bool:
    """Parse a text like Go's strconv.ParseBool. Raises ValueError."""
    if text in ("1", "t", "T", "true", "TRUE", "True"):
        return True
    if text in ("0", "f", "F", "false", "FALSE", "False"):
        return False
    raise ValueError(f'strconv.ParseBool: parsing "{text}": invalid syntax')


INT = Parsed("int", _integer)
BYTES = Parsed("bytes", units.parse_bytes)
SWAP = Parsed("bytes", _swap)
CPUS = Parsed("decimal", units.parse_cpus)
DURATION = Parsed("duration", units.parse_duration)
