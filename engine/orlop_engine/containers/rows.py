"""The rows of containers: table `containers` of the store."""

from __future__ import annotations

import re

import msgspec

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
    """The sandbox in a row that cannot be decoded otherwise."""
    try:
        sandbox = msgspec.json.decode(row, type=_OnNetworks).sandbox
    except UNREADABLE:
        return None
    return sandbox if sandbox and sandbox.container_id == key else None


class Rows:
    """Loads, saves and changes the rows of the containers in an index."""

    def __init__(self, store: Store, index: ContainerIndex) -> None:
        self._store, self._index = store, index

    async def load(self, deciding_labels: frozenset[str]) -> None:
        """Load all rows into the index; quarantine those that cannot be used. `deciding_labels`: see `labels.shed`."""
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
        """Validate a decoded record. Its id must equal the key, because paths are made from it, and its name must be
        unique."""
        if record.id != key or not _ID.fullmatch(key):
            raise ValueError(f"it says that its id is {record.id[:80]!r}")
        if holder := self._index.names.get(record.name):
            raise ValueError(f"its name {record.name[:80]!r} is that of container {holder[:12]}")
        return record

    async def save(self, container: Container) -> None:
        """Commit the row and drop the cached views of the record, whether or not the commit succeeds. The row of a
        container that was removed meanwhile is not written again."""
        container.touch()
        if container.id in self._index and not container.row_going:
            await self._store.commit([Put(_TABLE, container.id, encode(container.record))])
