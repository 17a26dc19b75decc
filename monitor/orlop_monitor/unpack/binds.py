"""Mounts a container's binds and volumes in its root, for a worker that reads or writes the container's files.

Mount points are resolved inside the root, because the container may have replaced them by symlinks. If the worker may write,
missing mount points are created, as dockerd and runtimes do. If the worker only reads and a mount point is missing, the
surrounding tree is first covered by an overlay on a tmpfs, so that neither the container nor a volume is changed.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field

from orlop_sdk.linux import attach_tree, change_mount, clone_tree, mount, open_in_root, umount
from orlop_sdk.subpaths import open_subpath

from .errors import UnpackError
from .request import Bind
from .tree import Tree, clean

__all__ = ["DANGER", "place"]

DANGER = ("nosuid", "nodev", "noexec")


@dataclass(slots=True)
class _Source:
    """An opened bind. `fd` is the tree to mount. `detached`: the tree is a detached mount (of an image), not a path in this
    namespace."""

    bind: Bind
    fd: int
    detached: bool
    children: list[_Source] = field(default_factory=list)

    @property
    def directory(self) -> bool:
        return stat.S_ISDIR(os.fstat(self.fd).st_mode)


def place(root: str, binds: Sequence[Bind], *, writable: bool) -> None:
    """Mount all binds in the tree at `root`. A bind that cannot be mounted is left out. For example, its source or mount
    point is missing, or its subpath leads out of the volume."""
    with ExitStack() as stack:
        sources = []
        for bind in sorted(binds, key=lambda bind: bind.destination.count("/")):
            with suppress(OSError):
                source = _source(bind, root)
                stack.callback(os.close, source.fd)
                sources.append(source)
        _fill(root, "/", _nested(sources), writable)


def _source(bind: Bind, scratch: str) -> _Source:
    """Open a bind's source. `scratch` is a directory that is used as a temporary mount point."""
    if not bind.mounts:
        return _Source(bind, open_subpath(bind.source, bind.subpath), detached=False)
    made: list[str] = []
    try:
        for each in bind.mounts:
            target = each.mountpoint or scratch
            mount(each.type, each.source, target, each.options)
            made.append(target)
        part = open_subpath(scratch, bind.subpath)
        try:
            return _Source(bind, clone_tree(f"/proc/self/fd/{part}"), detached=True)
        finally:
            os.close(part)
    finally:
        for target in reversed(made):
            umount(target)


def _nested(sources: Sequence[_Source]) -> list[_Source]:
    """Arrange sources as a tree by destination: the parent of a source is the source with the deepest destination above it.
    `sources` must be sorted by depth."""
    top: list[_Source] = []
    for index, source in enumerate(sources):
        above = [other for other in sources[:index] if source.bind.destination.startswith(f"{other.bind.destination}/")]
        (above[-1].children if above else top).append(source)
    return top


def _fill(root: str, where: str, sources: Sequence[_Source], writable: bool) -> None:
    """Mount `sources` and their children. `where` is the path, inside `root`, of the tree that contains their mount points.
    `writable`: missing mount points may be created in this tree."""
    covered = False
    if not writable and not all(_exists(root, source.bind.destination) for source in sources):
        with suppress(OSError):
            _cover(root, where)
            covered = True
    for source in sources:
        destination, readonly = source.bind.destination, source.bind.readonly
        if writable or covered:
            with suppress(OSError, UnpackError):
                _make_point(root, destination, directory=source.directory)
        try:
            _mount(root, source)
        except OSError:
            continue  # the mount point is missing, or only one of source and mount point is a directory
        _fill(root, destination, source.children, writable and not readonly)
        _protect(root, destination, readonly=readonly)


def _exists(root: str, path: str) -> bool:
    try:
        os.close(_open(root, path))
    except OSError:
        return False
    return True


def _open(root: str, path: str, flags: int = os.O_PATH) -> int:
    """Open a path below `root`. Each call opens the root again, because an overlay may have covered the root since the last
    call."""
    top = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_in_root(top, path, flags)
    finally:
        os.close(top)


def _make_point(root: str, path: str, *, directory: bool) -> None:
    top = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    tree = Tree(top)
    try:
        name = clean(os.fsencode(path))
        if directory:
            tree.directory(name)
            return
        head, _, last = name.rpartition(b"/")
        flags = os.O_CREAT | os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(last, flags, 0o755, dir_fd=tree.directory(head).fd))
    finally:
        tree.forget()
        os.close(top)


def _mount(root: str, source: _Source) -> None:
    target = _open(root, source.bind.destination)
    try:
        if source.detached:
            attach_tree(source.fd, f"/proc/self/fd/{target}")
        else:
            mount("bind", f"/proc/self/fd/{source.fd}", f"/proc/self/fd/{target}", ("rbind",))
    finally:
        os.close(target)


def _protect(root: str, path: str, *, readonly: bool) -> None:
    target = _open(root, path)
    try:
        change_mount(f"/proc/self/fd/{target}", (*DANGER, *(("ro",) if readonly else ())))
    finally:
        os.close(target)


def _cover(root: str, path: str) -> None:
    """Mount an overlay over the tree at `path`. The overlay shows the tree's content, and stores changes in a tmpfs."""
    lower = _open(root, path, os.O_PATH | os.O_DIRECTORY)
    try:
        mount("tmpfs", "tmpfs", f"/proc/self/fd/{lower}", ("mode=0700",))
        scratch = _open(root, path, os.O_PATH | os.O_DIRECTORY)
        try:
            upper, work = f"/proc/self/fd/{scratch}/upper", f"/proc/self/fd/{scratch}/work"
            info = os.fstat(lower)
            os.mkdir(upper, stat.S_IMODE(info.st_mode))
            os.chown(upper, info.st_uid, info.st_gid)
            os.utime(upper, ns=(info.st_atime_ns, info.st_mtime_ns))
            os.mkdir(work, 0o700)
            options = (f"lowerdir=/proc/self/fd/{lower}", f"upperdir={upper}", f"workdir={work}")
            mount("overlay", "overlay", f"/proc/self/fd/{scratch}", options)
        except BaseException:
            umount(f"/proc/self/fd/{scratch}")
            raise
        finally:
            os.close(scratch)
    finally:
        os.close(lower)
