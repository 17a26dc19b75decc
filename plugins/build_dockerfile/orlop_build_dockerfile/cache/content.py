"""Digests of the content of files, for cache keys.

The digest of a file covers everything that COPY copies: type, permissions, owner, size, link target, device, bytes, and
extended attributes. (Of the attributes that begin with "security.", only the capability is covered.) The digest of a
directory also covers its entries with their names. The times and the path of a file are not covered. All functions block.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Sequence

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.ops import actions, paths
from orlop_build_dockerfile.ops.cancelling import checkpoint
from orlop_build_dockerfile.ops.patterns import Matcher
from orlop_sdk import linux

__all__ = ["ContentHasher", "Selection"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_CHUNK = 1 << 20
_MAX_DEPTH = 400


class Selection(msgspec.Struct, frozen=True):
    """The part of an input that an operation uses."""

    path: str = "/"
    follow: bool = True
    wildcard: bool = False
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()


class KnownFile(msgspec.Struct, frozen=True, array_like=True):
    """The digest of a file's bytes and extended attributes. It is valid as long as the file's inode has this size and change
    time."""

    inode: int
    size: int
    changed_ns: int
    digest: bytes


class ContentHasher:
    """Digests of one tree. Digests of directories are kept in this object, so the tree must not change while the object is
    used. Digests of files are in `files`, by path. Callers may store `files` and use it for the next `ContentHasher`."""

    def __init__(self, root: int, files: dict[str, KnownFile] | None = None) -> None:
        self._root = root
        self._keep = files is not None
        self.files: dict[str, KnownFile] = files if files is not None else {}
        self.changed = False
        self._known: dict[str, bytes] = {}

    def digest(self, wanted: Selection) -> list[tuple[str, str]]:
        """Returns (name, digest) of each selected path, in order. Raises `BuildFailed` if no path matches."""
        found = actions.matches(self._root, wanted.path, follow=wanted.follow, wildcard=wanted.wildcard)
        return [(os.path.basename(path), self._one(path, wanted).hex()) for path in found]

    def _one(self, path: str, wanted: Selection) -> bytes:
        name, parent = path, self._root
        if wanted.follow:
            fd = linux.open_in_root(self._root, paths.clean(path), os.O_PATH)
            with paths.opened(fd):
                info = os.fstat(fd)
                if stat.S_ISDIR(info.st_mode):
                    with paths.opened(paths.open_directory(self._root, path)) as inner:
                        return self._tree(inner, info, path, wanted)
                real = os.readlink(f"/proc/self/fd/{fd}")
                name = os.path.basename(real)
                if not stat.S_ISREG(info.st_mode):
                    return _header(info, b"", ())
                reader = linux.open_in_root(self._root, paths.clean(path), os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)
                with paths.opened(reader):
                    return _finish(info, self._content(reader, info, path))
        parent, name = paths.parent_of(self._root, path)
        with paths.opened(parent):
            info = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(info.st_mode):
                with paths.opened(os.open(name, _DIRECTORY, dir_fd=parent)) as inner:
                    return self._tree(inner, info, path, wanted)
            return self._entry(parent, name, info, path)

    def _tree(self, fd: int, info: os.stat_result, path: str, wanted: Selection) -> bytes:
        if not wanted.include and not wanted.exclude:
            return self._directory(fd, info, paths.clean(path).rstrip("/"), 0)
        include = Matcher(wanted.include) if wanted.include else None
        exclude = Matcher(wanted.exclude) if wanted.exclude else None
        digest = hashlib.sha256(_header(info, b"", _xattrs(fd)))
        self._filtered(fd, paths.clean(path).rstrip("/"), "", include, exclude, digest, 0)
        return digest.digest()

    def _filtered(
        self,
        fd: int,
        path: str,
        inner: str,
        include: Matcher | None,
        exclude: Matcher | None,
        digest: hashlib._Hash,
        depth: int,
    ) -> None:
        for name, info in _entries(fd, path, depth):
            below = f"{inner}/{name}" if inner else name
            full = f"{path}/{name}"
            wanted = (include is None or include.match(below)) and (exclude is None or not exclude.match(below))
            if stat.S_ISDIR(info.st_mode):
                with paths.opened(os.open(name, _DIRECTORY, dir_fd=fd)) as child:
                    if wanted:
                        digest.update(os.fsencode(below) + b"\0" + _header(info, b"", _xattrs(child)))
                    self._filtered(child, full, below, include, exclude, digest, depth + 1)
            elif wanted:
                digest.update(os.fsencode(below) + b"\0" + self._entry(fd, name, info, full))

    def _directory(self, fd: int, info: os.stat_result, path: str, depth: int) -> bytes:
        known = self._known.get(path)
        if known is not None:
            return known
        digest = hashlib.sha256(_header(info, b"", _xattrs(fd)))
        for name, entry in _entries(fd, path, depth):
            full = f"{path}/{name}"
            if stat.S_ISDIR(entry.st_mode):
                with paths.opened(os.open(name, _DIRECTORY, dir_fd=fd)) as inner:
                    found = self._directory(inner, entry, full, depth + 1)
            else:
                found = self._entry(fd, name, entry, full)
            digest.update(os.fsencode(name) + b"\0" + found)
        self._known[path] = digest.digest()
        return self._known[path]

    def _entry(self, parent: int, name: str, info: os.stat_result, path: str) -> bytes:
        checkpoint()
        if stat.S_ISLNK(info.st_mode):
            return _header(info, os.fsencode(os.readlink(name, dir_fd=parent)), ())
        if not stat.S_ISREG(info.st_mode):
            return _header(info, b"", ())
        known = self._remembered(info, path)
        if known is not None:
            return _finish(info, known)
        with paths.opened(os.open(name, _READ, dir_fd=parent)) as fd:
            return _finish(info, self._content(fd, info, path))

    def _remembered(self, info: os.stat_result, path: str) -> bytes | None:
        known = self.files.get(path)
        if known is None or (known.inode, known.size, known.changed_ns) != (info.st_ino, info.st_size, info.st_ctime_ns):
            return None
        return known.digest

    def _content(self, fd: int, info: os.stat_result, path: str) -> bytes:
        """The digest of a file's bytes and extended attributes."""
        known = self._remembered(info, path)
        if known is not None:
            return known
        digest = hashlib.sha256()
        while data := os.read(fd, min(_CHUNK, max(info.st_size, 1))):
            digest.update(data)
        xattrs = _xattrs(fd)
        if xattrs:
            digest.update(_header(info, b"", xattrs))
        found = digest.digest()
        if self._keep:
            self.files[path] = KnownFile(info.st_ino, info.st_size, info.st_ctime_ns, found)
            self.changed = True
        return found


