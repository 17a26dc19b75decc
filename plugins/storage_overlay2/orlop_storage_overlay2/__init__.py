"""The storage driver `overlay2`: one directory per layer, stacked by overlayfs.

The on-disk layout is Docker's (moby daemon/graphdriver/overlay2).

All files below the driver's root belong to the driver:

    l/<26 characters>  ->  ../<id>/diff      short names, so that mount options stay short
    <id>/{diff,work,link,lower,committed}    a layer; `lower` and `link` are for tools and can be rebuilt from `.orlop`
    .orlop/{active,committed}/<key>          index: the directory and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                      a snapshot that is being made; the next start deletes it
    .orlop/trash/<id>                        a removed snapshot, which is deleted in the background

A snapshot exists if its key is in `.orlop`. After a crash at any point, the next daemon completes or deletes incomplete
snapshots. Layers that are not in `.orlop` (of a dockerd that used the same directory) are never changed.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Overlay2
from .options import check_options

__all__ = ["Overlay2", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("overlay2", Overlay2, check_options=check_options)
