"""Snapshots by key: the index in memory and on disk, locks, undo and recovery.

The trio thread keeps the snapshots in memory; disk operations run on worker threads. There is one lock per key. A parent
with children cannot be removed. A call that adds a child increments the parent's count of children before its first await.
"""

from __future__ import annotations

import os
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Self, TypeVar
from weakref import WeakValueDictionary

import trio

from orlop_sdk.common import Drift, Mount
from orlop_sdk.errors import Conflict, DriverError, InvalidParameter, NotFound
from orlop_sdk.files import Trash, filesystem_type, spread_directories
from orlop_sdk.overlay import plain_mount
from orlop_sdk.snapshots import SnapshotIndex, check_key, fsync_directory, sync_filesystem
from orlop_sdk.storage import Change, StorageCapabilities, StorageContext, UnpackTarget, Usage

__all__ = ["Snapshot", "TreeStorage"]

T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Snapshot:
    """A snapshot. `id` is the name of its directory. `parent` is the key of its parent. `below` is the parent's `Snapshot`;
    None if the parent is lost. `children` is the number of snapshots whose parent is this snapshot. `broken` is the reason
    why this snapshot and all snapshots above it cannot be used; "" if they can be used. `usage` is set for committed
    snapshots that were measured."""

    id: str
    parent: str | None = None
    below: Self | None = None
    committed: bool = False
    children: int = 0
    broken: str = ""
    usage: Usage | None = None

    def stack(self) -> Iterator[Self]:
        """This snapshot and all snapshots below it, the uppermost first."""
        each: Self | None = self
        while each is not None:
            yield each
            each = each.below


S = TypeVar("S", bound=Snapshot)


