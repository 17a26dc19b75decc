"""A durable index of snapshots for storage drivers: which key is which directory, on top of which.

One symbolic link a snapshot, `active/<key>` or `committed/<key>`, whose target is a record, not a path: "<id>", or
"<id>:<parent's id>" (Emacs keeps its locks that way). Links are metadata, so a journalling file system keeps each whole or
not at all, without a sync of ours; making one active is one symlink(2), committing it one rename(2), both atomic. Ids are
the driver's own directory names.

All functions block. Nothing here may import trio.
"""

from __future__ import annotations

import logging
import os
import re
import uuid
from collections.abc import Callable, Collection

import msgspec

from .common import Drift
from .errors import InvalidParameter

__all__ = ["SnapshotIndex", "SnapshotRecord", "check_key", "fsync_directory"]

_log = logging.getLogger("orlop.storage")
_KEY = re.compile(r"[A-Za-z0-9:_.-]{1,128}")
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


def check_key(key: str) -> None:
    """`InvalidParameter` when `key` is not one (SPI: `[A-Za-z0-9:_.-]{1,128}`), or could not be a file name."""
    if not _KEY.fullmatch(key) or key in (".", ".."):
        raise InvalidParameter(f"cannot use {key!r} as a snapshot key: 1 to 128 of A-Z a-z 0-9 : _ . - are allowed")


def fsync_directory(path: str) -> None:
    """Make the names in a directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _listed(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


class SnapshotRecord(msgspec.Struct, frozen=True):
    """`id` is the driver's name for it, `parent` that of its parent, None for none."""

    id: str
    parent: str | None
    committed: bool


class SnapshotIndex:
    """Owns its directory. Concurrent calls must be about different keys. What is no record is moved to `damaged/`, so that
    the rest can be used, and its key again."""

    def __init__(self, directory: str) -> None:
        self._active = os.path.join(directory, "active")
        self._committed = os.path.join(directory, "committed")
        self._damaged = os.path.join(directory, "damaged")

    def load(self) -> dict[str, SnapshotRecord]:
        """All snapshots, by key. Makes the directories where they are missing."""
        for directory in (self._active, self._committed):
            os.makedirs(directory, 0o700, exist_ok=True)
        found, damaged = self._read()
        for path in damaged:
            _log.error("%s says of no snapshot where it is: moved to %s", path, self._damaged)
            os.makedirs(self._damaged, 0o700, exist_ok=True)
            os.rename(path, os.path.join(self._damaged, f"{os.path.basename(path)[:100]}-{uuid.uuid4().hex[:8]}"))
        return found

    def _read(self) -> tuple[dict[str, SnapshotRecord], list[str]]:
        """The records, and the paths of what is none."""
        found, damaged = {}, []
        for directory, committed in ((self._active, False), (self._committed, True)):
            for key in _listed(directory):
                path = os.path.join(directory, key)
                try:
                    ident, _, parent = os.readlink(path).partition(":")
                except FileNotFoundError:
                    continue  # dropped meanwhile
                except OSError:
                    ident, parent = "", ""
                if _ID.fullmatch(ident) and (not parent or _ID.fullmatch(parent)) and _KEY.fullmatch(key):
                    found[key] = SnapshotRecord(ident, parent or None, committed)
                else:
                    damaged.append(path)
        return found, damaged

    def compare(self, present: Collection[str], is_empty: Callable[[str], bool]) -> list[Drift]:
        """For `StorageAudit.audit`: the index against the directories that there are, by id. Only what is empty may be
        removed for want of a record: that of another may have been lost."""
        records, damaged = self._read()
        lost = [*damaged, *(os.path.join(self._damaged, name) for name in _listed(self._damaged))]
        found = [Drift("damaged", f"index entry {path}", "says of no snapshot where it is") for path in sorted(lost)]
        ids = {record.id for record in records.values()}
        for key, record in sorted(records.items()):
            if record.id not in present:
                found.append(Drift("missing", f"snapshot {key[:19]}", "its directory is gone", id=key))
            elif record.parent is not None and record.parent not in ids:
                found.append(Drift("damaged", f"snapshot {key[:19]}", "a layer below it is missing", id=key))
        for ident in sorted(set(present) - ids):
            text, repair = "is of no snapshot, and holds files", ""
            if is_empty(ident):
                text, repair = "is of no snapshot, and empty", "remove it"
            found.append(Drift("stray", f"directory {ident}", text, repair, note=ident))
        return found

    def knows(self, ident: str) -> bool:
        """Whether a snapshot is there."""
        return any(record.id == ident for record in self._read()[0].values())

    def add(self, key: str, ident: str, parent: str | None) -> None:
        """Add an active snapshot. Atomic, not synced."""
        os.symlink(f"{ident}:{parent}" if parent else ident, os.path.join(self._active, key))

    def commit(self, key: str, name: str) -> None:
        """Active `key` becomes committed `name`. Durable on return; the snapshot's content must have been before."""
        os.rename(os.path.join(self._active, key), os.path.join(self._committed, name))
        fsync_directory(self._committed)
        fsync_directory(self._active)

    def drop(self, key: str, *, committed: bool) -> None:
        """Forget a snapshot. Gone already: no error."""
        try:
            os.unlink(os.path.join(self._committed if committed else self._active, key))
        except FileNotFoundError:
            pass
