"""The storage driver `erofs`: layers are not unpacked. Each is an EROFS image, and containers are overlays on these mounts.

It follows containerd's EROFS snapshotter. A layer comes as a tar stream (`orlop_sdk.LayerStream`), of which mkfs.erofs makes
an image: an index of the tar, which is kept (mode "index"), or a whole file system (mode "full"). A container's writable
layer, and the init layer of an image, are directories, as in overlay2.

The driver owns everything below its root:

    <id>/diff                          a directory snapshot; empty in a layer, where monitors mount its image
    <id>/work                          overlayfs's, of a writable snapshot
    <id>/layer.erofs, layer.tar        the image, and the tar that the index refers to
    <id>/image                         what the image consists of; a snapshot with this file is an image, whatever it lacks
    .orlop/{active,committed}/<key>    index: the directory and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                being made; deleted at the next start
    .orlop/trash/<id>                  removed; deleted in the background

A snapshot exists when its key is in `.orlop`. A layer's files and its directory are synced before its key is committed, so
that a committed layer survives a power cut. The next start after a crash deletes what has no key.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Erofs
from .options import check_options

__all__ = ["Erofs", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("erofs", Erofs, check_options=check_options)
