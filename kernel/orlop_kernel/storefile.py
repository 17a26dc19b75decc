# ruff: noqa: S608 - table names in SQL text are those of TABLES; values are always bound
"""Opens the database file in any condition, and reads it while a daemon runs. `store` does all other work.

A file that is damaged, empty or not a database is renamed, and its readable rows are copied to a new file. If only its
write-ahead log belongs to another database, only this log is renamed. Nothing is repaired in place. A start fails only for a
failing disk, a newer schema or another process that has locked the database.
"""

from __future__ import annotations

import fcntl
import logging
import os
import secrets
import sqlite3
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import closing, suppress
from typing import NamedTuple

from orlop_sdk.errors import DriverError, Unavailable

__all__ = ["SCHEMA_VERSION", "TABLES", "Examined", "examine", "is_full", "lock_root", "open_database", "translate"]

SCHEMA_VERSION = 1
TABLES = ("containers", "images", "networks", "volumes", "execs", "events", "intents", "meta", "builds")

_ADDED = frozenset({"builds"})
"""Tables that a file of an older version lacks; the next start creates them."""

_log = logging.getLogger("orlop.store")
# SQLite's errors that are caused by the machine or another process, not by damage to the file
_NOT_DAMAGE = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_READONLY,
    }
)


def lock_root(root: str, what: str) -> int:
    """Lock `<root>/orlop.lock` for this process and return the locked descriptor. The kernel releases the lock when the
    process ends."""
    path = os.path.join(root, "orlop.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
        os.close(fd)
        raise Unavailable(
            f"cannot use {what} {root}: process with PID {holder} is still running and uses it; "
            "start each daemon with a different --data-root and --exec-root"
        ) from None
    with suppress(OSError):  # only people read the pid, so a full disk must not prevent a start
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def is_full(error: sqlite3.Error) -> bool:
    """Whether the error means a full disk. SQLite reports a full disk differently when it writes the `-shm` file."""
    code = getattr(error, "sqlite_errorcode", 0)
    return code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR_SHMSIZE) or "disk is full" in str(error)


def translate(error: sqlite3.Error) -> Exception:
    """Convert SQLite's errors. Full and failing disks are distinguished, because a full disk is temporary."""
    if is_full(error):
        return Unavailable("cannot write the state database: no space left on device")
    return DriverError(f"cannot write the state database: {error} ({getattr(error, 'sqlite_errorname', '') or 'unknown'})")


def _text(raw: bytes) -> str:
    """Decode a key; damaged keys are decoded too."""
    return raw.decode("utf-8", "replace")


def _make_private(path: str) -> None:
    """Create the file with a mode that lets only root read it, because it contains the environment variables of
    containers. SQLite would create a file that all users can read. SQLite's `-wal` and `-shm` files get the mode of this
    file. Call this before the first connection, because closing the file drops SQLite's locks on it."""
    with suppress(OSError):  # SQLite's own error follows and is clearer
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    for suffix in ("", "-wal", "-shm"):
        with suppress(OSError):
            os.chmod(path + suffix, 0o600)


class _ForeignLog(Exception):
    """The write-ahead log belongs to another database. SQLite would copy the log's pages into the database file."""


_IDENTITY = slice(60, 64)  # bytes of the user version in the file's header (SQLite's file format, section 1.3)
_LOG_HEADER, _FRAME_HEADER = 32, 24  # bytes (SQLite's file format, section 4.1)


def _check_log(path: str) -> None:
    """Check the write-ahead log before SQLite opens the file, because SQLite would copy the pages of any log into the file.
    Raises `_ForeignLog` when file and log contain different database numbers."""
    with suppress(OSError), open(path, "rb") as file, open(f"{path}-wal", "rb") as log:
        own = file.read(64)[_IDENTITY]
        header = log.read(_LOG_HEADER)
        size, salt = int.from_bytes(header[8:12], "big"), header[16:24]
        while len(frame := log.read(_FRAME_HEADER)) == _FRAME_HEADER and frame[8:16] == salt:
            if frame[:4] == b"\0\0\0\1":
                theirs = log.read(64)[_IDENTITY]
                if any(own) and any(theirs) and own != theirs:
                    raise _ForeignLog
                return
            log.seek(size, os.SEEK_CUR)


