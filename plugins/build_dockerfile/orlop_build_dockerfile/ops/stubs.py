"""Removes mount points that the runtime has made in a root, so that they do not get into the layer: those that did not exist
before and are still empty. As in BuildKit, only the mount point is removed; directories above it are removed if the step
requests it."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable

import trio

from . import paths
from .views import Views

__all__ = ["Stubs"]

_RUNTIME = ("/proc", "/sys", "/dev", "/etc/resolv.conf", "/etc/hosts", "/etc/hostname")


class Stubs:
    def __init__(self, views: Views, targets: Iterable[str], *, recursive: bool = False) -> None:
        self._views, self._recursive = views, recursive
        self._targets = [paths.clean(target) for target in (*_RUNTIME, *targets)]
        self._missing: list[str] = []

    async def look(self, parent: str) -> None:
        """Note the mount points that the parent of the root does not have."""

        def missing(root: int) -> list[str]:
            found = []
            for target in self._targets:
                while target != "/" and paths.lookup(root, target, follow=False) is None:
                    found.append(target)
                    if not self._recursive:
                        break
                    target = paths.split(target)[0]
            return found

        async with self._views.read(parent) as root:
            self._missing = await trio.to_thread.run_sync(missing, root)

    async def remove(self, active: str) -> None:
        if self._missing:
            async with self._views.write(active) as root:
                await trio.to_thread.run_sync(self._remove, root)

    def _remove(self, root: int) -> None:
        for target in sorted(self._missing, key=len, reverse=True):
            try:
                parent, name = paths.parent_of(root, target)
            except OSError:
                continue
            with paths.opened(parent):
                _remove_empty(parent, name)


def _remove_empty(parent: int, name: str) -> None:
    times = os.fstat(parent)
    try:
        info = os.stat(name, dir_fd=parent, follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            os.rmdir(name, dir_fd=parent)
        elif stat.S_ISREG(info.st_mode) and not info.st_size:
            os.unlink(name, dir_fd=parent)
        else:
            return
    except OSError:
        return  # not empty, or gone: the step has changed it, so it stays
    os.utime(parent, ns=(times.st_atime_ns, times.st_mtime_ns))
