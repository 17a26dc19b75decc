"""Errors of archives, with messages for users."""

from __future__ import annotations

__all__ = ["CUT_OFF", "NO_TAR", "UnpackError", "shown"]

# The messages of Go's archive/tar, which dockerd passes on.
NO_TAR = "archive/tar: invalid tar header"
CUT_OFF = "unexpected EOF"


class UnpackError(Exception):
    """The archive is invalid and cannot be unpacked on any machine. The message names the entry and the cause."""


def shown(name: bytes) -> str:
    """A name from an archive, made safe for messages: malicious names may have control characters or a megabyte of text."""
    text = name.decode("utf-8", "backslashreplace")
    text = "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)
    return text if len(text) <= 120 else f"{text[:100]}... ({len(name)} bytes)"
