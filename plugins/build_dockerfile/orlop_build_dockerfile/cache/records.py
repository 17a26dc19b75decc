"""Records of the cache in memory, their keys, and leases.

A record with a lease is not removed. A build leases each record that it uses until the end of the build. A record is also
kept while one of its snapshots is an ancestor of another record's snapshot.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import trio

from orlop_build_dockerfile.contracts import Backend, Layer
from orlop_sdk import Conflict, OrlopError
from orlop_sdk.files import delete_tree, tree_usage

from . import file
from .file import CacheFile, Statement, StoredRecord

__all__ = ["Lease", "Record", "Records"]

_log = logging.getLogger("orlop.build")
_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_WRITING = 60.0
_FLUSHING = 1.0
_BASE = "base:"  # key prefix: "base:" and the snapshot of an image; the value is its diffIDs
T = TypeVar("T")


@dataclass(slots=True, eq=False)
class Record:
    """`key` is the cache key of the record's result. Equal steps on results with equal keys have equal keys. `snapshots` are
    the snapshots of the outputs, by number, and `parents` the snapshots below them. `layers` are the layers of the snapshots
    that an export has requested from the daemon so far."""

    id: str
    key: str
    kind: str = "regular"
    description: str = ""
    created: float = 0
    used: float = 0
    uses: int = 0
    size: int = -1
    path: str = ""
    snapshots: dict[int, str] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    extra: dict[str, str] = field(default_factory=dict)
    keys: set[str] = field(default_factory=set)
    layers: dict[str, Layer] = field(default_factory=dict)
    leases: int = 0
    removed: bool = False


class Lease:
    """The records that one build uses. After `end`, the lease accepts no more records, because a call of an ended build may
    still be running."""

    def __init__(self) -> None:
        self._records: set[Record] = set()
        self._ended = False

    def add(self, record: Record) -> None:
        if record not in self._records and not self._ended:
            record.leases += 1
            self._records.add(record)

    def __contains__(self, record: Record) -> bool:
        return record in self._records

    def end(self) -> None:
        self._ended = True
        for record in self._records:
            record.leases -= 1
        self._records.clear()


class Records:
    def __init__(self, backend: Backend, directory: str) -> None:
        self.backend, self._directory = backend, directory
        self._file: CacheFile | None = None
        self._one = trio.CapacityLimiter(1)  # statements are written in the order of the calls
        self.all: dict[str, Record] = {}
        self._keys: dict[str, Record] = {}
        self._by_snapshot: dict[str, Record] = {}
        self._children: dict[str, int] = {}
        self._touched: set[Record] = set()
        self._flushing = False
        self.base_layers: dict[str, tuple[str, ...]] = {}
        """Snapshot of an image's top layer -> diffIDs of the image, for all images on which records depend."""
        self._doomed: list[str] = []

    # --- start and end

    async def open(self) -> None:
        """Read the file, and compare it with the snapshots that exist."""
        self._file = await self._run(lambda: CacheFile(os.path.join(self._directory, "cache.db")))
        stored, keys = await self._run(self._file.load)
        present = set(await self.backend.snapshots())
        dropped: list[Statement] = []
        for row in stored:
            record = _record(row)
            if not all(snapshot in present for snapshot in record.snapshots.values() if snapshot) or not (
                record.snapshots or os.path.isdir(record.path)
            ):
                dropped += file.delete(row.id)
            else:
                self._index(record)
        for key, ident in keys.items():
            if ident in self.all:
                self._lead(key, self.all[ident])
        await self._write(dropped)
        await self._remove_snapshots(present - self._by_snapshot.keys())

    async def _remove_snapshots(self, strays: set[str]) -> None:
        """Remove snapshots without records, children before their parents."""
        while strays:
            removed = set()
            for snapshot in strays:
                try:
                    await self.backend.remove(snapshot)
                except Conflict:
                    continue
                except OrlopError as error:
                    _log.warning("cannot remove snapshot %s of the build cache: %s", snapshot, error)
                removed.add(snapshot)
            if not removed:
                _log.warning("%d snapshots of the build cache are in use, and have no record", len(strays))
                return
            strays -= removed

    async def close(self) -> None:
        if self._file is not None:
            try:
                await self.flush()
            except OrlopError as error:
                _log.warning("%s", error)
            finally:
                opened, self._file = self._file, None
                await self._run(opened.close)

    async def _run(self, work: Callable[[], T]) -> T:
        return await trio.to_thread.run_sync(work, limiter=self._one)

    async def _write(self, statements: Sequence[Statement]) -> None:
        if statements and self._file is not None:
            opened = self._file
            await self._run(lambda: opened.write(statements))

    def _index(self, record: Record) -> None:
        self.all[record.id] = record
        self._lead(record.key, record)
        for snapshot in filter(None, record.snapshots.values()):
            self._by_snapshot[snapshot] = record
            parent = record.parents.get(snapshot, "")
            if parent:
                self._children[parent] = self._children.get(parent, 0) + 1
            if parent and _BASE + parent in record.extra:
                self.base_layers[parent] = tuple(record.extra[_BASE + parent].split())

    def _lead(self, key: str, record: Record) -> None:
        before = self._keys.get(key)
        if before is not None:
            before.keys.discard(key)
        self._keys[key] = record
        record.keys.add(key)

    # --- lookup

    def find(self, key: str) -> Record | None:
        return self._keys.get(key)

    def of_snapshot(self, snapshot: str) -> Record | None:
        return self._by_snapshot.get(snapshot)

    def parent(self, snapshot: str) -> str | None:
        """The parent of a record's snapshot; None if the parent does not belong to the builder."""
        record = self._by_snapshot.get(snapshot)
        return None if record is None else record.parents.get(snapshot, "")

    def parents(self, record: Record) -> list[Record]:
        found = (self._by_snapshot.get(parent) for parent in record.parents.values())
        return [parent for parent in dict.fromkeys(found) if parent is not None and parent is not record]

    def is_busy(self, record: Record) -> bool:
        return record.leases > 0 or any(self._children.get(snapshot) for snapshot in record.snapshots.values())

    def use(self, record: Record, lease: Lease) -> None:
        """Lease a record, and count the use."""
        if record in lease:
            return
        lease.add(record)
        record.used, record.uses = time.time(), record.uses + 1
        self._touched.add(record)

    # --- changes

    async def add(
        self,
        key: str,
        snapshots: Mapping[int, tuple[str, str]],
        lease: Lease,
        *,
        keys: Iterable[str] = (),
        kind: str = "regular",
        description: str = "",
        path: str = "",
        extra: Mapping[str, str] | None = None,
    ) -> Record:
        """Record committed `snapshots`: (snapshot, parent) by output. `keys` are additional keys of the record."""
        ident = "".join(secrets.choice(_ALPHABET) for _ in range(25))
        now = time.time()
        record = Record(ident, key, kind, description, now, now, 1, path=path, extra=dict(extra or {}))
        record.snapshots = {output: snapshot for output, (snapshot, _) in snapshots.items()}
        record.parents = {snapshot: parent for snapshot, parent in snapshots.values() if snapshot}
        for parent in record.parents.values():
            if parent not in self._by_snapshot and parent in self.base_layers:
                record.extra[_BASE + parent] = " ".join(self.base_layers[parent])
        lease.add(record)
        self._index(record)
        for each in keys:
            self._lead(each, record)
        rows = [file.put_key(each, ident) for each in {key, *keys}]
        # shielded, because a record must not be in memory without being in the file
        with trio.move_on_after(_WRITING, shield=True):
            await self._write([file.put(_stored(record)), *rows])
        return record

    async def link(self, key: str, record: Record) -> None:
        """Add a key to a record."""
        if self._keys.get(key) is record or record.removed:
            return
        self._lead(key, record)
        await self._write([file.put_key(key, record.id)])

    async def remove(self, record: Record) -> bool:
        """Remove a record and its snapshots. False if it is in use."""
        if record.removed or self.is_busy(record):
            return False
        record.removed = True
        del self.all[record.id]
        for key in record.keys:
            del self._keys[key]
        record.keys.clear()
        self._touched.discard(record)
        with trio.move_on_after(_WRITING, shield=True):
            await self._write(file.delete(record.id))
            for snapshot in filter(None, record.snapshots.values()):
                with contextlib.suppress(OrlopError):  # the next builder process tries again
                    await self.backend.remove(snapshot)
                self._by_snapshot.pop(snapshot, None)
                parent = record.parents.get(snapshot, "")
                if parent:
                    self._children[parent] -= 1
            if record.path:
                path = record.path
                with contextlib.suppress(OSError):
                    await trio.to_thread.run_sync(delete_tree, path)
        return True

    def flush_soon(self, nursery: trio.Nursery) -> None:
        """Call `flush` a little later, so that no client waits for it. One call is made for all builds that end in the
        meantime."""
        if not self._flushing:
            self._flushing = True
            nursery.start_soon(self._flush_later)

    async def _flush_later(self) -> None:
        await trio.sleep(_FLUSHING)
        self._flushing = False
        try:
            await self.flush()
        except OrlopError as error:  # the builder goes on: only the order of the next garbage collection depends on this
            _log.warning("%s", error)

    async def flush(self) -> None:
        """Write to the file when records were used."""
        touched, self._touched = self._touched, set()
        try:
            await self._write([file.touch(record.id, record.used, record.uses) for record in touched if not record.removed])
        except BaseException:
            self._touched |= touched
            raise

    async def measure(self, record: Record) -> int:
        """The size of a record. A snapshot is measured once; a directory is measured each time."""
        if record.path:
            path = record.path
            with contextlib.suppress(OSError):
                record.size = (await trio.to_thread.run_sync(tree_usage, path)).size
        elif record.size < 0:
            size = 0
            for snapshot in filter(None, record.snapshots.values()):
                try:
                    size += (await self.backend.usage(snapshot)).size
                except OrlopError:
                    return 0
            record.size = size
            await self._write([file.measure(record.id, size)])
        return max(record.size, 0)

    def chain(self, snapshot: str) -> Iterator[str]:
        """The builder's snapshots from `snapshot` down, and then their base image's snapshot, if any."""
        while snapshot:
            yield snapshot
            snapshot = self.parent(snapshot) or ""


def _record(row: StoredRecord) -> Record:
    return Record(
        row.id,
        row.key,
        row.kind,
        row.description,
        row.created,
        row.used,
        row.uses,
        row.size,
        row.path,
        {output: snapshot for output, snapshot, _ in row.snapshots},
        {snapshot: parent for _, snapshot, parent in row.snapshots if snapshot},
        row.extra,
    )


def _stored(record: Record) -> StoredRecord:
    return StoredRecord(
        id=record.id,
        key=record.key,
        kind=record.kind,
        description=record.description,
        created=record.created,
        used=record.used,
        uses=record.uses,
        size=record.size,
        path=record.path,
        snapshots=tuple(
            (output, snapshot, record.parents.get(snapshot, "")) for output, snapshot in record.snapshots.items()
        ),
        extra=record.extra,
    )