class TreeStorage(ABC, Generic[S]):
    """Base of storage drivers. A driver sets `name` and implements `create`. The other methods under "What drivers override"
    have defaults, which are right for drivers whose snapshots are complete trees. Methods that are not async run on worker
    threads, and may raise `OSError`."""

    name: ClassVar[str]
    """The driver's name in daemon.json."""
    overlay_whiteouts: ClassVar[bool] = False
    """See `StorageCapabilities`. When false, each snapshot is complete: it remains usable when its parent is lost."""
    max_depth: ClassVar[int] = 1 << 16
    idmapped_mounts: ClassVar[bool] = True
    """See `StorageCapabilities`. False if a snapshot's mounts need more than its directory."""
    place: ClassVar[str] = ""
    """The directory of all snapshots, below the root."""
    files: ClassVar[str] = ""
    """The directory of a snapshot's files, inside the snapshot's directory."""
    id_bytes: ClassVar[int] = 32
    """Snapshots are named by random numbers of this size, in hexadecimal."""
    snapshot_type: ClassVar[type[Any]] = Snapshot

    def __init__(self, context: StorageContext) -> None:
        self.root = context.root
        self.directory = os.path.join(self.root, self.place) if self.place else self.root
        self._private = os.path.join(self.root, ".orlop")
        self._staging = os.path.join(self._private, "staging")
        self.index = SnapshotIndex(self._private)
        self._snapshots: dict[str, S] | None = None
        self._loading = trio.Lock()
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        # Quick calls and tree walks run on separate threads, so that `docker run` does not wait for `docker system df`.
        self.quick = trio.CapacityLimiter(4)
        self.slow = trio.CapacityLimiter(4)

    # --- What drivers override

    @abstractmethod
    def create(self, snapshot: S, directory: str) -> None:
        """Write the initial content into the new, empty `directory` (mode 0710), which becomes the snapshot's directory
        after this call. `snapshot.below` is the parent. Set modes explicitly: the daemon may run with umask 022 or 077."""

    def opened(self) -> None:
        """Called once, before the snapshots are read. Raise `DriverError` if the root is unsuitable."""

    def load(self, snapshot: S) -> None:
        """Called at the start, for each snapshot whose files exist. May set `broken`."""

    def is_offline(self, snapshot: S) -> bool:
        """Called for a snapshot whose files are missing. Return true if a later start may find the files: the snapshot then
        stays in the index. By default, the result is false, and the key is dropped."""
        return False

    def seal(self, snapshot: S) -> None:
        """Called before the snapshot is committed. `sync` also syncs the files that this method writes."""

    def sync(self, snapshot: S) -> None:
        """Make the snapshot's files durable. Called before the snapshot is committed, or, with `DeferredSync`, later."""
        sync_filesystem(self.path(snapshot))

    def destroy(self, snapshot: S) -> None:
        """Remove the snapshot's directory. Return quickly: move the directory to the trash, which deletes it in the
        background. If the directory does not exist, do nothing."""
        self.trash.take(self.path(snapshot))

    def measure(self, snapshot: S) -> Usage:
        from ._compare import tree_growth  # imported here, because drivers that override `measure` do not need it

        return tree_growth(self.tree(snapshot), self.tree(snapshot.below) if snapshot.below else None)

    def compare(self, snapshot: S) -> Sequence[Change]:
        from ._compare import tree_changes

        return tree_changes(self.tree(snapshot), self.tree(snapshot.below) if snapshot.below else None)

    def is_empty(self, snapshot: S) -> bool:
        """Whether a directory without a key contains no files that a container may have written."""
        return not os.listdir(self.tree(snapshot))

    # --- What drivers use

    def path(self, snapshot: S, *names: str) -> str:
        """The directory of a snapshot, or a path below it. In a snapshot that was adopted from another daemon, this path may
        be a symbolic link. Then the path of the link's target is returned, which can be opened without following links."""
        path = os.path.join(self.directory, snapshot.id, *names)
        return os.path.realpath(path) if names and os.path.islink(path) else path

    def tree(self, snapshot: S) -> str:
        """The directory of a snapshot's files."""
        return self.path(snapshot, self.files) if self.files else self.path(snapshot)

    @cached_property
    def trash(self) -> Trash:
        return Trash(os.path.join(self._private, "trash"))

    async def run(self, what: str, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Run `work` on a worker thread (`self.quick` by default). An `OSError` becomes "cannot `what`: ..."."""
        try:
            return await trio.to_thread.run_sync(work, limiter=limiter or self.quick)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise DriverError(f"cannot {what}: {error.strerror}{where}") from error

    async def get(self, key: str) -> S:
        """Returns a snapshot. Raises `NotFound` if there is none, and `DriverError` if the snapshot is broken."""
        snapshot = (await self._all()).get(key)
        if snapshot is None:
            raise NotFound(f"snapshot {key} does not exist")
        broken = next((each.broken for each in snapshot.stack() if each.broken), "")
        if broken:
            raise DriverError(f"cannot use snapshot {key}: {broken}; remove it and pull or create it again")
        return snapshot

    async def get_active(self, key: str) -> S:
        """Like `get`, but raises `Conflict` for a committed snapshot."""
        snapshot = await self.get(key)
        if snapshot.committed:
            raise Conflict(f"cannot unpack into snapshot {key}: it is committed")
        return snapshot

    # --- Start

    async def _all(self) -> dict[str, S]:
        if self._snapshots is None:
            async with self._loading:
                if self._snapshots is None:
                    self._snapshots = await self.run("read snapshots", self._load, self.slow)
        return self._snapshots

    def _new(self, ident: str) -> S:
        snapshot: S = self.snapshot_type(ident)
        return snapshot

    def _load(self) -> dict[str, S]:
        """Complete or undo operations that a crash interrupted. Returns all snapshots by key."""
        for directory in (self.directory, self._private, self._staging):
            os.makedirs(directory, 0o700, exist_ok=True)
        spread_directories(self._staging)
        self.opened()
        trash = self.trash
        for name in os.listdir(self._staging):
            trash.take(os.path.join(self._staging, name))
        records = self.index.load()
        keys = {record.id: key for key, record in records.items()}
        found: dict[str, S] = {}
        for key, record in records.items():
            snapshot = self._new(record.id)
            if os.path.isdir(self.tree(snapshot)):
                snapshot.parent = None if record.parent is None else keys.get(record.parent, "")
                snapshot.committed = record.committed
                self.load(snapshot)
                found[key] = snapshot
            elif not self.is_offline(snapshot):
                self.index.drop(key, committed=record.committed)
        for snapshot in found.values():
            if snapshot.parent is not None:
                self._find_parent(snapshot, found)
        return found

    def _find_parent(self, snapshot: S, found: dict[str, S]) -> None:
        snapshot.below = found.get(snapshot.parent or "")
        if snapshot.below is not None:
            snapshot.below.children += 1
        elif self.overlay_whiteouts:
            snapshot.broken = snapshot.broken or "a layer below it is missing"
        else:
            snapshot.parent = snapshot.parent or None

    # --- Storage

    @property
    def capabilities(self) -> StorageCapabilities:
        return StorageCapabilities(self.overlay_whiteouts, self.max_depth, self.idmapped_mounts)

    @asynccontextmanager
    async def _exclusive(self, *keys: str) -> AsyncIterator[dict[str, S]]:
        for key in keys:
            check_key(key)
        snapshots = await self._all()
        async with AsyncExitStack() as stack:
            for key in sorted(set(keys)):
                lock = self._locks.get(key)
                if lock is None:
                    lock = self._locks[key] = trio.Lock()
                await stack.enter_async_context(lock)
            yield snapshots

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        if options:
            raise InvalidParameter(
                f"cannot apply storage option {next(iter(options))}: the {self.name} driver has no quotas "
                "(--storage-opt is not supported)"
            )
        async with self._exclusive(key) as snapshots:
            known = snapshots.get(key)
            if known is not None:
                if known.committed:
                    raise Conflict(f"cannot prepare snapshot {key}: it is committed")
                if known.parent != parent:
                    raise Conflict(f"cannot prepare snapshot {key} on {parent}: its parent is {known.parent}")
                return
            snapshot = self._new(secrets.token_hex(self.id_bytes))
            snapshot.parent = parent
            if parent is not None:
                snapshot.below = await self._below(key, parent)
                snapshot.below.children += 1
            # A driver without overlay whiteouts copies the whole parent, which is slow
            limiter = self.quick if self.overlay_whiteouts else self.slow
            try:
                await self.run(f"prepare snapshot {key}", lambda: self._create(snapshot, key), limiter)
            except BaseException:
                if snapshot.below is not None:
                    snapshot.below.children -= 1
                raise
            snapshots[key] = snapshot

    async def _below(self, key: str, parent: str) -> S:
        below = await self.get(parent)
        if not below.committed:
            raise Conflict(f"cannot prepare snapshot {key}: its parent {parent} is not committed")
        if sum(1 for _ in below.stack()) > self.max_depth:
            raise DriverError(f"cannot prepare snapshot {key}: max depth exceeded, {self.max_depth} layers is the most")
        return below

    def _create(self, snapshot: S, key: str) -> None:
        staged = os.path.join(self._staging, snapshot.id)
        try:
            os.mkdir(staged, 0o710)
            self.create(snapshot, staged)
            # Add the key before the directory. After a crash, `_load` drops a key without a directory, but must keep a
            # directory without a key, which may belong to dockerd
            self.index.add(key, snapshot.id, snapshot.below.id if snapshot.below else None)
            os.rename(staged, self.path(snapshot))
        except BaseException:
            self.index.drop(key, committed=False)
            self.trash.take(staged)
            raise

    async def commit(self, key: str, name: str) -> None:
        await self._commit(key, name, None)

    async def commit_unsynced(self, key: str, name: str) -> None:
        await self._commit(key, name, None, durable=False)

    async def make_durable(self, key: str) -> None:
        snapshot = await self.get(key)
        if not snapshot.committed:
            raise Conflict(f"cannot make snapshot {key} durable: it is active")
        await self.run(f"sync snapshot {key}", lambda: self._sync(snapshot), self.slow)

    def _sync(self, snapshot: S) -> None:
        self.sync(snapshot)
        fsync_directory(self.directory)
        self.index.sync()

    async def _commit(self, key: str, name: str, parent: str | None, *, durable: bool = True) -> None:
        """`parent`: see `LayerRebase.commit_on`."""
        async with self._exclusive(key, name) as snapshots:
            there = snapshots.get(name)
            if there is not None and not there.committed and name != key:
                raise Conflict(f"cannot commit snapshot {key} as {name}: {name} is an active snapshot")
            if key not in snapshots and there is not None:
                return
            snapshot = await self.get(key)
            if snapshot.committed:
                if key != name:
                    raise Conflict(f"cannot commit snapshot {key} as {name}: it is committed")
                return
            if there is not None and there is not snapshot:
                await self._remove(snapshots, key)
                return
            if parent is not None:
                await self._rebase(snapshot, key, parent)
            if durable:
                await self.run(f"commit snapshot {key}", lambda: self._commit_synced(snapshot, key, name), self.slow)
            else:
                await self.run(f"commit snapshot {key}", lambda: self._commit_unsynced(snapshot, key, name))
            del snapshots[key]
            snapshot.committed = True
            snapshots[name] = snapshot

    def _commit_synced(self, snapshot: S, key: str, name: str) -> None:
        self.seal(snapshot)
        self.sync(snapshot)
        fsync_directory(self.directory)
        self.index.commit(key, name)

    def _commit_unsynced(self, snapshot: S, key: str, name: str) -> None:
        self.seal(snapshot)
        self.index.commit_unsynced(key, name)

    async def _rebase(self, snapshot: S, key: str, parent: str) -> None:
        """Give an active snapshot a parent. The next commit makes this change durable. If the commit fails, the snapshot
        keeps the new parent."""
        if snapshot.parent == parent:
            return
        if snapshot.parent is not None:
            raise Conflict(f"cannot commit snapshot {key} on {parent}: its parent is {snapshot.parent}")
        below = await self._below(key, parent)
        below.children += 1
        try:
            await self.run(f"commit snapshot {key}", lambda: self.index.set_parent(key, snapshot.id, below.id))
        except BaseException:
            below.children -= 1
            raise
        snapshot.parent, snapshot.below = parent, below

    async def remove(self, key: str) -> None:
        async with self._exclusive(key) as snapshots:
            snapshot = snapshots.get(key)
            if snapshot is None:
                return
            if snapshot.children:
                raise Conflict(f"cannot remove snapshot {key}: it is the parent of {snapshot.children} other snapshots")
            await self._remove(snapshots, key)

    async def _remove(self, snapshots: dict[str, S], key: str) -> None:
        snapshot = snapshots.pop(key)  # from now on, no snapshot can be prepared on this snapshot
        try:
            await self.run(f"remove snapshot {key}", lambda: self._destroy(snapshot, key))
        except BaseException:
            snapshots[key] = snapshot
            raise
        if snapshot.below is not None:
            snapshot.below.children -= 1

    def _destroy(self, snapshot: S, key: str) -> None:
        """Remove the directory, then the key. After a crash between these steps, `_load` drops the key, which has no
        directory."""
        self.destroy(snapshot)
        self.index.drop(key, committed=snapshot.committed)

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        snapshot = await self.get(key)
        return plain_mount(self.tree(snapshot), readonly=readonly or snapshot.committed)

    async def unpack_target(self, key: str) -> UnpackTarget:
        return UnpackTarget(self.tree(await self.get_active(key)), self.overlay_whiteouts)

    async def usage(self, key: str) -> Usage:
        snapshot = await self.get(key)
        if snapshot.usage is not None:
            return snapshot.usage
        found = await self.run(f"measure snapshot {key}", lambda: self.measure(snapshot), self.slow)
        if snapshot.committed:
            snapshot.usage = found
        return found

    async def changes(self, key: str) -> Sequence[Change]:
        snapshot = await self.get(key)
        return await self.run(f"list changes of snapshot {key}", lambda: self.compare(snapshot), self.slow)

    async def describe(self, key: str) -> dict[str, str]:
        await self.get(key)
        return {}

    async def keys(self) -> Sequence[str]:
        return list(await self._all())

    async def status(self) -> Sequence[tuple[str, str]]:
        await self._all()  # this call raises `DriverError` if the root is unsuitable
        backing = await self.run("read the file system's type", lambda: filesystem_type(self.root))
        return (("Backing Filesystem", backing),)

    # --- StorageAudit

    async def audit(self) -> Sequence[Drift]:
        return await self.run("compare snapshots", self.find_drift, self.slow)

    def find_drift(self) -> list[Drift]:
        """Compare the index with the directories. Changes nothing."""
        names = os.listdir(self.directory) if os.path.isdir(self.directory) else []
        present = {name for name in names if name[0] != "." and os.path.isdir(self.tree(self._new(name)))}
        return self.index.compare(present, lambda ident: self.is_empty(self._new(ident)))

    async def repair(self, found: Drift) -> None:
        if found.note:
            await self.run(f"remove {found.object}", lambda: self.discard(found.note))

    def discard(self, ident: str) -> None:
        """Remove a directory if it is empty and belongs to no snapshot."""
        snapshot = self._new(ident)
        if os.path.isdir(self.tree(snapshot)) and not self.index.knows(ident) and self.is_empty(snapshot):
            self.trash.take(self.path(snapshot))
