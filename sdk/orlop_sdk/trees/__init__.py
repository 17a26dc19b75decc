"""A base for storage drivers that keep each snapshot in a directory. It needs trio (the extra `storage` of the SDK).

`TreeStorage` implements `Storage` and `StorageAudit`. A driver derives from `TreeStorage` and defines how a new tree is made
(`create`). A driver for which the defaults are wrong also defines how a tree is mounted, synced, measured, compared or
destroyed. `OverlayStorage` is the base of drivers that stack layers by overlayfs; it implements `LayerRebase`, too.

The base owns everything below the driver's root:

    <place>/<id>                             a snapshot
    .orlop/{active,committed}/<key>          index: the directory and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                      a snapshot that is being made; the next start deletes it
    .orlop/trash/<id>                        a removed snapshot, which is deleted in the background

A snapshot exists when its key is in `.orlop`. After a crash at any point, the next start deletes incomplete snapshots.
Directories without an entry in `.orlop` are never changed. For example, a dockerd that used the same root before may have
left such directories.
"""

from ._overlay import OverlaySnapshot, OverlayStorage
from ._storage import Snapshot, TreeStorage

__all__ = ["OverlaySnapshot", "OverlayStorage", "Snapshot", "TreeStorage"]
