"""The changes of a layer: finds the differences between two roots, and applies them to a third root. All functions block."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from orlop_build_dockerfile.contracts import BuildFailed

from . import paths
from .copying import Copier, Options, remove_tree

__all__ = ["Changes", "apply_changes", "find_changes"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
_MAX_DEPTH = 400  # each level needs two file descriptors
_CHUNK = 1 << 20


@dataclass(frozen=True, slots=True)
class Changes:
    """Paths below the root, without a slash at the beginning. `changed` are the added or changed entries, including all
    entries of new directories. `deleted` contains only the top of a deleted tree. `above` are the directories above changed
    entries."""

    changed: set[str] = field(default_factory=set)
    deleted: list[str] = field(default_factory=list)
    above: set[str] = field(default_factory=set)


def find_changes(lower: int, upper: int) -> Changes:
    """The differences of the root `upper` from `lower`. A file is unchanged if its metadata, inode and ctime are the same.
    If only the metadata is the same, the contents are compared."""
    found = Changes()
    _compare(found, lower, upper, "", 0)
    for path in found.changed:
        while path := os.path.dirname(path):
            if path in found.above:
                break
            found.above.add(path)
    return found


def _entries(directory: int) -> dict[str, os.stat_result]:
    with os.scandir(directory) as entries:
        return {entry.name: entry.stat(follow_symlinks=False) for entry in entries}


def _compare(found: Changes, lower: int, upper: int, path: str, depth: int) -> None:
    """Compare two directories; `lower` is -1 if there is none."""
    if depth > _MAX_DEPTH:
        raise BuildFailed(f"cannot compare {path[:200]}: directories are nested deeper than {_MAX_DEPTH}")
    before = _entries(lower) if lower >= 0 else {}
    after = _entries(upper)
    found.deleted.extend(f"{path}{name}" for name in sorted(before.keys() - after.keys()))
    for name, info in sorted(after.items()):
        was = before.get(name)
        if was is None or not _same(was, info, lower, upper, name):
            found.changed.add(f"{path}{name}")
        if stat.S_ISDIR(info.st_mode):
            with paths.opened(os.open(name, _DIRECTORY, dir_fd=upper)) as inner:
                if was is None or not stat.S_ISDIR(was.st_mode):
                    _compare(found, -1, inner, f"{path}{name}/", depth + 1)
                else:
                    with paths.opened(os.open(name, _DIRECTORY, dir_fd=lower)) as old:
                        _compare(found, old, inner, f"{path}{name}/", depth + 1)


def _same(was: os.stat_result, info: os.stat_result, lower: int, upper: int, name: str) -> bool:
    if (was.st_mode, was.st_uid, was.st_gid) != (info.st_mode, info.st_uid, info.st_gid):
        return False
    if _identity(was) == _identity(info):
        return True
    kind = stat.S_IFMT(info.st_mode)
    if kind == stat.S_IFDIR:
        return _attributes(lower, name) == _attributes(upper, name)
    if was.st_mtime_ns != info.st_mtime_ns:
        return False
    if kind == stat.S_IFLNK:
        return os.readlink(name, dir_fd=lower) == os.readlink(name, dir_fd=upper)
    if kind != stat.S_IFREG:
        return was.st_rdev == info.st_rdev
    return (
        was.st_size == info.st_size and _attributes(lower, name) == _attributes(upper, name) and _equal(lower, upper, name)
    )


def _identity(info: os.stat_result) -> tuple[int, int, int, int]:
    return info.st_ino, info.st_ctime_ns, info.st_mtime_ns, info.st_size


def _attributes(directory: int, name: str) -> dict[str, bytes]:
    with paths.opened(os.open(name, _READ, dir_fd=directory)) as fd:
        return {each: os.getxattr(fd, each) for each in os.listxattr(fd) if not each.startswith("trusted.overlay.")}


def _equal(lower: int, upper: int, name: str) -> bool:
    with paths.opened(os.open(name, _READ, dir_fd=lower)) as one, paths.opened(os.open(name, _READ, dir_fd=upper)) as other:
        while True:
            data = os.read(one, _CHUNK)
            if data != os.read(other, _CHUNK):
                return False
            if not data:
                return True


class _ChangesOnly(Copier):
    def __init__(self, source: int, target: int, changes: Changes) -> None:
        super().__init__(source, target, Options(contents=True, replace=True))
        self._changes = changes

    def _included(self, path: str) -> bool:
        return path in self._changes.changed

    def _entered(self, path: str) -> bool:
        return path in self._changes.above or path in self._changes.changed


def apply_changes(source: int, target: int, changes: Changes | None, deleted: Iterable[str] = ()) -> None:
    """Apply changes: copy the changed entries of the root `source` to the root `target`, and remove the deleted entries.
    Without `changes`, all entries of `source` are copied. Directories get the owner, mode and time that they have in the
    source."""
    for path in (*deleted, *(changes.deleted if changes else ())):
        _delete(target, path)
    if changes is None:
        Copier(source, target, Options(contents=True, replace=True)).copy("/", "/")
    else:
        _ChangesOnly(source, target, changes).copy("/", "/")


def _delete(root: int, path: str) -> None:
    try:
        parent, name = paths.parent_of(root, path)
    except (FileNotFoundError, NotADirectoryError):
        return
    with paths.opened(parent):
        remove_tree(parent, name)
