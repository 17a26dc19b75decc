"""JSON of resource usage."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
import trio

from orlop_api_docker.wire import stats
from orlop_engine.stats.reading import Cpu, Interface, Io, Memory, Pids, Traffic, Usage
from orlop_engine.stats.service import Measurement, Sample

EMPTY = Sample()
MEMORY = Memory(usage=5, limit=9, figures={"anon": 4})


def sample(version: int, *, memory: Memory = MEMORY, pids: Pids | None = None, cpu: Cpu | None = None) -> Sample:
    usage = Usage(version, cpu or Cpu(3, 1, 2), memory, [Io(8, 0, "read", 10)], pids)
    return Sample(1_000_000_001, usage, {"eth0": Interface(Traffic(1, 2, 3, 4), Traffic(5, 6, 7, 8))}, 2, 77)


def shown(now: Sample, before: Sample = EMPTY) -> Any:
    return json.loads(stats.encode_stats(Measurement("c" * 64, "web", before, now)))


def test_stats_of_cgroup_v2_have_the_same_form_as_in_docker() -> None:
    found = shown(sample(2, pids=Pids(4, None)))
    assert (found["name"], found["read"], found["preread"]) == (
        "/web",
        "1970-01-01T00:00:01.000000001Z",
        "0001-01-01T00:00:00Z",
    )
    usage = {"total_usage": 3, "usage_in_kernelmode": 1, "usage_in_usermode": 2}
    throttling = {"periods": 0, "throttled_periods": 0, "throttled_time": 0}
    cpu = {"cpu_usage": usage, "throttling_data": throttling}
    assert found["cpu_stats"] == {**cpu, "system_cpu_usage": 77, "online_cpus": 2}
    assert found["precpu_stats"] == {**cpu, "cpu_usage": dict.fromkeys(usage, 0)}
    assert found["memory_stats"] == {"usage": 5, "stats": {"anon": 4}, "limit": 9}
    assert found["blkio_stats"]["io_service_bytes_recursive"] == [{"major": 8, "minor": 0, "op": "read", "value": 10}]
    assert found["blkio_stats"]["io_time_recursive"] is None
    assert found["pids_stats"] == {"current": 4}
    assert found["networks"]["eth0"] == {
        "rx_bytes": 1,
        "rx_packets": 2,
        "rx_errors": 3,
        "rx_dropped": 4,
        "tx_bytes": 5,
        "tx_packets": 6,
        "tx_errors": 7,
        "tx_dropped": 8,
    }


def test_stats_of_cgroup_v1_have_the_same_form_as_in_docker() -> None:
    memory = MEMORY._replace(highest=6, failures=3)
    found = shown(sample(1, memory=memory, pids=Pids(1, 50), cpu=Cpu(each=[1, 2])), before=sample(1))
    assert found["memory_stats"] == {"usage": 5, "max_usage": 6, "stats": {"anon": 4}, "failcnt": 3, "limit": 9}
    assert found["cpu_stats"]["cpu_usage"]["percpu_usage"] == [1, 2]
    assert found["blkio_stats"]["io_time_recursive"] == [] and found["pids_stats"] == {"current": 1, "limit": 50}
    assert found["precpu_stats"]["system_cpu_usage"] == 77


def test_stats_of_a_stopped_container_are_zero() -> None:
    found = shown(EMPTY)
    assert found["memory_stats"] == found["pids_stats"] == {} and "networks" not in found
    assert found["cpu_stats"]["cpu_usage"]["total_usage"] == 0 and "online_cpus" not in found["cpu_stats"]
    assert found["blkio_stats"]["io_service_bytes_recursive"] is None


def test_measurement_is_encoded_once_for_all_clients(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, closed = Measurement("c" * 64, "web", EMPTY, EMPTY), []
    encoded: list[Measurement] = []
    original = stats.encode_stats

    def counted(found: Measurement) -> bytes:
        encoded.append(found)
        return original(found)

    monkeypatch.setattr(stats, "encode_stats", counted)

    async def measurements() -> AsyncGenerator[Measurement, None]:
        try:
            while True:
                yield measured
        finally:
            closed.append(True)

    async def main() -> None:
        lines = stats.StatsLines()
        for _ in range(2):
            viewer = lines.of(measurements())
            assert json.loads(await anext(viewer))["name"] == "/web"
            await viewer.aclose()

    trio.run(main)
    assert (encoded, closed) == ([measured], [True, True])
