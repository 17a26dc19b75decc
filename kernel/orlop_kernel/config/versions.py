"""The versions of the Engine API: what is served, and so what daemon.json may ask for."""

from __future__ import annotations

__all__ = ["API_VERSION", "MIN_API_VERSION", "parse_version"]

API_VERSION = "1.51"
"""The newest version whose behaviour is implemented; what a path without a version gets."""

MIN_API_VERSION = "1.24"
"""The oldest that is served; `min-api-version` may raise it."""


def parse_version(text: str) -> tuple[int, int]:
    """ "1.51" as (1, 51)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
