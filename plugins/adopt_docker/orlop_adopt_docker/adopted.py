"""The rows in the table `meta` that record an adoption.

    adoption:links links that are being made or removed; the next daemon or command removes them adoption a complete adoption

An adoption commits the row `adoption:links` and makes the links. One commit then replaces this row by the row `adoption` and
adds the rows of all objects. Returning a root does the same steps in reverse order. So a crash can leave links without rows,
but never rows without links.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

import msgspec

from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import DriverError

__all__ = ["Adopted", "Entry", "Link", "Phase", "delete", "delete_links", "load", "load_links", "put", "put_links"]

_TABLE, _KEY, _LINKS = "meta", "adoption", "adoption:links"


class Link(msgspec.Struct, frozen=True):
    """A file or directory of Docker that is used in place: `source` in the Docker root, `target` below Orlop's data root."""

    source: str
    target: str


class Entry(msgspec.Struct, frozen=True):
    """The entry of a snapshot in the storage driver's index."""

    key: str
    committed: bool


class Phase(Enum):
    """`MOVING` is a move for good. `RETURNING` is the return after such a move, and `LEAVING` the return of files that were
    used in place. If a crash interrupts one of these phases, the next daemon completes the phase."""

    IN_PLACE = "in place"
    MOVING = "moving"
    MOVED = "moved"
    RETURNING = "returning"
    LEAVING = "leaving"


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """One adoption. `transactions` are the transaction numbers of Docker's databases, by path below `root`; dockerd
    increases them when it runs. `directories` are the directories of snapshots and volumes. `logs` are the directories of
    containers, with their logs. `files` are single linked files. `made` are directories that contain only links."""

    root: str
    engine_id: str
    time_ns: int
    phase: Phase = Phase.IN_PLACE
    transactions: dict[str, int] = {}
    directories: tuple[Link, ...] = ()
    made: tuple[str, ...] = ()
    entries: tuple[Entry, ...] = ()
    logs: tuple[Link, ...] = ()
    files: tuple[Link, ...] = ()
    images: tuple[str, ...] = ()
    containers: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    networks: tuple[str, ...] = ()


_decode = msgspec.json.Decoder(Adopted).decode


def _row(store: Store, key: str) -> Adopted | None:
    rows: Mapping[str, bytes] = dict(store.load(_TABLE))
    try:
        return _decode(rows[key]) if key in rows else None
    except UNREADABLE as error:
        raise DriverError(f"cannot read what was adopted: row {_TABLE}/{key}: {error}") from error


def load(store: Store) -> Adopted | None:
    """The complete adoption of this data root."""
    return _row(store, _KEY)


def load_links(store: Store) -> Adopted | None:
    """The adoption whose links must be removed."""
    return _row(store, _LINKS)


def put(adopted: Adopted) -> Put:
    return Put(_TABLE, _KEY, msgspec.json.encode(adopted))


def put_links(adopted: Adopted) -> Put:
    return Put(_TABLE, _LINKS, msgspec.json.encode(adopted))


def delete() -> Delete:
    return Delete(_TABLE, _KEY)


def delete_links() -> Delete:
    return Delete(_TABLE, _LINKS)
