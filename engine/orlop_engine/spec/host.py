"""Facts of this host that specs depend on, read once."""

from __future__ import annotations

import glob
import os
import re
from functools import cache

import msgspec

__all__ = ["Host", "facts"]


class Host(msgspec.Struct, frozen=True):
    cgroup_version: int
    """2 if the host uses only the unified hierarchy; otherwise 1, also on hybrid hosts."""
    cpus: int
    memory: int
    hugetlb_sizes: tuple[str, ...]
    thermal_paths: tuple[str, ...]
    time_namespace: bool
    apparmor: bool
    """Whether AppArmor is enabled in the kernel. The program that loads profiles may still be missing."""
    cpuset_cpus: str = "0"
    cpuset_mems: str = "0"
    """The CPUs and memory nodes to which containers may be pinned, in the kernel's list format: 0-3,6."""
    blkio_weight: bool = True
    swap_limit: bool = True
    realtime: bool = True
    kernel: tuple[int, int] = (5, 12)


def _memory() -> int:
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemTotal:"))


def _apparmor() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled") as file:
            return file.read().startswith("Y")
    except OSError:
        return False


def _text(*paths: str) -> str:
    """The content of the first file that exists."""
    for path in paths:
        try:
            with open(path) as file:
                return file.read().strip()
        except OSError:
            continue
    return "0"


def _weights(version: int) -> bool:
    """Whether I/O weights work. I/O weights need the bfq scheduler, CFQ in old kernels, or io.cost. The function looks for
    the files of these features in child cgroups, because the root cgroup does not have them."""
    files = ("*/io.weight", "*/io.bfq.weight") if version == 2 else ("blkio/blkio.weight",)
    if any(glob.glob(f"/sys/fs/cgroup/{name}") for name in files):
        return True
    return any("bfq" in _text(path) for path in glob.glob("/sys/block/*/queue/scheduler"))


@cache
def facts() -> Host:
    version = 2 if os.path.exists("/sys/fs/cgroup/cgroup.controllers") else 1
    swap = "*/memory.swap.max" if version == 2 else "memory/memory.memsw.limit_in_bytes"
    major, minor = re.findall(r"\d+", os.uname().release)[:2]
    return Host(
        cgroup_version=version,
        cpus=os.cpu_count() or 1,
        memory=_memory(),
        hugetlb_sizes=tuple(sorted(os.path.basename(path) for path in glob.glob("/sys/kernel/mm/hugepages/hugepages-*"))),
        thermal_paths=tuple(sorted(glob.glob("/sys/devices/system/cpu/cpu[0-9]*/thermal_throttle"))),
        time_namespace=os.path.exists("/proc/self/ns/time"),
        apparmor=_apparmor(),
        cpuset_cpus=_text(
            "/sys/fs/cgroup/cpuset.cpus.effective", "/sys/fs/cgroup/cpuset/cpuset.cpus", "/sys/devices/system/cpu/online"
        ),
        cpuset_mems=_text(
            "/sys/fs/cgroup/cpuset.mems.effective", "/sys/fs/cgroup/cpuset/cpuset.mems", "/sys/devices/system/node/online"
        ),
        blkio_weight=_weights(version),
        swap_limit=bool(glob.glob(f"/sys/fs/cgroup/{swap}")),
        realtime=os.path.exists("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"),
        kernel=(int(major), int(minor)),
    )
