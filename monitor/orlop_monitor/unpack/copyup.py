"""Copy-up: what an image has at the destination of an empty volume becomes the volume's first content.

As Docker does it when a container is created (daemon/create_unix.go `populateVolumes`): content, owner and mode of the
directory; a volume that holds anything is left alone.
"""

from __future__ import annotations

import os

from orlop_sdk.common import Mount
from orlop_sdk.files import copy_tree
from orlop_sdk.linux import mount, open_in_root

__all__ = ["copy_up", "mount_root"]


def mount_root(mounts: tuple[Mount, ...], mountpoint: str) -> None:
    """Mount a snapshot at `mountpoint`, in the namespace that is already ours."""
    for each in mounts:
        target = os.path.join(mountpoint, each.target.lstrip("/")) if each.target else mountpoint
        mount(each.type, each.source, target, each.options)


def copy_up(root: int, path: str, target: int) -> bool:
    """Copy directory `path` of the tree at `root` into the directory `target`. False, and nothing done, when there is no
    such directory or `target` is not empty. `FileExistsError` when there is a file instead."""
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
