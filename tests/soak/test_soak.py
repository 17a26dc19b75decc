"""The short form of `./dev soak`: a leak for each cycle or broken connection is visible after a few dozen."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, Engine, children_of, until

from .memory import sample
from .run import Size, soak
from .work import Scene

pytestmark = pytest.mark.root


@pytest.mark.timeout(180)
def test_repeated_operations_do_not_leak_resources(fresh: Callable[..., Engine]) -> None:
    report = soak(
        fresh({"shutdown-timeout": 3}), Size(cycles=25, execs=20, drops=24, rare=1, transfers=1, builds=1, warm_up=2)
    )
    assert not report.leaks, "\n".join(f"{key}: {first} -> {last}" for key, (first, last) in report.leaks.items())


def test_daemon_returns_memory_to_the_kernel_after_a_burst_of_requests(fresh: Callable[..., Engine]) -> None:
    """The daemon returns the memory when it is idle. malloc alone would keep the memory, because the end of the heap is in
    use."""
    engine = fresh({"shutdown-timeout": 3})
    assert engine.process is not None
    pid = engine.process.pid
    with ExitStack() as stack:
        scene = Scene(engine, stack)
        before = sample(pid)["Rss"]
        for _ in range(10):
            scene.large()
        config = {"Image": BUSYBOX, "Env": ["NAME=" + "x" * 1000] * 3500}
        with ThreadPoolExecutor(12) as pool:
            refused = [pool.submit(engine.api, "POST", "/containers/create?name=-x", config) for _ in range(48)]
            assert {one.result()[0] for one in refused} == {400}
        engine.ok("kill", "talker")
        until(lambda: sample(pid)["Rss"] - before < 25 << 10, "memory is given back", 40)


def test_container_start_interrupted_by_the_kill_of_the_monitor_leaves_no_cgroup(
    fresh: Callable[..., Engine], tmp_path: Path
) -> None:
    """The monitor is killed when the runtime has created cgroups, but no state by which it could delete the container."""
    program = tmp_path / "half-runc"
    program.write_text(
        '#!/bin/sh\n[ -e "$0.half" ] && case "$*" in *" run "*) eval "$(cat "$0.half")" ;; esac\nexec runc "$@"\n'
    )
    program.chmod(0o755)
    engine = fresh({"runtimes": {"half": {"path": str(program)}}, "default-runtime": "half", "shutdown-timeout": 2})
    container = engine.ok("create", "--name", "c1", "busybox", "true")
    made = [top / engine.cgroup_parent / container for top in (Path("/sys/fs/cgroup"), *Path("/sys/fs/cgroup").iterdir())]
    made = [path for path in made if (path.parents[1] / "cgroup.procs").exists()]
    directories = " ".join(map(str, made))
    Path(f"{program}.half").write_text(f"mkdir -p {directories}; echo $$ >{made[-1]}/cgroup.procs; touch $0.made; sleep 60")
    start = engine.background("start", "c1")
    until(Path(f"{program}.made").exists, "it is half-way")
    (monitor,) = children_of(engine.zygote, "orlop-monitor")
    os.kill(monitor, signal.SIGKILL)
    assert start.wait(20) != 0
    assert [path for path in made if path.exists()] == []
    Path(f"{program}.half").unlink()
    engine.ok("start", "-a", "c1")
