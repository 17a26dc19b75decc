"""Makes mounts at and below a directory whose content is not trusted."""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop_sdk import linux
from orlop_sdk.common import Mount

__all__ = ["mount_all"]


def _mount_below(root: int, mount: Mount) -> None:
    """Mount at a target that the image controls. The target is resolved inside the root and used only by descriptor."""
    # Open the target again to change options of the new mount: the first descriptor refers to the directory that the new
    # mount covers.
    bind = mount.type == "bind" or "bind" in mount.options or "rbind" in mount.options
    first = [word for word in mount.options if (word in ("bind", "rbind") if bind else word not in linux.PROPAGATION)]
    rest = [word for word in mount.options if word not in first]
    fd = linux.open_in_root(root, mount.target, os.O_PATH)
    try:
        linux.mount(mount.type, mount.source, f"/proc/self/fd/{fd}", first)
    finally:
        os.close(fd)
    if rest:
        fd = linux.open_in_root(root, mount.target, os.O_PATH)
        try:
            linux.change_mount(f"/proc/self/fd/{fd}", rest)
        finally:
            os.close(fd)


def mount_all(top: str, mounts: Iterable[Mount]) -> None:
    """Make the mounts in order. A raised `OSError` names the mount that failed."""
    root = -1
    try:
        for mount in mounts:
            if mount.mountpoint:
                linux.mount(mount.type, mount.source, mount.mountpoint, mount.options)
                continue
            if mount.target.strip("/") in ("", "."):
                linux.mount(mount.type, mount.source, top, mount.options)
                if root >= 0:
                    os.close(root)
                    root = -1
                continue
            if root < 0:
                root = os.open(top, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            _mount_below(root, mount)
    finally:
        if root >= 0:
            os.close(root)
