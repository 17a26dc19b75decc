"""The file of the build cache on a full or failing disk, and with wrong content."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from orlop_build_dockerfile.cache import file
from orlop_build_dockerfile.cache.file import CacheFile, StoredRecord
from orlop_sdk import DriverError

RECORD = StoredRecord(id="a", key="1", kind="regular", description="x" * 5000, created=0, used=0)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A cache with one record."""
    cache = CacheFile(str(tmp_path / "cache.db"))
    cache.write([file.put(RECORD)])
    cache.close()
    return tmp_path / "cache.db"


def failing(code: int) -> Callable[[CacheFile], sqlite3.Connection]:
    """Replaces `_open`: SQLite reports the code at the first call."""
    opened, calls = CacheFile._open, list[CacheFile]()

    def fail(cache: CacheFile) -> sqlite3.Connection:
        calls.append(cache)
        if len(calls) > 1:
            return opened(cache)
        error = sqlite3.OperationalError("broken")
        error.sqlite_errorcode = code
        raise error

    return fail


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (sqlite3.SQLITE_FULL, "^cannot open the build cache: no space left on device$"),
        (sqlite3.SQLITE_IOERR_SHMSIZE, "no space left on device"),
        (sqlite3.SQLITE_IOERR_READ, "^cannot open the build cache: broken$"),
        (sqlite3.SQLITE_CANTOPEN, "broken"),
        (sqlite3.SQLITE_BUSY, "broken"),
        (sqlite3.SQLITE_NOMEM, "broken"),
    ],
)
def test_cache_is_kept_if_its_content_is_not_the_cause(
    path: Path, code: int, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CacheFile, "_open", failing(code))
    with pytest.raises(DriverError, match=message):
        CacheFile(str(path))
    cache = CacheFile(str(path))
    assert [record.id for record in cache.load()[0]] == ["a"]
    cache.close()


@pytest.mark.parametrize("code", [sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB])
def test_damaged_cache_is_renamed(path: Path, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CacheFile, "_open", failing(code))
    cache = CacheFile(str(path))
    assert cache.load()[0] == []
    cache.close()
    assert list(path.parent.glob("cache.db.damaged-*"))


@pytest.fixture
def full(path: Path) -> Iterator[CacheFile]:
    """A cache whose file cannot grow: SQLite reports the same error as on a full disk."""
    cache = CacheFile(str(path))
    pages = cache._db.execute("PRAGMA page_count").fetchone()[0]
    cache._db.execute(f"PRAGMA max_page_count={pages}")
    yield cache
    cache.close()


def test_change_that_does_not_fit_is_refused_as_a_whole(full: CacheFile) -> None:
    others = [file.put(msgspec.structs.replace(RECORD, id=f"b{number}", key=f"b{number}")) for number in range(20)]
    for _ in range(2):
        with pytest.raises(DriverError, match=r"^cannot change the build cache: no space left on device$"):
            full.write(others)
        assert [record.id for record in full.load()[0]] == ["a"]
    full._db.execute("PRAGMA max_page_count=100000")
    full.write(others)
    assert len(full.load()[0]) == 21


class FullAtCommit:
    """A database on a disk that becomes full at the end of the first transaction."""

    def __init__(self, database: sqlite3.Connection) -> None:
        self._database, self.is_full = database, True

    def execute(self, sql: str, *values: Any) -> Any:
        if sql == "COMMIT" and self.is_full:
            self.is_full = False
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error
        return self._database.execute(sql, *values)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._database, name)


def test_change_after_a_failed_commit_succeeds(path: Path) -> None:
    cache = CacheFile(str(path))
    cache._db = cast("Any", FullAtCommit(cache._db))
    second, third = (file.put(msgspec.structs.replace(RECORD, id=name, key=name)) for name in ("b", "c"))
    with pytest.raises(DriverError, match="no space left on device"):
        cache.write([second])
    cache.write([third])
    assert [record.id for record in cache.load()[0]] == ["a", "c"]
    cache.close()
