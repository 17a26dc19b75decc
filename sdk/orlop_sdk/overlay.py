"""Overlay mounts, and the changes that they leave in the upper directory, for storage drivers that use overlayfs.

This module must not import trio.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from .common import Mount
from .errors import DriverError, InvalidParameter
from .files import walk
from .storage import Change, ChangeKind

__all__ = ["MAX_LOWERS", "check_root", "overlay_changes", "overlay_mount", "plain_mount"]

MAX_LOWERS = 128  # Docker's limit of layers (its error: `max depth exceeded`)
_PAGE = 4095  # mount(2) copies one page of options, including the terminating NUL

# Set explicitly, because a host may change the defaults by module parameters. With other values of metacopy and
# redirect_dir, the format of layers would change. With another value of index, the kernel would refuse lower directories
# that several mounts share.
_FIXED = ("index=off", "xino=off", "metacopy=off", "redirect_dir=off", "nfs_export=off")


def check_root(root: str) -> None:
    """Raise `InvalidParameter` when `root` contains a character that has a meaning in mount options."""
    for character in ",:\\":
        if character in root:
            raise InvalidParameter(f"cannot use {root} for overlay mounts: its path must not contain {character!r}")


def plain_mount(diff: str, *, readonly: bool) -> tuple[Mount, ...]:
    """The mount of a single layer. A single layer needs no overlay."""
    return (Mount("bind", diff, "", ("bind", "ro" if readonly else "rw", "rprivate")),)


def overlay_mount(
    root: str, lowers: Sequence[str], directory: str | None = None, *, volatile: bool = False
) -> tuple[Mount, ...]:
    """An overlay mount of `lowers` (paths below `root`, the uppermost first). `directory` is the writable layer on top of
    them; None for a read-only mount. If the options do not fit in a page, `linux.mount` uses paths relative to `root`. With
    such paths, the options of 128 layers fit; for more, `DriverError` is raised."""
    options = [*_FIXED, "lowerdir=" + ":".join(f"{root}/{path}" for path in lowers)]
    if directory is not None:
        options += [f"upperdir={directory}/diff", f"workdir={directory}/work"]
    if directory is not None and volatile:
        options.append("volatile")
    length = len(os.fsencode(",".join(options))) - len(os.fsencode(root) + b"/") * (
        len(lowers) + 2 * (directory is not None)
    )
    if len(lowers) > MAX_LOWERS or length > _PAGE:
        raise DriverError(f"cannot mount {len(lowers)} layers: max depth exceeded, {MAX_LOWERS} is the most")
    return (Mount("overlay", "overlay", "", ("rw" if directory is not None else "ro", *options)),)


# --- changes


def _whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _opaque(target: int | str) -> bool:
    try:
        return os.getxattr(target, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _lookup(lowers: Sequence[str], path: str) -> tuple[os.stat_result | None, list[str]]:
    """Returns the file that is visible at `path` when `lowers` are merged; None if there is no file. For a directory, also
    returns the layers whose directories are merged into it, the uppermost first. The parent of `path` must be a directory in
    each of `lowers`."""
    shown: os.stat_result | None = None
    merged: list[str] = []
    for lower in lowers:
        try:
            info = os.lstat(f"{lower}/{path}")
        except (FileNotFoundError, NotADirectoryError):
            continue
        if _whiteout(info):
            break
        if shown is None:
            shown = info
        if not stat.S_ISDIR(info.st_mode):
            break
        merged.append(lower)
        if _opaque(f"{lower}/{path}"):
            break
    return shown, merged


def _names(lowers: Sequence[str], path: str) -> set[str]:
    """The names in the directory `path` of the merged lower layers."""
    shown: set[str] = set()
    hidden: set[str] = set()
    for lower in lowers:
        with os.scandir(f"{lower}/{path}") as entries:
            for entry in entries:
                if entry.name not in shown:
                    (hidden if _whiteout(entry.stat(follow_symlinks=False)) else shown).add(entry.name)
    return shown - hidden


def _unchanged(new: os.stat_result, old: os.stat_result) -> bool:
    """Whether a directory is in the upper layer only because an entry below the directory has changed. As in Docker, this is
    so if the directory's mode, owner and time are unchanged."""
    if not (stat.S_ISDIR(new.st_mode) and stat.S_ISDIR(old.st_mode)):
        return False
    return (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns) == (old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns)


def overlay_changes(upper: str, lowers: Sequence[str]) -> list[Change]:
    """All changes of the directory `upper` against `lowers`, sorted by path. overlayfs's whiteouts and opaque xattrs show
    what has changed, so the trees are not compared as a whole.

    The upper directory may belong to a running container, so it is read relative to descriptors. Lower directories never
    change. A path into them is safe if each component was found to be a directory, not a symlink."""
    found: dict[str, ChangeKind] = {}
    below: dict[str, list[str]] = {"": list(lowers)}

    def note(path: str, kind: ChangeKind) -> None:
        found[f"/{path}"] = kind
        while (path := path.rpartition("/")[0]) and f"/{path}" not in found:  # `found` contains all parents of each path
            found[f"/{path}"] = ChangeKind.MODIFIED

    root = os.open(upper, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for path, fd, entries in walk(root):
            here = below.pop(path, [])
            if here and path and _opaque(fd):
                for name in _names(here, path) - {name for name, _ in entries}:
                    note(f"{path}/{name}", ChangeKind.DELETED)
            for name, info in entries:
                full = f"{path}/{name}" if path else name
                old, merged = _lookup(here, full)
                if merged:
                    below[full] = merged
                if _whiteout(info):
                    if old is not None:
                        note(full, ChangeKind.DELETED)
                elif old is None:
                    note(full, ChangeKind.ADDED)
                elif not _unchanged(info, old):
                    note(full, ChangeKind.MODIFIED)
    finally:
        os.close(root)
    return [Change(path, found[path]) for path in sorted(found)]
