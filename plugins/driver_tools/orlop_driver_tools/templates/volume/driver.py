"""The volume driver `mydriver`. Volumes are directories below the driver's directory:

<root>/<name>        the content, mode 0755
<root>/.trash        removed volumes, which are deleted in the background
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence

import trio

from orlop_sdk import (
    InvalidParameter,
    Mount,
    NotFound,
    Register,
    Usage,
    Volume,
    VolumeCapabilities,
    VolumeContext,
    hookimpl,
)
from orlop_sdk.files import Trash, tree_usage
from orlop_sdk.snapshots import fsync_directory

__all__ = ["MyDriver", "orlop_volume"]

_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]*")


class MyDriver:
    """Implements `VolumeDriver`. Blocking calls run on worker threads, because all clients wait for the event loop."""

    def __init__(self, context: VolumeContext) -> None:
        self._root = context.root
        self._trash = Trash(os.path.join(context.root, ".trash"))

    @property
    def capabilities(self) -> VolumeCapabilities:
        return VolumeCapabilities(scope="local")

    def _path(self, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise InvalidParameter(f'cannot use "{name}" as the name of a volume: it must match {_NAME.pattern}')
        return os.path.join(self._root, name)

    async def create(self, name: str, options: Mapping[str, str]) -> Volume:
        path = self._path(name)
        for option in options:
            raise InvalidParameter(f'cannot create volume {name}: the driver mydriver has no option "{option}"')
        await trio.to_thread.run_sync(self._make, path)
        return Volume(name, path)

    def _make(self, path: str) -> None:
        try:
            os.mkdir(path)
        except FileExistsError:
            return
        os.chmod(path, 0o755)  # noqa: S103 - users of the container may enter the volume; the umask does not apply
        fsync_directory(self._root)  # the volume must exist after a power cut

    async def remove(self, name: str) -> None:
        # The trash renames the directory, so `remove` returns before the files are deleted
        await trio.to_thread.run_sync(self._trash.take, self._path(name))

    async def get(self, name: str) -> Volume:
        path = self._path(name)
        if not await trio.to_thread.run_sync(os.path.isdir, path):
            raise NotFound(f"get {name}: no such volume")
        return Volume(name, path)

    async def mounts(self, name: str) -> Sequence[Mount]:
        return (Mount("bind", (await self.get(name)).mountpoint, "", ("bind", "rprivate")),)

    async def usage(self, name: str) -> Usage:
        return await trio.to_thread.run_sync(tree_usage, (await self.get(name)).mountpoint)

    async def names(self) -> Sequence[str]:
        return await trio.to_thread.run_sync(self._names)

    def _names(self) -> list[str]:
        with os.scandir(self._root) as entries:
            return sorted(entry.name for entry in entries if _NAME.fullmatch(entry.name))


@hookimpl
def orlop_volume(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1)
