"""Whether the first bytes of a context are those of an archive."""

from __future__ import annotations

__all__ = ["HEAD", "begins_archive"]

HEAD = 512
"""Bytes that are needed to tell: the header of a tar."""
_COMPRESSED = (b"BZh", b"\x1f\x8b\x08", b"\xfd7zXZ\0", b"\x28\xb5\x2f\xfd")
_MAGIC = slice(257, 262)


def begins_archive(head: bytes) -> bool:
    """A tar, or something that is compressed."""
    return head.startswith(_COMPRESSED) or head[_MAGIC] == b"ustar"
