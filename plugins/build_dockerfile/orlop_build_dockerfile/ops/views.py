"""Snapshots as directories, for the builder process. They are mounted in its mount namespace, and accessed only through a
file descriptor.

The mount is detached from its mount point as soon as the descriptor is open. So a mount exists exactly as long as its
descriptor, and no mount can be left over. Files of a snapshot are only accessed relative to descriptors.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator, Sequence

import trio

from orlop_build_dockerfile.contracts import Backend
from orlop_sdk import Mount, linux

__all__ = ["Views"]

_CLONE_FS = 0x200
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


class _View:
    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.fd = -1


class Views:
    """Opens snapshots. `directory` is a directory of the builder; its subdirectory `empty` is used as empty file system."""

    def __init__(self, backend: Backend, directory: str) -> None:
        self._backend, self._directory = backend, directory
        self._views: dict[str, _View] = {}

    @contextlib.asynccontextmanager
    async def read(self, snapshot: str) -> AsyncIterator[int]:
        """A file descriptor of the root of a committed snapshot, or of an empty directory for "". It is read-only, and all
        concurrent readers of the snapshot share it."""
        view = self._views.setdefault(snapshot, _View())
        view.users += 1
        try:
            async with view.lock:
                if view.fd < 0:
                    view.fd = await self._open(snapshot, readonly=True)
            yield view.fd
        finally:
            view.users -= 1
            if not view.users:
                if self._views.get(snapshot) is view:
                    del self._views[snapshot]
                if view.fd >= 0:
                    await _close(view.fd)

    @contextlib.asynccontextmanager
    async def write(self, snapshot: str) -> AsyncIterator[int]:
        """A file descriptor of the root of an active snapshot, for one writer at a time."""
        fd = await self._open(snapshot, readonly=False)
        try:
            yield fd
        finally:
            await _close(fd)

    async def _open(self, snapshot: str, *, readonly: bool) -> int:
        if not snapshot:
            return await trio.to_thread.run_sync(self._empty)
        mounts = await self._backend.mounts(snapshot, readonly=readonly)
        return await trio.to_thread.run_sync(self._mount, mounts)

    def _empty(self) -> int:
        path = os.path.join(self._directory, "empty")
        os.makedirs(path, 0o755, exist_ok=True)
        return os.open(path, _DIRECTORY)

    def _mount(self, mounts: Sequence[Mount]) -> int:
        if os.geteuid() and len(mounts) == 1 and mounts[0].type == "bind":
            return os.open(mounts[0].source, _DIRECTORY)  # only unit tests run without root
        # A mount of many layers changes the working directory, which the threads of a process share, so unshare it first
        linux.unshare(_CLONE_FS)
        point = tempfile.mkdtemp(prefix="view-", dir=self._directory)
        made: list[str] = []
        try:
            for mount in mounts:
                target = mount.mountpoint or (os.path.join(point, mount.target) if mount.target else point)
                linux.mount(mount.type, mount.source, target, mount.options)
                made.append(target)
            return os.open(point, _DIRECTORY)
        finally:
            for target in reversed(made):
                linux.umount(target)
            os.rmdir(point)


async def _close(fd: int) -> None:
    """Closing the last descriptor of a mount writes its data, so it is done on a thread."""
    with trio.move_on_after(60, shield=True):
        await trio.to_thread.run_sync(os.close, fd)
