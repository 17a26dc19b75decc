"""Lists and removes records of the cache: `du`, `prune`, garbage collection.

A record is removed only if no build uses it and no other record depends on it. So of a chain of records, the newest record
is removed first, as in BuildKit. Records whose layers also belong to images are removed only by a prune of all records. They
do not count towards limits, because their removal frees no space.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import AsyncGenerator, Collection, Sequence

import msgspec
import trio

from orlop_build_dockerfile.contracts import CacheRecord, Settings
from orlop_sdk import OrlopError

from .filters import Fields, compile_filters
from .records import Record, Records

__all__ = ["Collector", "Limits"]

_log = logging.getLogger("orlop.build")
_PAUSE = 60.0  # minimum seconds between two collections
_PRIVATE = ("internal",)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of the cache. Sizes are in bytes; 0 means no limit."""

    filters: Sequence[str] = ()
    everything: bool = False
    keep_seconds: float = 0
    reserved: int = 0
    maximum: int = 0
    free: int = 0

    def keep(self, total: int, available: int) -> int:
        """The number of bytes to keep. With 0, all removable records are removed (BuildKit's `calculateKeepBytes`)."""
        keep, excess = self.maximum, self.free - available
        if self.free and excess > 0:
            keep = min(keep, total - excess) if keep else total - excess
        return max(keep, self.reserved)


class Collector:
    def __init__(self, records: Records, settings: Settings) -> None:
        self._records, self._settings = records, settings
        self._pruning = trio.Lock()
        self._wake = trio.Event()

    # --- listing

    async def usage(self, filters: Sequence[str]) -> list[CacheRecord]:
        matches = compile_filters(filters, "diskusage")
        records, shared = self._records, await self._shared()
        found = [record for record in list(records.all.values()) if matches(self._fields(record, shared))]
        for record in found:
            await records.measure(record)
        return [
            self._shown(record, shared) for record in sorted(found, key=lambda record: -record.size) if not record.removed
        ]

    async def _shared(self) -> set[Record]:
        """The records that images share, and the records below them."""
        found = set[Record]()
        for snapshot in await self._records.backend.shared():
            for key in self._records.chain(snapshot):
                record = self._records.of_snapshot(key)
                if record is None or record in found:
                    break
                found.add(record)
        return found

    def _fields(self, record: Record, shared: Collection[Record]) -> Fields:
        busy, mutable = record.leases > 0, bool(record.path)
        return {
            "id": record.id,
            "parents": ";".join(parent.id for parent in self._records.parents(record)),
            "description": record.description,
            "type": record.kind,
            "inuse": "" if busy else None,
            "mutable": "" if mutable else None,
            "immutable": None if mutable else "",
            "shared": "" if record in shared else None,
            "private": None if record in shared else "",
        }

    def _shown(self, record: Record, shared: Collection[Record]) -> CacheRecord:
        return CacheRecord(
            id=record.id,
            size=max(record.size, 0),
            created=record.created,
            last_used=record.used,
            uses=record.uses,
            description=record.description,
            kind=record.kind,
            parents=tuple(parent.id for parent in self._records.parents(record)),
            mutable=bool(record.path),
            in_use=record.leases > 0,
            shared=record in shared,
        )

    # --- removal

    async def prune(self, limits: Limits) -> AsyncGenerator[CacheRecord, None]:
        """Remove records. Yields a record after its removal."""
        matches = compile_filters(limits.filters)
        async with self._pruning:
            total, shared = 0, await self._shared()
            if limits.maximum or limits.reserved or limits.free:
                for record in set(self._records.all.values()) - shared:
                    total += await self._records.measure(record)
            keep = limits.keep(total, self._available())
            limited = bool(limits.maximum or limits.reserved or limits.free)
            while True:
                removed = 0
                for record in self._candidates(limits, matches, shared):
                    if limited and total <= keep:
                        return
                    size = await self._records.measure(record)
                    shown = self._shown(record, shared)
                    if await self._records.remove(record):
                        removed += 1
                        total -= 0 if record in shared else size
                        yield shown  # noqa: ASYNC119 - callers close the iterator
                if not removed:
                    return

    def _candidates(self, limits: Limits, matches: object, shared: Collection[Record]) -> list[Record]:
        assert callable(matches)
        latest = time.time() - limits.keep_seconds if limits.keep_seconds else float("inf")
        return sorted(
            (
                record
                for record in self._records.all.values()
                if (limits.everything or (record.kind not in _PRIVATE and record not in shared))
                and record.used <= latest
                and not self._records.is_busy(record)
                and matches(self._fields(record, shared))
            ),
            key=lambda record: record.used,
        )

    def _available(self) -> int:
        found = os.statvfs(self._settings.root)
        return found.f_bavail * found.f_frsize

    # --- garbage collection

    def wake(self) -> None:
        """Called when a build has ended. A collection then starts soon."""
        self._wake.set()

    async def run(self) -> None:
        """Apply the policies after builds."""
        while True:
            await self._wake.wait()
            self._wake = trio.Event()
            try:
                await self.collect()
            except OrlopError as error:
                _log.warning("cannot collect the garbage of the build cache: %s", error)
            await trio.sleep(_PAUSE)

    async def collect(self) -> int:
        """Apply the policies in order. Returns the number of removed records."""
        count = 0
        for policy in self._settings.policies:
            limits = Limits(
                filters=policy.filters,
                everything=policy.everything,
                keep_seconds=policy.keep_duration,
                reserved=policy.reserved,
                maximum=policy.maximum,
                free=policy.free,
            )
            async for _ in self.prune(limits):
                count += 1
        return count
