"""Figures of `stats` from the API's samples (docker/cli stats_helpers.go)."""

from __future__ import annotations

from typing import NamedTuple

from orlop_cli.tables.row import Row
from orlop_cli.values.units import bytes_size, human_size

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from typing import Any


HEADERS = {
    "Container": "CONTAINER",
    "ID": "CONTAINER ID",
    "Name": "NAME",
    "CPUPerc": "CPU %",
    "MemUsage": "MEM USAGE / LIMIT",
    "MemPerc": "MEM %",
    "NetIO": "NET I/O",
    "BlockIO": "BLOCK I/O",
    "PIDs": "PIDS",
}
COLUMNS = ("ID", "Name", "CPUPerc", "MemUsage", "MemPerc", "NetIO", "BlockIO", "PIDs")
MISSING = "--"


class Figures(NamedTuple):
    """One sample, in percent and bytes."""

    cpu: float
    memory: int
    limit: int
    received: int
    sent: int
    read: int
    written: int
    pids: int


def figures(sample: dict[str, Any]) -> Figures:
    """The figures of a sample. CPU is the usage since the previous sample in percent of one core."""
    memory, limit = _memory(sample.get("memory_stats") or {})
    networks = (sample.get("networks") or {}).values()
    read, written = _block(sample.get("blkio_stats") or {})
    return Figures(
        _cpu(sample.get("cpu_stats") or {}, sample.get("precpu_stats") or {}),
        memory,
        limit,
        sum(network.get("rx_bytes", 0) for network in networks),
        sum(network.get("tx_bytes", 0) for network in networks),
        read,
        written,
        (sample.get("pids_stats") or {}).get("current") or 0,
    )


def _cpu(now: dict[str, Any], before: dict[str, Any]) -> float:
    used = (now.get("cpu_usage") or {}).get("total_usage", 0) - (before.get("cpu_usage") or {}).get("total_usage", 0)
    system = now.get("system_cpu_usage", 0) - before.get("system_cpu_usage", 0)
    cores = now.get("online_cpus") or len((now.get("cpu_usage") or {}).get("percpu_usage") or [])
    return used / system * cores * 100 if system > 0 and used > 0 else 0.0


def _memory(memory: dict[str, Any]) -> tuple[int, int]:
    """Usage and limit. The usage does not include the page cache that is reclaimed first (total_inactive_file on cgroup v1,
    inactive_file on v2)."""
    used, details = memory.get("usage") or 0, memory.get("stats") or {}
    cache = details.get("total_inactive_file", details.get("inactive_file", 0))
    return used - cache if cache < used else used, memory.get("limit") or 0


def _block(block: dict[str, Any]) -> tuple[int, int]:
    read = written = 0
    for entry in block.get("io_service_bytes_recursive") or []:
        operation = (entry.get("op") or "").lower()
        read += entry["value"] if operation == "read" else 0
        written += entry["value"] if operation == "write" else 0
    return read, written


class Line(Row):
    """The row of a container. It contains dashes before the first sample and after the exit."""

    FIELDS = tuple(sorted(HEADERS))

    def __init__(self, asked: str, ident: str, name: str, seen: Figures | None, trunc: bool) -> None:
        self._asked, self._id, self._name, self._seen, self._trunc = asked, ident, name, seen, trunc

    def Container(self) -> str:  # noqa: N802 - the placeholders' names
        return self._asked

    def ID(self) -> str:  # noqa: N802
        return self._id[:12] if self._trunc else self._id

    def Name(self) -> str:  # noqa: N802
        return self._name or MISSING

    def CPUPerc(self) -> str:  # noqa: N802
        return f"{self._seen.cpu:.2f}%" if self._seen else MISSING

    def MemUsage(self) -> str:  # noqa: N802
        seen = self._seen
        return f"{bytes_size(seen.memory)} / {bytes_size(seen.limit)}" if seen else f"{MISSING} / {MISSING}"

    def MemPerc(self) -> str:  # noqa: N802
        seen = self._seen
        return f"{seen.memory / seen.limit * 100 if seen.limit else 0:.2f}%" if seen else MISSING

    def NetIO(self) -> str:  # noqa: N802
        return f"{human_size(self._seen.received)} / {human_size(self._seen.sent)}" if self._seen else MISSING

    def BlockIO(self) -> str:  # noqa: N802
        return f"{human_size(self._seen.read)} / {human_size(self._seen.written)}" if self._seen else MISSING

    def PIDs(self) -> str:  # noqa: N802
        return str(self._seen.pids) if self._seen else MISSING