def _entries(fd: int, path: str, depth: int) -> list[tuple[str, os.stat_result]]:
    if depth > _MAX_DEPTH:
        raise BuildFailed(f"cannot read {path[:200]}: directories are nested deeper than {_MAX_DEPTH}")
    with os.scandir(fd) as entries:
        return sorted((entry.name, entry.stat(follow_symlinks=False)) for entry in entries)


def _xattrs(fd: int) -> Sequence[tuple[str, bytes]]:
    try:
        keys = os.listxattr(fd)
    except OSError:
        return ()
    found = []
    for key in sorted(keys):
        if (key.startswith("security.") and key != "security.capability") or key.startswith(("system.", "trusted.overlay.")):
            continue
        found.append((key, os.getxattr(fd, key)))
    return found


def _header(info: os.stat_result, link: bytes, xattrs: Sequence[tuple[str, bytes]]) -> bytes:
    digest = hashlib.sha256()
    size = info.st_size if stat.S_ISREG(info.st_mode) else 0
    device = info.st_rdev if stat.S_ISCHR(info.st_mode) or stat.S_ISBLK(info.st_mode) else 0
    digest.update(b"%o %d %d %d %d %d\0" % (info.st_mode, info.st_uid, info.st_gid, size, device, len(link)))
    digest.update(link)
    for key, value in xattrs:
        digest.update(b"%s\0%d\0" % (os.fsencode(key), len(value)) + value)
    return digest.digest()


def _finish(info: os.stat_result, content: bytes) -> bytes:
    return hashlib.sha256(_header(info, b"", ()) + content).digest()
