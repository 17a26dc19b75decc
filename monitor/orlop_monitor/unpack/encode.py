"""Encodes an `Entry` as tar header blocks; the counterpart of `header`. No I/O.

The format is ustar. If an entry does not fit into a ustar header, a pax header precedes it, as in archives that Go's
archive/tar writes. Every tar program reads this format, and the output is deterministic.
"""

from __future__ import annotations

from zlib import adler32

from .header import BLOCK, Entry

__all__ = ["END", "entry_header", "padding"]

END = bytes(2 * BLOCK)
_SECOND = 1_000_000_000
_OCTAL_11 = 8**11
_OCTAL_7 = 8**7
_MAGIC = b"ustar\x0000"
_MAGIC_AND_OWNERS = _MAGIC + bytes(64)  # the names of owner and group are empty
_FIXED_SUM = sum(_MAGIC) + 8 * 32  # the checksum field counts as eight blanks in the sum


def padding(size: int) -> bytes:
    """The padding after `size` bytes of content."""
    return bytes(-size % BLOCK)


def _split(name: bytes) -> tuple[bytes, bytes] | None:
    """Split a name into ustar's fields (prefix, name); None when the name does not fit."""
    if len(name) <= 100:
        return b"", name
    if len(name) > 256:
        return None
    at = name.rfind(b"/", 0, 156)
    while at > 0:
        if len(name) - at - 1 > 100:
            return None
        if name[at + 1 :]:
            return name[:at], name[at + 1 :]
        at = name.rfind(b"/", 0, at)
    return None


def _record(key: bytes, value: bytes) -> bytes:
    body = b" " + key + b"=" + value + b"\n"
    length = len(body) + len(str(len(body)))
    if len(str(length)) + len(body) != length:
        length = len(str(length)) + len(body)
    return str(length).encode() + body


def _sum(data: bytes) -> int:
    """The sum of up to 256 bytes, computed from the lower half of their Adler-32. This is five times as fast as `sum`."""
    return (adler32(data) & 0xFFFF) - 1


def _block(name: bytes, prefix: bytes, entry: Entry, kind: bytes, size: int, link: bytes) -> bytes:
    seconds = entry.mtime_ns // _SECOND
    numbers = b"%07o\0%07o\0%07o\0%011o\0%011o\0" % (
        entry.mode,
        entry.uid if entry.uid < _OCTAL_7 else 0,
        entry.gid if entry.gid < _OCTAL_7 else 0,
        size if size < _OCTAL_11 else 0,
        seconds if 0 <= seconds < _OCTAL_11 else 0,
    )
    device = b"%07o\0%07o\0" % (
        entry.major if entry.major < _OCTAL_7 else 0,
        entry.minor if entry.minor < _OCTAL_7 else 0,
    )
    checksum = _sum(name + numbers) + _sum(kind + link + device) + _sum(prefix) + _FIXED_SUM
    return b"".join(
        (
            name.ljust(100, b"\0"),
            numbers,
            b"%06o\0 " % checksum,
            kind,
            link.ljust(100, b"\0"),
            _MAGIC_AND_OWNERS,
            device,
            prefix.ljust(167, b"\0"),
        )
    )


def _is_plain(entry: Entry) -> bool:
    """Whether the entry fits in one block, as most do."""
    return (
        len(entry.name) <= 100
        and entry.name.isascii()
        and not entry.link
        and not entry.xattrs
        and entry.uid < _OCTAL_7
        and entry.gid < _OCTAL_7
        and entry.size < _OCTAL_11
        and 0 <= entry.mtime_ns < _OCTAL_11 * _SECOND
        and not entry.mtime_ns % _SECOND
    )


def entry_header(entry: Entry, sparse: tuple[int, bytes] | None = None) -> bytes:
    """All blocks before an entry's content. For a file whose holes are left out, `sparse` is the pair (real size, map). The
    map is the first part of the content."""
    if sparse is None and _is_plain(entry):
        return _block(entry.name, b"", entry, entry.type, entry.size, b"")
    records: list[tuple[bytes, bytes]] = []
    split = _split(entry.name) if entry.name.isascii() else None
    name, link, size = entry.name, entry.link, entry.size
    if sparse is not None:
        records += [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.name", entry.name)]
        records.append((b"GNU.sparse.realsize", str(sparse[0]).encode()))
        head, _, last = entry.name.rpartition(b"/")
        name = (head + b"/" if head else b"") + b"GNUSparseFile.0/" + last
        split = (b"", name[:100])
        size += len(sparse[1])
        entry_size = size
    else:
        entry_size = entry.size
    if split is None:
        records.append((b"path", entry.name))
        split = (b"", entry.name[:100].decode("ascii", "replace").replace("\ufffd", "_").encode()[:100])
    if len(link) > 100 or not link.isascii():
        records.append((b"linkpath", link))
        link = link[:100].decode("ascii", "replace").replace("\ufffd", "_").encode()[:100]
    for key, value, limit in (
        (b"uid", entry.uid, _OCTAL_7),
        (b"gid", entry.gid, _OCTAL_7),
        (b"size", entry_size, _OCTAL_11),
    ):
        if value >= limit:
            records.append((key, str(value).encode()))
    seconds, fraction = divmod(entry.mtime_ns, _SECOND)
    if fraction:
        records.append((b"mtime", b"%d.%09d" % (seconds, fraction)))
    elif not 0 <= seconds < _OCTAL_11:
        records.append((b"mtime", str(seconds).encode()))
    records += [(b"SCHILY.xattr." + key, value) for key, value in entry.xattrs]
    block = _block(split[1], split[0], entry, entry.type, entry_size, link)
    if not records:
        return block
    body = b"".join(_record(key, value) for key, value in records)
    head, _, last = entry.name.rstrip(b"/").rpartition(b"/")
    pax_name = ((head + b"/" if head else b"") + b"PaxHeaders.0/" + last)[:100]
    pax_name = pax_name.decode("ascii", "replace").replace("\ufffd", "_").encode()[:100]
    plain = Entry(pax_name, b"x", 0, 0, 0, len(body), 0, b"", 0, 0)
    return _block(pax_name, b"", plain, b"x", len(body), b"") + body + padding(len(body)) + block
