"""A storage driver for tests of the kernel."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path

import trio

from orlop_sdk import (
    Change,
    ChangeKind,
    Conflict,
    Drift,
    InvalidParameter,
    Mount,
    NotFound,
    StorageCapabilities,
    StorageContext,
    UnpackTarget,
    Usage,
)
from orlop_sdk.files import copy_tree, delete_tree
from orlop_sdk.snapshots import SnapshotIndex, check_key

__all__ = ["FakeStorage"]


class FakeStorage:
    """A storage driver for tests of the kernel. Each snapshot is a complete copy. Needs no root, and passes `StorageSuite`.
    The state is in `context.root` and is found again by a new instance."""

    def __init__(self, context: StorageContext) -> None:
        self._root = context.root
        self._index = SnapshotIndex(context.root)
        self._changing = trio.Lock()  # trees are copied and deleted on worker threads

    @property
    def capabilities(self) -> StorageCapabilities:
        return StorageCapabilities(overlay_whiteouts=False, max_depth=1 << 16)

    def _get(self, key: str) -> tuple[str, str | None, bool]:
        """Returns (id, parent's key, committed)."""
        records = self._index.load()
        if key not in records:
            raise NotFound(f"snapshot {key} does not exist")
        record = records[key]
        parent = next((other for other, each in records.items() if each.id == record.parent), None)
        return record.id, parent, record.committed

    def _path(self, ident: str) -> str:
        return os.path.join(self._root, ident)

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        check_key(key)
        if options:
            raise InvalidParameter(f"cannot apply storage option {next(iter(options))}: the fake driver has none")
        async with self._changing:
            await self._prepare(key, parent)

    async def _prepare(self, key: str, parent: str | None) -> None:
        if key in self._index.load():
            _, known, committed = self._get(key)
            if committed or known != parent:
                raise Conflict(f"cannot prepare snapshot {key}: it exists")
            return
        below = None
        if parent is not None:
            below, _, committed = self._get(parent)
            if not committed:
                raise Conflict(f"cannot prepare snapshot {key}: its parent {parent} is not committed")
        ident = secrets.token_hex(8)
        os.mkdir(self._path(ident))
        if below is not None:
            await trio.to_thread.run_sync(self._copy, below, ident)
        self._index.add(key, ident, below)

    def _copy(self, below: str, ident: str) -> None:
        source, target = (os.open(self._path(each), os.O_RDONLY) for each in (below, ident))
        try:
            copy_tree(source, target)
        finally:
            os.close(source)
            os.close(target)

    async def commit(self, key: str, name: str) -> None:
        check_key(name)
        async with self._changing:
            await self._commit(key, name)

    async def _commit(self, key: str, name: str) -> None:
        records = self._index.load()
        if name in records and name != key and not records[name].committed:
            raise Conflict(f"cannot commit snapshot {key} as {name}: that is an active snapshot")
        if key not in records and name in records:
            return
        _, _, committed = self._get(key)
        if committed:
            if name != key:
                raise Conflict(f"cannot commit snapshot {key} as {name}: it is committed")
        elif name in records and name != key:
            await self._remove(key)
        else:
            self._index.commit(key, name)

    async def remove(self, key: str) -> None:
        check_key(key)
        async with self._changing:
            await self._remove(key)

    async def _remove(self, key: str) -> None:
        records = self._index.load()
        if key not in records:
            return
        ident = records[key].id
        if any(record.parent == ident for record in records.values()):
            raise Conflict(f"cannot remove snapshot {key}: other snapshots stand on it")
        self._index.drop(key, committed=records[key].committed)
        await trio.to_thread.run_sync(delete_tree, self._path(ident))

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        await trio.lowlevel.checkpoint()
        ident, _, committed = self._get(key)
        return (Mount("bind", self._path(ident), "", ("bind", "ro" if readonly or committed else "rw", "rprivate")),)

    async def unpack_target(self, key: str) -> UnpackTarget:
        await trio.lowlevel.checkpoint()
        ident, _, committed = self._get(key)
        if committed:
            raise Conflict(f"cannot unpack into snapshot {key}: it is committed")
        return UnpackTarget(self._path(ident), False)

    def _files(self, key: str | None) -> dict[str, tuple[int, int, int, bytes]]:
        if key is None:
            return {}
        root, found = self._path(self._get(key)[0]), {}
        for directory, names, files in os.walk(root):
            for name in names + files:
                path = os.path.join(directory, name)
                info = os.lstat(path)
                content = Path(path).read_bytes() if name in files and not os.path.islink(path) else b""
                found["/" + os.path.relpath(path, root)] = (info.st_mode, info.st_uid, info.st_gid, content)
        return found

    async def usage(self, key: str) -> Usage:
        await trio.lowlevel.checkpoint()
        new, old = self._files(key), self._files(self._get(key)[1])
        own = [value for path, value in new.items() if old.get(path) != value]
        return Usage(sum(len(content) for *_, content in own), len(own))

    async def changes(self, key: str) -> Sequence[Change]:
        await trio.lowlevel.checkpoint()
        new, old = self._files(key), self._files(self._get(key)[1])
        found = {
            path: ChangeKind.MODIFIED if path in old else ChangeKind.ADDED for path in new if old.get(path) != new[path]
        }
        found |= {path: ChangeKind.DELETED for path in old.keys() - new.keys() if os.path.dirname(path) in {"/", *new}}
        for path in list(found):
            while (path := os.path.dirname(path)) != "/":
                found.setdefault(path, ChangeKind.MODIFIED)
        return [Change(path, found[path]) for path in sorted(found)]

    async def describe(self, key: str) -> dict[str, str]:
        await trio.lowlevel.checkpoint()
        self._get(key)
        return {}

    async def keys(self) -> Sequence[str]:
        await trio.lowlevel.checkpoint()
        return list(self._index.load())

    async def audit(self) -> Sequence[Drift]:
        await trio.lowlevel.checkpoint()
        present = set(os.listdir(self._root)) - {"active", "committed", "damaged"}
        return self._index.compare(present, lambda ident: not os.listdir(self._path(ident)))

    async def repair(self, found: Drift) -> None:
        await trio.lowlevel.checkpoint()
        if found.note and not self._index.knows(found.note) and os.path.isdir(self._path(found.note)):
            os.rmdir(self._path(found.note))

    async def status(self) -> Sequence[tuple[str, str]]:
        await trio.lowlevel.checkpoint()
        return (("Backing Filesystem", "fake"),)
