"""Resource usage of containers in answers of the API."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping
from typing import Any
from weakref import WeakKeyDictionary

from orlop_api_docker.responses import encode
from orlop_engine.stats.reading import Cpu, Interface, Io, Memory, Pids
from orlop_engine.stats.service import Measurement, Sample
from orlop_sdk.base import ZERO_TIME, rfc3339

__all__ = ["StatsLines", "encode_stats"]

_NO_BLKIO = dict.fromkeys(
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


def _cpu(found: Cpu) -> dict[str, Any]:
    each = {} if found.each is None else {"percpu_usage": found.each}
    return {
        "cpu_usage": {
            "total_usage": found.total,
            **each,
            "usage_in_kernelmode": found.kernel,
            "usage_in_usermode": found.user,
        },
        "throttling_data": {
            "periods": found.periods,
            "throttled_periods": found.throttled_periods,
            "throttled_time": found.throttled,
        },
    }


def _cpu_of(sample: Sample) -> dict[str, Any]:
    if sample.usage is None:
        return _cpu(Cpu())
    return {**_cpu(sample.usage.cpu), "system_cpu_usage": sample.system_cpu, "online_cpus": sample.cpus}


def _memory(found: Memory) -> dict[str, Any]:
    return {
        "usage": found.usage,
        **({} if found.highest is None else {"max_usage": found.highest}),
        "stats": found.figures,
        **({"failcnt": found.failures} if found.failures else {}),
        "limit": found.limit,
    }


def _blkio(entries: list[Io], version: int) -> dict[str, Any]:
    """As in Docker, a statistic without values is an empty list for cgroup v1, and null for v2."""
    shown = [{"major": each.major, "minor": each.minor, "op": each.operation, "value": each.size} for each in entries]
    if version == 1:
        return {**{name: [] for name in _NO_BLKIO}, "io_service_bytes_recursive": shown}
    return {**_NO_BLKIO, "io_service_bytes_recursive": shown or None}


def _pids(found: Pids | None) -> dict[str, int]:
    if found is None:
        return {}
    return {"current": found.current} if found.limit is None else {"current": found.current, "limit": found.limit}


def _networks(interfaces: Mapping[str, Interface]) -> dict[str, dict[str, int]]:
    return {
        name: {
            **{f"rx_{key}": value for key, value in each.received._asdict().items()},
            **{f"tx_{key}": value for key, value in each.sent._asdict().items()},
        }
        for name, each in interfaces.items()
    }


def encode_stats(measured: Measurement) -> bytes:
    """`GET /containers/{id}/stats`. A container that is not running has zeros."""
    now, before = measured.now, measured.before
    stats: dict[str, Any] = {
        "id": measured.id,
        "name": f"/{measured.name}",
        "os_type": "linux",
        "read": rfc3339(now.time_ns) if now.time_ns else ZERO_TIME,
        "preread": rfc3339(before.time_ns) if before.time_ns else ZERO_TIME,
        "num_procs": 0,
        "storage_stats": {},
        "pids_stats": _pids(now.usage.pids) if now.usage else {},
        "blkio_stats": _blkio(now.usage.io, now.usage.version) if now.usage else _NO_BLKIO,
        "cpu_stats": _cpu_of(now),
        "precpu_stats": _cpu_of(before),
        "memory_stats": _memory(now.usage.memory) if now.usage else {},
    }
    if now.networks:
        stats["networks"] = _networks(now.networks)
    return encode(stats)


class StatsLines:
    """Streams of stats. A measurement is encoded once for all its viewers."""

    def __init__(self) -> None:
        self._encoded: WeakKeyDictionary[Measurement, bytes] = WeakKeyDictionary()

    async def of(self, measurements: AsyncGenerator[Measurement, None]) -> AsyncGenerator[bytes, None]:
        """One line of JSON for each measurement. Closing the result closes `measurements`."""
        try:
            async for measured in measurements:
                line = self._encoded.get(measured)
                if line is None:
                    line = self._encoded[measured] = encode_stats(measured) + b"\n"
                yield line
        finally:
            await measurements.aclose()
