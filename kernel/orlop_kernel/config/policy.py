"""Tables: the kernel's keys that a reload applies, and names that people mistake for keys."""

from __future__ import annotations

__all__ = ["HINTS", "RELOADABLE"]

RELOADABLE = frozenset({"debug", "log-level"})

HINTS: dict[str, str] = {
    "config-file": "only as a flag",
    "graph": "data-root",
    "validate": "only as a flag",
}
"""Names that people mistake for keys, and what to write instead."""
