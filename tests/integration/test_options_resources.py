"""Resource limits: the values in the cgroup, and what happens to a process that reaches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests.integration.engine import Engine, until

from orlop_engine.spec.host import facts

pytestmark = pytest.mark.root

UNIFIED = Path("/sys/fs/cgroup/cgroup.controllers").exists()


def _device() -> str:
    """A disk of this host."""
    return next(
        (f"/dev/{name}" for name in sorted(os.listdir("/sys/block")) if not name.startswith(("loop", "ram", "zram"))), ""
    )


def test_resource_limits_are_set_in_the_cgroup(engine: Engine, name: str) -> None:
    flags = ["-m", "64m", "--memory-reservation", "32m", "--memory-swap", "96m", "--cpu-shares", "512", "--pids-limit", "77"]
    flags += ["--cpu-period", "50000", "--cpu-quota", "20000", "--cpuset-cpus", "0", "--cpuset-mems", "0"]
    device = _device()
    if device:
        flags += ["--device-read-bps", f"{device}:1mb", "--device-write-iops", f"{device}:50"]
    # With the orlop client: docker's 26.1 accepts the flags of block devices but does not send them.
    started = engine.orlop("run", "-d", "--name", name, "--network", "none", *flags, "busybox", "sleep", "600", check=0)
    container = started.line

    def read(controller: str, v1: str, v2: str) -> str:
        return engine.cgroup(container, controller, v2 if UNIFIED else v1)

    assert read("memory", "memory.limit_in_bytes", "memory.max") == str(64 << 20)
    assert read("memory", "memory.soft_limit_in_bytes", "memory.low") == str(32 << 20)
    swap = 32 << 20 if UNIFIED else 96 << 20  # v2 limits swap alone, v1 the sum of memory and swap
    assert read("memory", "memory.memsw.limit_in_bytes", "memory.swap.max") == str(swap)
    assert read("pids", "pids.max", "pids.max") == "77"
    assert read("cpuset", "cpuset.cpus", "cpuset.cpus") == read("cpuset", "cpuset.mems", "cpuset.mems") == "0"
    if UNIFIED:
        assert engine.cgroup(container, "cpu", "cpu.max") == "20000 50000"
        assert 1 < int(engine.cgroup(container, "cpu", "cpu.weight")) < 100
    else:
        assert engine.cgroup(container, "cpu", "cpu.cfs_quota_us") == "20000"
        assert engine.cgroup(container, "cpu", "cpu.cfs_period_us") == "50000"
        assert engine.cgroup(container, "cpu", "cpu.shares") == "512"
    if device:
        bps = read("blkio", "blkio.throttle.read_bps_device", "io.max")
        iops = read("blkio", "blkio.throttle.write_iops_device", "io.max")
        if UNIFIED:
            assert ("rbps=1048576" in bps, "wiops=50" in iops) == (True, True), bps
        else:
            assert (bps.split()[-1], iops.split()[-1]) == ("1048576", "50")
    # The pinned CPU is visible inside.
    assert engine.ok("exec", name, "grep", "Cpus_allowed_list", "/proc/self/status").split()[-1] == "0"


@pytest.mark.skipif(UNIFIED, reason="of cgroup v1")
def test_swappiness_and_oom_kill_disable_are_set_in_cgroup_v1(engine: Engine, name: str) -> None:
    flags = ["-m", "32m", "--memory-swappiness", "7", "--oom-kill-disable"]
    container = engine.ok("run", "-d", "--name", name, "--network", "none", *flags, "busybox", "sleep", "600")
    assert engine.cgroup(container, "memory", "memory.swappiness") == "7"
    assert "oom_kill_disable 1" in engine.cgroup(container, "memory", "memory.oom_control")
    warned = engine.docker("create", "--oom-kill-disable", "busybox")
    assert "OOM killer is disabled for the container, but no memory limit is set" in warned.err


def test_limits_of_the_container_are_enforced(engine: Engine, name: str) -> None:
    engine.ok(
        "run",
        "-d",
        "--name",
        f"{name}-cpu",
        "--cpus",
        "0.1",
        "--network",
        "none",
        "busybox",
        "sh",
        "-c",
        "while :; do :; done",
    )
    eater = "head -c 60000000 /dev/zero | tail -c 50000000 >/dev/null; sleep 600"
    engine.ok("run", "-d", "--name", f"{name}-mem", "-m", "16m", "--network", "none", "busybox", "sh", "-c", eater)
    forks = "i=0; while [ $i -lt 40 ]; do sleep 30 & i=$((i+1)); done; echo all"
    result = engine.docker("run", "--rm", "--pids-limit", "20", "--network", "none", "busybox", "sh", "-c", forks)
    assert "can't fork: Resource temporarily unavailable" in result.err and "all" not in result.out
    # A child was killed and the container still runs: there is an event, and the state shows the kill
    until(lambda: "oom" in engine.events(container=f"{name}-mem"), "the event oom")
    container = engine.inspect(f"{name}-cpu")["Id"]
    throttled = "cpu.stat"

    def times() -> int:
        return int(dict(line.split() for line in engine.cgroup(container, "cpu", throttled).splitlines())["nr_throttled"])

    until(lambda: times() > 3, "the quota throttles")
    processes = "ulimit -u; sleep 30 & sleep 30 & sleep 30 & sleep 30"
    flags = ["--ulimit", "nproc=3:3", "-u", "54321", "--network", "none"]
    result = engine.docker("run", "--rm", *flags, "busybox", "sh", "-c", processes)
    assert "can't fork: Resource temporarily unavailable" in result.err


def test_sizes_of_tmpfs_and_shm_are_enforced(engine: Engine) -> None:
    script = (
        "head -c 3000000 /dev/zero >/dev/shm/x; head -c 3000000 /dev/zero >/t/x; ls -l /dev/shm/x /t/x | awk '{print $5}'"
    )
    flags = ["--shm-size", "1m", "--tmpfs", "/t:size=512k", "--network", "none"]
    result = engine.docker("run", "--rm", *flags, "busybox", "sh", "-c", script)
    assert result.out.split() == [str(1 << 20), str(512 << 10)]


def test_cgroup_of_the_container_is_below_the_given_parent(engine: Engine, name: str) -> None:
    parent = (
        "ot-parent.slice"
        if engine.cgroup_parent.endswith(".slice")
        else f"/{engine.cgroup_parent}/../{engine.cgroup_parent}/deeper"
    )
    engine.ok("run", "-d", "--name", name, "--network", "none", "--cgroup-parent", parent, "busybox", "sleep", "600")
    found = engine.inspect(name)
    own = Path(f"/proc/{found['State']['Pid']}/cgroup").read_text()
    wanted = "ot-parent.slice" if parent.endswith(".slice") else f"/{engine.cgroup_parent}/deeper/{found['Id']}\n"
    assert wanted in own
    engine.ok("rm", "-f", name)
    if not parent.endswith(".slice"):
        assert engine.docker("run", "--rm", "--cgroup-parent", "a:b:c", "busybox", "true").code == 125
        _remove_empty(engine)


def _remove_empty(engine: Engine) -> None:
    """Orlop does not remove a parent cgroup that the user chose."""
    for path in Path("/sys/fs/cgroup").glob(f"*/{engine.cgroup_parent}/deeper"):
        path.rmdir()
    alone = Path(f"/sys/fs/cgroup/{engine.cgroup_parent}/deeper")
    if alone.exists():
        alone.rmdir()


@pytest.mark.parametrize(
    ("resources", "message"),
    [
        ({"CpusetCpus": "0-4000"}, "Requested CPUs are not available - requested 0-4000, available: "),
        ({"CpusetCpus": "x"}, "Invalid value x for cpuset cpus"),
        ({"MemoryReservation": 1 << 20}, "Minimum memory reservation allowed is 6MB"),
        ({"IOMaximumIOps": 5}, "linux does not support configuration of maximum IOPs"),
        ({"StorageOpt": {"size": "1G"}}, "--storage-opt is not supported"),
        ({"Cgroup": "container:x"}, "the field Cgroup is not supported"),
        ({"Annotations": {"": "x"}}, "invalid Annotations: the empty string is not permitted as an annotation key"),
    ],
)
def test_impossible_limits_are_refused_without_a_container(
    engine: Engine, resources: dict[str, object], message: str
) -> None:
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": resources})
    assert status == 400 and message in answer["message"]
    assert engine.docker("ps", "-aq").out == ""


def test_unsupported_limits_are_discarded_with_a_warning(engine: Engine) -> None:
    limits = {"CpuCount": 2, "CpuPercent": 50, "KernelMemory": 1 << 20, "KernelMemoryTCP": 1 << 20}
    status, answer = engine.api("POST", "/containers/create", {"Image": "busybox", "HostConfig": limits})
    assert status == 201 and len(answer["Warnings"]) == 4
    shown = engine.inspect(answer["Id"])["HostConfig"]
    assert (shown["CpuCount"], shown["CpuPercent"]) == (0, 0) and "KernelMemory" not in shown


def test_sysctl_of_a_namespace_of_the_host_is_refused(engine: Engine) -> None:
    for flags, text in (
        (["--sysctl", "vm.swappiness=1"], "vm.swappiness"),
        (["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"], "net.ipv4.ip_forward"),
        (["--ipc", "host", "--sysctl", "kernel.shmmax=1"], "kernel.shmmax"),
    ):
        result = engine.orlop("run", "--rm", *flags, "busybox", "true")
        assert result.code == 125 and text in result.err and "namespace" in result.err


@pytest.mark.skipif(facts().cgroup_version == 2, reason="cgroup v2 has no oom_kill_disable")
def test_oom_event_is_emitted_though_the_container_keeps_running(engine: Engine, name: str) -> None:
    limits = ("--memory", "8m", "--memory-swap", "8m", "--oom-kill-disable")
    engine.docker("run", "-d", "--name", name, *limits, "busybox", "sh", "-c", "a=x; while :; do a=$a$a; done")
    until(lambda: "oom" in engine.events(container=name), "the event")
    state = engine.inspect(name)["State"]
    assert (state["OOMKilled"], state["Status"]) == (True, "running")
    engine.docker("kill", name)
    until(lambda: engine.inspect(name)["State"]["Status"] == "exited", "the end")
    assert engine.events(container=name).count("oom") == 1
