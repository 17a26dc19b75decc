"""The layers of images in the storage driver. This module unpacks each chain of layers only once, tracks which layers exist,
and removes unneeded layers.

A layer's storage key is its chain ID. For a layer that a builder of this engine made, the storage key is the key of the
builder's snapshot. While a layer is being unpacked, it is an active snapshot `extract-<random>`. After a crash, the next
daemon removes such snapshots. Before a caller asks for a layer, it must add the layer to a lease (`leases`).

A blob is accepted as the content of a layer only after it was decompressed and hashed, even if the layer exists already. The
reason: a manifest or an archive may combine any blob with any diffID.

When a container is created, an init layer (`engine.containers.rootfs`) is put on the top layer of its image. The init layer
is removed together with the layer below it. A container that was adopted from a dockerd has its own init layer, which is
removed together with the container.
"""

from __future__ import annotations

import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Protocol

import msgspec
import trio

from orlop_sdk import Conflict, LayerRebase, LayerStream, OrlopError, Storage, StreamTarget, UnpackTarget, Usage

from . import tar_split
from .content import ContentStore
from .disk_space import least_unpacked
from .progress import Report
from .shared import SharedWork

__all__ = ["BUILD", "Built", "Layers", "Unpack", "Unpacked", "below_init_layer", "init_layer", "temporary_key"]

log = logging.getLogger("orlop.images")

_ACTIVE = ("extract-", "build-new-")
BUILD = "build-"
"""Every snapshot that a builder makes has a storage key with this prefix."""
_INIT = "init-"
# number of workers that run at a time; each worker keeps one or two processors busy
_AT_ONCE = max(2, min(4, os.cpu_count() or 1))


def temporary_key() -> str:
    """A new key for a temporary snapshot. If a crash leaves the snapshot, the next daemon removes it."""
    return _ACTIVE[0] + secrets.token_hex(12)


def init_layer(layer: str) -> str:
    """The key of the init layer on the top layer of an image. `layer` is the key of the top layer, or "" if the image has no
    layers. For the own init layer of a container that was adopted from a dockerd, `layer` is the container's ID."""
    return _INIT + layer


def below_init_layer(key: str) -> str | None:
    """The inverse of `init_layer`: the key of the top layer, or the ID of the adopted container. None if `key` is not the
    key of an init layer."""
    return key.removeprefix(_INIT) if key.startswith(_INIT) else None


class Unpacked(Protocol):
    """The unpacker's result. `diff_id` is the digest of the uncompressed tar. `usage` is the layer's disk usage, which a
    storage driver with `LayerStream` needs."""

    @property
    def diff_id(self) -> str: ...

    @property
    def usage(self) -> Usage: ...


class Unpack(Protocol):
    """`engine.unpacking.unpack`: a sandboxed child process writes a layer's files to a snapshot, or sends them to a storage
    driver's program (see `LayerStream`). `progress` is called with the number of compressed bytes that were read."""

    def __call__(
        self,
        zygote: Any,
        source: int,
        target: UnpackTarget | StreamTarget,
        *,
        expect_diff_id: str | None,
        progress: Callable[[int], None] | None,
    ) -> Awaitable[Unpacked]: ...


class Built(msgspec.Struct, frozen=True):
    """A committed layer. `parent` is the chain ID of the layer below, "" for the lowest layer. `snapshot`: see
    `records.Layer`. `blob`: the digest of a blob that is known to contain the layer, "" if none is known."""

    diff_id: str
    parent: str
    size: int
    snapshot: str = ""
    blob: str = ""


def _sandboxed() -> Unpack:
    from orlop_engine.unpacking import unpack  # imported here, because the daemon's start does not need it

    return unpack


async def _is_kept(key: str) -> bool:
    return False


async def _nothing_freed() -> bool:
    return False


