"""The storage driver `vfs`: each snapshot is a complete tree. It works on every file system. Snapshots share blocks if the
file system has reflinks (xfs, btrfs); on others, each snapshot costs the disk space and time of a full copy.

The driver owns everything below its root:

    dir/<id>                                 a tree (as in Docker's vfs)
    .orlop/{active,committed}/<key>          index: the tree and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                      a tree that is being copied; the next start deletes it
    .orlop/trash/<id>                        a removed snapshot, which is deleted in the background

A snapshot exists when its key is in `.orlop`. After a crash at any point, the next start deletes partial work.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Vfs, check_options

__all__ = ["Vfs", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("vfs", Vfs, check_options=check_options)
