"""Facts about the host for `info` and `version`, from /proc, /sys and /etc."""

from __future__ import annotations

import os
import platform
from functools import cache

import msgspec

__all__ = [
    "Cgroups",
    "HostFacts",
    "architecture",
    "bridged_packets_filtered",
    "cgroups",
    "facts",
    "ipv4_forwarding",
    "open_files",
    "seccomp_supported",
]

_GO_ARCH = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "armv6l": "arm", "i686": "386", "ppc64le": "ppc64le"}


class Cgroups(msgspec.Struct, frozen=True):
    """The limits that the kernel supports. `version` is the cgroup version that is used for containers: "1" on hybrid
    hosts."""

    version: str
    memory: bool
    swap: bool
    cfs_period: bool
    cfs_quota: bool
    shares: bool
    cpuset: bool
    pids: bool
    oom_kill_disable: bool


class HostFacts(msgspec.Struct, frozen=True):
    """Facts that do not change while the daemon runs."""

    kernel: str
    machine: str
    operating_system: str
    os_version: str
    cpus: int
    memory: int


def _text(path: str) -> str:
    try:
        with open(path) as file:
            return file.read()
    except OSError:
        return ""


def architecture(machine: str) -> str:
    """Go's name of the architecture, which `version` shows."""
    return _GO_ARCH.get(machine, machine)


def parse_os_release(text: str) -> dict[str, str]:
    """Parse os-release(5): shell assignments, whose values may be quoted."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.strip().partition("=")
        if equals and not key.startswith("#"):
            if len(value) > 1 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
            found[key] = value.replace('\\"', '"').replace("\\\\", "\\")
    return found


def parse_meminfo(text: str) -> int:
    """MemTotal in bytes."""
    for line in text.splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1]) * 1024
    return 0


@cache
def facts() -> HostFacts:
    names = os.uname()
    release = parse_os_release(_text("/etc/os-release") or _text("/usr/lib/os-release"))
    return HostFacts(
        kernel=names.release,
        machine=names.machine,
        operating_system=release.get("PRETTY_NAME") or release.get("NAME") or "Linux",
        os_version=release.get("VERSION_ID", ""),
        cpus=len(os.sched_getaffinity(0)) or os.cpu_count() or 1,
        memory=parse_meminfo(_text("/proc/meminfo")),
    )


@cache
def cgroups(root: str = "/sys/fs/cgroup") -> Cgroups:
    unified = os.path.join(root, "cgroup.controllers")
    if os.path.exists(unified):
        have = set(_text(unified).split())
        cpu = "cpu" in have
        swap = any(
            os.path.exists(os.path.join(root, *parts, "memory.swap.max")) for parts in (("system.slice",), ("init.scope",))
        ) or os.path.exists("/proc/swaps")
        return Cgroups(
            "2", "memory" in have, "memory" in have and swap, cpu, cpu, cpu, "cpuset" in have, "pids" in have, False
        )

    def has(controller: str, file: str) -> bool:
        return os.path.exists(os.path.join(root, controller, file))

    return Cgroups(
        version="1",
        memory=has("memory", "memory.limit_in_bytes"),
        swap=has("memory", "memory.memsw.limit_in_bytes"),
        cfs_period=has("cpu", "cpu.cfs_period_us"),
        cfs_quota=has("cpu", "cpu.cfs_quota_us"),
        shares=has("cpu", "cpu.shares"),
        cpuset=has("cpuset", "cpuset.cpus"),
        pids=os.path.isdir(os.path.join(root, "pids")),
        oom_kill_disable=has("memory", "memory.oom_control"),
    )


def ipv4_forwarding() -> bool:
    return _text("/proc/sys/net/ipv4/ip_forward").strip() == "1"


def bridged_packets_filtered(version: int) -> bool:
    """Whether iptables (with version 6: ip6tables) filters packets between ports of a bridge. This needs the kernel module
    br_netfilter."""
    name = {4: "iptables", 6: "ip6tables"}[version]
    return _text(f"/proc/sys/net/bridge/bridge-nf-call-{name}").strip() == "1"


def seccomp_supported() -> bool:
    return "\nSeccomp:" in _text("/proc/self/status")


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def python_version() -> str:
    return f"{platform.python_implementation()} {platform.python_version()}"
