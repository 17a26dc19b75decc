"""The store: durable, grouped, indestructible at start."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio

from orlop_kernel.spi.errors import Unavailable
from orlop_kernel.store import Delete, Put, Store


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


def test_rows_are_there_after_a_restart(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "a", b"1"), Put("containers", "b", b"2")])
        await store.commit([Put("containers", "a", b"3"), Delete("containers", "b"), Delete("containers", "never")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"a": b"3"}


def test_many_writers_share_commits_and_all_are_done(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        async with trio.open_nursery() as nursery:
            for number in range(300):
                nursery.start_soon(store.commit, [Put("networks", f"{number:03}", b"x")])

    in_store(tmp_path, body)
    assert len(rows(tmp_path, "networks")) == 300


def test_one_bad_job_does_not_undo_its_neighbours(tmp_path: Path) -> None:
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
            nursery.start_soon(write, None, "bad")  # NOT NULL constraint
            nursery.start_soon(write, b"x", "better")
        assert outcomes.count("done") == 2
        assert any("NOT NULL" in text for text in outcomes)

    in_store(tmp_path, body)
    assert sorted(rows(tmp_path, "volumes")) == ["better", "first-better", "first-good", "good"]


def test_a_cancelled_commit_is_carried_out(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        with trio.CancelScope() as scope:
            scope.cancel()
            await store.commit([Put("containers", "kept", b"1")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"kept": b"1"}


def test_quarantined_rows_are_out_of_the_way_and_kept(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        await store.commit([Put("containers", "bad", b"garbage"), Put("containers", "good", b"1")])
        for key, _ in store.load("containers"):
            if key == "bad":
                await store.quarantine("containers", key, "cannot decode")
        assert [key for key, _ in store.load("containers")] == ["good"]
        assert store.quarantined() == [("containers", "bad", "cannot decode")]

    in_store(tmp_path, body)


@pytest.mark.parametrize("damage", ["not a database", "truncate", "middle"])
def test_a_damaged_file_is_moved_aside_and_the_store_opens(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "orlop.db"

    async def fill(store: Store) -> None:
        await store.commit([Put("containers", f"{n:03}", os.urandom(3000)) for n in range(100)])

    in_store(tmp_path, fill)
    data = bytearray(path.read_bytes())
    if damage == "truncate":
        data = data[:30_000]
    elif damage == "middle":
        data[8192:40960] = os.urandom(32768)
    else:
        data = bytearray(damage.encode() * 100)
    path.write_bytes(data)
    assert rows(tmp_path) == {}
    assert len(list(tmp_path.glob("orlop.db.damaged-*"))) == 1
    assert "is damaged" in caplog.text
    assert "moved to" in caplog.text


def test_a_full_disk_is_said_and_passes(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        (pages,) = store._connection.execute("PRAGMA page_count").fetchone()
        store._connection.execute(f"PRAGMA max_page_count={pages + 2}")
        with pytest.raises(Unavailable, match="no space left on device"):
            await store.commit([Put("containers", "big", bytes(100_000))])
        store._connection.execute("PRAGMA max_page_count=100000")
        await store.commit([Put("containers", "small", b"1")])

    in_store(tmp_path, body)
    assert rows(tmp_path) == {"small": b"1"}


def test_a_second_process_is_refused(tmp_path: Path) -> None:
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


def test_a_killed_writer_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
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


def test_unknown_tables_are_a_programming_error(tmp_path: Path) -> None:
    async def body(store: Store) -> None:
        with pytest.raises(ValueError, match="unknown table"):
            await store.commit([Put("nothing", "a", b"")])

    in_store(tmp_path, body)
