# ruff: noqa: S608 - table names in SQL text are checked against TABLES; values are always bound
"""The one database of the daemon, and the only module that knows it is SQLite.

Owned by one thread: it alone holds the connection, takes the jobs that wait, gives each a savepoint and commits them
together. `commit` returns when its job is on the disk (WAL, `synchronous=FULL`: NORMAL lost acknowledged rows in a power
cut). A job once handed over is done, whatever becomes of the task that waits for it.

Survives a crash: every acknowledged commit. A file that is damaged is moved aside, never repaired in place and never in
the way of a start; a row that its owner cannot decode goes to the table `quarantine`. One process at a time, by flock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import trio

from orlop_kernel.spi.errors import DriverError, Unavailable

__all__ = ["SCHEMA_VERSION", "TABLES", "Delete", "Put", "Store", "lock_root"]

SCHEMA_VERSION = 1
TABLES = ("containers", "images", "networks", "volumes", "execs", "events", "intents", "meta")

_log = logging.getLogger("orlop.store")
_GROUP = 256  # jobs in one transaction: bounds how long the first of them waits


class Put(NamedTuple):
    """Write one row, replacing what has that key."""

    table: str
    key: str
    value: bytes


class Delete(NamedTuple):
    """Remove one row; absent: no error."""

    table: str
    key: str


class _Quarantine(NamedTuple):
    """Move one row to the table `quarantine`."""

    table: str
    key: str
    reason: str


Operation = Put | Delete | _Quarantine


def _table(name: str) -> str:
    """The name, if it is a table of ours: it goes into SQL text."""
    if name not in TABLES:
        raise ValueError(f"unknown table: {name}")
    return name


def _run(connection: sqlite3.Connection, operation: Operation) -> None:
    table = operation.table
    match operation:
        case Put(_, key, value):
            connection.execute(
                f"INSERT INTO {table} VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (key, value)
            )
        case Delete(_, key):
            connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))
        case _Quarantine(_, key, reason):
            connection.execute(
                f"INSERT INTO quarantine SELECT ?, key, value, ?, ? FROM {table} WHERE key = ?",
                (table, reason, time.time(), key),
            )
            connection.execute(f"DELETE FROM {table} WHERE key = ?", (key,))


class _Job:
    """What one `commit` asks for, and where its answer goes."""

    __slots__ = ("done", "error", "operations")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.done = trio.Event()
        self.error: Exception | None = None


def lock_root(root: str, what: str) -> int:
    """Take `<root>/orlop.lock` for this process and return the fd that holds it. The kernel frees it however we end."""
    path = os.path.join(root, "orlop.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise Unavailable(
            f"cannot use {what} {root}: process with PID {holder} is still running and holds it; "
            "give each daemon a --data-root and an --exec-root of its own"
        ) from None
    os.ftruncate(fd, 0)
    os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def _translate(error: sqlite3.Error) -> Exception:
    """SQLite's errors end here. Full disks and failing ones are told apart: the first pass by themselves."""
    code = getattr(error, "sqlite_errorname", "")
    if code == "SQLITE_FULL" or "disk is full" in str(error):
        return Unavailable("cannot write the state database: no space left on device")
    return DriverError(f"cannot write the state database: {error} ({code or 'unknown'})")


def _connect(path: str) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            connection.execute(f"CREATE TABLE IF NOT EXISTS {table} (key TEXT PRIMARY KEY, value BLOB NOT NULL)")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS quarantine (source TEXT, key TEXT, value BLOB, reason TEXT, time REAL)"
        )
        connection.execute("INSERT OR IGNORE INTO meta VALUES ('schema', ?)", (str(SCHEMA_VERSION).encode(),))
        connection.execute("COMMIT")
        (found,) = connection.execute("SELECT value FROM meta WHERE key='schema'").fetchone()
        if int(found) > SCHEMA_VERSION:
            raise DriverError(
                f"cannot open {path}: it was written by a newer Orlop (schema {int(found)}, this one knows {SCHEMA_VERSION})"
            )
        if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("quick_check found damage")
    except BaseException:
        connection.close()
        raise
    return connection


