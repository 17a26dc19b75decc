"""Updates of limits and restart policy, with Docker's messages."""

import pytest

from orlop_engine.containers.update import merge
from orlop_engine.types.containers import Device, HostConfig, RestartPolicy, ThrottleDevice, Ulimit, UpdateRequest
from orlop_sdk import Conflict, InvalidParameter

MB = 1 << 20


def test_update_changes_only_the_given_fields():
    host = HostConfig(memory=64 * MB, memory_swap=128 * MB, cpu_shares=10, pids_limit=5, privileged=True)
    after = merge(host, UpdateRequest(memory=100 * MB, pids_limit=0, cpuset_cpus="0"))
    assert (after.memory, after.memory_swap, after.cpu_shares, after.cpuset_cpus) == (100 * MB, 128 * MB, 10, "0")
    assert after.pids_limit == 0 and after.privileged
    assert host.memory == 64 * MB
    assert merge(host, UpdateRequest()) == host


def test_update_replaces_removes_or_keeps_device_limits():
    old, new = [ThrottleDevice("/dev/a", 1)], [ThrottleDevice("/dev/b", 2)]
    host = HostConfig(blkio_device_read_bps=old, blkio_device_write_bps=old)
    after = merge(host, UpdateRequest(blkio_device_read_bps=new, blkio_device_write_bps=[]))
    assert (after.blkio_device_read_bps, after.blkio_device_write_bps) == (new, None)
    assert merge(host, UpdateRequest()) == host


@pytest.mark.parametrize("limit", [0, -1, -5])
def test_every_spelling_of_unlimited_pids_is_stored_as_zero(limit):
    assert merge(HostConfig(pids_limit=5), UpdateRequest(pids_limit=limit)).pids_limit == 0


def test_restart_policy_is_updated():
    host = HostConfig(restart_policy=RestartPolicy(name="always"))
    after = merge(host, UpdateRequest(restart_policy=RestartPolicy(name="on-failure", maximum_retry_count=3)))
    assert (after.restart_policy.name, after.restart_policy.maximum_retry_count) == ("on-failure", 3)
    assert merge(host, UpdateRequest(restart_policy=RestartPolicy())).restart_policy.name == "always"
    with pytest.raises(InvalidParameter, match="unknown policy"):
        merge(host, UpdateRequest(restart_policy=RestartPolicy(name="sometimes")))
    with pytest.raises(Conflict, match="AutoRemove is enabled"):
        merge(HostConfig(auto_remove=True), UpdateRequest(restart_policy=RestartPolicy(name="always")))
    merge(HostConfig(auto_remove=True), UpdateRequest(restart_policy=RestartPolicy(name="no")))


@pytest.mark.parametrize(
    ("host", "request_", "words"),
    [
        ({"cpu_period": 1000}, {"nano_cpus": 1}, "Nano CPUs cannot be updated as CPU Period"),
        ({"cpu_quota": 1000}, {"nano_cpus": 1}, "Nano CPUs cannot be updated as CPU Quota"),
        ({"nano_cpus": 1}, {"cpu_period": 1000}, "CPU Period cannot be updated as NanoCPUs"),
        ({"nano_cpus": 1}, {"cpu_quota": 1000}, "CPU Quota cannot be updated as NanoCPUs"),
        ({"memory_swap": 64 * MB}, {"memory": 65 * MB}, "update the memoryswap at the same time"),
        ({}, {"memory": 65 * MB}, "update the memoryswap at the same time"),
    ],
)
def test_conflicting_limits_are_refused(host, request_, words):
    with pytest.raises(Conflict, match=words):
        merge(HostConfig(**host), UpdateRequest(**request_))


def test_memory_update_keeps_unlimited_swap():
    assert merge(HostConfig(memory_swap=-1), UpdateRequest(memory=65 * MB)).memory == 65 * MB


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ({"devices": [Device(path_on_host="/dev/null")]}, "Devices"),
        ({"ulimits": [Ulimit(name="nofile", soft=1, hard=1)]}, "Ulimits"),
        ({"cgroup_parent": "/x"}, "CgroupParent"),
        ({"memory_swappiness": 3}, "MemorySwappiness"),
    ],
)
def test_update_of_settings_that_cannot_change_is_refused(given, name):
    with pytest.raises(InvalidParameter, match=f"cannot update {name}"):
        merge(HostConfig(), UpdateRequest(**given))
