"""Reads a BoltDB file (go.etcd.io/bbolt: page.go, node.go, bucket.go), the format of dockerd's and containerd's databases.

This module does no I/O. The content of the file is not trusted, so every offset, count and page number is checked, and each
page is visited only once.

    page     id u64, flags u16, count u16, overflow u32, then the elements; it is followed by `overflow` more pages
    meta     pages 0 and 1, written in turn: of those with a matching checksum, the one with the higher transaction is valid
    branch   elements (position u32, key size u32, child page u64)
    leaf     elements (flags u32, position u32, key size u32, value size u32); flag 1 means that the value is a bucket
    bucket   root page u64, sequence u64; root page 0 means that a page follows inline
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

__all__ = ["Bolt", "BoltError", "Bucket"]

_PAGE = struct.Struct("<QHHI")
_META = struct.Struct("<IIIIQQQQQQ")
_BRANCH = struct.Struct("<IIQ")
_LEAF = struct.Struct("<IIII")
_BUCKET = struct.Struct("<QQ")
_MAGIC, _VERSION = 0xED0CDAED, 2
_IS_BRANCH, _IS_LEAF, _IS_BUCKET = 1, 2, 1
_SIZES = tuple(1 << bits for bits in range(9, 17))  # bbolt uses the page size of the machine that created the file
_DEPTH = 32
_BUCKETS = 32  # limit for the depth of nested buckets; containerd has 6


class BoltError(ValueError):
    """The file is not a BoltDB file, or it is damaged."""


@dataclass(frozen=True, slots=True)
class _Page:
    """A page with its overflow pages. `data` ends at the end of the last page."""

    data: memoryview
    flags: int
    count: int


def _checksum(data: bytes) -> int:
    """FNV-1a, 64 bits."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def _meta(data: memoryview, at: int) -> tuple[int, int, int] | None:
    """Returns (transaction, page size, root page) of a valid meta page."""
    at += _PAGE.size
    if len(data) < at + _META.size:
        return None
    magic, version, size, _, root, _, _, _, transaction, checksum = _META.unpack_from(data, at)
    if magic != _MAGIC or version != _VERSION or size not in _SIZES:
        return None
    if _checksum(bytes(data[at : at + _META.size - 8])) != checksum:
        return None
    return transaction, size, root


def _page(data: memoryview, extent: int) -> _Page:
    """Parse a page. `extent` is the size of a page in a file; 0 for an inline page, which fills `data`."""
    if len(data) < _PAGE.size:
        raise BoltError("a page is cut off")
    _, flags, count, overflow = _PAGE.unpack_from(data)
    end = extent * (overflow + 1) if extent else len(data)
    if end > len(data):
        raise BoltError("a page is cut off")
    element = _BRANCH.size if flags & _IS_BRANCH else _LEAF.size
    if not flags & (_IS_BRANCH | _IS_LEAF) or _PAGE.size + count * element > end:
        raise BoltError("a page is damaged")
    return _Page(data[:end], flags, count)


class Bolt:
    """One file. `transaction` increases with every change of the file."""

    def __init__(self, data: bytes) -> None:
        """Raises `BoltError` when no meta page is valid."""
        self._data = memoryview(data)
        metas = [found for at in (0, *_SIZES) if (found := _meta(self._data, at)) and at in (0, found[1])]
        if not metas:
            raise BoltError("it has no valid meta page")
        self.transaction, self._size, root = max(metas)
        self.root = Bucket(self, root, None, 0)

    def page(self, number: int) -> _Page:
        if number < 2 or number * self._size >= len(self._data):
            raise BoltError(f"page {number} lies outside the file")
        return _page(self._data[number * self._size :], self._size)


class Bucket:
    """A bucket. Iterating over it yields (key, value or bucket) in the order of keys, and raises `BoltError` where the file
    is damaged."""

    def __init__(self, file: Bolt, root: int, inline: memoryview | None, depth: int) -> None:
        self._file, self._root, self._inline, self._depth = file, root, inline, depth

    def __iter__(self) -> Iterator[tuple[bytes, bytes | Bucket]]:
        if self._inline is not None:
            page = _page(self._inline, 0)
            if page.flags & _IS_BRANCH:
                raise BoltError("an inline bucket has branches")
            yield from self._leaf(page)
        else:
            yield from self._walk(self._root, set(), 0)

    def buckets(self) -> Iterator[tuple[str, Bucket]]:
        """The buckets in this bucket, with their names as text."""
        return ((key.decode("utf-8", "replace"), value) for key, value in self if isinstance(value, Bucket))

    def values(self) -> dict[str, bytes]:
        """The values in this bucket, without its buckets."""
        return {key.decode("utf-8", "replace"): value for key, value in self if isinstance(value, bytes)}

    def find(self, *names: str) -> Bucket | None:
        """The bucket at this path; None if it does not exist."""
        bucket: Bucket | None = self
        for name in names:
            bucket = next((value for key, value in bucket.buckets() if key == name), None) if bucket else None
        return bucket

    def _walk(self, number: int, seen: set[int], depth: int) -> Iterator[tuple[bytes, bytes | Bucket]]:
        if number in seen or depth > _DEPTH:
            raise BoltError(f"page {number} is its own descendant")
        seen.add(number)
        page = self._file.page(number)
        if page.flags & _IS_LEAF:
            yield from self._leaf(page)
            return
        for index in range(page.count):
            _, _, child = _BRANCH.unpack_from(page.data, _PAGE.size + index * _BRANCH.size)
            yield from self._walk(child, seen, depth + 1)

    def _leaf(self, page: _Page) -> Iterator[tuple[bytes, bytes | Bucket]]:
        for index in range(page.count):
            at = _PAGE.size + index * _LEAF.size
            flags, position, key_size, value_size = _LEAF.unpack_from(page.data, at)
            start = at + position
            middle, end = start + key_size, start + key_size + value_size
            if end > len(page.data):
                raise BoltError("a value is cut off")
            value = page.data[middle:end]
            yield bytes(page.data[start:middle]), self._bucket(value) if flags & _IS_BUCKET else bytes(value)

    def _bucket(self, value: memoryview) -> Bucket:
        if len(value) < _BUCKET.size or self._depth >= _BUCKETS:
            raise BoltError("a bucket is damaged")
        root, _ = _BUCKET.unpack_from(value)
        return Bucket(self._file, root, None if root else value[_BUCKET.size :], self._depth + 1)
