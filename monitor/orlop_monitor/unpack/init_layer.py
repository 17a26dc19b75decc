"""The init layer: files and directories that every container's root needs in addition to its image.

Paths, modes and the handling of existing files are those of dockerd (moby daemon/initlayer/setup_unix.go). A runtime mounts
over most of these paths, but clients read and write them in containers that were never started.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["PATHS", "make"]

_DIRECTORY, _FILE = "directory", "file"
PATHS = {
    "/.dockerenv": _FILE,
    "/dev/console": _FILE,
    "/dev/pts": _DIRECTORY,
    "/dev/shm": _DIRECTORY,
    "/etc/hostname": _FILE,
    "/etc/hosts": _FILE,
    "/etc/mtab": "/proc/mounts",  # becomes a symlink to /proc/mounts
    "/etc/resolv.conf": _FILE,
    "/proc": _DIRECTORY,
    "/sys": _DIRECTORY,
}


def make(root: int) -> None:
    """Make the paths in the tree below the descriptor `root`. No symlink is followed: a symlink or another file at one of
    the paths is replaced."""
    for path, kind in PATHS.items():
        _make(root, path.strip("/").split("/"), kind)


def _make(parent: int, names: list[str], kind: str) -> None:
    name, *below = names
    if below or kind == _DIRECTORY:
        with _directory(parent, name) as fd:
            if below:
                _make(fd, below, kind)
        return
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        # As in dockerd, a directory at this path stays; the runtime will report that it cannot mount a file over a directory
        return
    if kind == _FILE:
        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o755, dir_fd=parent))
    else:
        os.symlink(kind, name, dir_fd=parent)


@contextmanager
def _directory(parent: int, name: str) -> Iterator[int]:
    with suppress(FileNotFoundError, IsADirectoryError):
        os.unlink(name, dir_fd=parent)  # it is not a directory, so it is replaced
    with suppress(FileExistsError):
        os.mkdir(name, 0o755, dir_fd=parent)
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent)
    try:
        yield fd
    finally:
        os.close(fd)
