"""The row that says what was adopted, in the table `meta`.

    adoption:links    links that are being made or removed: the next start or command removes them
    adoption          a complete adoption

An adoption commits the first row and makes the links. One commit then replaces the first row by the second and adds the
rows of all objects. Giving back is the reverse. A crash leaves links without rows, never rows without links.
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
    """A snapshot's entry of the storage driver's index."""

    key: str
    committed: bool


class Phase(Enum):
    """`MOVING`, `RETURNING` (after a move) and `LEAVING` (of what is used in place) are completed by the next start."""

    IN_PLACE = "in place"
    MOVING = "moving"
    MOVED = "moved"
    RETURNING = "returning"
    LEAVING = "leaving"


class Adopted(msgspec.Struct, frozen=True, kw_only=True):
    """One adoption. `transactions` are those of Docker's databases, by path below `root`: dockerd increases them when it
    runs. `directories` are of snapshots and volumes, `logs` the containers' directories with their logs, `files` what is
    linked by name. `made` are directories that hold nothing but links."""

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
    """The adoption whose links are to be removed."""
    return _row(store, _LINKS)


def put(adopted: Adopted) -> Put:
    return Put(_TABLE, _KEY, msgspec.json.encode(adopted))


def put_links(adopted: Adopted) -> Put:
    return Put(_TABLE, _LINKS, msgspec.json.encode(adopted))


def delete() -> Delete:
    return Delete(_TABLE, _KEY)


def delete_links() -> Delete:
    return Delete(_TABLE, _LINKS)
