"""Detects an archive by the first bytes of a context."""

from __future__ import annotations

__all__ = ["HEAD", "begins_archive", "begins_plain_archive"]

HEAD = 512
"""The number of bytes that are needed, the length of a tar header."""
_COMPRESSED = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MAGIC = slice(257, 262)


def begins_archive(head: bytes) -> bool:
    """Whether the bytes are the beginning of a tar or of compressed data."""
    return head.startswith(_COMPRESSED) or begins_plain_archive(head)


def begins_plain_archive(head: bytes) -> bool:
    """Whether the bytes begin a tar that is not compressed."""
    return head[_MAGIC] == b"ustar"
