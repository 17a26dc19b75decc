"""Errors that come from the state of the host, with docker's client and with orlop: no permission, and a full disk."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.engine import Engine, archive
from tests.integration.test_client_parity import Result, run
from tests.integration.test_disk_full import CONFIG, Disk, disk

__all__ = ["disk"]

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(not shutil.which("docker"), reason="no docker client to compare with"),
]
ORLOP = [sys.executable, "-m", "orlop_cli"]
# Root without the capabilities that ignore permissions of files
UNPRIVILEGED = ["setpriv", "--bounding-set", "-dac_override,-dac_read_search"]
NOBODY = 65534


@pytest.fixture
def denied(tmp_path: Path) -> Iterator[Path]:
    """A socket of another user."""
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as served:
        served.bind(str(path))
        served.listen()
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o600)
        yield path


def test_denied_socket_is_named_with_the_users_who_may_use_it(shared: Engine, denied: Path, tmp_path: Path) -> None:
    theirs, ours = (
        run(shared, tmp_path, [*UNPRIVILEGED, *one, "-H", f"unix://{denied}"], ["ps"]) for one in (["docker"], ORLOP)
    )
    assert (theirs.code, ours.code) == (1, 1)
    assert f"permission denied while trying to connect to the Docker daemon socket at unix://{denied}" in theirs.err
    assert f"{denied}\nIt belongs to nobody:nogroup, and only nobody may use it" in ours.err


LOCKED = ["cp source:/bin HOME/locked/x", "save -o HOME/locked/x busybox", "load -i HOME/secret.tar"]


@pytest.mark.parametrize("line", LOCKED)
def test_denied_file_is_named(shared: Engine, tmp_path: Path, line: str) -> None:
    (tmp_path / "locked").mkdir()
    (tmp_path / "secret.tar").write_bytes(archive())
    for path in (tmp_path / "locked", tmp_path / "secret.tar"):
        os.chown(path, NOBODY, NOBODY)
        path.chmod(0o700)
    shared.ok("create", "--name", "source", "busybox", "true")
    try:
        words = shlex.split(line.replace("HOME", str(tmp_path)))
        theirs, ours = (run(shared, tmp_path, [*UNPRIVILEGED, *one], words) for one in (["docker"], ORLOP))
    finally:
        shared.ok("rm", "-f", "source")
    assert (theirs.code, ours.code) == (1, 1)
    for said in (theirs.err, ours.err):
        assert "permission denied" in said.lower()
        assert str(tmp_path) in said


FULL = [
    "create --network none busybox true",
    "run --rm --network none busybox true",
    "start idle",
    "rename idle new",
    "volume create sea",
    "load -i HOME/image.tar",
    "cp HOME/image.tar idle:/",
    "import HOME/image.tar new:1",
    "commit idle new:1",
    "tag busybox new:1",
    "build HOME/context",
]


def test_errors_on_a_full_disk_say_what_to_do(disk: Disk, fresh: Callable[..., Engine], tmp_path: Path) -> None:
    engine = fresh(config=CONFIG, data_root=disk.data)
    engine.ok("create", "--network", "none", "--name", "idle", "busybox", "true")
    (tmp_path / "image.tar").write_bytes(archive())
    (tmp_path / "context").mkdir()
    (tmp_path / "context" / "Dockerfile").write_text("FROM busybox\nRUN echo 1 > /file\n")
    disk.fill()

    def both(line: str) -> list[Result]:
        words = shlex.split(line.replace("HOME", str(tmp_path)))
        return [run(engine, tmp_path, one, words) for one in (["docker"], ORLOP)]

    wrong = {}
    for line in FULL:
        theirs, ours = both(line)
        words = [one.err.lower() for one in (theirs, ours)]
        if theirs.code != ours.code or not ours.code or not all("no space left on device" in said for said in words):
            wrong[line] = (theirs, ours)
    assert not wrong
    disk.empty()
