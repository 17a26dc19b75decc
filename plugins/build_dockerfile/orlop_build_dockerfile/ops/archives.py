"""Detects whether a file is a tar, compressed or not, for ADD. Only the beginning of the file is read. All functions
block."""

from __future__ import annotations

import bz2
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable

__all__ = ["is_archive"]

_HEAD = 64 << 10
_BLOCK = 512


def _zstd(data: bytes) -> bytes:
    import zstandard

    return bytes(zstandard.ZstdDecompressor().decompressobj().decompress(data))[:_BLOCK]


_FORMATS: tuple[tuple[bytes, Callable[[bytes], bytes]], ...] = (
    (b"\x1f\x8b\x08", lambda data: zlib.decompressobj(31).decompress(data, _BLOCK)),
    (b"BZh", lambda data: bz2.BZ2Decompressor().decompress(data, _BLOCK)),
    (b"\xfd7zXZ\0", lambda data: lzma.LZMADecompressor(memlimit=128 << 20).decompress(data, _BLOCK)),
    (b"\x28\xb5\x2f\xfd", _zstd),
)


def is_archive(fd: int) -> bool:
    """Whether the (decompressed) content of a regular file begins with a member of a tar. The file's offset stays
    unchanged."""
    data = os.pread(fd, _HEAD, 0)
    for magic, decompress in _FORMATS:
        if data.startswith(magic):
            try:
                if magic == b"BZh":  # read more, because a block of bzip2 has up to 900 kB, and is decompressed as a whole
                    data = os.pread(fd, 1 << 20, 0)
                data = decompress(data)
            except Exception:  # the file is damaged or of another type; the decompressors raise different errors
                return False
            break
    if len(data) < _BLOCK:
        return False
    try:
        tarfile.TarInfo.frombuf(data[:_BLOCK], "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True
