"""A data root on a full disk: containers keep running, requests fail with clear messages, removals work, and everything
recovers without help. The disk is a tmpfs."""

from __future__ import annotations

import os
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, Engine, archive, until

from orlop_kernel import reserve

pytestmark = pytest.mark.root

CONFIG = {"bridge": "none", "shutdown-timeout": 2, "default-stop-timeout": 1}
FULL = "no space left on device"


class Disk:
    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def data(self) -> Path:
        return self.path / "data"

    @property
    def reserve(self) -> int:
        return (self.data / "orlop.db.reserve").stat().st_size

    @property
    def free(self) -> int:
        found = os.statvfs(self.path)
        return found.f_bavail * found.f_frsize

    def fill(self) -> None:
        """Use up the disk to the last page."""
        with (self.path / "hog").open("ab", buffering=0) as hog:
            with suppress(OSError):
                os.posix_fallocate(hog.fileno(), os.fstat(hog.fileno()).st_size, self.free)
            with suppress(OSError):
                while True:
                    hog.write(bytes(4096))
        assert self.free == 0

    def empty(self) -> None:
        (self.path / "hog").unlink()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    path = tmp_path / "disk"
    path.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=40m", "orlop-test", path], check=True)
    yield Disk(path)
    subprocess.run(["umount", path], check=True)


def test_full_disk_does_not_stop_containers(disk: Disk, fresh: Callable[..., Engine]) -> None:
    engine = fresh(config=CONFIG, data_root=disk.data)
    for name in ("one", "two", "three"):
        engine.ok("run", "-d", "--network", "none", "--name", name, BUSYBOX, "sleep", "1000")
    engine.ok("create", "--network", "none", "--name", "idle", BUSYBOX, "true")
    assert disk.reserve == reserve.SIZE
    disk.fill()

    # Existing containers can be listed, used and stopped
    assert engine.ok("ps", "--format", "{{.Names}}").split() == ["three", "two", "one"]
    assert engine.state("one") == "running"
    assert engine.ok("exec", "one", "echo", "hello") == "hello"
    assert engine.ok("stop", "-t", "0", "one") == "one"
    assert engine.ok("kill", "two") == "two"
    engine.wait_state("two", "exited")

    # Operations that need space fail with an error
    for command in (
        ("create", "--network", "none", BUSYBOX, "true"),
        ("run", "--rm", "--network", "none", BUSYBOX, "true"),
        ("start", "idle"),
        ("rename", "three", "drei"),
        ("volume", "create", "sea"),
    ):
        result = engine.docker(*command)
        assert result.code != 0
        assert FULL in result.err.lower(), result.err
    assert FULL in engine.docker("load", stdin=archive()).err
    assert engine.inspect("three")["Name"] == "/three"

    # Operations that free space work
    assert engine.ok("rm", "one") == "one"
    assert disk.reserve < reserve.SIZE
    disk.fill()
    assert engine.ok("rm", "-f", "three") == "three"
    disk.fill()
    assert engine.ok("rm", "idle") == "idle"
    assert engine.ok("ps", "-a", "--format", "{{.Names}}").split() == ["two"]
    for complaint in ("cannot store events", "deletions now use reserved space"):
        assert engine.log().count(complaint) == 1
    assert "Traceback" not in engine.log()

    # With free space, everything works again
    disk.empty()
    until(lambda: disk.reserve == reserve.SIZE, "the reserve is whole again")
    until(lambda: "events are stored again" in engine.log(), "events are stored")
    assert engine.ok("run", "--rm", "--network", "none", BUSYBOX, "echo", "back") == "back"
    engine.kill()
    engine.start()
    assert engine.inspect("two")["State"]["ExitCode"] == 137
    assert engine.all_events(event="destroy")[0]["Actor"]["Attributes"]["name"] == "one"


def test_daemon_starts_on_a_full_disk(disk: Disk, fresh: Callable[..., Engine]) -> None:
    """The daemon has no reserved space, and cannot quarantine an invalid row for lack of space."""
    engine = fresh(config={**CONFIG, "live-restore": True}, data_root=disk.data)
    engine.ok("run", "-d", "--network", "none", "--name", "good", BUSYBOX, "sleep", "1000")
    bad = engine.ok("create", "--network", "none", "--name", "bad", BUSYBOX, "true")
    engine.stop()
    with closing(sqlite3.connect(disk.data / "orlop.db", isolation_level=None)) as database:
        database.execute("UPDATE containers SET value = x'00' WHERE key = ?", (bad,))
    (disk.data / "orlop.db.reserve").unlink()
    disk.fill()

    engine.start()
    assert engine.ok("ps", "-a", "--format", "{{.Names}}") == "good"
    assert engine.ok("exec", "good", "echo", "hello") == "hello"
    assert "cannot be quarantined now; retrying at the next start" in engine.log()
    assert (disk.data / "containers" / bad).is_dir()
    engine.kill()
    engine.start()
    assert engine.ok("exec", "good", "echo", "again") == "again"

    disk.empty()
    engine.restart()
    with closing(sqlite3.connect(disk.data / "orlop.db", isolation_level=None)) as database:
        assert database.execute("SELECT source, key FROM quarantine").fetchall() == [("containers", bad)]
    assert (disk.data / "containers" / bad).is_dir()
    assert disk.reserve == reserve.SIZE
