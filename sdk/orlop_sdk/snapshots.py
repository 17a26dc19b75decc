"""A durable index of snapshots for storage drivers. It maps the key of each snapshot to the snapshot's directory and parent.

Each snapshot is one symbolic link, `active/<key>` or `committed/<key>`. The target of the link is not a path, but a record:
"<id>", or "<id>:<parent's id>". (Emacs stores its locks in this way.) Links are metadata. After a crash of the machine, a
link on a journalling file system is therefore either complete or missing, even without an fsync. A snapshot is added by one
symlink(2), and committed by one rename(2). Both calls are atomic. Ids are the driver's directory names.

All functions block. This module must not import trio.
"""

from __future__ import annotations

import ctypes
import logging
import os
import re
import uuid
from collections.abc import Callable, Collection

import msgspec

from .common import Drift
from .errors import InvalidParameter

__all__ = ["SnapshotIndex", "SnapshotRecord", "check_key", "fsync_directory", "fsync_file", "sync_filesystem"]

_log = logging.getLogger("orlop.storage")
_libc = ctypes.CDLL(None, use_errno=True)
_KEY = re.compile(r"[A-Za-z0-9:_.-]{1,128}")
_CHANGED = "changed-"  # the prefix of a new link's name; the new link is then renamed over the old link
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_key(key: str) -> None:
    """Raise `InvalidParameter` when `key` is not a valid key (`[A-Za-z0-9:_.-]{1,128}`, see `Storage`), or is "." or
    ".."."""
    if not _KEY.fullmatch(key) or key in (".", ".."):
        raise InvalidParameter(f"cannot use {key!r} as a snapshot key: 1 to 128 of A-Z a-z 0-9 : _ . - are allowed")


def fsync_directory(path: str) -> None:
    """Make the entries of a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def fsync_file(path: str) -> None:
    """Make a file's content durable."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_filesystem(path: str) -> None:
    """Make everything on the file system of the directory `path` durable (syncfs(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
    finally:
        os.close(fd)


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


class SnapshotRecord(msgspec.Struct, frozen=True):
    """One snapshot. `id` is the driver's directory name, `parent` the parent's id (None for no parent)."""

    id: str
    parent: str | None
    committed: bool


class SnapshotIndex:
    """The index in `directory`. No other code may change this directory. Concurrent calls must be for different keys. `load`
    moves invalid entries to `damaged/`. All other snapshots remain usable, and the keys of the invalid entries can be used
    again."""

    def __init__(self, directory: str) -> None:
        self._directory = directory
        self._active = os.path.join(directory, "active")
        self._committed = os.path.join(directory, "committed")
        self._damaged = os.path.join(directory, "damaged")

    def load(self) -> dict[str, SnapshotRecord]:
        """All snapshots, by key. Creates missing directories and quarantines invalid entries."""
        for directory in (self._active, self._committed):
            os.makedirs(directory, 0o700, exist_ok=True)
        for name in os.listdir(self._directory):
            if name.startswith(_CHANGED):
                os.unlink(os.path.join(self._directory, name))
        found, damaged = self._read()
        for path in damaged:
            _log.error("%s does not name the directory of a snapshot: moved to %s", path, self._damaged)
            os.makedirs(self._damaged, 0o700, exist_ok=True)
            os.rename(path, os.path.join(self._damaged, f"{os.path.basename(path)[:100]}-{uuid.uuid4().hex[:8]}"))
        return found

    def _read(self) -> tuple[dict[str, SnapshotRecord], list[str]]:
        """The valid records, and the paths of invalid entries."""
        found, damaged = {}, []
        for directory, committed in ((self._active, False), (self._committed, True)):
            for key in _listed(directory):
                path = os.path.join(directory, key)
                try:
                    ident, _, parent = os.readlink(path).partition(":")
                except FileNotFoundError:
                    continue  # the snapshot was dropped after the names were listed
                except OSError:
                    ident, parent = "", ""
                if _ID.fullmatch(ident) and (not parent or _ID.fullmatch(parent)) and _KEY.fullmatch(key):
                    found[key] = SnapshotRecord(ident, parent or None, committed)
                else:
                    damaged.append(path)
        return found, damaged

    def compare(self, present: Collection[str], is_empty: Callable[[str], bool]) -> list[Drift]:
        """For `StorageAudit.audit`: compare the index with `present`, the ids of the directories that exist. A directory
        without a record may be removed only if it is empty. If it has content, its record may have been lost."""
        records, damaged = self._read()
        lost = [*damaged, *(os.path.join(self._damaged, name) for name in _listed(self._damaged))]
        found = [
            Drift("damaged", f"index entry {path}", "does not name the directory of a snapshot") for path in sorted(lost)
        ]
        ids = {record.id for record in records.values()}
        for key, record in sorted(records.items()):
            if record.id not in present:
                found.append(Drift("missing", f"snapshot {key[:19]}", "its directory is missing", id=key))
            elif record.parent is not None and record.parent not in ids:
                found.append(Drift("damaged", f"snapshot {key[:19]}", "a layer below it is missing", id=key))
        for ident in sorted(set(present) - ids):
            text, repair = "belongs to no snapshot, but contains files", ""
            if is_empty(ident):
                text, repair = "belongs to no snapshot and is empty", "remove it"
            found.append(Drift("stray", f"directory {ident}", text, repair, note=ident))
        return found

    def read(self) -> dict[str, SnapshotRecord]:
        """The valid records, by key. Changes nothing, unlike `load`."""
        return self._read()[0]

    def knows(self, ident: str) -> bool:
        """Whether a snapshot with this id exists."""
        return any(record.id == ident for record in self.read().values())

    def add(self, key: str, ident: str, parent: str | None, *, committed: bool = False) -> None:
        """Add an active snapshot. If `committed` is true, add a committed snapshot, whose files exist already. The change is
        atomic, but not synced to disk."""
        os.symlink(
            f"{ident}:{parent}" if parent else ident, os.path.join(self._committed if committed else self._active, key)
        )

    def commit(self, key: str, name: str) -> None:
        """Turn the active snapshot `key` into the committed snapshot `name`. The change is durable when the method returns.
        The caller must sync the snapshot's content before this call."""
        self.commit_unsynced(key, name)
        self.sync()

    def commit_unsynced(self, key: str, name: str) -> None:
        """Like `commit`, but the change is durable only after a call of `sync`, and the snapshot's content need not be
        synced before."""
        os.rename(os.path.join(self._active, key), os.path.join(self._committed, name))

    def sync(self) -> None:
        """Make all earlier commits durable."""
        fsync_directory(self._committed)
        fsync_directory(self._active)

    def set_parent(self, key: str, ident: str, parent: str) -> None:
        """Give the active snapshot `key` a parent. The change is atomic, but not synced to disk."""
        changed = os.path.join(self._directory, f"{_CHANGED}{uuid.uuid4().hex}")
        os.symlink(f"{ident}:{parent}", changed)
        os.rename(changed, os.path.join(self._active, key))

    def drop(self, key: str, *, committed: bool) -> None:
        """Remove a snapshot from the index. Succeeds if there is no such snapshot."""
        try:
            os.unlink(os.path.join(self._committed if committed else self._active, key))
        except FileNotFoundError:
            pass
