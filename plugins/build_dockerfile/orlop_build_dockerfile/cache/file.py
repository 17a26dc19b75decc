"""The SQLite file of the cache. All functions block; `Records` calls them on one worker thread at a time."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import time
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import msgspec

from orlop_sdk import DriverError

__all__ = ["CacheFile", "References", "StoredRecord", "references"]

_log = logging.getLogger("orlop.build")
_VERSION = 1
_SCHEMA = """
CREATE TABLE records (id TEXT PRIMARY KEY, key TEXT NOT NULL, kind TEXT NOT NULL, description TEXT NOT NULL,
    created REAL NOT NULL, used REAL NOT NULL, uses INTEGER NOT NULL, size INTEGER NOT NULL, path TEXT NOT NULL,
    snapshots TEXT NOT NULL, extra TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE keys (key TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID;
CREATE INDEX keys_of_record ON keys (record);
"""

Statement = tuple[str, Sequence[Any]]


class StoredRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`snapshots` are (output, snapshot, parent) for each output; snapshot "" is an empty file system. `path` is the
    directory of a record without snapshots. `size` is -1 if it was not measured yet."""

    id: str
    key: str
    kind: str
    description: str
    created: float
    used: float
    uses: int = 0
    size: int = -1
    path: str = ""
    snapshots: tuple[tuple[int, str, str], ...] = ()
    extra: dict[str, str] = {}


class References(NamedTuple):
    """The directories and snapshots that the records of a cache refer to. `is_known`: the file exists and is readable."""

    paths: frozenset[str] = frozenset()
    snapshots: frozenset[str] = frozenset()
    is_known: bool = False


def references(path: str) -> References:
    """Read the file without changing it. The file need not exist."""
    try:
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            rows = database.execute("SELECT path, snapshots FROM records").fetchall()
        keys = {key for _, text in rows for _, key, _ in msgspec.json.decode(text, type=list[tuple[int, str, str]])}
    except (sqlite3.Error, msgspec.DecodeError):
        return References()
    return References(frozenset(path for path, _ in rows if path), frozenset(filter(None, keys)), is_known=True)


# The content of the file is wrong: no database, damaged pages, or (SQLITE_ERROR) other tables
_DAMAGED = (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR)


def _failure(error: sqlite3.Error, what: str) -> DriverError | None:
    """The error for users; None if the content of the file is wrong."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)
    if code & 0xFF in _DAMAGED:
        return None
    full = code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE)
    return DriverError(f"{what} the build cache: {'no space left on device' if full else error}")


class CacheFile:
    """Opens or makes the file. A damaged file is renamed and replaced by an empty file, because the content of a cache may
    be lost. Raises DriverError for all other reasons, such as a full disk, because then the file may be in order."""

    def __init__(self, path: str) -> None:
        self._path = path
        try:
            self._db = self._checked()
        except sqlite3.DatabaseError as error:
            _log.error("cannot read the build cache %s: %s; starting with an empty cache", path, error)
            for suffix in ("", "-wal", "-shm"):
                with contextlib.suppress(FileNotFoundError):
                    os.rename(path + suffix, f"{path}.damaged-{int(time.time())}{suffix}")
            self._db = self._checked()

    def _checked(self) -> sqlite3.Connection:
        try:
            return self._open()
        except sqlite3.DatabaseError as error:
            if failure := _failure(error, "cannot open"):
                raise failure from error
            raise

    def _open(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode=WAL")
            db.execute("PRAGMA synchronous=NORMAL")
            version = db.execute("PRAGMA user_version").fetchone()[0]
            if version == 0:
                db.executescript(f"BEGIN; {_SCHEMA} PRAGMA user_version={_VERSION}; COMMIT;")
            elif version != _VERSION:
                raise sqlite3.DatabaseError(f"version {version} is not {_VERSION}")
            if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                raise sqlite3.DatabaseError("the consistency check failed")
        except BaseException:
            db.close()
            raise
        return db

    def load(self) -> tuple[list[StoredRecord], dict[str, str]]:
        """All records, and for each key the id of its record. Unreadable rows are dropped."""
        records = []
        for row in self._db.execute(
            "SELECT id, key, kind, description, created, used, uses, size, path, snapshots, extra FROM records"
        ):
            try:
                snapshots = msgspec.json.decode(row[9], type=tuple[tuple[int, str, str], ...])
                extra = msgspec.json.decode(row[10], type=dict[str, str])
            except msgspec.DecodeError:
                continue
            records.append(
                StoredRecord(
                    id=row[0],
                    key=row[1],
                    kind=row[2],
                    description=row[3],
                    created=row[4],
                    used=row[5],
                    uses=row[6],
                    size=row[7],
                    path=row[8],
                    snapshots=snapshots,
                    extra=extra,
                )
            )
        return records, dict(self._db.execute("SELECT key, record FROM keys"))

    def write(self, statements: Iterable[Statement]) -> None:
        """Execute all statements, or none of them."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for sql, values in statements:
                self._db.execute(sql, values)
            self._db.execute("COMMIT")
        except BaseException as error:
            if self._db.in_transaction:  # SQLite itself rolls back after some errors
                self._db.execute("ROLLBACK")
            if isinstance(error, sqlite3.Error) and (failure := _failure(error, "cannot change")):
                raise failure from error
            raise

    def close(self) -> None:
        self._db.close()


def put(record: StoredRecord) -> Statement:
    values = (
        record.id,
        record.key,
        record.kind,
        record.description,
        record.created,
        record.used,
        record.uses,
        record.size,
        record.path,
        msgspec.json.encode(record.snapshots).decode(),
        msgspec.json.encode(record.extra).decode(),
    )
    return "INSERT OR REPLACE INTO records VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", values


def put_key(key: str, record: str) -> Statement:
    return "INSERT OR REPLACE INTO keys VALUES (?, ?)", (key, record)


def delete(record: str) -> list[Statement]:
    return [("DELETE FROM keys WHERE record = ?", (record,)), ("DELETE FROM records WHERE id = ?", (record,))]


def touch(record: str, used: float, uses: int) -> Statement:
    return "UPDATE records SET used = ?, uses = ? WHERE id = ?", (used, uses, record)


def measure(record: str, size: int) -> Statement:
    return "UPDATE records SET size = ? WHERE id = ?", (size, record)
