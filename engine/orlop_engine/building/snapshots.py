"""The snapshots of builders, and their bases: the images below the snapshots.

A committed snapshot may be used by the build cache, until the builder removes the snapshot, and by images of which the
snapshot is a layer. When neither the build cache nor an image needs the snapshot, it is removed from the storage driver.
While a base has snapshots on top, its layers and blobs are kept like the layers and blobs of an image.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import trio
from msgspec.structs import replace

from orlop_engine.images.image_store import ImageStore
from orlop_engine.images.layers import BUILD
from orlop_engine.images.records import Layer
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import Conflict, DeferredSync, NotFound, OrlopError, Storage

from .records import BASE, TABLE, BaseRecord, SnapshotRecord, decode_base, decode_snapshot, encode

__all__ = ["Snapshots", "active_key"]

log = logging.getLogger("orlop.build")

_COMMIT = 300.0  # seconds; a commit writes the snapshot's files to the disk


def active_key() -> str:
    """A new key for an active snapshot. After a crash, the next daemon removes active snapshots (`images.layers`)."""
    return f"{BUILD}new-{secrets.token_hex(12)}"


class Snapshots:
    """`rows` are the committed snapshots by key, `bases` are the images below them."""

    def __init__(self, store: Store, storage: Storage, image_store: ImageStore, start: Callable[..., object]) -> None:
        """`start(function, *args)` starts a task in the background."""
        self._store, self._storage, self._image_store, self._start = store, storage, image_store, start
        self.rows: dict[str, SnapshotRecord] = {}
        self.bases: dict[str, BaseRecord] = {}
        self._bases_lock = trio.Lock()
        self._unsynced: dict[str, trio.Lock] = {}
        """The snapshots that are not durable yet. For this reason they have no row in the database."""
        self._in_use: dict[str, int] = {}
        """Key of a snapshot -> the number of its uses by running builders, as a parent or in another way."""
        self._lease = image_store.leases.add()
        image_store.layers.drop_built_here = self._unneeded_by_images
        image_store.layers.after_removal = self._forget_unneeded

    # --- start of the daemon ----------------------------------------------------------------------------------------

    async def load(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Decode the rows. Call this method before images are loaded, so that the garbage collection keeps the content that
        the rows need."""
        unusable = []
        for key, value in rows:
            try:
                if key.startswith(BASE):
                    self.bases[key.removeprefix(BASE)] = decode_base(value)
                else:
                    self.rows[key] = decode_snapshot(value)
            except UNREADABLE as error:
                unusable.append((key, str(error)))
        await self._store.quarantine_all(TABLE, unusable)
        self._renew_lease()

    async def sweep(self) -> None:
        """Called at the daemon's start, after images are loaded. Removes incomplete objects that a crash or a power cut has
        left."""
        stored = {key for key in await self._storage.keys() if key.startswith(BUILD)}
        lost = {key for key in self.rows if key not in stored}
        if lost:
            log.warning("%d snapshots of builds are missing in storage; removing their rows", len(lost))
            await self._forget_lost(lost)
        if not self._store.lost_rows():
            odd = [key for key in stored if key not in self.rows and key.startswith(BUILD)]
            await self._remove_all([key for key in odd if not self._of_image(key)])
        await self.reap()

    async def _forget_lost(self, lost: set[str]) -> None:
        """Remove the rows of snapshots that are not in storage, and release the snapshots above them, which cannot be
        mounted any more. After that, the builder that starts next drops these snapshots from its cache."""
        above = [key for key in self.rows if key not in lost and not lost.isdisjoint(self._ancestors(key))]
        for key in lost:
            del self.rows[key]
        for key in above:
            self.rows[key] = replace(self.rows[key], released=True)
        changed = [Put(TABLE, key, encode(self.rows[key])) for key in above if key not in self._unsynced]
        await self._store.commit([*(Delete(TABLE, key) for key in lost), *changed])

    def _ancestors(self, key: str) -> Iterator[str]:
        while key in self.rows:
            key = self.rows[key].parent
            yield key

    # --- repair -------------------------------------------------------------------------------------------------------

    def is_unsynced(self, key: str) -> bool:
        """Whether the snapshot has no row yet, because it is still being made durable."""
        return key in self._unsynced

    async def repair(self, key: str) -> None:
        """Make the database agree with storage: write the missing row of a snapshot, or remove the row of a snapshot that is
        not in storage. A snapshot that is unknown is removed. No builder may be connected: a builder makes and commits
        snapshots, and does not notice that snapshots of its cache are removed."""
        stored = key in await self._storage.keys()
        if stored and key in self.rows:
            await self._save(key)
        elif stored and not self._of_image(key) and not self._store.lost_rows():
            await self._storage.remove(key)
        elif key in self.rows:
            await self._forget_lost({key})
            await self.reap()
        elif not stored:
            await self._store.commit([Delete(TABLE, key)])

    async def reap(self) -> None:
        """Remove released snapshots that are not needed any more, and the rows of bases without snapshots."""
        if await self._forget_unneeded():
            await self._image_store.collect()

    async def _forget_unneeded(self) -> bool:
        """Like `reap`, but keep the layers of bases. Returns whether some of these layers may be unneeded. See
        `Layers.after_removal`."""
        await self._remove_all([key for key, row in self.rows.items() if row.released and self._is_free(key)])
        return await self._forget_bases()

    def _is_free(self, key: str) -> bool:
        return key not in self._in_use and not self._of_image(key)

    async def _remove_all(self, keys: list[str]) -> None:
        """Remove unneeded snapshots, the highest first, because a snapshot with children cannot be removed."""
        while keys:
            blocked = []
            for key in keys:
                try:
                    await self._remove(key)
                except Conflict:
                    blocked.append(key)
                except OrlopError as error:
                    log.warning("cannot remove snapshot %s of a build: %s", key, error)
            if len(blocked) == len(keys):
                return
            keys = blocked

    # --- use --------------------------------------------------------------------------------------------------------

    @contextmanager
    def using(self, key: str) -> Iterator[None]:
        """Keep a snapshot for the duration of the block."""
        self.use(key)
        try:
            yield
        finally:
            self.unuse(key)

    def use(self, key: str) -> None:
        self._in_use[key] = self._in_use.get(key, 0) + 1

    def unuse(self, key: str) -> None:
        left = self._in_use[key] = self._in_use[key] - 1
        if not left:
            del self._in_use[key]

    def check(self, key: str) -> None:
        """Raise `NotFound` unless this snapshot may be the parent of a new snapshot."""
        if key and key not in self.rows and key not in self.bases:
            raise NotFound(f"snapshot {key} does not exist")

    async def set_base(self, key: str, layers: tuple[Layer, ...]) -> None:
        """Record the layers of an image before a snapshot is made on top of it. The caller's lease contains the layers, and
        the caller has called `use` for `key`."""
        if not key:
            return
        async with self._bases_lock:  # another task may be forgetting or recording the base
            if key not in self.bases:
                record = BaseRecord(layers)
                await self._store.commit([Put(TABLE, BASE + key, encode(record))])
                self.bases[key] = record
                self._renew_lease()

    async def _forget_bases(self) -> bool:
        """Forget the bases without snapshots. Returns whether such bases existed."""
        async with self._bases_lock:
            needed = {row.parent for row in self.rows.values()} | self._in_use.keys()
            gone = [key for key in self.bases if key not in needed]
            if gone:
                await self._store.commit([Delete(TABLE, BASE + key) for key in gone])
                for key in gone:
                    del self.bases[key]
                self._renew_lease()
            return bool(gone)

    def _renew_lease(self) -> None:
        self._lease.blobs = {blob for base in self.bases.values() for layer in base.layers for blob in layer.blobs}
        self._lease.chains = {layer.chain_id for base in self.bases.values() for layer in base.layers}

    # --- changes ----------------------------------------------------------------------------------------------------

    async def commit(self, active: str, parent: str, domain: str = "") -> str:
        """Commit an active snapshot. If the driver supports it, the snapshot is made durable in the background. Await
        `settle` before a row or another durable object refers to the snapshot. If the task is cancelled, the snapshot has
        not been committed."""
        key = BUILD + secrets.token_hex(12)
        record = SnapshotRecord(parent, domain=domain)
        try:
            if isinstance(self._storage, DeferredSync):
                await self._storage.commit_unsynced(active, key)
                self._unsynced[key] = trio.Lock()
            else:
                await self._storage.commit(active, key)
                await self._store.commit([Put(TABLE, key, encode(record))])
        except BaseException:
            with trio.move_on_after(_COMMIT, shield=True):
                await self._store.commit([Delete(TABLE, key)])
                await self._storage.remove(key)
            raise
        self.rows[key] = record
        if key in self._unsynced:
            self._start(self._try_to_settle, key)
        return key

    async def settle(self, key: str) -> None:
        """Wait until a snapshot and all snapshots below it are durable and have their rows. If an earlier attempt to make
        the snapshots durable has failed, this method tries again."""
        below = []
        while key in self.rows:
            below.append(key)
            key = self.rows[key].parent
        for each in reversed(below):  # lowest first, because no row may name a parent that is lost in a power cut
            if lock := self._unsynced.get(each):
                async with lock:
                    await self._make_durable(each)

    async def settle_all(self) -> None:
        """Like `settle`, but for all snapshots. Failures are only logged."""
        for key in list(self._unsynced):
            await self._try_to_settle(key)

    async def _try_to_settle(self, key: str) -> None:
        try:
            await self.settle(key)
        except OrlopError as error:
            log.warning("cannot save snapshot %s of a build: %s", key, error)

    async def _make_durable(self, key: str) -> None:
        if key not in self._unsynced:
            return
        assert isinstance(self._storage, DeferredSync)
        await self._storage.make_durable(key)
        while True:
            record = self.rows[key]
            await self._store.commit([Put(TABLE, key, encode(record))])
            if self.rows[key] is record:  # otherwise the record has changed meanwhile
                break
        del self._unsynced[key]

    async def _save(self, key: str) -> None:
        """Write a changed row. The row of a snapshot that is not durable is written later, by `settle`."""
        if key not in self._unsynced:
            await self._store.commit([Put(TABLE, key, encode(self.rows[key]))])

    async def packed(self, key: str, diff_id: str, tar_size: int) -> None:
        """Record the result of packing."""
        if key in self.rows:
            self.rows[key] = replace(self.rows[key], diff_id=diff_id, tar_size=tar_size)
            await self._save(key)

    async def remove(self, key: str) -> None:
        """Release a snapshot, which the builder does not need any more. Raises `Conflict` if the snapshot is the parent
        of another snapshot of the builder."""
        row = self.rows.get(key)
        if row is None or row.released:
            return
        if any(other.parent == key and not other.released for other in self.rows.values()):
            raise Conflict(f"cannot remove snapshot {key}: it is the parent of other snapshots")
        if self._is_free(key):
            try:
                await self._remove(key)
            except Conflict:
                pass  # the snapshot is the parent of a layer of an image
            else:
                await self.reap()
                return
        self.rows[key] = replace(row, released=True)
        await self._save(key)

    def _of_image(self, key: str) -> bool:
        return any(built.snapshot == key for built in self._image_store.layers.built.values())

    async def _unneeded_by_images(self, key: str) -> bool:
        """See `Layers.drop_built_here`."""
        row = self.rows.get(key)
        if row is not None and (not row.released or key in self._in_use):
            return False
        await self._remove(key)
        return True

    async def _remove(self, key: str) -> None:
        """Remove a snapshot. Raises `Conflict` while it has children."""
        async with self._unsynced.get(key) or nullcontext():  # another task may be making the snapshot durable
            await self._storage.remove(key)
            self._unsynced.pop(key, None)
            if self.rows.pop(key, None) is not None:
                await self._store.commit([Delete(TABLE, key)])
