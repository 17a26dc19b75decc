"""A directory tree that others may have filled with anything, reached through descriptors only.

A parent directory is resolved by `openat2(RESOLVE_IN_ROOT)`: symlinks mean inside the root what they mean to a process
chrooted there, and no path leads out, however it changes meanwhile. Everything in it is then done by its last name,
relative to that descriptor, never following a link.
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
    """The name relative to the root, without empty, "." and ".." parts; b"" is the root itself. `UnpackError` when it
    climbs out (Docker calls it breakout) or cannot be a path."""
    if b"\0" in name:
        raise UnpackError(f"{shown(name)}: the name holds a NUL")
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
    """An overlayfs whiteout: a character device 0:0."""
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def remove(name: str | bytes, dir_fd: int) -> None:
    """Remove a file or a whole directory. What is gone already is no error."""
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
    """An open directory. `plain`: what is made in it belongs to root:root without a chown."""

    fd: int
    plain: bool


class Tree:
    """Owns its cached descriptors, not the root's. Used by one thread."""

    def __init__(self, root: int) -> None:
        self.root = root
        self._cache: dict[bytes, Parent] = {}

    def forget(self) -> None:
        """Must be called when a directory or a symlink was removed, or a directory changed its owner or mode."""
        for parent in self._cache.values():
            os.close(parent.fd)
        self._cache.clear()

    def directory(self, path: bytes, *, create: bool = True) -> Parent:
        """The directory `path` (cleaned). Missing ones are made, 0755 root, as Docker does. `OSError` when there is none or
        when it is something else. Valid until the next call or `forget`."""
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
            raise UnpackError(f"{shown(path)}: it is a symlink that leads nowhere, and cannot hold files") from None
        finally:
            os.close(above)
        return self._open(path)
