"""The driver. The trio thread keeps the snapshots in memory; disk operations run on worker threads. There is one lock per
key. A parent with children cannot be removed; its count of children is raised before the first await."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TypeVar
from weakref import WeakValueDictionary

import trio

from orlop_sdk import (
    Change,
    Conflict,
    Drift,
    DriverError,
    InvalidParameter,
    Mount,
    NotFound,
    StorageCapabilities,
    StorageContext,
    UnpackTarget,
    Usage,
)
from orlop_sdk.files import filesystem_type, tree_usage
from orlop_sdk.overlay import MAX_LOWERS, check_root, overlay_changes, overlay_mount, plain_mount
from orlop_sdk.snapshots import check_key

from .layout import Layout, Snapshot
from .options import check_options

__all__ = ["Overlay2"]

T = TypeVar("T")


class Overlay2:
    """Implements `Storage`, `LayerRebase` and `StorageAudit`."""

    def __init__(self, context: StorageContext) -> None:
        check_root(context.root)
        check_options(context.options)
        self._layout = Layout(context.root)
        self._snapshots: dict[str, Snapshot] | None = None
        self._loading = trio.Lock()
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._usage: dict[str, Usage] = {}
        # Quick calls and tree walks have separate threads, so that `docker run` does not wait for `docker system df`.
        self._quick = trio.CapacityLimiter(4)
        self._slow = trio.CapacityLimiter(4)

    @property
    def capabilities(self) -> StorageCapabilities:
        return StorageCapabilities(overlay_whiteouts=True, max_depth=MAX_LOWERS)

    async def _all(self) -> dict[str, Snapshot]:
        if self._snapshots is None:
            async with self._loading:
                if self._snapshots is None:
                    self._snapshots = await self._run("read snapshots", self._layout.load, self._slow)
        return self._snapshots

    async def _run(self, what: str, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        try:
            return await trio.to_thread.run_sync(work, limiter=limiter or self._quick)
        except OSError as error:
            where = f": {error.filename}" if error.filename else ""
            raise DriverError(f"cannot {what}: {error.strerror}{where}") from error

    @asynccontextmanager
    async def _exclusive(self, *keys: str) -> AsyncIterator[dict[str, Snapshot]]:
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

    async def _get(self, key: str) -> Snapshot:
        snapshot = (await self._all()).get(key)
        if snapshot is None:
            raise NotFound(f"snapshot {key} does not exist")
        if snapshot.broken:
            raise DriverError(
                f"cannot use snapshot {key}: a layer below it is missing; remove it and pull or create it again"
            )
        return snapshot

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        if options:
            raise InvalidParameter(
                f"cannot apply storage option {next(iter(options))}: the overlay2 driver has no quotas "
                "(--storage-opt is not supported)"
            )
        async with self._exclusive(key) as snapshots:
            known = snapshots.get(key)
            if known is not None:
                if known.committed:
                    raise Conflict(f"cannot prepare snapshot {key}: it is committed")
                if known.parent != parent:
                    raise Conflict(f"cannot prepare snapshot {key} on {parent}: it stands on {known.parent}")
                return
            below = await self._below(key, parent) if parent is not None else None
            if below is not None:
                below.children += 1
            try:
                made = await self._run(f"prepare snapshot {key}", lambda: self._layout.create(key, below, parent))
            except BaseException:
                if below is not None:
                    below.children -= 1
                raise
            snapshots[key] = made

    async def _below(self, key: str, parent: str) -> Snapshot:
        below = await self._get(parent)
        if not below.committed:
            raise Conflict(f"cannot prepare snapshot {key}: its parent {parent} is not committed")
        if len(below.lowers) + 1 > MAX_LOWERS:
            raise DriverError(f"cannot prepare snapshot {key}: max depth exceeded, {MAX_LOWERS} layers is the most")
        return below

    async def commit(self, key: str, name: str) -> None:
        await self._commit(key, name, None)

    async def commit_on(self, key: str, name: str, parent: str) -> None:
        await self._commit(key, name, parent)

    async def _commit(self, key: str, name: str, parent: str | None) -> None:
        async with self._exclusive(key, name) as snapshots:
            there = snapshots.get(name)
            if there is not None and not there.committed and name != key:
                raise Conflict(f"cannot commit snapshot {key} as {name}: that is an active snapshot")
            if key not in snapshots and there is not None:
                return
            snapshot = await self._get(key)
            if snapshot.committed:
                if key != name:
                    raise Conflict(f"cannot commit snapshot {key} as {name}: it is committed")
                return
            if there is not None and there is not snapshot:
                await self._remove(snapshots, key)
                return
            if parent is not None:
                await self._rebase(snapshot, key, parent)
            await self._run(f"commit snapshot {key}", lambda: self._layout.commit(snapshot, key, name), self._slow)
            del snapshots[key]
            snapshot.committed = True
            snapshots[name] = snapshot

    async def _rebase(self, snapshot: Snapshot, key: str, parent: str) -> None:
        """Put an active snapshot on a parent. It stays there when the commit fails."""
        if snapshot.parent == parent:
            return
        if snapshot.parent is not None:
            raise Conflict(f"cannot commit snapshot {key} on {parent}: it stands on {snapshot.parent}")
        below = await self._below(key, parent)
        below.children += 1
        try:
            await self._run(f"commit snapshot {key}", lambda: self._layout.rebase(snapshot, key, below))
        except BaseException:
            below.children -= 1
            raise
        snapshot.parent, snapshot.lowers = parent, below.as_lower()

    async def remove(self, key: str) -> None:
        async with self._exclusive(key) as snapshots:
            snapshot = snapshots.get(key)
            if snapshot is None:
                return
            if snapshot.children:
                raise Conflict(f"cannot remove snapshot {key}: {snapshot.children} other snapshots stand on it")
            await self._remove(snapshots, key)

    async def _remove(self, snapshots: dict[str, Snapshot], key: str) -> None:
        snapshot = snapshots.pop(key)  # from here on it cannot become a parent
        self._usage.pop(key, None)
        try:
            await self._run(f"remove snapshot {key}", lambda: self._layout.remove(snapshot, key))
        except BaseException:
            snapshots[key] = snapshot
            raise
        below = snapshots.get(snapshot.parent or "")
        if below is not None and not snapshot.broken:
            below.children -= 1

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        snapshot = await self._get(key)
        readonly = readonly or snapshot.committed
        if not snapshot.lowers:
            return plain_mount(self._layout.path(snapshot, "diff"), readonly=readonly)
        if readonly:
            return overlay_mount(self._layout.root, snapshot.as_lower())
        if snapshot.marked:
            await self._run(f"mount snapshot {key}", lambda: self._layout.allow_remount(snapshot))
        snapshot.marked = volatile
        return overlay_mount(self._layout.root, snapshot.lowers, self._layout.path(snapshot), volatile=volatile)

    async def unpack_target(self, key: str) -> UnpackTarget:
        snapshot = await self._get(key)
        if snapshot.committed:
            raise Conflict(f"cannot unpack into snapshot {key}: it is committed")
        return UnpackTarget(self._layout.path(snapshot, "diff"), True)

    async def usage(self, key: str) -> Usage:
        snapshot = await self._get(key)
        known = self._usage.get(key)
        if known is None:
            diff = self._layout.path(snapshot, "diff")
            known = await self._run(f"measure snapshot {key}", lambda: tree_usage(diff), self._slow)
            if snapshot.committed:
                self._usage[key] = known
        return known

    async def changes(self, key: str) -> Sequence[Change]:
        snapshot = await self._get(key)
        upper, lowers = self._layout.path(snapshot, "diff"), await self._lower_directories(snapshot)
        return await self._run(f"list changes of snapshot {key}", lambda: overlay_changes(upper, lowers), self._slow)

    async def _lower_directories(self, snapshot: Snapshot) -> list[str]:
        directories = []
        while snapshot.parent is not None:
            snapshot = await self._get(snapshot.parent)
            directories.append(self._layout.path(snapshot, "diff"))
        return directories

    async def describe(self, key: str) -> dict[str, str]:
        snapshot = await self._get(key)
        lowers = await self._lower_directories(snapshot)
        described = {"LowerDir": ":".join(lowers)} if lowers else {}
        for name in ("Merged", "Upper", "Work"):
            described[f"{name}Dir"] = self._layout.path(snapshot, {"Upper": "diff"}.get(name, name.lower()))
        return described

    async def keys(self) -> Sequence[str]:
        return list(await self._all())

    async def audit(self) -> Sequence[Drift]:
        return await self._run("compare snapshots", self._layout.audit, self._slow)

    async def repair(self, found: Drift) -> None:
        if found.note:
            await self._run(f"remove {found.object}", lambda: self._layout.discard(found.note))

    async def status(self) -> Sequence[tuple[str, str]]:
        await self._all()  # raises on a file system without d_type
        backing = await self._run("read the file system's type", lambda: filesystem_type(self._layout.root))
        return (
            ("Backing Filesystem", backing),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )
