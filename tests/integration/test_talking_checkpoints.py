"""Checkpoints, with CRIU where it works, and otherwise with a wrapper that simulates CRIU: command lines, stored files,
messages."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.engine import RUNTIME, Engine, until

pytestmark = pytest.mark.root

COUNT = ("busybox", "sh", "-c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")


def criu_works() -> bool:
    return bool(shutil.which("criu")) and subprocess.run(["criu", "check"], capture_output=True, check=False).returncode == 0


@pytest.fixture
def counting(fresh: Callable[..., Engine]) -> Iterator[Engine]:
    engine = fresh({"experimental": True, "shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "cc", *COUNT)
    until(lambda: "5" in engine.ok("logs", "cc").split(), "it counts")
    yield engine


@pytest.mark.skipif(not criu_works() or RUNTIME not in ("", "runc"), reason="CRIU does not work here")
def test_container_restored_from_a_checkpoint_continues_from_the_saved_state(counting: Engine) -> None:
    engine = counting
    assert engine.ok("checkpoint", "create", "--leave-running", "cc", "living") == "living"
    assert engine.state("cc") == "running"
    assert engine.ok("checkpoint", "create", "cc", "last") == "last"
    state = engine.inspect("cc")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 137)
    assert engine.ok("checkpoint", "ls", "cc").split() == ["CHECKPOINT", "NAME", "last", "living"]
    before = [*map(int, engine.ok("logs", "cc").split())]
    engine.ok("start", "--checkpoint", "last", "cc")
    until(lambda: len(engine.ok("logs", "cc").split()) > len(before) + 3, "it counts on")
    after = [*map(int, engine.ok("logs", "cc").split())]
    assert 0 < after[len(before)] - before[-1] <= 2  # does not start at 1 again; one line may be lost
    assert engine.ok("exec", "cc", "echo", "well") == "well"
    engine.ok("kill", "cc")
    engine.ok("checkpoint", "rm", "cc", "last")
    assert engine.ok("checkpoint", "ls", "cc").split()[2:] == ["living"]
    assert [name for name in engine.events(container="cc") if name == "checkpoint"] == ["checkpoint"] * 2


@pytest.fixture
def pretending(fresh: Callable[..., Engine], tmp_path: Path) -> Iterator[tuple[Engine, Path]]:
    """A runtime that records checkpoints and restores (a restore starts a new process), and a program named criu."""
    wrapper, real = tmp_path / "pretender", shutil.which(RUNTIME or "runc")
    wrapper.write_text(
        f"""#!/bin/sh
echo "$*" >> {tmp_path}/calls
image() {{ while [ "$1" != --image-path ]; do shift; done; echo "$2"; }}
case "$*" in
*" checkpoint "*)
  [ -e {tmp_path}/refuse ] && {{ echo "it would rather not" >&2; exit 1; }}
  echo state > "$(image "$@")/pages"; exit 0;;
*" restore "*) [ -e "$(image "$@")/pages" ] || exit 1
  exec {real} $(echo "$*" | sed 's/ restore / run /; s/--image-path [^ ]* //; s/--work-path [^ ]* //');;
esac
exec {real} "$@"
"""
    )
    wrapper.chmod(0o755)
    engine = fresh({"runtimes": {"pretender": {"path": str(wrapper)}}, "shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "cc", "--runtime", "pretender", *COUNT)
    yield engine, tmp_path


@pytest.mark.skipif(not shutil.which("criu"), reason="criu is not installed")
def test_checkpoint_requests_run_the_runtime_and_get_dockers_answers(pretending: tuple[Engine, Path]) -> None:
    engine, tmp = pretending
    path, container = "/v1.45/containers/cc/checkpoints", engine.inspect("cc")["Id"]
    assert engine.api("GET", path) == (200, [])
    assert engine.api("POST", path, {"CheckpointID": "one"})[0] == 201
    call = next(line for line in (tmp / "calls").read_text().splitlines() if " checkpoint " in line)
    assert call.endswith(f" --leave-running {container}")
    assert engine.api("POST", path, {"CheckpointID": "one"}) == (
        409,
        {"message": "checkpoint with name one already exists for container cc"},
    )
    for bad in ("../one", "", ".one", "a/b"):
        assert engine.api("POST", path, {"CheckpointID": bad})[0] == 400
    assert engine.api("POST", path, {"CheckpointID": "two", "CheckpointDir": "relative"})[0] == 400
    assert engine.api("POST", path, {"CheckpointID": "two", "CheckpointDir": str(tmp / "mine")})[0] == 201
    assert (tmp / "mine" / "two" / "pages").read_text() == "state\n"
    assert engine.api("GET", f"{path}?dir={tmp}/mine") == (200, [{"Name": "two"}])
    (tmp / "refuse").touch()
    status, answer = engine.api("POST", path, {"CheckpointID": "three"})
    assert (status, answer["message"]) == (
        500,
        "cannot checkpoint container cc: pretender: exit status 1: it would rather not",
    )
    assert engine.api("GET", path) == (200, [{"Name": "one"}])
    engine.ok("kill", "cc")
    missing = {"message": "checkpoint nope does not exist for container cc"}
    assert engine.api("POST", "/v1.45/containers/cc/start?checkpoint=nope") == (404, missing)
    assert engine.api("DELETE", f"{path}/nope") == (404, missing)
    assert engine.api("POST", path, {"CheckpointID": "four"})[0] == 409
    assert engine.api("POST", "/v1.45/containers/cc/start?checkpoint=one")[0] == 204
    assert engine.state("cc") == "running"
    call = next(line for line in (tmp / "calls").read_text().splitlines() if " restore " in line)
    assert " restore --detach --image-path " in call
    engine.ok("kill", "cc")
    assert engine.api("POST", f"/v1.45/containers/cc/start?checkpoint=two&checkpoint-dir={tmp}/mine")[0] == 204
    assert engine.api("DELETE", f"{path}/one")[0] == 204
    assert engine.api("GET", path) == (200, [])
    engine.ok("run", "-dt", "--name", "tt", "busybox", "cat")
    status, answer = engine.api("POST", "/v1.45/containers/tt/checkpoints", {"CheckpointID": "one"})
    assert (status, answer["message"]) == (400, "checkpoint not support on containers with tty")


def test_checkpoint_without_criu_is_refused(
    fresh: Callable[..., Engine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for directory in ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"):
        for program in Path(directory).iterdir():
            link = tmp_path / program.name
            if program.name != "criu" and not link.is_symlink():
                link.symlink_to(program)
    monkeypatch.setenv("PATH", str(tmp_path))
    engine = fresh({"shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "cc", "busybox", "sleep", "600")
    assert engine.api("POST", "/v1.45/containers/cc/checkpoints", {"CheckpointID": "one"}) == (
        501,
        {"message": "cannot checkpoint container cc: criu is not installed on the host"},
    )
