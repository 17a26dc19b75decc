"""The stage: trees outside of the container's root. The OCI spec binds these trees into the root (see `protocol.Tree`).

A subpath of a volume is resolved inside the volume and mounted by descriptor, in the monitor's mount namespace. The runtime
then binds from this mount, so that other containers cannot redirect the bind by changing symlinks in the volume. The stage
is a tmpfs in this namespace, mounted over a directory that is empty on the host. The kernel destroys the stage when this
process ends.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from orlop_sdk import linux
from orlop_sdk.subpaths import open_subpath

from . import mounting
from .protocol import Tree
from .shifting import Shift

__all__ = ["build"]


def build(stage: str, trees: Sequence[Tree], shift: Shift | None = None) -> None:
    """Mount all trees below `stage`. A raised `OSError` names the path. If `shift` is given, the trees are id-mapped, and
    the stage is accessible to other users, because the runtime then runs as another user."""
    if not trees and shift is None:
        return
    linux.mount("tmpfs", "tmpfs", stage, ["mode=0711" if shift else "mode=0700", "size=1m"])
    if shift:
        shift.open()
    for tree in trees:
        place = f"{stage}/{tree.name}"
        whole = f"{place}.whole" if tree.subpath else place
        os.mkdir(whole, 0o700)
        if tree.pid:
            _copy(tree, whole)
        elif shift:
            shift.mount_tree(whole, tree.mounts)
        else:
            mounting.mount_all(whole, tree.mounts)
        linux.mount("", "none", whole, ["rprivate"])
        if tree.subpath:
            _part(whole, tree.subpath, place)


def _copy(tree: Tree, target: str) -> None:
    home = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        fd = _taken(tree, home)
    finally:
        os.close(home)
    try:
        linux.attach_tree(fd, target)
    finally:
        os.close(fd)


def _taken(tree: Tree, home: int) -> int:
    """Copy the tree from another monitor's mount namespace. The thread enters that namespace, because open_tree(2) resolves
    paths only in the caller's namespace."""
    other = os.open(f"/proc/{tree.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        linux.setns(other, linux.CLONE_NEWNS)
        try:
            return linux.clone_tree(tree.path)
        finally:
            linux.setns(home, linux.CLONE_NEWNS)
    finally:
        os.close(other)


def _part(whole: str, subpath: str, place: str) -> None:
    try:
        fd = open_subpath(whole, subpath)
    except OSError as error:
        number = error.errno or 0
        why = "it leads outside of the mount source" if number == errno.EXDEV else os.strerror(number).lower()
        raise OSError(number, why, f"cannot access path {subpath}") from None
    try:
        mode = os.fstat(fd).st_mode
        if stat.S_ISDIR(mode):
            os.mkdir(place, 0o700)
        else:
            os.close(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
        linux.mount("bind", f"/proc/self/fd/{fd}", place, ["rbind", "rprivate"])
    finally:
        os.close(fd)
