"""Convert cgroup files to the fields of `GET /containers/{id}/stats`, for cgroup v1, v2 and hybrid hosts.

`Source.find` determines once which files a container has; `Source.read` opens only those. A removed cgroup reads as
zeros, because its container has just ended. All functions may block in the kernel.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["NO_BLKIO", "Source", "host_memory", "networks", "online_cpus", "system_cpu"]

_TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
_BLKIO = "blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_service_bytes"
NO_BLKIO = dict.fromkeys(
    (
        "io_service_bytes_recursive",
        "io_serviced_recursive",
        "io_queue_recursive",
        "io_service_time_recursive",
        "io_wait_time_recursive",
        "io_merged_recursive",
        "io_time_recursive",
        "sectors_recursive",
    )
)
_NETWORK = ("bytes", "packets", "errors", "dropped")
_NETWORK_COLUMNS = (0, 1, 2, 3)  # received columns of /proc/net/dev; the sent ones follow eight columns later


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
    """The limit; None when there is none, or no such file."""
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
    """A container's cgroup directory for each controller; "" where there is none. `unified` is the cgroup v2 directory."""

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

    def read(self) -> dict[str, Any]:
        """Return `cpu_stats` (without the host's usage), `memory_stats`, `blkio_stats` and `pids_stats`."""
        return self._read_v2() if self.unified else self._read_v1()

    def _read_v1(self) -> dict[str, Any]:
        ticks = _table(f"{self.cpuacct}/cpuacct.stat")
        throttled = _table(f"{self.cpu}/cpu.stat")
        memory = _table(f"{self.memory}/memory.stat")
        return {
            "pids_stats": self._pids(self.pids),
            "blkio_stats": self._blkio_v1(),
            "cpu_stats": {
                "cpu_usage": {
                    "total_usage": _number(f"{self.cpuacct}/cpuacct.usage"),
                    "percpu_usage": [int(word) for word in _text(f"{self.cpuacct}/cpuacct.usage_percpu").split()],
                    "usage_in_kernelmode": ticks.get("system", 0) * _TICK,
                    "usage_in_usermode": ticks.get("user", 0) * _TICK,
                },
                "throttling_data": {
                    "periods": throttled.get("nr_periods", 0),
                    "throttled_periods": throttled.get("nr_throttled", 0),
                    "throttled_time": throttled.get("throttled_time", 0),
                },
            },
            "memory_stats": {
                "usage": _number(f"{self.memory}/memory.usage_in_bytes"),
                "max_usage": _number(f"{self.memory}/memory.max_usage_in_bytes"),
                "stats": memory,
                **_failures(_number(f"{self.memory}/memory.failcnt")),
                "limit": min(_limit(f"{self.memory}/memory.limit_in_bytes") or host_memory(), host_memory()),
            },
        }

    def _blkio_v1(self) -> dict[str, Any]:
        text = next((text for name in _BLKIO if (text := _text(f"{self.blkio}/{name}"))), "")
        entries = []
        for line in text.splitlines():
            words = line.replace(":", " ").split()
            if len(words) == 4:
                entries.append({"major": int(words[0]), "minor": int(words[1]), "op": words[2], "value": int(words[3])})
        return {**{name: [] for name in NO_BLKIO}, "io_service_bytes_recursive": entries}  # empty lists, as Docker's

    def _read_v2(self) -> dict[str, Any]:
        top = self.unified
        cpu, events = _table(f"{top}/cpu.stat"), _table(f"{top}/memory.events")
        return {
            "pids_stats": self._pids(top),
            "blkio_stats": {**NO_BLKIO, "io_service_bytes_recursive": _io_stat(_text(f"{top}/io.stat"))},
            "cpu_stats": {
                "cpu_usage": {
                    "total_usage": cpu.get("usage_usec", 0) * 1000,
                    "usage_in_kernelmode": cpu.get("system_usec", 0) * 1000,
                    "usage_in_usermode": cpu.get("user_usec", 0) * 1000,
                },
                "throttling_data": {
                    "periods": cpu.get("nr_periods", 0),
                    "throttled_periods": cpu.get("nr_throttled", 0),
                    "throttled_time": cpu.get("throttled_usec", 0) * 1000,
                },
            },
            "memory_stats": {
                "usage": _number(f"{top}/memory.current"),
                "stats": _table(f"{top}/memory.stat"),
                **_failures(events.get("oom", 0)),
                "limit": min(_limit(f"{top}/memory.max") or host_memory(), host_memory()),
            },
        }

    @staticmethod
    def _pids(directory: str) -> dict[str, int]:
        current, limit = _number(f"{directory}/pids.current"), _limit(f"{directory}/pids.max")
        return {"current": current, **({"limit": limit} if limit is not None else {})} if directory else {}


def _names(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except OSError:
        return []


def _failures(count: int) -> dict[str, int]:
    return {"failcnt": count} if count else {}


def _io_stat(text: str) -> list[dict[str, Any]] | None:
    entries = []
    for line in text.splitlines():
        device, *words = line.split()
        major, _, minor = device.partition(":")
        values = dict(word.partition("=")[::2] for word in words)
        for op, key in (("read", "rbytes"), ("write", "wbytes")):
            if minor.isdigit() and values.get(key, "").isdigit():
                entries.append({"major": int(major), "minor": int(minor), "op": op, "value": int(values[key])})
    return entries or None


def networks(pid: int) -> dict[str, dict[str, int]]:
    """The interface counters of a process's network namespace, without loopback."""
    found = {}
    for line in _text(f"/proc/{pid}/net/dev").splitlines():
        name, colon, rest = line.partition(":")
        columns = rest.split()
        if colon and len(columns) >= 16 and name.strip() != "lo":
            received = {f"rx_{key}": int(columns[at]) for key, at in zip(_NETWORK, _NETWORK_COLUMNS, strict=True)}
            sent = {f"tx_{key}": int(columns[at + 8]) for key, at in zip(_NETWORK, _NETWORK_COLUMNS, strict=True)}
            found[name.strip()] = {**received, **sent}
    return found


def system_cpu(cpus: int) -> int:
    """CPU time in nanoseconds that all processors together have had since boot. Taken from the clock, because /proc/stat
    counts in hundredths of a second, which is too coarse for two samples 0.1 s apart."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC) * cpus


def online_cpus() -> int:
    return os.sysconf("SC_NPROCESSORS_ONLN")


def host_memory() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
