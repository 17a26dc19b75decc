"""The supported versions of the Engine API. `min-api-version` must be one of them."""

from __future__ import annotations

__all__ = ["API_VERSION", "COUNTS_BLOBS", "MIN_API_VERSION", "SEVERAL_PLATFORMS", "parse_version"]

API_VERSION = "1.55"
"""The newest supported version. It is used for a path without a version."""

MIN_API_VERSION = "1.24"
"""The oldest supported version; `min-api-version` may raise this limit."""


SEVERAL_PLATFORMS = (1, 47)
"""From this version on, clients know that a name may refer to images of several platforms."""

COUNTS_BLOBS = (1, 47)
"""From this version on, the disk usage of images includes their compressed blobs."""


def parse_version(text: str) -> tuple[int, int]:
    """Parse "1.51" to (1, 51)."""
    major, _, minor = text.partition(".")
    return int(major), int(minor)
