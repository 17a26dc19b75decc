"""Flag values, parsed by click's types; errors have pflag's wording and Docker's exit code 125."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from orlop_cli._errors import UsageProblem
from orlop_cli.values import units


class Parsed(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic from click 8.5 on only
    """A flag value parsed by a function that raises ValueError."""

    def __init__(self, name: str, function: Callable[[str], Any]) -> None:
        self.name = name
        self._function = function

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value  # a default value
        try:
            return self._function(value)
        except ValueError as error:
            opts = ", ".join(sorted(param.opts, key=len)) if param else ""
            raise UsageProblem(f'invalid argument "{value}" for "{opts}" flag: {error}', 125) from None


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError(f'strconv.ParseInt: parsing "{text}": invalid syntax') from None


def _swap(text: str) -> int:
    return -1 if text == "-1" else units.parse_bytes(text)


def boolean(text: str) -> bool:
    """Go's strconv.ParseBool. Raises ValueError."""
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
