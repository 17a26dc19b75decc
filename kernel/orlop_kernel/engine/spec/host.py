"""Facts of this host that specs depend on, read once."""

from __future__ import annotations

import glob
import os
from functools import cache

import msgspec

__all__ = ["Host", "facts"]


class Host(msgspec.Struct, frozen=True):
    cgroup_version: int
    """2 only when the unified hierarchy is the one in use; hybrid hosts are 1."""
    cpus: int
    memory: int
    hugetlb_sizes: tuple[str, ...]
    thermal_paths: tuple[str, ...]
    time_namespace: bool
    apparmor: bool


def _memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemTotal:"))


def _apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read().startswith("Y")
    except OSError:
        return False


@cache
def facts() -> Host:
    return Host(
        cgroup_version=2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1,
        cpus=os.cpu_count() or 1,
        memory=_memory(),
        hugetlb_sizes=tuple(sorted(os.path.basename(path) for path in glob.glob("/sys/kernel/mm/hugepages/hugepages-*"))),
        thermal_paths=tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))),
        time_namespace=os.path.exists("/proc/self/ns/time"),
        apparmor=_apparmor(),
    )
