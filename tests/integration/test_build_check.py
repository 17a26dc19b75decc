"""The consistency check knows the snapshots of builds: it compares them with their rows, and repairs both."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, patience, until

pytestmark = pytest.mark.root

DOCKERFILE = """FROM busybox
RUN echo first > /first
RUN echo second > /second
COPY file /copied
"""
SOUND = {"findings": [], "ok": True}
UNKNOWN = "build-" + "ab" * 12


def check(engine: Engine, *flags: str) -> dict[str, Any]:
    result = engine.orlop("system", "check", "--format", "json", *flags)
    assert result.code in (0, 1), result.err
    return dict(json.loads(result.out))


def of_builds(report: dict[str, Any]) -> set[tuple[str, str, str]]:
    return {(finding["severity"], finding["object"], finding["text"]) for finding in report["findings"]}


@pytest.fixture
def engine(fresh: Callable[..., Engine], tmp_path: Path) -> Engine:
    """A daemon whose build cache has snapshots that no image uses."""
    made = fresh()
    (tmp_path / "Dockerfile").write_text(DOCKERFILE)
    (tmp_path / "file").write_text("file\n")
    made.ok("build", "-o", str(tmp_path / "out"), str(tmp_path))
    return made


@contextmanager
def builds_table(engine: Engine) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(engine.data_root / "orlop.db", timeout=patience(10))) as connection, connection:
        yield connection


def keys(engine: Engine) -> list[str]:
    """The snapshots of the build cache, from the lowest to the highest."""
    with builds_table(engine) as connection:
        rows = dict(connection.execute("SELECT key, value FROM builds WHERE key LIKE 'build-%'"))
    parents = {key: json.loads(value)["parent"] for key, value in rows.items()}

    def depth(key: str) -> int:
        return 1 + depth(parents[key]) if key in parents else 0

    return sorted(parents, key=depth)


def index(engine: Engine, key: str) -> Path:
    """The entry of a snapshot in the driver's index."""
    return engine.data_root / "overlay2" / ".orlop" / "committed" / key


def without_failures(report: dict[str, Any]) -> dict[str, Any]:
    """The report if all repairs were made, else an empty one."""
    return {} if any("failed" in line for line in report["repaired"]) else report


def snapshot_with(engine: Engine, name: str) -> Path:
    """The directory of the snapshot that a step made."""
    (found,) = (engine.data_root / "overlay2").glob(f"*/diff/{name}")
    return found.parent.parent


def test_check_compares_and_repairs_rows_and_snapshots_of_the_build_cache(engine: Engine, tmp_path: Path) -> None:
    engine.stop()  # ends the builder
    engine.start()
    assert check(engine) == SOUND
    *_, unrecorded = keys(engine)
    with builds_table(engine) as connection:
        connection.execute("DELETE FROM builds WHERE key = ?", (unrecorded,))
        connection.execute("INSERT INTO builds VALUES (?, ?)", (UNKNOWN, b'{"parent":""}'))
    expected = {
        ("warning", f"snapshot {unrecorded}", "belongs to no build"),
        ("warning", f"snapshot {UNKNOWN}", "of the build cache is not in storage"),
    }
    report = check(engine)
    assert (report["ok"], of_builds(report)) == (False, expected)

    engine.ok("build", "-o", str(tmp_path / "again"), str(tmp_path))  # starts a builder
    report = check(engine, "--repair")
    assert of_builds(report) == expected
    assert all("failed: a builder is running" in line for line in report["repaired"])

    for pid in engine.children("orlop-builder"):
        os.kill(pid, signal.SIGKILL)
    report = until(lambda: without_failures(check(engine, "--repair")), "the end of the builder's connection")
    assert set(report["repaired"]) == {
        f"snapshot {unrecorded}: write its row, or remove it if it is unused: done",
        f"snapshot {UNKNOWN}: remove its row: done",
    }
    assert report["findings"] == []
    assert check(engine) == SOUND
    assert unrecorded in keys(engine)
    build(engine, tmp_path)


def test_lost_and_unknown_snapshots_of_the_build_cache_are_repaired_at_start(engine: Engine, tmp_path: Path) -> None:
    lost, above = snapshot_with(engine, "first"), snapshot_with(engine, "second")
    (lost_key,) = (key for key in keys(engine) if os.readlink(index(engine, key)).partition(":")[0] == lost.name)
    engine.stop()
    shutil.move(lost, tmp_path / "lost")
    unknown = lost.with_name("ab" * (len(lost.name) // 2))
    (unknown / "diff").mkdir(parents=True)
    index(engine, UNKNOWN).symlink_to(unknown.name)
    result = engine.run([*engine.command, "--check"])
    assert of_builds(json.loads(result.out)) >= {
        ("info", f"snapshot {UNKNOWN}", "belongs to no build"),
        ("info", f"snapshot {lost_key}", "of the build cache is not in storage"),
    }
    engine.start()
    until(lambda: not unknown.exists(), "the removal of the snapshot without a row")
    until(lambda: not above.exists(), "a snapshot above a lost one cannot be mounted")
    engine.until_sound()
    build(engine, tmp_path)


def build(engine: Engine, directory: Path) -> None:
    engine.ok("build", "-t", "made", str(directory))
    found = engine.ok("run", "--rm", "--network=none", "made", "cat", "/first", "/second", "/copied")
    assert found.split() == ["first", "second", "file"]
    engine.until_sound()
