"""The supported versions of the Engine API, which also bound `min-api-version`."""

from __future__ import annotations

__all__ = ["API_VERSION", "COUNTS_BLOBS", "MIN_API_VERSION", "SEVERAL_PLATFORMS", "parse_version"]

API_VERSION = "1.55"
"""The newest version whose behaviour is implemented; used for a path without a version."""

MIN_API_VERSION = "1.24"
"""The oldest version served; `min-api-version` may raise it."""


SEVERAL_PLATFORMS = (1, 47)
"""From this version on, clients know that one name may mean images of several platforms."""

COUNTS_BLOBS = (1, 47)
"""From this version on, the disk usage of images includes their compressed blobs."""


def parse_version(text: str) -> tuple[int, int]:
    """ "1.51" as (1, 51)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
