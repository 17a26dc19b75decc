"""Resolve a user in the layers of an image that is not mounted, for `dry_run`.

This needs only the files /etc/passwd and /etc/group. They are looked up in the directories that the storage driver would
merge with an overlay mount, by the rules of overlayfs for whiteouts and opaque directories
(Documentation/filesystems/overlayfs.rst).
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from orlop_sdk import Mount, users

__all__ = ["resolve"]


class _UnreadableError(Exception):
    """The file cannot be found without a mount."""


def resolve(mounts: Sequence[Mount], user: str, group_add: Sequence[str] = ()) -> users.Identity | None:
    """The identity of `user`; None if it can be found only in mounted layers. Reads files: call it on a thread. Raises
    `InvalidParameter` for an unknown name."""
    try:
        layers = _layers(mounts)
        return users.identify(_read(layers, "passwd"), _read(layers, "group"), user, group_add)
    except (_UnreadableError, OSError):
        return None


def _layers(mounts: Sequence[Mount]) -> list[str]:
    """The directories of the layers, the uppermost first."""
    if not mounts:
        return []
    if len(mounts) > 1 or mounts[0].target:
        raise _UnreadableError
    (mount,) = mounts
    if mount.type == "bind":
        return [mount.source]
    lowers = [option.removeprefix("lowerdir=") for option in mount.options if option.startswith("lowerdir=")]
    if mount.type != "overlay" or len(lowers) != 1:
        raise _UnreadableError
    return lowers[0].split(":")


def _read(layers: Sequence[str], name: str) -> str:
    for layer in layers:
        directory = f"{layer}/etc"
        try:
            info = os.lstat(directory)
        except FileNotFoundError:
            continue
        if _is_whiteout(info):
            return ""
        if not stat.S_ISDIR(info.st_mode):
            raise _UnreadableError
        try:
            info = os.lstat(f"{directory}/{name}")
        except FileNotFoundError:
            if _is_opaque(directory):
                return ""
            continue
        if _is_whiteout(info):
            return ""
        if not stat.S_ISREG(info.st_mode):  # a symlink may lead to a file of another layer
            raise _UnreadableError
        root = os.open(layer, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return users.read(root, f"/etc/{name}")
        finally:
            os.close(root)
    return ""


def _is_whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _is_opaque(directory: str) -> bool:
    try:
        return os.getxattr(directory, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False
