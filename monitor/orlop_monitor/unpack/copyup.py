"""Copy-up: an empty volume is filled with the content that the image has at the volume's mount point.

As in Docker when a container is created (moby daemon/create_unix.go `populateVolumes`), content, owner and mode of the
directory are copied. A volume that is not empty is left unchanged.
"""

from __future__ import annotations

import os

from orlop_sdk.common import Mount
from orlop_sdk.files import copy_tree
from orlop_sdk.linux import mount, open_in_root

__all__ = ["copy_up", "mount_root"]


def mount_root(mounts: tuple[Mount, ...], mountpoint: str) -> None:
    """Mount a snapshot at `mountpoint`. The caller must be in its own mount namespace."""
    for each in mounts:
        target = os.path.join(mountpoint, each.target.lstrip("/")) if each.target else mountpoint
        target = each.mountpoint or target
        mount(each.type, each.source, target, each.options)


def copy_up(root: int, path: str, target: int) -> bool:
    """Copy the directory `path` of the tree at `root` into the directory `target`. Does nothing and returns false when the
    directory does not exist or `target` is not empty. Raises `FileExistsError` when `path` is a file."""
    if os.listdir(target):
        return False
    try:
        source = open_in_root(root, path, os.O_RDONLY | os.O_DIRECTORY)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        raise FileExistsError(17, "cannot mount volume over existing file, file exists", path) from None
    try:
        copy_tree(source, target)
    finally:
        os.close(source)
    return True
