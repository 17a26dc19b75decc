"""The one error of this room. Apart from `spi.errors`: `orlopd --help` must not import the driver contracts."""

from __future__ import annotations

__all__ = ["ConfigError"]


class ConfigError(Exception):
    """The configuration cannot be used; the text is for the person who wrote it."""
