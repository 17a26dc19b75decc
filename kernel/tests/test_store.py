"""The store: durability, group commit, and starts from damaged files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import closing
from pathlib import Path

import pytest
import trio
import trio.testing

from orlop_kernel import reserve
from orlop_kernel import store as store_module
from orlop_kernel.store import Delete, DropQuarantined, Put, Store, examine
from orlop_sdk.errors import DriverError, Unavailable


def in_store(path: Path, body: Callable[[Store], Awaitable[None]]) -> None:
    async def main() -> None:
        async with Store.open(str(path / "orlop.db")) as store:
            await body(store)

    trio.run(main)


def rows(path: Path, table: str = "containers") -> dict[str, bytes]:
    found: dict[str, bytes] = {}

    async def body(store: Store) -> None:
        found.update(store.load(table))

    in_store(path, body)
    return found


def test_rows_survive_a_restart(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "a", b"1"), Put("containers", "b", b"2")])
        await store.commit([Put("containers", "a", b"3"), Delete("containers", "b"), Delete("containers", "never")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"a": b"3"}


def test_rows_of_concurrent_writers_are_all_stored(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(store.commit, [Put("networks", f"{number:03}", b"x")])

    in_store(tmp_path, body)
    assert len(rows(tmp_path, "networks")) == 300


def test_failed_job_does_not_undo_other_jobs_of_the_same_transaction(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        outcomes: list[str] = []

        async def write(value: object, key: str) -> None:
            try:
                await store.commit([Put("volumes", "first-" + key, b"x"), Put("volumes", key, value)])  # type: ignore[arg-type]
                outcomes.append("done")
            except Exception as error:
                outcomes.append(str(error))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(write, b"x", "good")
            nursery.start_soon(write, None, "bad")  # violates the NOT NULL constraint
            nursery.start_soon(write, b"x", "better")
        assert outcomes.count("done") == 2
        assert any("NOT NULL" in text for text in outcomes)

    in_store(tmp_path, body)
    assert sorted(rows(tmp_path, "volumes")) == ["better", "first-better", "first-good", "good"]


def test_cancelled_commit_is_still_carried_out(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit([Put("containers", "kept", b"1")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"kept": b"1"}


def test_quarantined_rows_are_not_loaded_but_kept(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "bad", b"garbage"), Put("containers", "good", b"1")])
        for key, _ in store.load("containers"):
            if key == "bad":
                await store.quarantine("containers", key, "cannot decode")
        assert [key for key, _ in store.load("containers")] == ["good"]
        assert store.quarantined() == [("containers", "bad", "cannot decode")]

    in_store(tmp_path, body)


@pytest.mark.parametrize(("damage", "least"), [("not a database", 0), ("truncate", 1), ("middle", 50), ("empty", 0)])
def test_damaged_database_file_is_moved_aside_and_a_new_file_is_opened(
    tmp_path: Path, damage: str, least: int, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orlop.db"
    (tmp_path / "containers").mkdir()  # in an empty data root, an empty database file is treated as a new file
    written = {f"{n:03}": os.urandom(3000) for n in range(100)}

    async def fill(store: Store) -> None:
        await store.commit([Put("containers", key, value) for key, value in written.items()])

    in_store(tmp_path, fill)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[: len(data) // 2]
    elif damage == "middle":
        middle = len(data) // 2
        data[middle : middle + 32768] = os.urandom(32768)
    elif damage == "empty":
        data = bytearray()
    else:
        data = bytearray(damage.encode() * 100)
    path.write_bytes(data)

    found = rows(tmp_path)
    assert least <= len(found) < 100
    assert found.items() <= written.items()
    assert len(list(tmp_path.glob("orlop.db.damaged-*"))) == 1
    assert "is damaged" in caplog.text
    assert f"{len(found)} rows of the damaged database could be read" in caplog.text

    async def known(store: Store) -> None:
        assert store.lost_rows()

    in_store(tmp_path, known)


def test_database_file_of_another_program_is_moved_aside(tmp_path: Path) -> None:
    path = tmp_path / "orlop.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE meta (something INTEGER, else_ TEXT, more TEXT)")
    assert rows(tmp_path) == {}
    assert len(list(tmp_path.glob("orlop.db.damaged-*"))) == 1


def test_row_with_a_key_or_value_of_a_wrong_type_is_loaded_as_text_and_bytes(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        store._connection.execute("INSERT INTO containers VALUES (CAST(x'ff41' AS TEXT), 7)")
        assert list(store.load("containers")) == [("\ufffdA", b"7")]

    in_store(tmp_path, body)


def test_full_disk_is_reported_and_later_commits_succeed(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(Unavailable, match="no space left on device"):
            await store.commit([Put("containers", "big", bytes(100_000))])
        store._connection.execute("PRAGMA max_page_count=100000")
        await store.commit([Put("containers", "small", b"1")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"small": b"1"}


class FullDisk:
    """Simulates a full disk by SQLite's page limit. When a part of the disk reserve is freed, the limit is raised."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch, more: int = 2) -> None:
        self._connection = store._connection
        self._more = more
        self._release = store._reserve.release
        monkeypatch.setattr(store._reserve, "release", self.release)
        monkeypatch.setattr(store._reserve, "refill", lambda: None)  # the real disk has space

    def limit(self, more: int = 0) -> None:
        (pages,) = self._connection.execute("PRAGMA page_count").fetchone()
        self._connection.execute(f"PRAGMA max_page_count={pages + more}")

    def release(self) -> bool:
        self.limit(self._more)
        return self._release()


