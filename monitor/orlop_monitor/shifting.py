"""Mounts of a container with a user namespace: its layers, volumes and other trees are id-mapped (see `orlop_sdk.idmaps`).

An overlay itself cannot be id-mapped. Therefore the mount of the storage driver's directory is cloned once, id-mapped, and
attached to the stage; the driver's mounts then use paths below the clone.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence

from msgspec.structs import replace

from orlop_sdk import linux
from orlop_sdk.common import Mount
from orlop_sdk.idmaps import IdMap, file_system_ids, map_tree

from . import mounting

__all__ = ["Shift"]

_NOT_MAPPABLE = frozenset({errno.EINVAL, errno.EPERM, errno.EOPNOTSUPP})


def _moved(path: str, directory: str, place: str) -> str:
    return place + path[len(directory) :] if path == directory or path.startswith(f"{directory}/") else path


class Shift:
    """Makes mounts for the user namespace `user`. The method `open` attaches a clone of the storage driver's directory,
    `directory`, below `stage`."""

    def __init__(self, ids: IdMap, user: int, directory: str, stage: str) -> None:
        self._ids, self._user = ids, user
        self._directory = os.path.realpath(directory)
        self._given = directory
        self._place = f"{stage}/layers"

    def open(self) -> None:
        """Clone the storage driver's directory. Raises `OSError` when its file system cannot be id-mapped."""
        os.mkdir(self._place, 0o700)
        self._attach(linux.clone_tree(self._directory), self._place)

    def _attach(self, tree: int, target: str) -> None:
        try:
            map_tree(tree, self._user)
            linux.attach_tree(tree, target)
        finally:
            os.close(tree)

    def _layered(self, mount: Mount) -> Mount:
        """A copy of `mount` in which each path below the driver's directory is replaced by the same path below the clone."""

        def moved(path: str) -> str:
            return _moved(_moved(path, self._given, self._place), self._directory, self._place)

        options = []
        for option in mount.options:
            name, equals, value = option.partition("=")
            options.append(name + equals + ":".join(moved(path) for path in value.split(":")) if equals else option)
        return replace(mount, source=moved(mount.source), options=tuple(options))

    def mount_layers(self, top: str, mounts: Iterable[Mount]) -> None:
        """Make the mounts of a snapshot at `top`. Mounts without a path in the driver's directory are made unchanged."""
        with file_system_ids(*self._ids.root):
            mounting.mount_all(top, [self._layered(mount) for mount in mounts])

    def mount_tree(self, top: str, mounts: Sequence[Mount]) -> None:
        """Make the mounts of a volume or an image at `top`. A file system that cannot be id-mapped keeps the host's ids."""
        layered = [self._layered(mount) for mount in mounts]
        if layered != list(mounts):
            self.mount_layers(top, mounts)
            return
        mounting.mount_all(top, mounts)
        linux.mount("", "none", top, ["rprivate"])
        try:
            self._attach(linux.clone_tree(top), top)
        except OSError as error:
            if error.errno not in _NOT_MAPPABLE:
                raise