class Layers:
    """`built` contains all committed layers by chain ID. The lock `guard` is held during removals and while checking whether
    a layer exists."""

    def __init__(
        self, storage: Storage, content: ContentStore, zygote: Any, unpack: Unpack | None, nursery: trio.Nursery
    ) -> None:
        self.built: dict[str, Built] = {}
        self.drop_built_here: Callable[[str], Awaitable[bool]] = _is_kept
        """Removes the snapshot of a layer that was built by this engine, unless the builder still needs the snapshot.
        Returns whether it was removed. Raises `Conflict` like `Storage.remove`. Set by `building`."""
        self.after_removal: Callable[[], Awaitable[bool]] = _nothing_freed
        """Removes content that was kept only for layers that have now been removed. Returns whether more layers may have
        become unneeded. The caller holds `guard`. Set by `building`."""
        self.of_builds = False
        """Whether the daemon found snapshots of builders when it started."""
        self.guard = trio.Lock()
        self._storage, self._content = storage, content
        self._zygote, self._unpack = zygote, unpack
        self._shared: SharedWork[Built] = SharedWork(nursery)
        self._writing = trio.CapacityLimiter(_AT_ONCE)
        self._awaited: dict[str, trio.Event] = {}
        """Chain ID -> an event, for each layer that tasks wait for. The event is set when the layer is built."""

    @property
    def independent(self) -> bool:
        """Whether `build` may be called for several layers of an image at once, without waiting for their parents."""
        return isinstance(self._storage, LayerRebase)

    async def sweep(self) -> list[str]:
        """At the daemon's start: remove temporary snapshots and orphaned init layers. Returns the keys of the layers in
        the storage driver, including the builder's snapshots."""
        keys = set(await self._storage.keys())
        for key in keys:
            below = below_init_layer(key)
            if key.startswith(_ACTIVE) or (below and below not in keys):
                try:
                    await self._storage.remove(key)
                except OrlopError as error:
                    log.warning("cannot remove a temporary snapshot; the next start of the daemon tries again: %s", error)
        self.of_builds = any(key.startswith(BUILD) for key in keys)
        return [key for key in keys if key.startswith(("sha256:", BUILD))]

    def key(self, chain_id: str) -> str:
        """The storage key of a layer; "" for no layer."""
        built = self.built.get(chain_id)
        return built.snapshot if built and built.snapshot else chain_id

    async def size(self, chain_id: str) -> int:
        """Bytes of file content in this layer, without the layers below: Docker's layer size."""
        return await self.measure(self.key(chain_id))

    async def measure(self, key: str) -> int:
        """Like `size`, but for a storage key."""
        return (await self._storage.usage(key)).size

    async def found(self, keys: Iterable[str]) -> None:
        """Add to `built` the layers that the storage driver has but that have no row in the database. Snapshots of a builder
        are skipped, because they have rows in other tables."""
        for chain_id in keys:
            if chain_id.startswith(BUILD):
                continue
            try:
                size = await self.size(chain_id)
            except OrlopError as error:
                log.warning("cannot read layer %s: %s", chain_id[:19], error)
                size = 0
            self.built[chain_id] = Built("", "", size)

    async def build(
        self, chain_id: str, parent: str, blob: str, diff_id: str, report: Report, progress: Callable[[Report, int], None]
    ) -> Built:
        """Unpack `blob` on top of `parent`, unless the layer exists already. Raises `InvalidParameter` if the blob's
        uncompressed content does not have the digest `diff_id`, even if the layer exists. `progress` makes a progress record
        from a byte count. If the parent is still being built by another task (see `independent`), this method waits for the
        parent."""

        async def work(share: Report) -> Built:
            if chain_id not in self.built:
                await self._into(chain_id, parent, blob, diff_id, lambda n: progress(share, n))
            if (event := self._awaited.pop(chain_id, None)) is not None:
                event.set()
            return self.built[chain_id]

        built = await self._shared.run(chain_id, work, report)
        if blob not in (built.blob, diff_id):  # a blob whose digest is the diffID is the tar itself
            await self._verify(parent, blob, diff_id, lambda n: progress(report, n))
        return built

    async def _verify(self, parent: str, blob: str, diff_id: str, progress: Callable[[int], None]) -> None:
        """Check that a blob contains the layer. The blob is unpacked under a temporary key, with the same limits as any
        layer, and the files are removed."""
        key, source = temporary_key(), self._content.open(blob)
        try:
            async with self._writing:
                await trio.to_thread.run_sync(self._check_space, blob, source)
                await self._storage.prepare(key, self.key(parent) or None)
                await self._write(key, source, diff_id, progress)
        finally:
            os.close(source)
            with trio.move_on_after(30, shield=True):
                await self._storage.remove(key)

    async def make_first(self, blob: str, hold: Callable[[str], Awaitable[None]]) -> tuple[str, Built]:
        """Unpack a layer without a parent whose diffID is not known yet. Calls `hold` with the layer's chain ID before the
        layer is committed."""
        diff_id = (await self._into(None, "", blob, None, None, hold)).diff_id
        return diff_id, self.built[diff_id]

    async def _into(
        self,
        chain_id: str | None,
        parent: str,
        blob: str,
        diff_id: str | None,
        progress: Callable[[int], None] | None,
        hold: Callable[[str], Awaitable[None]] | None = None,
    ) -> Unpacked:
        """Unpack and commit a layer. The layer is added to `built` as soon as it is committed, even if the caller is
        cancelled at that moment, because garbage collection only finds layers in `built`."""
        key, later = temporary_key(), bool(parent) and self.independent
        source = self._content.open(blob)
        try:
            async with self._writing:
                await trio.to_thread.run_sync(self._check_space, blob, source)
                await self._storage.prepare(key, None if later else self.key(parent) or None)
                unpacked = await self._write(key, source, diff_id, progress)
                size = await self.measure(key)
            name = chain_id or unpacked.diff_id
            if hold is not None:
                await hold(name)
            await self._commit(key, name, parent if later else "")
            self.built[name] = Built(unpacked.diff_id, parent, size, blob=blob)
            return unpacked
        finally:
            os.close(source)
            with trio.move_on_after(30, shield=True):
                await self._storage.remove(key)

    async def _commit(self, key: str, chain_id: str, parent: str) -> None:
        """Commit the snapshot `key` as the layer `chain_id`. If `parent` is not "", this method waits for that layer and
        makes it the snapshot's parent. `parent` is "" if the snapshot already has its parent, or needs no parent."""
        if parent and isinstance(self._storage, LayerRebase):
            while parent not in self.built:
                await self._awaited.setdefault(parent, trio.Event()).wait()
            await self._storage.commit_on(key, chain_id, self.key(parent))
        else:
            await self._storage.commit(key, chain_id)

    async def write_blob(self, key: str, blob: str, diff_id: str) -> None:
        """Unpack a blob into the active snapshot `key`, which belongs to the caller."""
        source = self._content.open(blob)
        try:
            async with self._writing:
                await trio.to_thread.run_sync(self._check_space, blob, source)
                await self._write(key, source, diff_id, None)
        finally:
            os.close(source)

    def _check_space(self, blob: str, source: int) -> None:
        size = least_unpacked(source, os.fstat(source).st_size)
        self._content.space.check(f"unpack layer {blob.removeprefix('sha256:')[:12]}", unpacked=size)

    async def _write(self, key: str, source: int, diff_id: str | None, progress: Callable[[int], None] | None) -> Unpacked:
        """Write a layer's files into the active snapshot `key`, in the way that the storage driver requires."""
        streams = self._storage if isinstance(self._storage, LayerStream) else None
        target = await (streams.stream_target(key) if streams else self._storage.unpack_target(key))
        unpack = self._unpack or _sandboxed()
        unpacked = await unpack(self._zygote, source, target, expect_diff_id=diff_id, progress=progress)
        if streams:
            await streams.stream_written(key, unpacked.usage)
        return unpacked

    def depth(self, chain_id: str) -> int:
        """The number of layers below."""
        result = 0
        while (built := self.built.get(chain_id)) is not None and built.parent:
            result, chain_id = result + 1, built.parent
        return result

    async def remove(self, chain_ids: Iterable[str]) -> list[tuple[str, int]]:
        """Remove layers, upper layers before lower layers, except layers that have snapshots on top (for example a
        container's root). Returns the removed layers with their sizes, in this order. The caller holds `guard`."""
        removed: list[tuple[str, int]] = []
        waiting = sorted(chain_ids, key=self.depth, reverse=True)
        while waiting:
            blocked = []
            for chain_id in waiting:
                key = self.key(chain_id)
                try:
                    await self._storage.remove(init_layer(key))
                    if key.startswith(BUILD) and not await self.drop_built_here(key):
                        # The build cache still needs the snapshot, but the snapshot is no longer a layer of an image
                        self.built.pop(chain_id, None)
                        continue
                    if not key.startswith(BUILD):
                        await self._storage.remove(key)
                except Conflict:
                    blocked.append(chain_id)
                    continue
                tar_split.remove(self._content, chain_id)
                built = self.built.pop(chain_id, None)
                removed.append((chain_id, built.size if built else 0))
            if len(blocked) == len(waiting):
                break
            waiting = blocked  # after a crash the order of the layers is unknown, so try the blocked layers again
        return removed
