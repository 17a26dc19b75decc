"""A runtime killed half-way (by the OOM killer or an administrator) leaves nothing behind, without a restart of the
daemon."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.integration.engine import RUNTIME, SLOWNESS, Engine, until

pytestmark = pytest.mark.root

ROUNDS, LAST = 16, 0.06 * SLOWNESS  # number of kills, and the delay in seconds of the last
SCRIPT = """#!/bin/sh
for word; do
    [ "$word" = "$(cat {what})" ] || continue
    {runtime} "$@" & pid=$!
    sleep $(cat {delay})
    kill -9 $pid
    wait $pid
    exit
done
exec {runtime} "$@"
"""


class Killer:
    """An engine whose runtime is killed. `kill` takes the runtime's command during which this happens, and the delay in
    seconds after the start of the command."""

    def __init__(self, engine: Engine, directory: Path) -> None:
        self.engine, self._what, self._delay = engine, directory / "what", directory / "delay"

    def kill(self, what: str, delay: float = 0) -> None:
        self._what.write_text(what)
        self._delay.write_text(f"{delay:.4f}")

    def cgroups(self) -> list[Path]:
        parent, top = self.engine.cgroup_parent, Path("/sys/fs/cgroup")
        found = [path for pattern in (f"{parent}/*", f"*/{parent}/*") for path in top.glob(pattern)]
        return [path for path in found if path.is_dir()]

    def state(self) -> list[str]:
        return os.listdir(self.engine.exec_root / "runtime-killed")


@pytest.fixture
def killer(fresh: Callable[..., Engine], tmp_path: Path) -> Killer:
    runtime = tmp_path / "killed-runtime"
    names = {"what": tmp_path / "what", "delay": tmp_path / "delay", "runtime": shutil.which(RUNTIME or "runc")}
    runtime.write_text(SCRIPT.format(**names))
    runtime.chmod(0o755)
    engine = fresh({"runtimes": {"killed": {"path": str(runtime)}}, "default-runtime": "killed"})
    made = Killer(engine, tmp_path)
    made.kill("nothing")
    return made


def test_a_runtime_killed_in_the_middle_of_a_start_leaves_no_cgroup(killer: Killer) -> None:
    engine = killer.engine
    engine.ok("create", "--name", "cc", "--network", "none", "busybox", "sleep", "600")
    failed = 0
    for number in range(ROUNDS):
        killer.kill("run", LAST * number / ROUNDS)
        if engine.docker("start", "cc").code:
            failed += 1
            assert (killer.cgroups(), killer.state()) == ([], [])
        else:
            engine.ok("kill", "cc")
    assert failed
    killer.kill("nothing")
    engine.ok("start", "cc")
    engine.ok("rm", "-f", "cc")


def test_a_runtime_killed_in_the_middle_of_a_delete_leaves_no_cgroup(killer: Killer) -> None:
    """The runtime's `delete`, which follows the container's exit, is killed. The next start and
    the removal of the container leave nothing behind either."""
    engine = killer.engine
    engine.ok("run", "-d", "--name", "cc", "--network", "none", "busybox", "sleep", "600")
    killer.kill("delete")
    engine.ok("kill", "cc")
    until(lambda: not killer.cgroups() and not killer.state(), "nothing is left of the container")
    engine.ok("start", "cc")
    killer.kill("nothing")
    engine.ok("rm", "-f", "cc")
    assert killer.cgroups() == []
