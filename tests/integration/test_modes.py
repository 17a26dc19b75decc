"""Modes and owners of everything that a daemon creates, whatever its umask."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
import stat
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio
from tests.integration.engine import RUNTIME, Engine, until
from tests.soak.stalling import stalling

from orlop_kernel.store import Store

pytestmark = pytest.mark.root

SECRET = "s3cr3t-of-a-container"
ID = "[0-9a-f]{32,64}(-init)?"

# (pattern of the path below the root, mode). The first match counts; without a match, only root may have access.
DATA = (
    ("", 0o710),
    ("orlop[.](db|db-wal|db-shm|lock)", 0o600),
    (r"content(/blobs(/sha256)?|/ingest)?", 0o700),
    ("content/(oci-layout|index.json)", 0o644),  # in a directory that only root can enter
    ("content/(blobs/sha256|ingest)/.*", 0o600),
    (f"overlay2(/{ID})?", 0o710),  # the host's users must not run setuid programs of containers
    (f"overlay2/{ID}/diff", 0o755),  # the root of a container
    (f"overlay2/{ID}/(work/)work", 0),  # created by the kernel
    (f"containers(/{ID})?", 0o710),
    (f"containers/{ID}/(hostname|hosts|resolv.conf)", 0o644),  # read by containers' users of any id
    (f"containers/{ID}/{ID}-json.log([.][0-9]+([.]gz)?)?", 0o640),
    (f"containers/{ID}/local-logs", 0o700),
    (f"containers/{ID}/local-logs/.*", 0o640),
    ("volumes", 0o710),
    ("volumes/[.]new", 0o700),
    ("volumes/[^/]+", 0o701),
    ("volumes/[^/]+/_data", 0o755),
    ("volumes/[^/]+/opts.json", 0o600),
)
EXEC = (
    ("", 0o711),
    ("orlop.pid", 0o644),
    ("(run|mnt|network|network-drivers|network-drivers/null|runtime-runc)", 0o700),
    (f"(run|mnt)/{ID}", 0o700),
    (f"run/{ID}/.*[.]json", 0o600),
    (f"run/{ID}/.*[.]pid", 0o700 if RUNTIME == "crun" else 0o644),  # written by the runtime, in a directory for root only
    (f"run/{ID}/.*[.]log", 0o644),  # likewise
    (f"run/{ID}/(sock|.*[.]tty)", 0o755),  # likewise, but written by Orlop
    (f"runtime-runc/{ID}", 0o711),  # created by runc
)


def _busy(engine: Engine) -> None:
    """Create one object of each kind."""
    engine.ok("network", "create", "net1")
    engine.ok("volume", "create", "vol1")
    engine.ok("volume", "create", "--opt", "type=tmpfs", "--opt", "device=tmpfs", "vol2")
    often = ("--log-opt", "max-size=1k", "--log-opt", "max-file=4", "--log-opt", "compress=true")
    mounts = ("-v", "vol1:/data", "-v", "/anonymous", "-p", "127.0.0.1::80", "--network", "net1")
    engine.ok("run", "-d", "--name", "c1", "-e", f"A={SECRET}", *mounts, *often, "busybox", "sh", "-c", "seq 999; sleep 600")
    engine.ok("run", "-dt", "--name", "c2", "--log-driver", "local", "busybox", "sh", "-c", "echo hi; sleep 600")
    engine.ok("run", "--name", "c3", "busybox", "true")
    engine.ok("exec", "-d", "-e", f"B={SECRET}", "c1", "sleep", "600")
    engine.ok("exec", "-dt", "c2", "sleep", "600")
    with stalling() as name:
        pull = engine.background("pull", name)
        until(lambda: os.listdir(engine.data_root / "content/ingest"), "half a layer is there")
        pull.kill()
        pull.communicate()
    assert engine.process is not None
    engine.process.send_signal(signal.SIGUSR1)
    until(lambda: list(engine.exec_root.glob("tasks-*.log")), "a dump of tasks")


def _walk(top: Path) -> Iterator[Path]:
    yield top
    for directory, names, files in os.walk(top):
        if directory.endswith(("/diff", "/_data")):
            names.clear()  # content of containers
        else:
            yield from (Path(directory, name) for name in (*names, *files))


def _expected(path: str, table: tuple[tuple[str, int], ...]) -> int | None:
    return next((mode for pattern, mode in table if re.fullmatch(pattern, path)), None)


def _wrong(top: Path, table: tuple[tuple[str, int], ...]) -> Iterator[str]:
    for path in _walk(top):
        status = os.lstat(path)
        name = os.path.relpath(path, top) if path != top else ""
        mode, kind = stat.S_IMODE(status.st_mode), stat.S_IFMT(status.st_mode)
        if (status.st_uid, status.st_gid) != (0, 0):
            yield f"{path} belongs to {status.st_uid}:{status.st_gid}"
        if kind == stat.S_IFLNK:
            continue
        wanted = _expected(name, table)
        if wanted is None and mode & 0o077:
            yield f"{path} has mode {mode:o}, and no rule says so"
        elif wanted is not None and mode != wanted:
            yield f"{path} has mode {mode:o}, not {wanted:o}"
        if mode & stat.S_IWOTH:
            yield f"{path} can be written by everybody"


def _open_to_nobody(paths: list[Path]) -> list[str]:
    """The files and directories that a user without privileges can read, write, or (directories) list."""
    script = 'while IFS= read -r path; do { [ -r "$path" ] || [ -w "$path" ]; } && echo "$path"; done; true'
    listed = "".join(f"{path}\n" for path in paths)
    done = subprocess.run(
        ["/bin/sh", "-c", script],
        input=listed,
        text=True,
        capture_output=True,
        check=True,
        user=65534,
        group=65534,
        extra_groups=[],
    )
    return done.stdout.splitlines()


@pytest.mark.parametrize("mask", [0, 0o077])
def test_created_files_have_the_expected_modes(fresh: Callable[..., Engine], mask: int) -> None:
    before = os.umask(mask)
    try:
        engine = fresh({"shutdown-timeout": 2})
    finally:
        os.umask(before)
    engine.home.chmod(0o755)  # modes below must suffice without this directory's
    _busy(engine)
    wrong = [*_wrong(engine.data_root, DATA), *_wrong(engine.exec_root, EXEC)]
    assert not wrong, "\n".join(wrong)
    seen = {os.path.relpath(path, engine.home) for path in _walk(engine.data_root)}
    assert "data/orlop.db-wal" in seen and any(name.endswith("-json.log.1.gz") for name in seen)  # it wrote logs
    everything = [*_walk(engine.data_root), *_walk(engine.exec_root)]
    assert _open_to_nobody(everything) == [str(engine.exec_root / "orlop.pid")]
    assert oct(os.stat(engine.socket).st_mode & 0o777) in ("0o600", "0o660")
    assert _open_to_nobody([Path(engine.socket)]) == []


def test_database_files_of_an_earlier_daemon_get_the_correct_modes(tmp_path: Path) -> None:
    async def main() -> set[str]:
        async with Store.open(str(tmp_path / "orlop.db")):
            return {f"{path.name} {path.stat().st_mode & 0o777:o}" for path in tmp_path.glob("orlop.db*")}

    wanted = {"orlop.db 600", "orlop.db-wal 600", "orlop.db-shm 600"}
    before = os.umask(0)
    try:
        assert wanted <= trio.run(main)
        with sqlite3.connect(tmp_path / "orlop.db") as open_one:  # so the log and index exist when the store opens
            open_one.execute("SELECT count(*) FROM meta").fetchall()
            for path in tmp_path.glob("orlop.db*"):
                path.chmod(0o644)
            assert wanted <= trio.run(main)
        open_one.close()
    finally:
        os.umask(before)
