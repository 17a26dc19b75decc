"""The storage driver `erofs`. Layers are not unpacked, but stored as EROFS images. The images are mounted, and a container's
root is an overlay on these mounts.

The design is the same as in containerd's EROFS snapshotter. The driver gets a layer as a tar stream
(`orlop_sdk.LayerStream`), and mkfs.erofs makes an image. In mode "index", the image is an index of the tar, and the tar is
kept. In mode "full", the image is a whole file system. A container's writable layer, and the init layer of an image, are
directories, as in overlay2.

All files below the driver's root belong to the driver:

    <id>/diff                          a directory snapshot; empty in a layer, where monitors mount its image
    <id>/work                          overlayfs's work directory, in a writable snapshot
    <id>/layer.erofs, layer.tar        the image, and the tar that the index refers to
    <id>/image                         record of the image: a snapshot with a record is an image, even if files are missing
    .orlop/{active,committed}/<key>    index: the directory and the parent of each key (orlop_sdk.snapshots)
    .orlop/staging/<id>                a snapshot that is being made; the next start deletes it
    .orlop/trash/<id>                  a removed snapshot, which is deleted in the background

A snapshot exists if its key is in `.orlop`. A layer's files and its directory are synced before its key is committed, so
that a committed layer survives a power cut. After a crash, the next daemon deletes all directories without a key.
"""

from orlop_sdk import hookimpl
from orlop_sdk.hooks import Register

from .driver import Erofs
from .options import check_options

__all__ = ["Erofs", "orlop_storage"]


@hookimpl
def orlop_storage(register: Register) -> None:
    register("erofs", Erofs, check_options=check_options)
