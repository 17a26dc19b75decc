"""Writes files as a tar stream: the part of packing that reads from disk.

The container may change files while they are read. Each file is therefore opened by its name relative to the descriptor of
its directory, without following symlinks. A file that shrinks meanwhile is padded with zeros; a file that grows is
truncated.
"""

from __future__ import annotations

import errno
import hashlib
import math
import os
import stat
from collections.abc import Callable, Iterator

from .encode import END, entry_header, padding
from .header import BLOCK, Entry

__all__ = ["Measurer", "Packer", "go_mode"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20
_SMALL = 64 << 10
_SPARSE = 1 << 20  # holes of smaller files are written as zeros
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_XATTRS = ("security.capability",)
# Bits of Go's os.FileMode, which clients expect
_GO_BITS = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
)


def go_mode(mode: int) -> int:
    """Convert a mode to Go's `os.FileMode`."""
    bits = next((bits for kind, bits in _GO_BITS if stat.S_IFMT(mode) == kind), 0)
    special = (mode & stat.S_ISUID and 1 << 23) | (mode & stat.S_ISGID and 1 << 22) | (mode & stat.S_ISVTX and 1 << 20)
    return bits | special | mode & 0o777


class Packer:
    """Writes a tar stream to the descriptor `out`. `sparse`: leave out holes of files. `latest` (seconds since 1970)
    replaces all later times of files. `tick` is called often, for progress messages."""

    def __init__(
        self, out: int, *, sparse: bool = True, latest: int | None = None, tick: Callable[[], None] = lambda: None
    ) -> None:
        self._out, self._sparse, self._tick = out, sparse, tick
        self._latest = math.inf if latest is None else latest
        self._pending = bytearray()
        self._links: dict[tuple[int, int], bytes] = {}
        self.entries = 0

    # --- output

    def _write(self, data: bytes) -> None:
        self._pending += data
        if len(self._pending) >= _SMALL:
            self.flush()

    def flush(self) -> None:
        view = memoryview(self._pending)
        at = 0
        while at < len(view):
            at += os.write(self._out, view[at : at + _PIECE])
        view.release()
        self._pending.clear()

    def finish(self) -> None:
        """Write the end-of-archive mark and flush."""
        self._write(END)
        self.flush()

    # --- entries

    def tree(self, parent: int, name: str, shown: bytes) -> None:
        """Pack `name`, a file or directory in the directory `parent`, with everything below it. In the tar, its name is
        `shown`. Files that are removed meanwhile are left out."""
        try:
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return
        if not stat.S_ISDIR(info.st_mode):
            self._entry(parent, name, shown, info)
            return
        try:
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
        except (FileNotFoundError, NotADirectoryError):
            return  # the file was replaced meanwhile
        try:
            self.content(fd, shown, head=True)
        finally:
            os.close(fd)

    def content(self, fd: int, shown: bytes, *, head: bool = False) -> None:
        """Pack the content of an open directory. If `head` is true, the directory itself is packed too, under the name
        `shown`. All names begin with `shown`, which is "" for "/"."""
        if head:
            self.directory_entry(fd, shown)
        base = shown + b"/" if head else b""
        with os.scandir(fd) as scanned:
            found = sorted((entry.name, entry.is_file(follow_symlinks=False)) for entry in scanned)
        for name, is_file in found:
            if is_file:
                self._file(fd, name, base + os.fsencode(name))
            else:
                self.tree(fd, name, base + os.fsencode(name))

    def directory_entry(self, fd: int, shown: bytes) -> None:
        """Pack an open directory without its content."""
        info = os.fstat(fd)
        self._head(self._described(shown + b"/", b"5", info, _xattrs(fd)))

    def one(self, parent: int, name: str, shown: bytes) -> None:
        """Pack the file `name` of the directory `parent`. A directory is packed without its content."""
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            fd = os.open(name, _DIRECTORY, dir_fd=parent)
            try:
                self.directory_entry(fd, shown)
            finally:
                os.close(fd)
        else:
            self._entry(parent, name, shown, info)

    def empty(self, shown: bytes) -> None:
        """Pack an empty file, used as a whiteout."""
        self._head(Entry(shown, b"0", 0o644, 0, 0, 0, 0, b"", 0, 0))

    def _described(self, shown: bytes, kind: bytes, info: os.stat_result, xattrs: object, link: bytes = b"") -> Entry:
        device = kind in b"34"
        return Entry(
            shown,
            kind,
            stat.S_IMODE(info.st_mode),
            info.st_uid,
            info.st_gid,
            0,
            int(min(info.st_mtime, self._latest)) * 1_000_000_000,
            link,
            os.major(info.st_rdev) if device else 0,
            os.minor(info.st_rdev) if device else 0,
            list(xattrs),  # type: ignore[call-overload]
        )

    def _head(self, entry: Entry, sparse: tuple[int, bytes] | None = None) -> None:
        self.entries += 1
        self._write(entry_header(entry, sparse))
        self._tick()

    def _entry(self, parent: int, name: str, shown: bytes, info: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            return  # leave out a socket, which is useless without its process
        if kind == b"0":
            self._file(parent, name, shown)
        elif kind != b"2" and self._is_again(shown, info):
            return
        elif kind == b"2":
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError:
                return  # the file was replaced meanwhile
            self._head(self._described(shown, kind, info, (), link=os.fsencode(target)))
        else:
            self._head(self._described(shown, kind, info, ()))

    def _is_again(self, shown: bytes, info: os.stat_result) -> bool:
        """If `shown` is another name of a file that was packed already, pack a hard link and return true."""
        if info.st_nlink < 2:
            return False
        first = self._links.setdefault((info.st_dev, info.st_ino), shown)
        if first == shown:
            return False
        self._head(self._described(shown, b"1", info, (), link=first))
        return True

    def _file(self, parent: int, name: str, shown: bytes) -> None:
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return  # the file was replaced meanwhile
            raise
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or self._is_again(shown, info):
                return
            # The only xattr that is packed is security.capability, which matters only for executable files
            entry = self._described(shown, b"0", info, _xattrs(fd) if info.st_mode & 0o111 else ())
            if self._sparse and info.st_size > _SPARSE and info.st_blocks * 512 < info.st_size // 2:
                self._holes(fd, entry, info.st_size)
                return
            entry.size = info.st_size
            self._head(entry)
            self._content(fd, info.st_size)
        finally:
            os.close(fd)

    def _holes(self, fd: int, entry: Entry, real: int) -> None:
        """Pack a sparse file in pax format 1.0: a map, then the data segments."""
        segments = list(_segments(fd, real))
        entry.size = sum(length for _, length in segments)
        numbers = [len(segments), *(number for segment in segments for number in segment)]
        text = b"".join(b"%d\n" % number for number in numbers)
        text += padding(len(text))
        self._head(entry, (real, text))
        self._write(text)
        for offset, length in segments:
            self._copy(fd, offset, length)
        self._write(padding(entry.size))

    def _content(self, fd: int, size: int) -> None:
        if size > _SMALL:
            self._copy(fd, 0, size)
            self._write(padding(size))
        elif size:
            self._write(os.pread(fd, size, 0).ljust(-(-size // BLOCK) * BLOCK, b"\0"))

    def _copy(self, fd: int, offset: int, size: int) -> None:
        if size <= _SMALL:
            data = os.pread(fd, size, offset) if size else b""
            self._write(data + bytes(size - len(data)))
            return
        self.flush()
        end = offset + size
        while offset < end:
            done = self._splice(fd, offset, min(end - offset, _PIECE))
            if not done:  # the file was truncated meanwhile
                self._zeros(end - offset)
                return
            offset += done
            self._tick()

    def _splice(self, fd: int, offset: int, size: int) -> int:
        try:
            return os.splice(fd, self._out, size, offset_src=offset)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        data = os.pread(fd, size, offset)  # read instead, because the file system does not support splice
        at = 0
        while at < len(data):
            at += os.write(self._out, data[at:])
        return len(data)

    def _zeros(self, size: int) -> None:
        while size:
            piece = min(size, _SMALL)
            self._write(bytes(piece))
            size -= piece


class Measurer(Packer):
    """Hashes the tar stream instead of writing it."""

    def __init__(self, *, sparse: bool = True, latest: int | None = None) -> None:
        super().__init__(-1, sparse=sparse, latest=latest)
        self._hash = hashlib.sha256()
        self._buffer = bytearray(_PIECE)
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def flush(self) -> None:
        self._hash.update(self._pending)
        self.size += len(self._pending)
        self._pending.clear()

    def _splice(self, fd: int, offset: int, size: int) -> int:
        read = os.preadv(fd, [memoryview(self._buffer)[:size]], offset)
        self._hash.update(memoryview(self._buffer)[:read])
        self.size += read
        return read


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Yield the data segments of a file. The last segment is empty, at the file's end, as in GNU tar."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # the rest of the file is a hole
        at = min(os.lseek(fd, start, os.SEEK_HOLE), size)
        if start >= size:
            break
        yield start, at - start
    yield size, 0


def _xattrs(fd: int) -> list[tuple[bytes, bytes]]:
    found = []
    for name in _XATTRS:
        try:
            found.append((name.encode(), os.getxattr(fd, name)))
        except OSError:
            continue  # the file has no such xattr, or the file system supports none
    return found
