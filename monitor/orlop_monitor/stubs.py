"""Stubs: missing mount points in a container's root. If the root is to become a layer of an image, the monitor creates
the stubs before the start and removes them after the exit. Otherwise the runtime would create the mount points, and they
would become part of the layer.

A mount point in which the container has created files is kept. The times of directories are restored. When an entry of a
directory changes, overlayfs copies the directory up; if its attributes are unchanged, the directory is not part of the
layer.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress

from orlop_sdk import linux
from orlop_sdk.idmaps import IdMap, file_system_ids

from .protocol import MountPoint

__all__ = ["Stubs"]

_DEPTH = 256
_LINKS = 40  # maximum number of symlinks that are followed in one path, as in the kernel


class Stubs:
    """Owns a descriptor of the root until `remove`. Paths are resolved inside the root. `ids` is the mapping of the
    container's user namespace: files are created as the container's root, because the id-mapped layers do not map the host's
    root."""

    def __init__(self, root: str, points: tuple[MountPoint, ...], ids: IdMap | None = None) -> None:
        """Create the missing mount points. A raised `OSError` names the path."""
        self._ids = ids
        self._root = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._made: list[str] = []
        for point in points:
            try:
                with self._as_owner():
                    self._make(point)
            except OSError as error:
                self.remove()
                raise OSError(error.errno, error.strerror, point.path) from None

    def _as_owner(self) -> AbstractContextManager[None]:
        return nullcontext() if self._ids is None else file_system_ids(*self._ids.root)

    def _make(self, point: MountPoint, links: int = 0) -> None:
        parts = [part for part in os.path.normpath(f"/{point.path}").split("/") if part]
        if len(parts) > _DEPTH or links > _LINKS:
            return  # the runtime refuses such a path
        directory = not point.source or os.path.isdir(point.source)
        for number in range(len(parts)):
            path = "/".join(parts[: number + 1])
            try:
                os.close(linux.open_in_root(self._root, path, os.O_PATH))
                continue
            except FileNotFoundError:
                pass
            last = number == len(parts) - 1
            with self._parent(path) as (parent, name):
                try:
                    if directory or not last:
                        os.mkdir(name, 0o755, dir_fd=parent)
                    else:
                        os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=parent))
                except FileExistsError:  # the name is a dangling symlink, whose target the runtime creates
                    target = os.path.join(f"/{path}/..", os.readlink(name, dir_fd=parent), *parts[number + 1 :])
                    self._make(MountPoint(target, point.source), links + 1)
                    return
            self._made.append(path)

    @contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The directory of `path`, and the name in this directory. The directory's times are restored at the end of the
        `with` block."""
        head, _, name = path.rpartition("/")
        fd = linux.open_in_root(self._root, head or "/", os.O_RDONLY | os.O_DIRECTORY)
        try:
            before = os.fstat(fd)
            yield fd, name
            os.utime(fd, ns=(before.st_atime_ns, before.st_mtime_ns))
        finally:
            os.close(fd)

    def remove(self) -> None:
        """Remove the mount points that are still empty. Errors are ignored, because the container may have changed them."""
        for path in reversed(self._made):
            with suppress(OSError), self._as_owner(), self._parent(path) as (parent, name):
                info = os.stat(name, dir_fd=parent, follow_symlinks=False)
                if stat.S_ISDIR(info.st_mode):
                    os.rmdir(name, dir_fd=parent)
                elif stat.S_ISREG(info.st_mode) and not info.st_size:
                    os.unlink(name, dir_fd=parent)
        self._made.clear()
        if self._root >= 0:
            os.close(self._root)
            self._root = -1
