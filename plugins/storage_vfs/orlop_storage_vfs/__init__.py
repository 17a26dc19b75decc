"""vfs: each snapshot is a whole tree of its own. Works on every file system, and shares blocks on those that can (reflinks
on xfs and btrfs); elsewhere it costs the disk space and time of a copy for each.

Owns everything below its root:

    dir/<id>                                 a tree (Docker's vfs has the same)
    .orlop/{active,committed}/<key>          which key is which tree, on top of which (spi.snapshots)
    .orlop/staging/<id>                      being copied; deleted at the next start
    .orlop/trash/<id>                        removed; deleted beside the work

A snapshot counts once its key is in `.orlop`. A crash at any point leaves nothing that the next start does not throw away.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Vfs, check_options

__all__ = ["Vfs", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("vfs", Vfs, check_options=check_options)
