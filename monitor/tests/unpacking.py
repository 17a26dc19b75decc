"""Archives for tests of the unpacker, and the files that they become on disk."""

from __future__ import annotations

import io
import os
import shutil
import stat
import tarfile
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from orlop_monitor.unpack.extract import extract
from orlop_monitor.unpack.request import Unpack
from orlop_monitor.unpack.stream import Uncompressed

ROOT = os.geteuid() == 0


@contextmanager
def directory() -> Iterator[str]:
    path = tempfile.mkdtemp()
    try:
        yield path
    finally:
        for each, names, _ in os.walk(path):
            for name in names:
                if not os.path.islink(os.path.join(each, name)):
                    os.chmod(os.path.join(each, name), 0o700)
        shutil.rmtree(path)


def unpack(
    data: bytes, target: str, *, overlay: bool = False, tick: Callable[[], None] = lambda: None, **options: Any
) -> int:
    source = os.memfd_create("archive")
    os.write(source, data)
    os.lseek(source, 0, os.SEEK_SET)
    root = os.open(target, os.O_RDONLY | os.O_DIRECTORY)
    before = os.umask(0)
    try:
        request = Unpack(overlay, **{"ownership": ROOT, **options})
        with Uncompressed(source, request.limits.size) as stream:
            return extract(stream, root, request, tick)
    finally:
        os.umask(before)
        os.close(root)
        os.close(source)


def archive(members: list[tuple[tarfile.TarInfo, bytes]], form: int = tarfile.PAX_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for info, content in members:
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


def member(name: str, kind: bytes = tarfile.REGTYPE, content: bytes = b"", **fields: Any) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.mode = kind, 0o755 if kind == tarfile.DIRTYPE else 0o644
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def picture(root: str) -> dict[str, tuple[Any, ...]]:
    """Maps each path to all attributes that unpacking sets. Times of symlinks are left out, because tarfile does not set
    them. Inodes are numbered in the order of paths, and hard links have the same number."""
    found: dict[str, tuple[Any, ...]] = {}
    inodes: dict[int, int] = {}
    for path in sorted(Path(root).rglob("*")):
        info = os.lstat(path)
        kind = stat.S_IFMT(info.st_mode)
        what: Any = path.read_bytes() if kind == stat.S_IFREG else os.readlink(path) if kind == stat.S_IFLNK else None
        mode = None if kind == stat.S_IFLNK else stat.S_IMODE(info.st_mode)
        inode = inodes.setdefault(info.st_ino, len(inodes))
        time = None if kind == stat.S_IFLNK else info.st_mtime_ns // 1000
        found[str(path.relative_to(root))] = (kind, mode, info.st_uid, info.st_gid, time, info.st_rdev, inode, what)
    return found


_FIELDS = "mode:100 uid:108 gid:116 size:124 mtime:136 link:157 magic:257 major:329 minor:337 prefix:345"
_OLD_GNU = "sparse:386 extended:482 real_size:483"
_OFFSETS = {name: int(at) for name, _, at in (field.partition(":") for field in f"{_FIELDS} {_OLD_GNU}".split())}


def header(name: bytes = b"f", kind: bytes = b"0", /, *, signed: bool = False, **fields: bytes) -> bytes:
    """A header block with any bytes in its fields, and a correct checksum. `signed`: the checksum is the sum of signed
    bytes, as in some old tars."""
    block = bytearray(512)
    block[: len(name)] = name
    block[156:157] = kind
    for key, value in {"mode": b"0000644", "magic": b"ustar\x0000", **fields}.items():
        block[_OFFSETS[key] : _OFFSETS[key] + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % (sum(block) - 256 * signed * sum(byte > 127 for byte in block))
    return bytes(block)


def octal(number: int) -> bytes:
    return b"%011o\0" % number


def base256(number: int) -> bytes:
    """A number in 12 bytes, in GNU tar's encoding for numbers that are negative or too large for octal text."""
    return (number & ((1 << 95) - 1) | 1 << 95).to_bytes(12, "big")


def content(data: bytes) -> bytes:
    return data + bytes(-len(data) % 512)


def pax(*records: tuple[bytes, bytes]) -> bytes:
    """A pax extended header, which applies to the next entry."""
    data = b""
    for key, value in records:
        rest = len(key) + len(value) + 3
        size = rest + len(str(rest))
        size = rest + len(str(size))
        data += b"%d %s=%s\n" % (size, key, value)
    return header(b"x", b"x", size=octal(len(data))) + content(data)
