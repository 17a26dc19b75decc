"""Renders a configuration for people: every key, its value and its origin, with secrets masked. Pure.

`GET /orlop/config` and `orlopd --show-config=json` return the configuration as JSON; `orlopd --show-config` prints a text.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

import msgspec

from .load import Loaded, without_password
from .model import fields

__all__ = ["document", "text"]

_SECRET = re.compile(r"token|secret|passw|credential|api-?key", re.IGNORECASE)
_MASK = "xxxxx"


def _masked(value: Any) -> Any:
    """Mask passwords in URLs, and options that are secrets (mostly of log drivers)."""
    if isinstance(value, str):
        return without_password(value)
    if isinstance(value, list):
        return [_masked(item) for item in value]
    if isinstance(value, dict):
        return {
            key: _MASK if item and isinstance(item, str) and _SECRET.search(key) else _masked(item)
            for key, item in value.items()
        }
    return value


def document(loaded: Loaded, needs_restart: Collection[str] = ()) -> dict[str, Any]:
    """The configuration as a document. `needs_restart`: keys whose value in the file differs from the value in use."""
    values = msgspec.to_builtins(loaded.config.items())
    parts = loaded.config.parts.values()
    helps = {flag.key.partition(".")[0]: flag.help for part in parts for flag in part.FLAGS}
    owners = {key: (name, part.HELP) for name, part in loaded.config.parts.items() for key, _ in fields(part)}
    shown = []
    for key in sorted(values):
        shown.append({"Key": key, "Value": _masked(values[key]), "Origin": loaded.origin(key)})
        if key in owners:
            shown[-1] |= {"Plugin": owners[key][0], "Help": owners[key][1].get(key) or helps[key]}
    return {
        "File": loaded.file,
        "Values": shown,
        "NeedsRestart": sorted(needs_restart),
        "Warnings": list(loaded.warnings),
    }


def text(found: dict[str, Any]) -> str:
    """The document as a table."""
    rows = [("KEY", "VALUE", "ORIGIN")]
    rows += [(each["Key"], msgspec.json.encode(each["Value"]).decode(), each["Origin"]) for each in found["Values"]]
    left, middle = (max(len(row[column]) for row in rows) for column in (0, 1))
    middle = min(middle, 40)  # one long list must not push all origins off the screen
    return "\n".join(f"{key:{left}}  {value:{middle}}  {origin}" for key, value, origin in rows)
