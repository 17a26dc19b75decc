"""What can be wrong with an archive, as the user reads it."""

from __future__ import annotations

__all__ = ["CUT_OFF", "NO_TAR", "UnpackError", "shown"]

# What Go's archive/tar says, and dockerd with it.
NO_TAR = "archive/tar: invalid tar header"
CUT_OFF = "unexpected EOF"


class UnpackError(Exception):
    """The archive cannot be unpacked, whoever tries. The text names the entry and the cause."""


def shown(name: bytes) -> str:
    """A name from an archive, fit for a message: hostile ones hold control characters, or are a megabyte long."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(name)} bytes)"