def test_only_jobs_that_delete_objects_may_use_the_disk_reserve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "old", b"1")])
        disk = FullDisk(store, monkeypatch)
        disk.limit()
        outcomes: dict[str, str] = {}

        async def commit(name: str, *operations: Put | Delete) -> None:
            try:
                await store.commit(operations)
                outcomes[name] = "done"
            except Unavailable as error:
                outcomes[name] = str(error)

        async with trio.open_nursery() as nursery:  # one transaction for all
            nursery.start_soon(commit, "put", Put("containers", "new", bytes(9000)))
            nursery.start_soon(commit, "delete", Put("images", "record", bytes(5000)), Delete("containers", "old"))
            nursery.start_soon(commit, "history", Put("events", "2", bytes(9000)), Delete("events", "1"))
        full = "cannot write the state database: no space left on device"
        assert outcomes == {"put": full, "delete": "done", "history": full}
        assert os.path.getsize(store._reserve.path) < reserve.SIZE
        assert not store._reserve.whole

    in_store(tmp_path, body)
    assert rows(tmp_path) == {}
    assert os.path.getsize(tmp_path / "orlop.db.reserve") == reserve.SIZE  # there is space again


def test_deletion_fails_with_disk_full_when_the_reserve_is_used_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(store: Store) -> None:
        disk = FullDisk(store, monkeypatch, more=0)
        disk.limit()
        with pytest.raises(Unavailable, match="no space left on device"):
            await store.commit([Put("images", "record", bytes(9000)), Delete("containers", "old")])
        assert os.path.getsize(store._reserve.path) == 0
        assert not store._reserve.release()

    in_store(tmp_path, body)


def test_disk_reserve_is_made_only_if_enough_space_is_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one = reserve.Reserve(str(tmp_path / "r"))
    found = os.statvfs(tmp_path)
    blocks = [3 * reserve.SIZE - 1, 3 * reserve.SIZE]
    monkeypatch.setattr(
        "orlop_kernel.reserve.os.fstatvfs", lambda fd: os.statvfs_result((1, 1, *found[2:4], blocks.pop(0), *found[5:]))
    )
    one.refill()
    assert (one.whole, os.path.getsize(one.path)) == (False, 0)
    one.refill()
    assert (one.whole, os.path.getsize(one.path)) == (True, reserve.SIZE)
    assert os.stat(one.path).st_blocks * 512 >= reserve.SIZE


def test_row_that_cannot_be_moved_to_the_quarantine_on_a_full_disk_stays_in_its_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "bad", bytes(9000))])
        disk = FullDisk(store, monkeypatch, more=0)
        disk.limit()
        await store.quarantine("containers", "bad", "cannot decode")
        assert store.quarantined() == [("containers", "bad", "cannot decode")]
        assert [key for key, _ in store.load("containers")] == ["bad"]

    in_store(tmp_path, body)


