"""Hostile containers: attacks on the runtime's program, the monitor, the host's files, the host's processes."""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import Engine, alive, until
from tests.registry import busybox, docker_archive, image, layer

pytestmark = pytest.mark.root


def _load(engine: Engine, tag: str, members: dict[str, Any]) -> None:
    engine.docker("load", stdin=docker_archive({f"{tag}:latest": image([layer({**busybox(), **members})])}), check=0)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]


def test_a_fork_bomb_stays_within_its_limit(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--pids-limit", "30", "--name", name, "busybox", "sleep", "600")
    engine.ok("exec", "-d", name, "sh", "-c", "f() { sleep 500 & f | f & }; f")
    container = engine.inspect(name)["Id"]
    until(lambda: int(engine.cgroup(container, "pids", "pids.current")) >= 25, "it has grown")
    assert int(engine.cgroup(container, "pids", "pids.current")) <= 30
    assert engine.ok("run", "--rm", "busybox", "echo", "others") == "others"
    began = time.monotonic()
    engine.ok("rm", "-f", name)
    assert time.monotonic() - began < 5


def test_a_container_does_not_see_its_monitor(engine: Engine, name: str) -> None:
    """A container sees no process and no directory of the host; it can stop and kill only its own processes."""
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    monitor, zygote = engine.monitor(name), engine.zygote
    seen = engine.ok("exec", name, "sh", "-c", "cat /proc/[0-9]*/comm")
    assert set(seen.split()) <= {"sleep", "sh", "cat"}, seen
    engine.docker("exec", name, "sh", "-c", "kill -STOP -1; kill -STOP 1; kill -KILL -1")
    assert engine.process is not None
    for pid in (monitor, zygote, engine.process.pid):
        assert alive(pid) and _state(pid) != "T"
    for path in (engine.exec_root, engine.data_root):
        assert engine.docker("exec", name, "ls", str(path)).code == 1
    assert engine.docker("exec", name, "sh", "-c", "echo 1 >/proc/sysrq-trigger").code != 0
    engine.ok("rm", "-f", name)


def test_user_names_are_never_looked_up_in_files_of_the_host(engine: Engine, name: str, tmp_path: Path) -> None:
    """/etc/passwd is a symlink to a file of the host. The image contains this symlink, or the running container creates
    it."""
    host = tmp_path / "passwd"
    host.write_text("root:x:0:0::/:/bin/sh\nhosts:x:4242:4242::/:/bin/sh\n")
    _load(engine, "sly", {"etc/passwd": str(host)})
    result = engine.docker("run", "--rm", "-u", "hosts", "sly", "id")
    assert result.code == 125 and "unable to find user hosts" in result.err, result
    engine.ok("rmi", "sly")
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    for target in (f"../../../../../..{host}", f"/proc/self/root{host}", f"/proc/1/root{host}"):
        engine.ok("exec", name, "ln", "-sf", target, "/etc/passwd")
        refused = engine.docker("exec", "-u", "hosts", name, "id")
        assert refused.code == 126 and "unable to find user hosts" in refused.out


def test_working_directory_does_not_lead_outside_the_root(fresh: Callable[..., Engine]) -> None:
    """CVE-2024-21626: the path of the working directory leads through a descriptor that the runtime has left open."""
    engine = fresh({"runtimes": {"crun": {"path": "crun"}}, "shutdown-timeout": 2})
    (engine.home / "marker").touch()
    ups = " ".join("/".join([".."] * count) for count in range(1, 8))
    look = ("busybox", "sh", "-c", f"for up in . {ups}; do [ -e $up{engine.home}/marker ] && echo marker; done; pwd")
    for runtime in ("runc", "crun"):
        engine.ok("run", "-d", "--runtime", runtime, "--name", runtime, "busybox", "sleep", "600")
        for number in range(3, 10):
            path = f"/proc/self/fd/{number}"
            result = engine.docker("exec", "-w", path, runtime, *look[1:])
            assert result.code and "marker" not in result.out, (runtime, path, result)
            if number > 6:  # descriptors that may have been left open
                result = engine.docker("run", "--rm", "--runtime", runtime, "-w", path, *look)
                assert result.code and "marker" not in result.out, (runtime, path, result)


def test_container_cannot_overwrite_the_program_of_the_runtime(fresh: Callable[..., Engine], tmp_path: Path) -> None:
    """CVE-2019-5736: a container makes the runtime execute itself in the container, and writes to the runtime's program
    through /proc/PID/exe. The test uses a copy of runc."""
    program = tmp_path / "runc"
    shutil.copy(str(shutil.which("runc")), program)
    before = hashlib.sha256(program.read_bytes()).digest()
    engine = fresh({"runtimes": {"copy": {"path": str(program)}}, "default-runtime": "copy", "shutdown-timeout": 2})
    watch = """
    while :; do
        for exe in /proc/[0-9]*/exe; do
            at=$(readlink $exe)
            case $at in
                /bin/* | "") ;;
                *) echo "seen $at"; echo '#!/bin/true' >$exe && echo overwritten ;;
            esac
        done
    done 2>&1"""
    # without AppArmor, which would hide /proc/PID/exe: another defence is tested
    rights = ("--cap-add", "SYS_PTRACE", "--security-opt", "apparmor=unconfined")
    engine.ok("run", "-d", "--name", "watcher", *rights, "busybox", "sh", "-c", watch)
    engine.ok("exec", "watcher", "sh", "-c", "echo '#!/proc/self/exe' >/bad; chmod +x /bad")
    monitor = engine.monitor("watcher")
    (held,) = [fd for fd in os.listdir(f"/proc/{monitor}/fd") if "memfd:runc" in os.readlink(f"/proc/{monitor}/fd/{fd}")]
    for flags in (os.O_WRONLY, os.O_RDWR | os.O_TRUNC):  # even by root on the host
        with pytest.raises(PermissionError):
            fd = os.open(f"/proc/{monitor}/fd/{held}", flags)
            try:
                os.write(fd, b"#!/bin/true\n")
            finally:
                os.close(fd)

    def met_one() -> bool:
        for _ in range(5):
            engine.docker("exec", "watcher", "/bad")
            engine.docker("exec", "watcher", "true")
        return "seen" in engine.docker("logs", "watcher").out

    until(met_one, "the watcher observes the runtime", seconds=60)
    log = engine.docker("logs", "watcher").out
    assert "overwritten" not in log
    met = {line for line in log.splitlines() if line.startswith("seen")}
    assert met == {"seen /memfd:runc (deleted)"}
    assert hashlib.sha256(program.read_bytes()).digest() == before
    assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"
