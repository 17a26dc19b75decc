"""Platforms in flags, `os/arch[/variant]`, and in queries, which take a JSON object."""

from __future__ import annotations

import json

from orlop_cli._command import fail


def query_value(text: str) -> str:
    """A flag's value as the value of a query parameter."""
    names = text.split("/")
    if not 1 < len(names) < 4 or not all(names):
        fail(f'invalid platform "{text}": the format is OS/ARCHITECTURE[/VARIANT]')
    return json.dumps(dict(zip(("os", "architecture", "variant"), names, strict=False)))
