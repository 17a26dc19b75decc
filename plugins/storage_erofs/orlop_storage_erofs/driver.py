"""The driver. The trio thread keeps the snapshots in memory; disk operations run on worker threads. There is one lock per
key. A parent with children cannot be removed; its count of children is raised before the first await."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
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
    StreamTarget,
    UnpackTarget,
    Usage,
)
from orlop_sdk.files import filesystem_type, tree_usage
from orlop_sdk.overlay import MAX_LOWERS, check_root, overlay_changes
from orlop_sdk.snapshots import check_key

from .host import check_installed, probe
from .image import IMAGE, TAR, damage, discard
from .layout import Layout, Snapshot
from .options import mkfs_command, parse_options

__all__ = ["Erofs"]

T = TypeVar("T")


class Erofs:
    """Implements `Storage`, `LayerStream`, `LayerRebase` and `StorageAudit`."""

    def __init__(self, context: StorageContext) -> None:
        check_root(context.root)
        self._options = parse_options(context.options)
        self._program = check_installed()
        self._layout = Layout(context.root, loop=self._probe(context.root))
        self._snapshots: dict[str, Snapshot] | None = None
        self._loading = trio.Lock()
        self._locks: WeakValueDictionary[str, trio.Lock] = WeakValueDictionary()
        self._usage: dict[str, Usage] = {}
        # Quick calls and tree walks have separate threads, so that `docker run` does not wait for `docker system df`.
        self._quick = trio.CapacityLimiter(4)
        self._slow = trio.CapacityLimiter(4)

    def _probe(self, root: str) -> bool:
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=root) as directory:
            command = mkfs_command(self._program, self._options, IMAGE)
            return probe(command, directory, self._tar, IMAGE, self._options.mount)

    @property
    def _tar(self) -> str:
        return TAR if self._options.mode == "index" else ""

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
        broken = next((each.broken for each in snapshot.stack() if each.broken), "")
        if broken:
            raise DriverError(f"cannot use snapshot {key}: {broken}; remove it and pull or create it again")
        return snapshot

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        if options:
            raise InvalidParameter(
                f"cannot apply storage option {next(iter(options))}: the erofs driver has no quotas "
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
        if below.depth + 1 > MAX_LOWERS:
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
        snapshot.parent, snapshot.below = parent, below

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
        if snapshot.below is not None:
            snapshot.below.children -= 1

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        snapshot = await self._get(key)
        readonly = readonly or snapshot.committed
        await self._verify(snapshot)
        if not readonly and snapshot.marked:
            await self._run(f"mount snapshot {key}", lambda: self._layout.allow_remount(snapshot))
        if not readonly:
            snapshot.marked = volatile
        return self._layout.mounts(snapshot, readonly=readonly, volatile=volatile)

    async def _verify(self, snapshot: Snapshot) -> None:
        """Check the digests of the images of a snapshot, once after each start, if the option asks for it."""
        if self._options.verify != "digest":
            return
        for each in snapshot.stack():
            if each.image is None or each.verified:
                continue
            check = partial(damage, self._layout.path(each), each.image, digests=True)
            text = await self._run("verify a layer", check, self._slow)
            if text:
                raise DriverError(f"cannot mount a layer: {text}; remove the image and pull it again")
            each.verified = True

    async def unpack_target(self, key: str) -> UnpackTarget:
        snapshot = await self._active(key)
        return UnpackTarget(self._layout.path(snapshot, "diff"), True)

    async def stream_target(self, key: str) -> StreamTarget:
        snapshot = await self._active(key)
        directory = self._layout.path(snapshot)
        await self._run(f"write snapshot {key}", lambda: discard(directory))
        snapshot.image = None
        return StreamTarget(directory, mkfs_command(self._program, self._options, IMAGE), self._tar)

    async def stream_written(self, key: str, usage: Usage) -> None:
        snapshot, digests = await self._active(key), self._options.verify == "digest"
        what = f"write snapshot {key}"
        await self._run(what, lambda: self._layout.write_image(snapshot, usage, digests=digests), self._slow)

    async def _active(self, key: str) -> Snapshot:
        snapshot = await self._get(key)
        if snapshot.committed:
            raise Conflict(f"cannot unpack into snapshot {key}: it is committed")
        return snapshot

    async def usage(self, key: str) -> Usage:
        snapshot = await self._get(key)
        if snapshot.image is not None:
            return snapshot.image.usage
        known = self._usage.get(key)
        if known is None:
            diff = self._layout.path(snapshot, "diff")
            known = await self._run(f"measure snapshot {key}", lambda: tree_usage(diff), self._slow)
            if snapshot.committed:
                self._usage[key] = known
        return known

    async def changes(self, key: str) -> Sequence[Change]:
        snapshot = await self._get(key)

        def compare() -> Sequence[Change]:
            with self._layout.lower_directories(snapshot) as lowers:
                return overlay_changes(self._layout.path(snapshot, "diff"), lowers)

        return await self._run(f"list changes of snapshot {key}", compare, self._slow)

    async def describe(self, key: str) -> dict[str, str]:
        """As for overlay2, but a layer that is an image is named by the image's file, as it has no directory."""
        snapshot = await self._get(key)
        paths = [self._layout.path(each, IMAGE if each.image else "diff") for each in snapshot.stack()]
        described = {"LowerDir": ":".join(paths[1:])} if paths[1:] else {}
        described["MergedDir"] = self._layout.path(snapshot, "merged")
        described["UpperDir"] = paths[0]
        described["WorkDir"] = self._layout.path(snapshot, "work")
        return described

    async def keys(self) -> Sequence[str]:
        return list(await self._all())

    async def audit(self) -> Sequence[Drift]:
        return await self._run("compare snapshots", self._layout.audit, self._slow)

    async def repair(self, found: Drift) -> None:
        if found.note:
            await self._run(f"remove {found.object}", lambda: self._layout.discard(found.note))

    async def status(self) -> Sequence[tuple[str, str]]:
        backing = await self._run("read the file system's type", lambda: filesystem_type(self._layout.root))
        return (
            ("Backing Filesystem", backing),
            ("Mode", self._options.mode),
            ("Compression", self._options.compression or "none"),
            ("Mounted by", "loop device" if self._layout.loop else "file"),
            ("Verified", self._options.verify),
        )