def test_on_commit_is_called_after_each_commit(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        told: list[tuple[int, float]] = []
        store.on_commit = lambda jobs, seconds: told.append((jobs, seconds))
        await store.commit([Put("containers", "a", b"1")])
        assert [jobs for jobs, _ in told] == [1]
        assert told[0][1] > 0

    in_store(tmp_path, body)


def test_second_process_cannot_open_the_store(tmp_path: Path) -> None:
    program = (
        "import trio, sys\nfrom orlop_kernel.store import Store\n"
        "async def main():\n    async with Store.open(sys.argv[1]): pass\n"
        "try:\n    trio.run(main)\nexcept Exception as error:\n    print(error)\n"
    )

    async def body(store: Store) -> None:
        path = str(tmp_path / "orlop.db")
        done = await trio.to_thread.run_sync(
            lambda: subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
        )
        assert f"process with PID {os.getpid()} is still running" in done.stdout

    in_store(tmp_path, body)


def test_acknowledged_rows_survive_sigkill(tmp_path: Path) -> None:
    program = (
        "import trio, sys, os\nfrom orlop_kernel.store import Store, Put\n"
        "async def main():\n    async with Store.open(sys.argv[1]) as store:\n"
        "        for n in range(10**6):\n            await store.commit([Put('execs', str(n), b'x')])\n"
        "            os.write(1, b'%d\\n' % n)\n"
        "trio.run(main)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "orlop.db")], stdout=subprocess.PIPE, text=True)
    assert child.stdout
    acknowledged = [int(child.stdout.readline()) for _ in range(50)]
    child.kill()
    acknowledged += [int(line) for line in child.stdout.read().split("\n")[:-1] if line]
    child.wait()
    child.stdout.close()
    found = rows(tmp_path, "execs")
    assert all(str(number) in found for number in acknowledged)


def test_unknown_table_raises_value_error(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        with pytest.raises(ValueError, match="unknown table"):
            await store.commit([Put("nothing", "a", b"")])

    in_store(tmp_path, body)


def test_directory_in_place_of_the_database_file_is_moved_aside(tmp_path: Path) -> None:
    (tmp_path / "orlop.db").mkdir()
    assert rows(tmp_path) == {}
    assert [path.is_dir() for path in tmp_path.glob("orlop.db.damaged-*")] == [True]


def test_write_ahead_log_of_another_database_is_moved_aside(tmp_path: Path) -> None:
    """SQLite would read the pages of the other log as pages of this database, and write them into its file."""
    program = (
        "import trio, sys, os\nfrom orlop_kernel.store import Store, Put\n"
        "async def main():\n    async with Store.open(sys.argv[1]) as store:\n"
        "        await store.commit([Put('containers', 'theirs', b'x')])\n        os._exit(0)\n"
        "trio.run(main)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "theirs" / "orlop.db")], check=True)

    async def fill(store: Store) -> None:
        await store.commit([Put("containers", "ours", b"1")])

    in_store(tmp_path, fill)
    shutil.copy(tmp_path / "theirs" / "orlop.db-wal", tmp_path / "orlop.db-wal")
    assert rows(tmp_path) == {"ours": b"1"}
    assert [path.name[-4:] for path in tmp_path.glob("orlop.db.damaged-*")] == ["-wal"]


def test_rows_in_the_write_ahead_log_of_a_killed_daemon_are_loaded(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "a", b"1")])
        for suffix in ("", "-wal"):  # the files that a killed daemon leaves
            shutil.copy(f"{store.path}{suffix}", tmp_path / f"copy.db{suffix}")

    in_store(tmp_path, body)
    for suffix in ("", "-wal"):
        os.rename(tmp_path / f"copy.db{suffix}", tmp_path / f"orlop.db{suffix}")
    assert rows(tmp_path) == {"a": b"1"}


def test_only_the_row_on_a_damaged_page_is_lost(tmp_path: Path) -> None:
    """The damaged page is in the middle of a long row. The other rows are recovered, whatever the order of the rows is."""

    async def fill(store: Store) -> None:
        for key, value in (("before", b"1"), ("broken", b"x" * 20_000), ("after", b"2")):
            await store.commit([Put("containers", key, value)])

    in_store(tmp_path, fill)
    path = tmp_path / "orlop.db"
    data, size = path.read_bytes(), 4096
    at = next(at for at in range(0, len(data), size) if data[at + 4 : at + size] == b"x" * (size - 4))
    path.write_bytes(data[:at] + bytes(size) + data[at + size :])
    assert rows(tmp_path) == {"before": b"1", "after": b"2"}


def test_quarantined_rows_are_put_back_at_the_next_start(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "old", b"1"), Put("containers", "both", b"first"), Put("volumes", "v", b"1")])
        for table, key in (("containers", "old"), ("containers", "both"), ("volumes", "v")):
            await store.quarantine(table, key, "why")
        await store.commit([Put("containers", "both", b"second"), DropQuarantined("volumes", "v")])
        assert [key for _, key, _ in store.quarantined()] == ["old", "both"]

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"old": b"1", "both": b"second"}
    assert rows(tmp_path, "volumes") == {}
    assert examine(str(tmp_path / "orlop.db")).quarantined == ()


