"""Platforms in flags (`os/arch[/variant]`) and in queries (a JSON object)."""

from __future__ import annotations

import json

from orlop_cli._command import fail

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable


def query_value(text: str) -> str:
    """Convert a flag's value to the value of a query parameter."""
    names = text.split("/")
    if not 1 < len(names) < 4 or not all(names):
        fail(f'invalid platform "{text}": the format is OS/ARCHITECTURE[/VARIANT]')
    return json.dumps(dict(zip(("os", "architecture", "variant"), names, strict=False)))


def query_values(given: Iterable[str]) -> list[str]:
    """The values of a flag that may be repeated, and whose value may be a list separated by commas."""
    return [query_value(text) for value in given for text in value.split(",")]
