"""A durable index of snapshots for storage drivers: which key is which directory, on top of which.

One symbolic link a snapshot, `active/<key>` or `committed/<key>`, whose target is a record, not a path: "<id>", or
"<id>:<parent's id>" (Emacs keeps its locks that way). Links are metadata, so a journalling file system keeps each whole or
not at all, without a sync of ours; making one active is one symlink(2), committing it one rename(2), both atomic. Ids are
the driver's own directory names.

All functions block. Nothing here may import trio.
"""

from __future__ import annotations

import os
import re

import msgspec

from .errors import InvalidParameter

__all__ = ["SnapshotIndex", "SnapshotRecord", "check_key", "fsync_directory"]

_KEY = re.compile(r"[A-Za-z0-9:_.-]{1,128}")


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


class SnapshotRecord(msgspec.Struct, frozen=True):
    """`id` is the driver's name for it, `parent` that of its parent, None for none."""

    id: str
    parent: str | None
    committed: bool


class SnapshotIndex:
    """Owns its directory. Concurrent calls must be about different keys."""

    def __init__(self, directory: str) -> None:
        self._active = os.path.join(directory, "active")
        self._committed = os.path.join(directory, "committed")

    def load(self) -> dict[str, SnapshotRecord]:
        """All snapshots, by key. Makes the directories where they are missing."""
        found = {}
        for directory, committed in ((self._active, False), (self._committed, True)):
            os.makedirs(directory, 0o700, exist_ok=True)
            for key in os.listdir(directory):
                ident, _, parent = os.readlink(os.path.join(directory, key)).partition(":")
                found[key] = SnapshotRecord(ident, parent or None, committed)
        return found

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
