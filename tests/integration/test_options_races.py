"""Containers that swap links during operations of the daemon: no file outside of the container is read, written or mounted.

In each test, a container replaces a directory by a link to the outside, and back, in a loop. Meanwhile the daemon resolves
the path many times. The daemon may reach only the container's own files.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.integration.engine import Engine

pytestmark = pytest.mark.root

TRIES = 12
MARK = "of-the-host"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host that no container may reach, at a path that links can contain."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / MARK).write_text("secret\n")
    tmp_path.chmod(0o755)
    return place


def _untouched(outside: Path) -> None:
    assert os.listdir(outside) == [MARK] and (outside / MARK).read_text() == "secret\n"


@pytest.mark.parametrize("link", ["ABSOLUTE", "RELATIVE", "PROC"])
def test_changing_subpath_never_leads_out_of_the_volume(engine: Engine, name: str, outside: Path, link: str) -> None:
    target = {
        "ABSOLUTE": str(outside),
        "RELATIVE": "../" * 12 + str(outside).lstrip("/"),
        "PROC": "/proc/1/root" + str(outside),
    }[link]
    swap = f"mv real x; ln -s {target} l; mv x real; mv -T l x; rm x"
    loop = f"mkdir -p /v/real; echo inside >/v/real/f; cd /v; while :; do {swap}; done"
    engine.ok("run", "-d", "--name", name, "--network", "none", "-v", f"{name}:/v", "busybox", "sh", "-c", loop)
    mount = f"type=volume,src={name},dst=/m,volume-subpath=x"
    seen = set()
    for _ in range(TRIES):
        script = "ls -A /m; touch /m/written"
        result = engine.docker("run", "--rm", "--network", "none", "--mount", mount, "busybox", "sh", "-c", script)
        seen.add(result.out.strip())
        assert MARK not in result.out
    assert seen <= {"", "f", "f\nwritten", "written"}
    _untouched(outside)
    engine.ok("rm", "-f", name)
    engine.ok("volume", "rm", name)


def test_changing_mount_points_never_lead_out_of_the_container(engine: Engine, name: str, outside: Path) -> None:
    """The runtime creates a mount point below another mount whose links change."""
    loop = f"cd /v; while :; do mkdir x 2>/dev/null; rmdir x; ln -s {outside} x; rm x; done"
    engine.ok("run", "-d", "--name", name, "--network", "none", "-v", f"{name}:/v", "busybox", "sh", "-c", loop)
    for number in range(TRIES):
        flags = ["-v", f"{name}:/v", "--tmpfs", f"/v/x/new{number}"]
        result = engine.docker(
            "run", "--rm", "--network", "none", *flags, "busybox", "sh", "-c", f"touch /v/x/new{number}/f"
        )
        assert MARK not in result.out + result.err
    _untouched(outside)
    engine.ok("rm", "-f", name)
    engine.ok("volume", "rm", name)


def test_mount_points_never_lead_through_links_of_the_image_to_the_host(engine: Engine, name: str, outside: Path) -> None:
    made = (f"ln -s {outside} abs", f"ln -s ../../../../../../..{outside} rel", f"ln -s /proc/self/root{outside} proc")
    links = "; ".join(("mkdir /links; cd /links", *made))
    engine.ok("run", "--name", name, "busybox", "sh", "-c", links)
    engine.ok("commit", name, f"links-{name}")
    for number, place in enumerate(("abs", "rel", "proc")):
        for flags in (
            ["--tmpfs", f"/links/{place}/dir{number}"],
            ["-v", f"/etc/hostname:/links/{place}/file{number}"],
            ["-w", f"/links/{place}/wd"],
        ):
            engine.docker("run", "--rm", "--network", "none", *flags, f"links-{name}", "true")
    copied = engine.docker(
        "run", "--rm", "--network", "none", "-v", f"{name}:/links/abs", f"links-{name}", "ls", "-A", "/links/abs/"
    )
    assert MARK not in copied.out
    _untouched(outside)
    engine.ok("volume", "rm", "-f", name)


def test_user_lookup_in_a_changing_passwd_never_reads_a_file_of_the_host(engine: Engine, name: str, tmp_path: Path) -> None:
    """Users of an exec are looked up in the files of a running container."""
    (tmp_path / "passwd").write_text("captain:x:4321:4321::/:/bin/sh\n")
    tmp_path.chmod(0o755)
    entry = "captain:x:1234:1234::/:/bin/sh"
    loop = f"while :; do ln -sfn {tmp_path}/passwd /t; mv -T /t /etc/passwd; echo {entry} >/n; mv -T /n /etc/passwd; done"
    engine.ok("run", "-d", "--name", name, "--network", "none", "busybox", "sh", "-c", loop)
    seen = set()
    for _ in range(TRIES):
        result = engine.docker("exec", "-u", "captain", name, "id", "-u")
        seen.add(result.out.strip() if result.code == 0 else "")
        assert result.code == 0 or "no matching entries in passwd file" in result.out + result.err
    assert seen <= {"", "1234"}


def test_cp_into_a_changing_subpath_never_leads_out_of_the_volume(engine: Engine, name: str, outside: Path) -> None:
    """`docker cp` into a stopped container mounts the same volume subpaths."""
    loop = f"mkdir /v/real; cd /v; while :; do mv real x; mv x real; ln -s {outside} x; rm x; done"
    engine.ok("run", "-d", "--name", name, "--network", "none", "-v", f"{name}:/v", "busybox", "sh", "-c", loop)
    mount = f"type=volume,src={name},dst=/m,volume-subpath=x"
    engine.ok("create", "--name", f"{name}-stopped", "--mount", mount, "busybox")
    (outside.parent / "file").write_text("from a client\n")
    for _ in range(TRIES):
        engine.docker("cp", str(outside.parent / "file"), f"{name}-stopped:/m/")
        assert engine.docker("cp", f"{name}-stopped:/m/{MARK}", "-").code != 0
    _untouched(outside)
    engine.ok("rm", "-f", name, f"{name}-stopped")
    engine.ok("volume", "rm", name)
