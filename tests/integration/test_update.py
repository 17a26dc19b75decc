"""`docker update`: limits that take effect immediately, and restart policies."""

import pytest
from tests.integration.engine import BUSYBOX, until

pytestmark = pytest.mark.root

MB = 1 << 20


def limits(engine, name):
    """Memory, pids and shares in the cgroup, by the file names of v1 or v2."""
    key = engine.inspect(name)["Id"]
    found = []
    for controller, v1, v2 in (
        ("memory", "memory.limit_in_bytes", "memory.max"),
        ("pids", "pids.max", "pids.max"),
        ("cpu", "cpu.shares", "cpu.weight"),
    ):
        try:
            found.append(engine.cgroup(key, controller, v1).strip())
        except FileNotFoundError:
            found.append(engine.cgroup(key, controller, v2).strip())
    return found


def test_limits_change_in_the_running_container(engine):
    engine.ok("run", "-d", "--name", "limited", "-m", "64m", "--pids-limit", "40", BUSYBOX, "sleep", "1000")
    assert limits(engine, "limited")[:2] == [str(64 * MB), "40"]
    engine.ok("update", "-m", "96m", "--memory-swap", "200m", "--pids-limit", "50", "-c", "512", "limited")
    memory, pids, shares = limits(engine, "limited")
    assert (memory, pids) == (str(96 * MB), "50") and shares in ("512", "59", "20")
    host = engine.inspect("limited")["HostConfig"]
    assert (host["Memory"], host["MemorySwap"], host["PidsLimit"], host["CpuShares"]) == (96 * MB, 200 * MB, 50, 512)
    refused = engine.docker("update", "-m", "900m", "limited")
    assert refused.code == 1 and "update the memoryswap at the same time" in refused.err
    engine.ok("update", "--pids-limit", "-1", "limited")
    assert limits(engine, "limited")[1] == "max"
    assert engine.events(container="limited").count("update") == 2


def test_limit_that_the_kernel_refuses_is_not_stored(engine):
    engine.ok("run", "-d", "--name", "pinned", BUSYBOX, "sleep", "1000")
    refused = engine.docker("update", "--cpuset-cpus", "4000", "pinned")
    assert refused.code == 1 and refused.err
    assert engine.inspect("pinned")["HostConfig"]["CpusetCpus"] == ""


def test_a_stopped_container_starts_with_its_new_limits(engine):
    engine.ok("create", "--name", "still", "-m", "64m", BUSYBOX, "sleep", "1000")
    engine.ok("update", "-m", "80m", "--memory-swap", "80m", "still")
    engine.ok("start", "still")
    assert limits(engine, "still")[0] == str(80 * MB)


def test_updated_restart_policy_applies_to_the_next_exit(engine):
    engine.ok("run", "-d", "--name", "policy", BUSYBOX, "sh", "-c", "sleep 1; exit 1")
    engine.ok("update", "--restart", "on-failure:1", "policy")
    until(lambda: engine.inspect("policy")["RestartCount"] == 1 and engine.state("policy") == "exited")
    assert engine.docker("update", "--restart", "never", "policy").code == 1
    engine.ok("run", "-d", "--rm", "--name", "thrown", BUSYBOX, "sleep", "1000")
    refused = engine.docker("update", "--restart", "always", "thrown")
    assert "AutoRemove is enabled" in refused.err


def test_invalid_updates_are_refused(engine):
    engine.ok("create", "--name", "bad", BUSYBOX, "true")
    assert engine.api("POST", "/containers/nosuch/update", {})[0] == 404
    assert engine.api("POST", "/containers/bad/update", {"Memory": "much"})[0] == 400
    status, answer = engine.api("POST", "/containers/bad/update", {"Memory": 1000})
    assert (status, answer["message"]) == (400, "Minimum memory limit allowed is 6MB")
    assert engine.api("POST", "/containers/bad/update", {"Ulimits": [{"Name": "nofile", "Soft": 1, "Hard": 2}]})[0] == 400
    assert engine.api("POST", "/containers/bad/update", {"CpuShares": 3}) == (200, {"Warnings": None})