def test_row_whose_key_is_not_text_can_be_quarantined(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        store._connection.execute("INSERT INTO containers VALUES (CAST(x'ff41' AS TEXT), x'00')")
        store._connection.execute("INSERT INTO containers VALUES (x'ff42', x'00')")
        for key, _ in store.load("containers"):
            await store.quarantine("containers", key, "why")
        assert list(store.load("containers")) == []
        assert len(store.quarantined()) == 2

    in_store(tmp_path, body)


def test_examining_changes_nothing(tmp_path: Path) -> None:
    path = str(tmp_path / "orlop.db")

    async def body(store: Store) -> None:
        await store.commit([Put("containers", "a", b"1")])
        found = examine(path)  # while a daemon has the database open
        assert found.rows["containers"] == {"a": b"1"}
        assert found.damage == ()
        assert any("CREATE TABLE containers" in text for text in found.schema)

    in_store(tmp_path, body)
    before = {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    assert examine(path).rows["containers"] == {"a": b"1"}
    assert before == {name: os.stat(tmp_path / name).st_mtime_ns for name in os.listdir(tmp_path)}
    Path(path).write_bytes(b"no database" * 100)
    assert examine(path).damage
    os.unlink(path)
    with pytest.raises(Unavailable, match="there is no"):
        examine(path)


def test_only_the_row_with_the_damaged_key_is_quarantined(tmp_path: Path) -> None:
    """The key of the damaged row is not text any more, so the store finds the row by a search through all rows."""

    async def body(store: Store) -> None:
        store._connection.execute("INSERT INTO containers VALUES (x'ff42', x'00')")
        await store.commit([Put("containers", "good", b"1")])
        await store.quarantine("containers", str(b"\xff\x42"), "why")
        assert list(store.load("containers")) == [("good", b"1")]
        assert [key for _, key, _ in store.quarantined()] == [str(b"\xff\x42")]

    in_store(tmp_path, body)


def test_a_closed_store_refuses_commits(tmp_path: Path) -> None:
    kept: list[Store] = []

    async def main() -> None:
        async with Store.open(str(tmp_path / "orlop.db")) as store:
            kept.append(store)
        with trio.fail_after(5), pytest.raises(Unavailable, match="the daemon is shutting down"):
            await store.commit([Put("containers", "a", b"1")])

    trio.run(main)
    kept[0].close()  # a second call does nothing


def test_number_of_jobs_in_a_transaction_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_GROUP", 3)

    async def body(store: Store) -> None:
        sizes, all_wait = list[int](), threading.Event()

        def note(jobs: int, seconds: float) -> None:
            """The thread that commits calls this function."""
            sizes.append(jobs)
            all_wait.wait(10)

        store.on_commit = note
        async with trio.open_nursery() as nursery:
            for number in range(20):
                nursery.start_soon(store.commit, [Put("networks", f"{number:03}", b"x")])
            await trio.testing.wait_all_tasks_blocked()
            all_wait.set()
        assert sum(sizes) == 20
        assert max(sizes) == 3

    in_store(tmp_path, body)


class FailingConnection:
    """A connection on which one statement fails once, as on a disk that works again afterwards."""

    def __init__(self, store: Store, statement: str, error: str = "disk I/O error") -> None:
        self._connection, self._statement, self._error = store._connection, statement, error
        store._connection = self  # type: ignore[assignment]

    def __getattr__(self, name: str) -> object:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: object) -> object:
        if statement == self._statement:
            self._statement = ""
            raise sqlite3.OperationalError(self._error)
        return self._connection.execute(statement, *values)


@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN IMMEDIATE"])
def test_transaction_after_a_failed_transaction_succeeds(tmp_path: Path, statement: str) -> None:
    async def body(store: Store) -> None:
        FailingConnection(store, statement)
        with pytest.raises(DriverError, match="disk I/O error"):
            await store.commit([Put("containers", "lost", b"1"), Delete("containers", "never")])
        await store.commit([Put("containers", "kept", b"2")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"kept": b"2"}


def test_disk_reserve_is_not_used_for_other_disk_errors(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        FailingConnection(store, "COMMIT")
        with pytest.raises(DriverError):
            await store.commit([Delete("containers", "never")])
        assert store._reserve.whole

    in_store(tmp_path, body)


def test_disk_reserve_is_refilled_without_a_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store_module, "_REFILL", 0.01)

    async def body(store: Store) -> None:
        assert store._reserve.release()
        await store.commit([Put("containers", "a", b"1")])  # the thread checks the reserve after each commit
        with trio.fail_after(5):
            while not store._reserve.whole:  # noqa: ASYNC110 - the committing thread has no event for it
                await trio.sleep(0.01)

    in_store(tmp_path, body)
