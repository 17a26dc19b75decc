"""The trees on disk. All functions block; call them on worker threads."""

from __future__ import annotations

import ctypes
import os
import secrets
from dataclasses import dataclass

from orlop_sdk import Drift
from orlop_sdk.files import Trash, copy_tree
from orlop_sdk.snapshots import SnapshotIndex, fsync_directory

__all__ = ["Layout", "Snapshot"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Snapshot:
    """`children` is the number of snapshots on top of this one. A lost parent does no harm, because each tree is
    complete."""

    id: str
    parent: str | None = None
    committed: bool = False
    children: int = 0


class Layout:
    def __init__(self, root: str) -> None:
        self.root = root
        self._private = os.path.join(root, ".orlop")
        self._staging = os.path.join(self._private, "staging")
        self._trees = os.path.join(root, "dir")
        self.index = SnapshotIndex(self._private)
        self.trash: Trash | None = None

    def path(self, snapshot: Snapshot) -> str:
        return os.path.join(self._trees, snapshot.id)

    def load(self) -> dict[str, Snapshot]:
        """Undo operations that a crash interrupted. Returns all snapshots by key."""
        for directory in (self._trees, self._private, self._staging):
            os.makedirs(directory, 0o700, exist_ok=True)
        self.trash = Trash(os.path.join(self._private, "trash"))
        for name in os.listdir(self._staging):
            self.trash.take(os.path.join(self._staging, name))
        records = self.index.load()
        keys = {record.id: key for key, record in records.items()}
        found = {}
        for key, record in records.items():
            if os.path.isdir(os.path.join(self._trees, record.id)):
                found[key] = Snapshot(record.id, keys.get(record.parent or ""), record.committed)
            else:
                self.index.drop(key, committed=record.committed)
        for snapshot in found.values():
            if snapshot.parent in found:
                found[snapshot.parent].children += 1
        return found

    def create(self, key: str, parent: Snapshot | None, parent_key: str | None) -> Snapshot:
        snapshot = Snapshot(secrets.token_hex(32), parent_key)
        staged = os.path.join(self._staging, snapshot.id)
        os.mkdir(staged)
        os.chmod(staged, 0o755)  # noqa: S103 - it becomes the root of a container
        try:
            if parent is not None:
                source = os.open(self.path(parent), _DIRECTORY)
                try:
                    target = os.open(staged, _DIRECTORY)
                    try:
                        copy_tree(source, target)
                    finally:
                        os.close(target)
                finally:
                    os.close(source)
            # The key first: `load` drops a key without a tree, but a tree without a key may belong to dockerd
            self.index.add(key, snapshot.id, parent.id if parent else None)
            os.rename(staged, self.path(snapshot))
        except BaseException:
            self.index.drop(key, committed=False)
            self._discard(staged)
            raise
        return snapshot

    def audit(self) -> list[Drift]:
        """Compare the index with the trees. Changes nothing."""
        present = set(os.listdir(self._trees)) if os.path.isdir(self._trees) else set()
        return self.index.compare(present, self._is_empty)

    def _is_empty(self, ident: str) -> bool:
        return not os.listdir(os.path.join(self._trees, ident))

    def discard(self, ident: str) -> None:
        """Remove a tree if it is empty and belongs to no snapshot."""
        path = os.path.join(self._trees, ident)
        if os.path.isdir(path) and not self.index.knows(ident) and self._is_empty(ident):
            os.rmdir(path)

    def _discard(self, path: str) -> None:
        assert self.trash
        self.trash.take(path)

    def commit(self, snapshot: Snapshot, key: str, name: str) -> None:
        fd = os.open(self.path(snapshot), _DIRECTORY)
        try:
            if _libc.syncfs(fd) < 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.path(snapshot))
        finally:
            os.close(fd)
        fsync_directory(self._trees)
        self.index.commit(key, name)

    def remove(self, snapshot: Snapshot, key: str) -> None:
        """Remove the tree, then the key: `load` drops a key without a tree after a crash between the two."""
        self._discard(self.path(snapshot))
        self.index.drop(key, committed=snapshot.committed)