def _open(path: str) -> sqlite3.Connection:
    """Open the file; one that is damaged is renamed and a new one begun, because the daemon always starts."""
    try:
        return _connect(path)
    except sqlite3.OperationalError as error:
        raise _translate(error) from error
    except (sqlite3.DatabaseError, ValueError, TypeError) as error:
        aside = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
        for suffix in ("", "-wal", "-shm"):
            if os.path.exists(path + suffix):
                os.rename(path + suffix, aside + suffix)
        _log.error("state database %s is damaged (%s): moved to %s, starting with an empty one", path, error, aside)
        return _connect(path)


class Store:
    """Rows of bytes by table and key. Make it with `Store.open`."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._closed = False

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str) -> AsyncIterator[Store]:
        """Open or create the database and hold it, against other daemons too, until the block ends. Raises `Unavailable`
        when another process holds it or the disk is full."""
        os.makedirs(os.path.dirname(path), mode=0o711, exist_ok=True)
        lock = lock_root(os.path.dirname(path), "data root")
        try:
            store = cls(path, _open(path))
            store._thread.start()
            try:
                yield store
            finally:
                store.close()
        finally:
            os.close(lock)

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """All rows of a table, by key. For boot: it reads on the calling thread, all at once, so that its caller may
        write the same table while it goes through them."""
        return iter(self._connection.execute(f"SELECT key, value FROM {_table(table)} ORDER BY key").fetchall())

    async def commit(self, operations: Sequence[Operation]) -> None:
        """Apply all or none, durably. Not undone by cancellation: once handed over it is carried out. Raises
        `Unavailable` on a full disk, `DriverError` when the database fails otherwise."""
        for operation in operations:
            _table(operation.table)
        if self._closed:
            raise Unavailable("cannot write the state database: the daemon is shutting down")
        job = _Job(tuple(operations))
        self._jobs.put(job)
        await job.done.wait()
        if job.error:
            raise job.error

    async def quarantine(self, table: str, key: str, reason: str) -> None:
        """Move a row that cannot be used to the table `quarantine`: it is out of the way and not lost."""
        _log.error("%s %s cannot be used and is set aside: %s", table, key, reason)
        await self.commit([_Quarantine(table, key, reason)])

    def quarantined(self) -> list[tuple[str, str, str]]:
        """(table, key, reason) of what was set aside."""
        return list(self._connection.execute("SELECT source, key, reason FROM quarantine ORDER BY time"))

    def lost_rows(self) -> bool:
        """Whether a damaged database was set aside beside this one, and is still there: rows may be missing, so what has no
        row must not be taken for garbage."""
        directory, name = os.path.split(self.path)
        return any(entry.startswith(f"{name}.damaged-") for entry in os.listdir(directory))

    def close(self) -> None:
        """Finish what was handed over, then close. May be called twice."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
            self._thread.join()
            self._connection.close()

    # --- the committing thread --------------------------------------------------------------------------------------

    def _serve(self) -> None:
        while True:
            group, last = self._take()
            if group:
                self._commit(group)
                try:
                    self._token.run_sync_soon(_finish, group)
                except trio.RunFinishedError:
                    pass  # nobody is left to tell; the rows are on the disk
            if last:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        """At least one job and all that wait behind it, and whether the end has come."""
        group: list[_Job] = []
        job = self._jobs.get()
        while job is not None:
            group.append(job)
            if len(group) >= _GROUP:
                return group, False
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                return group, False
        return group, True

    def _commit(self, group: list[_Job]) -> None:
        execute = self._connection.execute
        try:
            execute("BEGIN IMMEDIATE")
            for job in group:
                self._apply(job)
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # a disk that fails; the thread must live, or nobody is answered any more
                    execute("ROLLBACK")
            failure = _translate(error)
            for job in group:
                job.error = job.error or failure

    def _apply(self, job: _Job) -> None:
        """One job in a savepoint of its own, so that a bad one does not undo its neighbours."""
        execute = self._connection.execute
        execute("SAVEPOINT job")
        try:
            for operation in job.operations:
                _run(self._connection, operation)
        except sqlite3.Error as error:
            if not self._connection.in_transaction:
                raise  # a full disk ends the whole transaction by itself
            job.error = _translate(error)
            execute("ROLLBACK TO job")
        execute("RELEASE job")


def _finish(group: Sequence[_Job]) -> None:
    for job in group:
        job.done.set()