def _identify(connection: sqlite3.Connection) -> None:
    """Write a random number into the database, by which `_check_log` identifies it."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if not found:
        with suppress(sqlite3.OperationalError):  # if the disk is full, the next start sets the number
            connection.execute(f"PRAGMA user_version={secrets.randbelow(0x7FFFFFFF) + 1}")
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def _retry_quarantined(connection: sqlite3.Connection) -> None:
    """Move quarantined rows back to their tables, because this version may read rows that another version could not. If a
    row with the same key was written meanwhile, the quarantined row is dropped. On a full disk, all rows stay in
    quarantine."""
    if connection.execute("SELECT 1 FROM quarantine LIMIT 1").fetchone() is None:
        return  # do not begin a transaction, which would wait for the disk
    try:
        connection.execute("BEGIN IMMEDIATE")
        for table in TABLES:
            chosen = "SELECT key, value FROM quarantine WHERE source = ? ORDER BY time DESC"
            connection.execute(f"INSERT OR IGNORE INTO {table} {chosen}", (table,))
        connection.execute("DELETE FROM quarantine")
        connection.execute("COMMIT")
    except sqlite3.OperationalError as error:
        _log.warning("cannot retry quarantined rows: %s", error)
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _connect(path: str, *, alone: bool = False) -> sqlite3.Connection:
    """`alone`: exclude other connections, so that SQLite keeps its shared memory in the heap, and needs no `-shm` file."""
    _make_private(path)
    _check_log(path)
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.text_factory = _text
    try:
        if alone:
            connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        _identify(connection)
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
                f"cannot open {path}: a newer Orlop wrote it (schema {int(found)}, this one reads up to {SCHEMA_VERSION})"
            )
        if connection.execute("PRAGMA integrity_check(1)").fetchone()[0] != "ok":
            raise sqlite3.DatabaseError("integrity_check found damage")
        _retry_quarantined(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _emptied(path: str) -> bool:
    """Whether the file was truncated to nothing. SQLite would treat such a file as new. A file is new only in an empty data
    root."""
    directory, name = os.path.split(path)
    try:
        if os.path.getsize(path):
            return False
    except FileNotFoundError:
        return False
    return any(not entry.startswith((name, "orlop.lock")) for entry in os.listdir(directory))


def open_database(path: str) -> sqlite3.Connection:
    """Open the file. A damaged file is renamed and a new file created, because the daemon must always start."""
    try:
        if os.path.isdir(path):
            raise sqlite3.DatabaseError("it is a directory")
        if _emptied(path):
            raise sqlite3.DatabaseError("it is empty")
        try:
            return _connect(path)
        except _ForeignLog:
            _log.error("the WAL of %s was written for another database: moved to %s", path, _set_aside(path, "-wal", "-shm"))
            return _connect(path)
        except sqlite3.OperationalError as error:
            if is_full(error):
                return _connect(path, alone=True)
            raise
    except (sqlite3.Error, ValueError, TypeError) as error:
        # The low byte is the error code. Damage causes many codes, so the list contains all codes that mean no damage
        if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", 0) & 0xFF in _NOT_DAMAGE:
            raise translate(error) from error
        aside = _set_aside(path, "", "-wal", "-shm")
        _log.error("state database %s is damaged (%s): moved to %s", path, error, aside)
        fresh = _connect(path)
        _log.error("%d rows of the damaged database could be read and are kept", _salvage(aside, fresh))
        return fresh


def _set_aside(path: str, *suffixes: str) -> str:
    aside = f"{path}.damaged-{time.strftime('%Y%m%d-%H%M%S')}"
    for suffix in suffixes:
        if os.path.lexists(path + suffix):
            os.rename(path + suffix, aside + suffix)
    return aside


def _salvage(aside: str, fresh: sqlite3.Connection) -> int:
    """Copy the readable rows of a damaged database and return their number. The owners of the rows validate them as
    usual."""
    count = 0
    for table in TABLES:
        for key, value in _readable(aside, table):
            if isinstance(key, str) and isinstance(value, bytes) and (table, key) != ("meta", "schema"):
                fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES (?, ?)", (key, value))
                count += 1
    return count


def _connect_reader(path: str) -> sqlite3.Connection:
    """Open read-only. If there is no write-ahead log, reading creates no files."""
    how = "mode=ro" if os.path.exists(f"{path}-wal") else "immutable=1"
    connection = sqlite3.connect(f"file:{urllib.parse.quote(path)}?{how}", uri=True, isolation_level=None, timeout=5)
    connection.text_factory = _text
    return connection


def _readable(aside: str, table: str) -> Iterator[tuple[object, object]]:
    """The readable rows of a table. Rowids are listed from both ends of the table up to the damage; then each row is read
    separately. The file is opened read-only, so that nothing is repaired."""
    listed: dict[int, None] = {}
    for direction in ("ASC", "DESC"):
        with suppress(sqlite3.Error), closing(_salvager(aside)) as connection:  # an error can make the connection unusable
            for (row,) in connection.execute(f"SELECT rowid FROM {table} NOT INDEXED ORDER BY rowid {direction}"):
                listed[row] = None
    rows = iter(listed)
    for _ in range(len(listed) + 1):
        with suppress(sqlite3.Error), closing(_salvager(aside)) as connection:
            for row in rows:  # an unreadable row ends the loop, and a new connection reads the other rows
                yield from connection.execute(
                    f"SELECT key, value FROM {table} NOT INDEXED WHERE rowid = ?", (row,)
                ).fetchall()
            return


def _salvager(aside: str) -> sqlite3.Connection:
    connection = _connect_reader(aside)
    connection.execute("PRAGMA writable_schema=ON")  # without this, SQLite refuses to read a truncated file
    return connection


class Examined(NamedTuple):
    """The content of a database file. `quarantined` is (table, key, reason). `damage` is SQLite's report about the file.
    `damaged_files` are damaged files that the daemon renamed at earlier starts."""

    rows: dict[str, dict[str, bytes]]
    quarantined: tuple[tuple[str, str, str], ...] = ()
    damage: tuple[str, ...] = ()
    damaged_files: tuple[str, ...] = ()
    schema: tuple[str, ...] = ()


def examine(path: str) -> Examined:
    """Read one snapshot of all tables, without changing the database. A daemon may have it open. Damage is reported, never
    raised. Raises `Unavailable` if the file does not exist."""
    if not os.path.exists(path):
        raise Unavailable(f"cannot read the state database: there is no {path}")
    rows: dict[str, dict[str, bytes]] = {table: {} for table in TABLES}
    quarantined: list[tuple[str, str, str]] = []
    damage: dict[str, None] = {}
    schema: list[str] = []
    try:
        with closing(_connect_reader(path)) as connection:
            connection.execute("BEGIN")
            damage.update((line, None) for (line,) in connection.execute("PRAGMA integrity_check(20)") if line != "ok")
            schema += [text for (text,) in connection.execute("SELECT sql FROM sqlite_master WHERE sql IS NOT NULL")]
            present = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
            for table in TABLES:
                if table in _ADDED and table not in present:
                    continue  # an older version wrote the file and has no such table
                rows[table].update(connection.execute(f"SELECT key, value FROM {table}"))
            quarantined += connection.execute("SELECT source, key, reason FROM quarantine ORDER BY time")
    except sqlite3.Error as error:
        damage[str(error)] = None
    directory, name = os.path.split(path)
    aside = {entry for entry in os.listdir(directory) if entry.startswith(f"{name}.damaged-")}
    files = tuple(entry for entry in sorted(aside) if entry.removesuffix("-wal").removesuffix("-shm") not in aside - {entry})
    return Examined(rows, tuple(quarantined), tuple(damage), files, tuple(schema))
