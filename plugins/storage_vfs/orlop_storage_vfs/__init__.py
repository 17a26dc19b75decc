"""The storage driver `vfs`. Each snapshot is a complete tree. The driver works on every file system. If the file system has
reflinks (xfs, btrfs), snapshots share blocks. On other file systems, each snapshot needs the disk space and time of a full
copy.

All files below the driver's root belong to the driver:

    dir/<id>                                 a tree (as in Docker's vfs)
    .orlop/{active,committed}/<key>          index: the tree and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                      a tree that is being copied; the next start deletes it
    .orlop/trash/<id>                        a removed snapshot, which is deleted in the background

A snapshot exists if its key is in `.orlop`. After a crash at any point, the next daemon deletes incomplete snapshots.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Vfs, check_options

__all__ = ["Vfs", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("vfs", Vfs, check_options=check_options)
