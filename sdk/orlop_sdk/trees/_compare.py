"""Comparison of two complete trees: the changes of a snapshot, and its own disk usage.

The new tree may belong to a running container, so it is read relative to descriptors. The old tree never changes. A path
into it is safe if each component was found to be a directory, not a symlink.
"""

from __future__ import annotations

import os
import stat

from orlop_sdk.files import walk
from orlop_sdk.storage import Change, ChangeKind, Usage

__all__ = ["tree_changes", "tree_growth"]


def _differs(new: os.stat_result, old: os.stat_result) -> bool:
    """Docker's rule (moby archive/changes_unix.go): files differ if mode, owner, device or time differ. The size is compared
    too, except for directories."""
    if (new.st_mode, new.st_uid, new.st_gid, new.st_rdev) != (old.st_mode, old.st_uid, old.st_gid, old.st_rdev):
        return True
    return new.st_mtime_ns != old.st_mtime_ns or (not stat.S_ISDIR(new.st_mode) and new.st_size != old.st_size)


def _old_entries(old: str | None) -> dict[str, os.stat_result]:
    if old is None:
        return {}
    with os.scandir(old) as entries:
        return {entry.name: entry.stat(follow_symlinks=False) for entry in entries}


def tree_changes(new: str, old: str | None) -> list[Change]:
    """All changes from `old` (None: an empty tree), sorted by path."""
    found: dict[str, ChangeKind] = {}
    below: dict[str, str | None] = {"": old}

    def note(path: str, kind: ChangeKind) -> None:
        found[f"/{path}"] = kind
        while path := path.rpartition("/")[0]:
            found.setdefault(f"/{path}", ChangeKind.MODIFIED)

    root = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for path, _, entries in walk(root):
            directory = below.pop(path, None)
            before = _old_entries(directory)
            for name, info in entries:
                full = f"{path}/{name}" if path else name
                known = before.pop(name, None)
                if known is None:
                    note(full, ChangeKind.ADDED)
                elif _differs(info, known):
                    note(full, ChangeKind.MODIFIED)
                if known is not None and stat.S_ISDIR(known.st_mode) and stat.S_ISDIR(info.st_mode):
                    below[full] = f"{directory}/{name}"
            for name in before:
                note(f"{path}/{name}" if path else name, ChangeKind.DELETED)
    finally:
        os.close(root)
    return [Change(path, found[path]) for path in sorted(found)]


def tree_growth(new: str, old: str | None) -> Usage:
    """The usage that a snapshot adds to its parent: the usage of new and different files. A file with several hard links is
    counted once."""
    size = inodes = 0
    below: dict[str, str | None] = {"": old}
    linked: set[int] = set()
    root = os.open(new, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        for path, _, entries in walk(root):
            directory = below.pop(path, None)
            before = _old_entries(directory)
            for name, info in entries:
                known = before.get(name)
                if known is not None and stat.S_ISDIR(info.st_mode) and stat.S_ISDIR(known.st_mode):
                    below[f"{path}/{name}" if path else name] = f"{directory}/{name}"
                if (known is not None and not _differs(info, known)) or info.st_ino in linked:
                    continue
                if info.st_nlink > 1 and not stat.S_ISDIR(info.st_mode):
                    linked.add(info.st_ino)
                inodes += 1
                if stat.S_ISREG(info.st_mode):
                    size += info.st_size
    finally:
        os.close(root)
    return Usage(size, inodes)
