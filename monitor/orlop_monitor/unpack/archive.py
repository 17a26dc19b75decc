"""Reads a tar stream as a sequence of entries, including GNU long names, pax headers and sparse maps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from .errors import CUT_OFF, UnpackError, shown
from .header import (
    BLOCK,
    Entry,
    Segment,
    apply_pax,
    parse_decimal,
    parse_gnu_sparse,
    parse_header,
    parse_pax,
    parse_pax_sparse,
)

__all__ = ["Source", "entries"]

META_LIMIT = 1 << 20  # bytes, as in Go's archive/tar; an xattr has at most 64 KiB, a path 4 KiB
SPARSE_LIMIT = 1 << 16  # segments of one file
_NO_ID = 0xFFFFFFFF


class Source(Protocol):
    """A stream of uncompressed bytes."""

    def read(self, size: int) -> bytes:
        """Read exactly `size` bytes; fewer only at the end of the stream."""
        ...

    def skip(self, size: int) -> None:
        """Skip `size` bytes. Raises `UnpackError` when the stream ends too early."""
        ...


def _exactly(source: Source, size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise UnpackError(CUT_OFF)
    return data


def _padded(source: Source, size: int, what: str) -> bytes:
    if size < 0 or size > META_LIMIT:
        raise UnpackError(f"a {what} of {size} bytes is beyond the limit of {META_LIMIT}")
    data = _exactly(source, -(-size // BLOCK) * BLOCK)
    return data[:size]


def _check_map(entry: Entry, segments: list[Segment]) -> None:
    """Check that a sparse map is ascending without overlaps, lies within the file, and describes exactly the data that
    follows. As in Go, only regular files may have a sparse map: other entries have no content, so their data would be parsed
    as the next header."""
    if entry.type not in (b"0", b"7"):
        raise UnpackError(f"damaged tar archive: {shown(entry.name)} has a sparse map, but is not a file")
    if entry.real_size < 0:
        raise UnpackError(f"damaged tar archive: {shown(entry.name)} has a negative size")
    at = 0
    for offset, length in segments:
        if offset < at or length < 0 or offset + length > entry.real_size:
            raise UnpackError(f"damaged tar archive: the sparse map of {shown(entry.name)} is out of order")
        at = offset + length
    if sum(length for _, length in segments) != entry.size:
        raise UnpackError(f"damaged tar archive: the sparse map of {shown(entry.name)} does not match its size")


def _check_numbers(entry: Entry) -> None:
    """Check sizes and owners. -1 must be refused, because for chown it means "unchanged". Times out of range become the
    epoch, as in Docker (`boundTime`)."""
    if entry.size < 0:
        raise UnpackError(f"damaged tar archive: {shown(entry.name)} has a negative size")
    if not (0 <= entry.uid < _NO_ID and 0 <= entry.gid < _NO_ID):
        raise UnpackError(f"{shown(entry.name)}: owner {entry.uid}:{entry.gid} is out of range")
    if not 0 <= entry.mtime_ns < 1 << 63:
        entry.mtime_ns = 0


def _old_gnu_sparse(source: Source, block: bytes, entry: Entry) -> None:
    segments = parse_gnu_sparse(block, 386, 4)
    entry.real_size = parse_gnu_sparse(b"0" * 12 + block[483:495], 0, 1)[0][1]
    extended = block[482]
    while extended:
        block = _exactly(source, BLOCK)
        segments += parse_gnu_sparse(block, 0, 21)
        extended = block[504]
        if len(segments) > SPARSE_LIMIT:
            raise UnpackError(f"{shown(entry.name)} has more than {SPARSE_LIMIT} sparse segments")
    entry.segments = segments


def _sparse_1_0(source: Source, entry: Entry) -> None:
    """Read a sparse map in pax format 1.0, which is text at the beginning of the data, padded to a block."""
    text, lines = b"", 1
    while text.count(b"\n") < lines:
        text += _exactly(source, BLOCK)
        first, _, _ = text.partition(b"\n")
        count = parse_decimal(first, "a sparse map")
        if count > SPARSE_LIMIT or len(text) > META_LIMIT:
            raise UnpackError(f"{shown(entry.name)}: the sparse map is longer than the limit")
        lines = 1 + 2 * count
    numbers = [parse_decimal(number, "a sparse map") for number in text.split(b"\n")[1:lines]]
    entry.segments = list(zip(numbers[::2], numbers[1::2], strict=True))
    entry.size -= len(text)


def _pax_sparse(source: Source, entry: Entry, records: list[tuple[bytes, bytes]]) -> None:
    segments, values = parse_pax_sparse(records)
    if not values:
        return
    entry.name = values.get(b"name", entry.name)
    entry.real_size = parse_decimal(values.get(b"realsize", values.get(b"size", b"")), "the size of a sparse file")
    entry.segments = segments
    if segments is None:
        _sparse_1_0(source, entry)


def entries(source: Source) -> Iterator[Entry]:
    """Yield every member in order. Before the next step the caller must read exactly `entry.size` bytes of content; padding
    is skipped here. Ends at the end-of-archive mark or, as in Go, at the end of the stream between two entries. Global pax
    headers are ignored, as in Docker."""
    records: list[tuple[bytes, bytes]] = []
    long_name = long_link = b""
    while True:
        block = source.read(BLOCK)
        if not block:
            return
        if len(block) < BLOCK:
            raise UnpackError(CUT_OFF)
        if not block[0] and not any(block):
            return
        entry = parse_header(block)
        kind = entry.type
        if kind == b"x":
            records = parse_pax(_padded(source, entry.size, "pax header"))
        elif kind == b"g":
            _padded(source, entry.size, "global pax header")
        elif kind == b"L":
            long_name = _padded(source, entry.size, "long name").split(b"\0", 1)[0]
        elif kind == b"K":
            long_link = _padded(source, entry.size, "long link name").split(b"\0", 1)[0]
        else:
            entry.name = long_name or entry.name
            entry.link = long_link or entry.link
            apply_pax(entry, records)
            if kind == b"\0":
                # v7 has no type for directories, only a final slash. Check the full name, because the header may contain
                # only its beginning.
                kind = entry.type = b"5" if entry.name.endswith(b"/") else b"0"
            _check_numbers(entry)
            if kind == b"S":
                _old_gnu_sparse(source, block, entry)
                entry.type = b"0"
            elif records:
                _pax_sparse(source, entry, records)
            if entry.segments is not None:
                _check_map(entry, entry.segments)
            elif kind in b"123456":
                # Only regular files have content. Old tar programs set a hard link's size to the size of its target.
                entry.size = 0
            yield entry
            source.skip(-entry.size % BLOCK)
            records, long_name, long_link = [], b"", b""
