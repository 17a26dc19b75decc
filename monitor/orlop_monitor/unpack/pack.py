"""Files to a tar stream: the part of packing that looks at the disk.

What it reads may change under it, and belongs to whoever runs in the container: everything is opened by its last name,
relative to its directory, never following a link; a file that shrinks meanwhile is filled with zeros, one that grows is cut.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator

from .encode import END, entry_header, padding
from .header import BLOCK, Entry

__all__ = ["Packer", "go_mode"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_PIECE = 1 << 20
_SMALL = 64 << 10
_SPARSE = 1 << 20  # smaller files are written with their holes
_KINDS = {
    stat.S_IFREG: b"0",
    stat.S_IFLNK: b"2",
    stat.S_IFCHR: b"3",
    stat.S_IFBLK: b"4",
    stat.S_IFDIR: b"5",
    stat.S_IFIFO: b"6",
}
_XATTRS = ("security.capability",)
# Go's os.FileMode, as clients read it
_GO_BITS = (
    (stat.S_IFDIR, 1 << 31),
    (stat.S_IFLNK, 1 << 27),
    (stat.S_IFBLK, 1 << 26),
    (stat.S_IFIFO, 1 << 25),
    (stat.S_IFSOCK, 1 << 24),
    (stat.S_IFCHR, 1 << 26 | 1 << 21),
)


def go_mode(mode: int) -> int:
    """A mode as Go's `os.FileMode` has it."""
    bits = next((bits for kind, bits in _GO_BITS if stat.S_IFMT(mode) == kind), 0)
    special = (mode & stat.S_ISUID and 1 << 23) | (mode & stat.S_ISGID and 1 << 22) | (mode & stat.S_ISVTX and 1 << 20)
    return bits | special | mode & 0o777


class Packer:
    """Writes to a descriptor, in order. `sparse`: leave holes out."""

    def __init__(self, out: int, *, sparse: bool = True, tick: Callable[[], None] = lambda: None) -> None:
        self._out, self._sparse, self._tick = out, sparse, tick
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
        """The end-of-archive mark."""
        self._write(END)
        self.flush()

    # --- entries

    def tree(self, parent: int, name: str, shown: bytes) -> None:
        """`name` in the directory `parent` and all below it, as `shown`. What vanishes meanwhile is left out."""
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
            return  # replaced since
        try:
            self.content(fd, shown, head=True)
        finally:
            os.close(fd)

    def content(self, fd: int, shown: bytes, *, head: bool = False) -> None:
        """What is in an open directory. `head`: the directory itself, too, and its name before all others; "" is "/"."""
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
        """An open directory alone."""
        info = os.fstat(fd)
        self._head(_described(shown + b"/", b"5", info, _xattrs(fd)))

    def one(self, parent: int, name: str, shown: bytes) -> None:
        """`name` alone, not what is below it."""
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
        """An empty file: a whiteout."""
        self._head(Entry(shown, b"0", 0o644, 0, 0, 0, 0, b"", 0, 0))

    def _head(self, entry: Entry, sparse: tuple[int, bytes] | None = None) -> None:
        self.entries += 1
        self._write(entry_header(entry, sparse))
        self._tick()

    def _entry(self, parent: int, name: str, shown: bytes, info: os.stat_result) -> None:
        kind = _KINDS.get(stat.S_IFMT(info.st_mode))
        if kind is None:
            return  # a socket: it means nothing without its process
        if kind == b"0":
            self._file(parent, name, shown)
        elif kind != b"2" and self._is_again(shown, info):
            return
        elif kind == b"2":
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError:
                return  # replaced since
            self._head(_described(shown, kind, info, (), link=os.fsencode(target)))
        else:
            self._head(_described(shown, kind, info, ()))

    def _is_again(self, shown: bytes, info: os.stat_result) -> bool:
        """Whether this is a further name of what we had already: then it has become a link."""
        if info.st_nlink < 2:
            return False
        first = self._links.setdefault((info.st_dev, info.st_ino), shown)
        if first == shown:
            return False
        self._head(_described(shown, b"1", info, (), link=first))
        return True

    def _file(self, parent: int, name: str, shown: bytes) -> None:
        try:
            fd = os.open(name, _FILE, dir_fd=parent)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP, errno.ENXIO):
                return  # replaced since
            raise
        try:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode) or self._is_again(shown, info):
                return
            # Capabilities are for who executes it
            entry = _described(shown, b"0", info, _xattrs(fd) if info.st_mode & 0o111 else ())
            if self._sparse and info.st_size > _SPARSE and info.st_blocks * 512 < info.st_size // 2:
                self._holes(fd, entry, info.st_size)
                return
            entry.size = info.st_size
            self._head(entry)
            self._content(fd, info.st_size)
        finally:
            os.close(fd)

    def _holes(self, fd: int, entry: Entry, real: int) -> None:
        """pax sparse format 1.0: a map in front of the data there is."""
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
            if not done:  # it has become shorter
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
        data = os.pread(fd, size, offset)  # a file system that cannot
        at = 0
        while at < len(data):
            at += os.write(self._out, data[at:])
        return len(data)

    def _zeros(self, size: int) -> None:
        while size:
            piece = min(size, _SMALL)
            self._write(bytes(piece))
            size -= piece


def _segments(fd: int, size: int) -> Iterator[tuple[int, int]]:
    """Where a file has data. Ends with an empty segment at its end, as tar does."""
    at = 0
    while at < size:
        try:
            start = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:
            break  # a hole to its end
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
            continue  # none, or none here
    return found


def _described(shown: bytes, kind: bytes, info: os.stat_result, xattrs: object, link: bytes = b"") -> Entry:
    device = kind in b"34"
    return Entry(
        shown,
        kind,
        stat.S_IMODE(info.st_mode),
        info.st_uid,
        info.st_gid,
        0,
        int(info.st_mtime) * 1_000_000_000,
        link,
        os.major(info.st_rdev) if device else 0,
        os.minor(info.st_rdev) if device else 0,
        list(xattrs),  # type: ignore[call-overload]
    )
