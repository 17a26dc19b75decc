"""The rows of containers (table `containers` of the store), and changes of records: copy, commit, swap.

A published record is never changed in place. `Rows.change` commits the new record first, and then publishes it. A change
that must be visible even if its commit fails (such as an exit when the disk is full) is published by `Container.publish`,
and committed by `Rows.save`.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from copy import copy

import msgspec
from msgspec.structs import replace

from orlop_engine.networks.records import Sandbox
from orlop_kernel.store import UNREADABLE, Put, Store

from . import labels
from .container import Container
from .index import ContainerIndex
from .record import ContainerRecord, decode, encode

__all__ = ["Rows"]

_TABLE = "containers"
_ID = re.compile(r"[0-9a-f]{64}")


class _OnNetworks(msgspec.Struct):
    sandbox: Sandbox | None = None


def _sandbox(key: str, row: bytes) -> Sandbox | None:
    """The sandbox in a row whose other fields cannot be decoded."""
    try:
        sandbox = msgspec.json.decode(row, type=_OnNetworks).sandbox
    except UNREADABLE:
        return None
    return sandbox if sandbox and sandbox.container_id == key else None


class Rows:
    """Loads, saves and changes the rows of the containers in a `ContainerIndex`."""

    def __init__(self, store: Store, index: ContainerIndex) -> None:
        self._store, self._index = store, index

    async def load(self, deciding_labels: frozenset[str]) -> None:
        """Load all rows into the `ContainerIndex`; quarantine rows that cannot be used. `deciding_labels`: see
        `labels.shed`."""
        for key, row in self._store.load(_TABLE):
            try:
                record = self._checked(key, decode(row))
            except UNREADABLE as error:
                await self._store.quarantine(_TABLE, key, str(error))
                self._index.quarantined[key] = _sandbox(key, row)
            else:
                labels.shed(record, deciding_labels)
                self._index.add(Container(record))

    def _checked(self, key: str, record: ContainerRecord) -> ContainerRecord:
        """Validate a decoded record. The record's id must equal the key, because paths are made from the id. The record's
        name must be unique."""
        if record.id != key or not _ID.fullmatch(key):
            raise ValueError(f"row contains another id: {record.id[:80]!r}")
        if holder := self._index.names.get(record.name):
            raise ValueError(f"row contains the name {record.name[:80]!r} of container {holder[:12]}")
        return record

    @asynccontextmanager
    async def change(self, container: Container) -> AsyncIterator[ContainerRecord]:
        """Change a record by copy, commit, swap: the `with` block sets fields of a draft. At the end of the block the row is
        committed, and then these fields are published in one step. If the commit fails, nothing changes. Changes of one
        container are made one after the other. The block must not await.

        Another task (for example an exit) may publish a field without a commit meanwhile. The published value then replaces
        the draft's value, and the next commit writes it to the row."""
        async with container.row_lock:
            base, draft = container.record, copy(container.record)
            yield draft
            changed = _difference(base, draft)
            await self._commit(container, draft)
            kept = {name: value for name, value in changed.items() if getattr(container.record, name) is getattr(base, name)}
            container.record = replace(container.record, **kept)
            container.touch()

    async def save(self, container: Container) -> None:
        """Commit the record as it is published, and begin a new revision, whether or not the commit succeeds."""
        container.touch()
        if container.row_lock.locked():
            async with container.row_lock:  # if a change is being committed, wait until it is published
                pass
        await self._commit(container, container.record)

    async def _commit(self, container: Container, record: ContainerRecord) -> None:
        """Commit the row, unless the container was removed meanwhile. The store commits in the order of the calls, so the
        last of several saves wins."""
        if container.id in self._index and not container.row_going:
            await self._store.commit([Put(_TABLE, container.id, encode(record))])


def _difference(base: ContainerRecord, draft: ContainerRecord) -> dict[str, object]:
    """The fields of the draft that were set."""
    names = ContainerRecord.__struct_fields__
    return {name: value for name in names if (value := getattr(draft, name)) is not getattr(base, name)}
