"""Access to a directory tree with untrusted content, only through descriptors.

Parent directories are resolved by `openat2(RESOLVE_IN_ROOT)`: symlinks are interpreted as in a chroot, and no path leads out
of the root, even if another process changes the tree meanwhile. Files are then accessed by their last name, relative to the
parent's descriptor, without following symlinks.
"""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass

from orlop_sdk.linux import open_in_root

from .errors import UnpackError, shown

__all__ = ["Parent", "Tree", "clean", "is_whiteout", "remove"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY
_CACHED = 64


def clean(name: bytes) -> bytes:
    """Returns the name relative to the root, without empty, "." and ".." components. b"" means the root. Raises
    `UnpackError` when the name leads out of the root (Docker: "breakout") or is not a valid path."""
    if b"\0" in name:
        raise UnpackError(f"{shown(name)}: the name contains a NUL")
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        kept: list[bytes] = []
        for part in parts:
            if part != b"..":
                kept.append(part)
            elif kept:
                kept.pop()
            else:
                raise UnpackError(f"{shown(name)}: the name leads outside of the root")
        parts = kept
    return b"/".join(parts)


def is_whiteout(info: os.stat_result) -> bool:
    """Whether a file is an overlayfs whiteout, which is a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def remove(name: str | bytes, dir_fd: int) -> None:
    """Remove a file or a directory tree. It is not an error if the file does not exist."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return
    except IsADirectoryError:
        fd = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=dir_fd)
        try:
            for child in os.listdir(fd):
                remove(child, fd)
        finally:
            os.close(fd)
        os.rmdir(name, dir_fd=dir_fd)


@dataclass(slots=True)
class Parent:
    """An open directory. `plain`: files that are created in the directory are owned by root:root without a chown."""

    fd: int
    plain: bool


class Tree:
    """Opens and creates directories below `root`. Owns its cached descriptors, but not `root`. Used by one thread."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._cache: dict[bytes, Parent] = {}

    def forget(self) -> None:
        """Close the cached descriptors. Call this method after a directory or a symlink was removed, or a directory's owner
        or mode has changed."""
        for parent in self._cache.values():
            os.close(parent.fd)
        self._cache.clear()

    def directory(self, path: bytes, *, create: bool = True) -> Parent:
        """Open the directory `path`, a result of `clean`. `create`: missing directories are made (mode 0755, owner root), as
        in Docker. Raises `OSError` when the path does not exist or is not a directory. The result is valid until the next
        call of a method."""
        known = self._cache.get(path)
        if known is None:
            fd = self._make(path) if create else self._open(path)
            info = os.fstat(fd)
            known = Parent(fd, not (info.st_mode & stat.S_ISGID or info.st_gid or os.geteuid()))
            if len(self._cache) >= _CACHED:
                self.forget()
            self._cache[path] = known
        return known

    def _open(self, path: bytes) -> int:
        return open_in_root(self.root, path or b".", _DIRECTORY)

    def _make(self, path: bytes) -> int:
        try:
            return self._open(path)
        except FileNotFoundError:
            if not path:
                raise
        head, _, name = path.rpartition(b"/")
        above = self._make(head)
        try:
            os.mkdir(name, 0o755, dir_fd=above)
        except FileExistsError:
            raise UnpackError(f"{shown(path)}: it is a dangling symlink, and cannot contain files") from None
        finally:
            os.close(above)
        return self._open(path)
