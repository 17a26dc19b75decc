"""The changes of an upper directory against its lower directories, read from overlayfs's whiteouts and opaque xattrs instead
of comparing whole trees.

The upper directory may belong to a running container, so it is read relative to descriptors. Lower directories never change,
so paths into them are safe if each component is known to be a directory and not a symlink.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence

from orlop_sdk import Change, ChangeKind
from orlop_sdk.files import walk

__all__ = ["overlay_changes"]


def _whiteout(info: os.stat_result) -> bool:
    return stat.S_ISCHR(info.st_mode) and info.st_rdev == 0


def _opaque(target: int | str) -> bool:
    try:
        return os.getxattr(target, "trusted.overlay.opaque") == b"y"
    except OSError:
        return False


def _lookup(lowers: Sequence[str], path: str) -> tuple[os.stat_result | None, list[str]]:
    """The entry that the merged `lowers` show at `path` (None for none), and those lower layers in which `path` is a
    directory that contributes to the merged one. The parent of `path` must be a directory in each of `lowers`."""
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
    """Whether a directory is in the upper layer only because an entry below it changed (Docker's rule: same mode, owner,
    time)."""
    if not (stat.S_ISDIR(new.st_mode) and stat.S_ISDIR(old.st_mode)):
        return False
    return (new.st_mode, new.st_uid, new.st_gid, new.st_mtime_ns) == (old.st_mode, old.st_uid, old.st_gid, old.st_mtime_ns)


def overlay_changes(upper: str, lowers: Sequence[str]) -> list[Change]:
    """All changes, sorted by path."""
    found: dict[str, ChangeKind] = {}
    below: dict[str, list[str]] = {"": list(lowers)}

    def note(path: str, kind: ChangeKind) -> None:
        found[f"/{path}"] = kind
        while path := path.rpartition("/")[0]:
            found.setdefault(f"/{path}", ChangeKind.MODIFIED)

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
