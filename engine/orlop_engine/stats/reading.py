"""Read the resource usage of a container from its cgroup, for cgroup v1, v2 and hybrid hosts.

`Source.find` finds out once which files a container has, and `Source.read` opens only these files. The values of a removed
cgroup are zero, because its container has just ended. All functions may block in the kernel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

__all__ = [
    "Cpu",
    "Interface",
    "Io",
    "Memory",
    "Pids",
    "Source",
    "Traffic",
    "Usage",
    "host_memory",
    "networks",
    "online_cpus",
    "system_cpu",
]

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_BLKIO = "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"


class Cpu(NamedTuple):
    """Times in ns. `each`: the time of each processor, known only with cgroup v1."""

    total: int = 0
    kernel: int = 0
    user: int = 0
    each: list[int] | None = None
    periods: int = 0
    throttled_periods: int = 0
    throttled: int = 0


class Memory(NamedTuple):
    """Memory, in bytes. `figures`: the values in memory.stat. `highest` is known only with cgroup v1. `limit` is at most
    the host's memory. `failures`: how often the limit was hit (v1), or how often memory ran out (v2)."""

    usage: int
    limit: int
    figures: dict[str, int]
    failures: int = 0
    highest: int | None = None


class Io(NamedTuple):
    """Bytes that an operation has transferred to or from a device. The operations are "read" and "write", and with cgroup v1
    also other operations."""

    major: int
    minor: int
    operation: str
    size: int


class Pids(NamedTuple):
    current: int
    limit: int | None


class Usage(NamedTuple):
    """The resources that a cgroup has used. `version` is the cgroup version. `pids` is None if the controller `pids` is not
    available."""

    version: int
    cpu: Cpu
    memory: Memory
    io: list[Io]
    pids: Pids | None


class Traffic(NamedTuple):
    bytes: int
    packets: int
    errors: int
    dropped: int


class Interface(NamedTuple):
    received: Traffic
    sent: Traffic


def _text(path: str) -> str:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return ""
    try:
        parts = []
        while part := os.read(fd, 1 << 16):
            parts.append(part)
        return b"".join(parts).decode("ascii", "replace")
    except OSError:
        return ""  # the cgroup was removed while it was read
    finally:
        os.close(fd)


def _number(path: str) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _limit(path: str) -> int | None:
    """The limit in a file. None if the file contains no limit, or does not exist."""
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _table(path: str) -> dict[str, int]:
    """Parse a file of `name value` lines."""
    table = {}
    for line in _text(path).splitlines():
        name, _, value = line.partition(" ")
        if value.isdigit():
            table[name] = int(value)
    return table


@dataclass(frozen=True, slots=True)
class Source:
    """A container's cgroup directory for each controller; "" if the controller has none. `unified` is the cgroup v2
    directory."""

    unified: str = ""
    cpuacct: str = ""
    cpu: str = ""
    memory: str = ""
    blkio: str = ""
    pids: str = ""

    @classmethod
    def find(cls, directories: Iterable[str]) -> Source:
        found: dict[str, str] = {}
        signs = (
            ("cpuacct", "cpuacct.usage"),
            ("cpu", "cpu.cfs_quota_us"),
            ("memory", "memory.usage_in_bytes"),
            ("blkio", _BLKIO[1]),
            ("pids", "pids.current"),
            ("unified", "cpu.stat"),
        )
        for directory in directories:
            names = set(_names(directory))
            for controller, sign in signs:
                # On a hybrid host the v2 tree has no controllers, and v1's `cpu` directory has a cpu.stat too.
                if sign in names and not (controller == "unified" and "memory.current" not in names):
                    found.setdefault(controller, directory)
        if "unified" in found:
            return cls(unified=found["unified"])
        return cls(**found)

    def read(self) -> Usage:
        return self._read_v2() if self.unified else self._read_v1()

    def _read_v1(self) -> Usage:
        ticks = _table(f"{self.cpuacct}/cpuacct.stat")
        throttled = _table(f"{self.cpu}/cpu.stat")
        cpu = Cpu(
            total=_number(f"{self.cpuacct}/cpuacct.usage"),
            kernel=ticks.get("system", 0) * _TICK,
            user=ticks.get("user", 0) * _TICK,
            each=[int(word) for word in _text(f"{self.cpuacct}/cpuacct.usage_percpu").split()],
            periods=throttled.get("nr_periods", 0),
            throttled_periods=throttled.get("nr_throttled", 0),
            throttled=throttled.get("throttled_time", 0),
        )
        memory = Memory(
            usage=_number(f"{self.memory}/memory.usage_in_bytes"),
            limit=min(_limit(f"{self.memory}/memory.limit_in_bytes") or host_memory(), host_memory()),
            figures=_table(f"{self.memory}/memory.stat"),
            failures=_number(f"{self.memory}/memory.failcnt"),
            highest=_number(f"{self.memory}/memory.max_usage_in_bytes"),
        )
        return Usage(1, cpu, memory, self._io_v1(), self._pids(self.pids))

    def _io_v1(self) -> list[Io]:
        text = next((text for name in _BLKIO if (text := _text(f"{self.blkio}/{name}"))), "")
        entries = []
        for line in text.splitlines():
            words = line.replace(":", " ").split()
            if len(words) == 4:
                entries.append(Io(int(words[0]), int(words[1]), words[2], int(words[3])))
        return entries

    def _read_v2(self) -> Usage:
        top = self.unified
        times, events = _table(f"{top}/cpu.stat"), _table(f"{top}/memory.events")
        cpu = Cpu(
            total=times.get("usage_usec", 0) * 1000,
            kernel=times.get("system_usec", 0) * 1000,
            user=times.get("user_usec", 0) * 1000,
            periods=times.get("nr_periods", 0),
            throttled_periods=times.get("nr_throttled", 0),
            throttled=times.get("throttled_usec", 0) * 1000,
        )
        memory = Memory(
            usage=_number(f"{top}/memory.current"),
            limit=min(_limit(f"{top}/memory.max") or host_memory(), host_memory()),
            figures=_table(f"{top}/memory.stat"),
            failures=events.get("oom", 0),
        )
        return Usage(2, cpu, memory, _io_stat(_text(f"{top}/io.stat")), self._pids(top))

    @staticmethod
    def _pids(directory: str) -> Pids | None:
        if not directory:
            return None
        return Pids(_number(f"{directory}/pids.current"), _limit(f"{directory}/pids.max"))


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _io_stat(text: str) -> list[Io]:
    entries = []
    for line in text.splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        values = dict(word.partition("=")[::2] for word in words)
        for operation, key in (("read", "rbytes"), ("write", "wbytes")):
            if minor.isdigit() and values.get(key, "").isdigit():
                entries.append(Io(int(major), int(minor), operation, int(values[key])))
    return entries


def networks(pid: int) -> dict[str, Interface]:
    """The interface counters of a process's network namespace, without loopback."""
    found = {}
    for line in _text(f"/proc/{pid}/net/dev").splitlines():
        name, colon, rest = line.partition(":")
        columns = rest.split()
        if colon and len(columns) >= 16 and name.strip() != "lo":
            numbers = [int(column) for column in columns]
            found[name.strip()] = Interface(Traffic(*numbers[:4]), Traffic(*numbers[8:12]))
    return found


def system_cpu(cpus: int) -> int:
    """CPU time in nanoseconds that all processors together have had since the host was booted. The time is computed from the
    clock, because /proc/stat counts in hundredths of a second, which is too coarse for two samples 0.1 s apart."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) * cpus


def online_cpus() -> int:
    return os.sysconf("SC_NPROCESSORS_ONLN")


def host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
