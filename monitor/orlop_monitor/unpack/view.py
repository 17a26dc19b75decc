"""A container's files as its processes see them, for a worker that reads or writes them.

The worker makes these files its root, in its own mount namespace, and detaches everything else. Even if the container
changes symlinks meanwhile, no path leads out of the container's files.
"""

from __future__ import annotations

import os
import stat

from orlop_sdk.linux import CLONE_NEWNS, change_mount, setns

from . import binds
from .copyup import mount_root
from .errors import UnpackError
from .pack import Packer, go_mode
from .request import Found, View
from .sandbox import confine, enter, enter_user_namespace, own_mounts

__all__ = ["NoSuchPath", "ResolvedPath", "describe", "directory", "make", "pack", "pack_all"]


def make(view: View, namespace: int, user: int = -1) -> None:
    """Make the files of the view, and nothing else, accessible to this process as its root. `namespace` is the mount
    namespace of a running container's monitor, or -1 for a container that does not run. `user` is the container's user
    namespace, -1 for the host's."""
    if namespace >= 0:
        setns(namespace, CLONE_NEWNS)
        os.close(namespace)
    own_mounts()
    if namespace < 0:
        mount_root(view.mounts, view.root)
    binds.place(view.root, view.binds, writable=view.writable)
    enter(view.root, recursive=True)
    if view.readonly:
        change_mount("/", ("ro", *binds.DANGER))
    if user >= 0:
        enter_user_namespace(user)
    confine(file_size=1 << 62, trusted_xattrs=False)


class NoSuchPath(Exception):
    """The path does not exist in the container."""


class ResolvedPath:
    """A path in the view, resolved as in Docker. Symlinks are followed, except that a symlink in the last component is
    followed only if the path ends with "/" or "/.". Raises `NoSuchPath`, and `UnpackError` when a component is not a
    directory. Keeps a descriptor of the parent directory open, so that later changes of the path have no effect."""

    def __init__(self, path: str) -> None:
        follow = path.endswith(("/", "/."))
        normal = os.path.normpath("/" + path).replace("//", "/")
        self.shown = "." if path.endswith("/.") else normal.rpartition("/")[2] or "/"
        if follow:
            normal = os.path.realpath(normal)
        head, _, self.name = normal.rpartition("/")
        try:
            self.parent = os.open(os.path.realpath(head or "/"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self.info = os.stat(self.name or ".", dir_fd=self.parent, follow_symlinks=False)
        except FileNotFoundError:
            raise NoSuchPath(path) from None
        except NotADirectoryError:
            raise UnpackError(f"{path}: not a directory") from None
        if follow and not stat.S_ISDIR(self.info.st_mode):
            raise UnpackError(f"{path}: not a directory")
        self.path = normal


def describe(resolved: ResolvedPath) -> Found:
    info = resolved.info
    link = os.path.realpath(resolved.path) if stat.S_ISLNK(info.st_mode) else ""
    return Found(resolved.shown, info.st_size, go_mode(info.st_mode), info.st_mtime_ns, link)


def pack(packer: Packer, resolved: ResolvedPath) -> None:
    """Pack a path and everything below it. Names in the tar begin with the last component of the path."""
    if resolved.name:
        packer.tree(resolved.parent, resolved.name, os.fsencode(resolved.shown))
    else:
        packer.content(resolved.parent, b"" if resolved.shown == "/" else b".", head=True)


def pack_all(packer: Packer) -> None:
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        packer.content(root, b"")
    finally:
        os.close(root)


def directory(path: str) -> int:
    """Open the directory to unpack into, following symlinks. Raises `NoSuchPath`, or `UnpackError` for other types of
    files."""
    try:
        return os.open(os.path.realpath("/" + path), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoSuchPath(path) from None
    except NotADirectoryError:
        raise UnpackError("extraction point is not a directory") from None
