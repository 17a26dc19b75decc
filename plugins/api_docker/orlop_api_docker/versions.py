"""The supported versions of the Engine API, which also bound `min-api-version`."""

from __future__ import annotations

__all__ = ["API_VERSION", "MIN_API_VERSION", "parse_version"]

API_VERSION = "1.55"
"""The newest version whose behaviour is implemented; used for a path without a version."""

MIN_API_VERSION = "1.24"
"""The oldest version served; `min-api-version` may raise it."""


def parse_version(text: str) -> tuple[int, int]:
    """ "1.51" as (1, 51)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
