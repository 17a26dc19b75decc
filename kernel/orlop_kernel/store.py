# ruff: noqa: S608 - table names in SQL text are checked against TABLES; values are always bound
"""The daemon's database. Only this module and `storefile`, which opens the file, use SQLite.

One thread owns the connection: it executes all waiting jobs, each in a savepoint, and commits them together. `commit`
returns when its job is on the disk (WAL, `synchronous=FULL`; with NORMAL, a power cut loses acknowledged rows). A submitted
job is carried out even if the task that waits for it is cancelled.

Every acknowledged commit survives a crash. A damaged file never prevents a start (see `storefile`). A row that its owner
cannot decode is moved to the table `quarantine`, and each start tries to decode it again. An flock excludes other processes.

On a full disk a commit fails with `Unavailable`, except for jobs that remove data: `reserve` releases the space for them.
The database opens on a full disk, and commits succeed again once there is space.
"""

from __future__ import annotations

import logging
import os
import queue
import sqlite3
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from typing import NamedTuple

import trio

from orlop_kernel.reserve import Reserve
from orlop_kernel.storefile import SCHEMA_VERSION, TABLES, Examined, examine, is_full, lock_root, open_database, translate
from orlop_sdk.errors import DriverError, Unavailable

__all__ = [
    "SCHEMA_VERSION",
    "TABLES",
    "UNREADABLE",
    "Delete",
    "DropQuarantined",
    "Examined",
    "Put",
    "Store",
    "database_path",
    "examine",
    "lock_root",
]

UNREADABLE = (ValueError, RecursionError)
"""Errors of decoding a damaged row: msgspec's and Unicode's errors are ValueErrors."""

_log = logging.getLogger("orlop.store")
_GROUP = 256  # limit of jobs in one transaction, because the first job waits for all of them
_NAMED = 100  # limit of quarantined rows that are logged one by one; further rows are only counted
_REFILL = 5.0  # seconds between two checks of free space while the reserve file has less than its full size


def database_path(data_root: str) -> str:
    return os.path.join(data_root, "orlop.db")


class Put(NamedTuple):
    """Write one row; an existing row with this key is replaced."""

    table: str
    key: str
    value: bytes


class Delete(NamedTuple):
    """Remove one row; a missing row is no error."""

    table: str
    key: str


class DropQuarantined(NamedTuple):
    """Drop a quarantined row; a missing row is no error."""

    table: str
    key: str


class _Quarantine(NamedTuple):
    """Move one row to the table `quarantine`."""

    table: str
    key: str
    reason: str


Operation = Put | Delete | DropQuarantined | _Quarantine


def _table(name: str) -> str:
    """Return the name if it is one of TABLES. Checked, because the name is inserted into SQL text."""
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
        case DropQuarantined(_, key):
            connection.execute("DELETE FROM quarantine WHERE source = ? AND key = ?", (table, key))
        case _Quarantine(_, key, reason):
            # If necessary, compare all keys: `WHERE key = ?` does not find a key whose type was changed by damage
            rows = connection.execute(f"SELECT rowid, key FROM {table} WHERE key = ?", (key,)).fetchall()
            rows = rows or connection.execute(f"SELECT rowid, key FROM {table}").fetchall()
            for row in [row for row, found in rows if str(found) == key]:
                values = (table, key, reason, time.time(), row)
                connection.execute(f"INSERT INTO quarantine SELECT ?, ?, value, ?, ? FROM {table} WHERE rowid = ?", values)
                connection.execute(f"DELETE FROM {table} WHERE rowid = ?", (row,))


class _Job:
    """The operations of one `commit` call, and its result."""

    __slots__ = ("done", "error", "frees_space", "operations")

    def __init__(self, operations: Sequence[Operation]) -> None:
        self.operations = operations
        self.done = trio.Event()
        self.error: Exception | None = None
        # Deletion of an object's row frees space: the object's files are removed too. Events have no files, and may be lost
        # on a full disk
        self.frees_space = any(not isinstance(each, Put) and each.table != "events" for each in operations)


