"""Paths inside a root. A root is a snapshot whose links may point to any path, because an image's author or a build has made
them.

All paths are resolved relative to the root's file descriptor, as if the process were chrooted to the root. All functions
block.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections.abc import Iterator

import msgspec

from orlop_sdk import linux

__all__ = [
    "Attributes",
    "clean",
    "lookup",
    "make_directories",
    "open_directory",
    "opened",
    "parent_of",
    "resolve_last",
    "split",
    "stat_in",
]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_MAX_LINKS = 40


class Attributes(msgspec.Struct, frozen=True):
    """Owner and time (ns) for new entries; None leaves them unset."""

    owner: tuple[int, int] | None = None
    time_ns: int | None = None


def clean(path: str) -> str:
    """The path from the root, without "." and ".." and doubled slashes, like Go's `filepath.Join("/", path)`."""
    return os.path.normpath("/" + path.lstrip("/"))


def split(path: str) -> tuple[str, str]:
    """Directory and name of a cleaned path; the name is "" for the root itself."""
    directory, name = os.path.split(clean(path))
    return directory, name


@contextlib.contextmanager
def opened(fd: int) -> Iterator[int]:
    """Close a descriptor at the end of a block."""
    try:
        yield fd
    finally:
        os.close(fd)


def open_directory(root: int, path: str) -> int:
    """Open a directory below the root. Links are followed inside the root."""
    return linux.open_in_root(root, clean(path), _DIRECTORY)


def parent_of(root: int, path: str) -> tuple[int, str]:
    """A file descriptor of the directory that contains `path`, and the name in this directory ("." for the root)."""
    directory, name = split(path)
    return open_directory(root, directory), name or "."


def stat_in(root: int, path: str, *, follow: bool) -> os.stat_result:
    """The stat of a path. Without `follow`, a link at the end of the path is not followed. Raises `OSError`."""
    flags = os.O_PATH | (0 if follow else os.O_NOFOLLOW)
    with opened(linux.open_in_root(root, clean(path), flags)) as fd:
        return os.fstat(fd)


def lookup(root: int, path: str, *, follow: bool) -> os.stat_result | None:
    """Like `stat_in`, but returns None if the path does not exist."""
    try:
        return stat_in(root, path, follow=follow)
    except (FileNotFoundError, NotADirectoryError):
        return None


def resolve_last(root: int, path: str) -> str:
    """The cleaned path. Links at its end are replaced by their targets, which need not exist."""
    path = clean(path)
    for _ in range(_MAX_LINKS):
        try:
            parent, name = parent_of(root, path)
        except (FileNotFoundError, NotADirectoryError):
            return path
        with opened(parent):
            try:
                target = os.readlink(name, dir_fd=parent)
            except OSError:
                return path
        path = clean(target if target.startswith("/") else f"{split(path)[0]}/{target}")
    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)


def set_attributes(fd: int, attributes: Attributes) -> None:
    if attributes.owner is not None:
        os.fchown(fd, *attributes.owner)
    if attributes.time_ns is not None:
        os.utime(fd, ns=(attributes.time_ns, attributes.time_ns))


def make_directories(root: int, path: str, mode: int = 0o755, attributes: Attributes = Attributes()) -> int:  # noqa: B008
    """Make a directory and missing directories above it, and return its file descriptor. A link is followed inside the root,
    even to a path that does not exist yet. Existing directories are not changed."""
    try:
        return open_directory(root, path)
    except FileNotFoundError:
        pass
    waiting = [part for part in reversed(path.split("/")) if part not in ("", ".")]
    done: list[str] = []
    links = 0
    fd = os.open(".", _DIRECTORY, dir_fd=root)
    try:
        while waiting:
            name = waiting.pop()
            if name == "..":
                done = done[:-1]
                fd = _swap(fd, open_directory(root, "/".join(done)))
                continue
            info = _make(fd, name, mode, attributes)
            if info is not None and stat.S_ISLNK(info.st_mode):
                links += 1
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink(name, dir_fd=fd)
                if target.startswith("/"):
                    done = []
                    fd = _swap(fd, os.open(".", _DIRECTORY, dir_fd=root))
                waiting += [part for part in reversed(target.split("/")) if part not in ("", ".")]
                continue
            fd = _swap(fd, os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd))
            done.append(name)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _swap(old: int, new: int) -> int:
    os.close(old)
    return new


def _make(fd: int, name: str, mode: int, attributes: Attributes) -> os.stat_result | None:
    """Make a directory, or return the stat of an existing entry."""
    try:
        os.mkdir(name, 0o700, dir_fd=fd)
    except FileExistsError:
        return os.stat(name, dir_fd=fd, follow_symlinks=False)
    with opened(os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)) as made:
        set_attributes(made, Attributes(attributes.owner))
        os.fchmod(made, mode)
        set_attributes(made, Attributes(None, attributes.time_ns))
    return None