class Store:
    """Rows of bytes by table and key. Create it with `Store.open`."""

    def __init__(self, path: str, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._token = trio.lowlevel.current_trio_token()
        self._thread = threading.Thread(target=self._serve, name="store", daemon=True)
        self._closed = False
        self._reserve = Reserve(f"{path}.reserve")
        self._unmoved: list[tuple[str, str, str]] = []
        self.on_commit: Callable[[int, float], None] | None = None
        """Called by the committing thread after each transaction with the number of jobs and the seconds it took."""

    @classmethod
    @asynccontextmanager
    async def open(cls, path: str) -> AsyncIterator[Store]:
        """Open or create the database and lock it against other daemons until the block exits. Raises `Unavailable` when
        another process has locked it or the disk is full."""
        os.makedirs(os.path.dirname(path), mode=0o710, exist_ok=True)
        lock = lock_root(os.path.dirname(path), "data root")
        try:
            store = cls(path, open_database(path))
            store._reserve.refill()
            store._thread.start()
            try:
                yield store
            finally:
                store.close()
        finally:
            os.close(lock)

    def load(self, table: str) -> Iterator[tuple[str, bytes]]:
        """All rows of a table, ordered by key. Only the daemon's start calls this. All rows are read first, on the calling
        thread, so the caller may write to the table while it iterates."""
        rows = self._connection.execute(f"SELECT key, value FROM {_table(table)} ORDER BY key").fetchall()
        # Damage may have changed the type of a value; decoders expect bytes
        return iter([(str(key), value if isinstance(value, bytes) else repr(value).encode()) for key, value in rows])

    async def commit(self, operations: Sequence[Operation]) -> None:
        """Apply all operations durably, or none. Cancellation does not undo a commit once it is submitted. Raises
        `Unavailable` on a full disk, `DriverError` when the database fails otherwise."""
        for table in {operation.table for operation in operations}:
            _table(table)
        if self._closed:
            raise Unavailable("cannot write the state database: the daemon is shutting down")
        job = _Job(tuple(operations))
        self._jobs.put(job)
        await job.done.wait()
        if job.error:
            raise job.error

    async def quarantine(self, table: str, key: str, reason: str) -> None:
        """Move an unusable row to the table `quarantine`, so that it is preserved but no longer loaded. If the move fails,
        the next start tries again: a start never fails because of an unusable row."""
        await self.quarantine_all(table, [(key, reason)])

    async def quarantine_all(self, table: str, rows: Sequence[tuple[str, str]]) -> None:
        """Like `quarantine`, for many rows (key, reason) in one commit, so that a start waits for the disk only once."""
        if not rows:
            return
        for key, reason in rows[:_NAMED]:
            _log.error("%s %s cannot be used and is quarantined: %s", table, key, reason)
        if len(rows) > _NAMED:
            _log.error("%s: %d more rows cannot be used and are quarantined", table, len(rows) - _NAMED)
        try:
            await self.commit([_Quarantine(table, key, reason) for key, reason in rows])
        except (DriverError, Unavailable) as error:
            for key, _ in rows[:_NAMED]:
                _log.warning("%s %s cannot be quarantined now; retrying at the next start: %s", table, key, error)
            self._unmoved += [(table, key, reason) for key, reason in rows]

    def quarantined(self) -> list[tuple[str, str, str]]:
        """(table, key, reason) of the quarantined rows."""
        return [*self._connection.execute("SELECT source, key, reason FROM quarantine ORDER BY time"), *self._unmoved]

    def lost_rows(self) -> bool:
        """Whether a damaged database file was renamed and still exists. Rows may be missing then, so objects without a
        row must not be removed as garbage."""
        directory, name = os.path.split(self.path)
        return any(entry.startswith(f"{name}.damaged-") for entry in os.listdir(directory))

    def close(self) -> None:
        """Finish the submitted jobs, then close. May be called twice."""
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
                    pass  # the event loop has ended, so no task waits; the rows are on the disk
            self._reserve.refill()
            if last:
                return

    def _take(self) -> tuple[list[_Job], bool]:
        """Wait for jobs, or until the reserve must be checked. Returns the jobs, and whether the store is closing."""
        group: list[_Job] = []
        try:
            job = self._jobs.get(timeout=None if self._reserve.whole else _REFILL)
            while job is not None:
                group.append(job)
                if len(group) >= _GROUP:
                    return group, False
                job = self._jobs.get_nowait()
        except queue.Empty:
            return group, False
        return group, True

    def _commit(self, group: list[_Job]) -> None:
        began = time.monotonic()
        error = self._transaction(group)
        if error and is_full(error):
            group = [job for job in group if job.frees_space]
            while group and error and is_full(error) and self._reserve.release():
                error = self._transaction(group)
        if self.on_commit:
            self.on_commit(len(group), time.monotonic() - began)

    def _transaction(self, group: list[_Job]) -> sqlite3.Error | None:
        """Commit these jobs and record the result in each. Returns the error if the whole transaction failed."""
        execute = self._connection.execute
        for job in group:
            job.error = None
        try:
            execute("BEGIN IMMEDIATE")
            for job in group:
                self._apply(job)
            execute("COMMIT")
        except sqlite3.Error as error:
            if self._connection.in_transaction:
                with suppress(sqlite3.Error):  # the disk fails; the thread must survive to answer later jobs
                    execute("ROLLBACK")
            failure = translate(error)
            for job in group:
                job.error = job.error or failure
            return error
        return None

    def _apply(self, job: _Job) -> None:
        """Apply one job in its own savepoint, so that a failure does not undo the other jobs."""
        execute = self._connection.execute
        execute("SAVEPOINT job")
        try:
            for operation in job.operations:
                _run(self._connection, operation)
        except sqlite3.Error as error:
            if not self._connection.in_transaction or (job.frees_space and is_full(error)):
                # The whole transaction fails, because SQLite has rolled it back, or because this job, which will free space,
                # found a full disk. In the second case, `_commit` tries again with space from the reserve
                raise
            job.error = translate(error)
            execute("ROLLBACK TO job")
        execute("RELEASE job")


def _finish(group: Sequence[_Job]) -> None:
    for job in group:
        job.done.set()
