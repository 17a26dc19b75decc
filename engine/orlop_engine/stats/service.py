"""Stats: one sampler for all viewers.

Owns, in memory only, the last sample of each watched container. One task runs while there are viewers. Each second it
reads every watched container once, all in one call on a worker thread, and encodes each sample once for all its viewers.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import trio

from orlop_engine.config import defaults
from orlop_engine.containers.container import Container
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.processes import runs
from orlop_sdk.base import rfc3339

from . import reading

__all__ = ["Stats"]

_log = logging.getLogger("orlop.stats")
_PERIOD = 1.0
_FIRST = 0.1  # between the two samples of a single answer: long enough to compute a CPU percentage
_NEVER = "0001-01-01T00:00:00Z"
_NO_CPU: dict[str, Any] = {
    "cpu_usage": {"total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0},
    "throttling_data": {"periods": 0, "throttled_periods": 0, "throttled_time": 0},
}
_encode = msgspec.json.Encoder().encode


@dataclass(slots=True)
class _Sample:
    read: str = _NEVER
    figures: dict[str, Any] = field(default_factory=dict)
    networks: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class _Watched:
    """A container with viewers. `source` belongs to the run named by `run_dir`."""

    container: Container
    viewers: int = 0
    run_dir: str = ""
    pid: int = 0
    source: reading.Source = field(default_factory=reading.Source)
    before: _Sample = field(default_factory=_Sample)
    now: _Sample = field(default_factory=_Sample)
    line: bytes = b""
    network: bool = True


class Stats:
    def __init__(self, containers: ContainerIndex, nursery: trio.Nursery) -> None:
        self._containers, self._nursery = containers, nursery
        self._watched: dict[str, _Watched] = {}
        self._ticking = False
        self._ticked = trio.Event()

    async def once(self, container: Container, *, twice: bool) -> bytes:
        """One answer, as JSON. `twice` takes two samples, from which the client computes the CPU percentage."""
        watched = _Watched(container)
        if container.record.state.running:
            await self._sample([watched])
            if twice:
                await trio.sleep(_FIRST)
                await self._sample([watched])
        return self._encoded(watched)

    async def stream(self, container: Container) -> AsyncGenerator[bytes, None]:
        """Yield one line of JSON a second, the first at once, until the container is removed. A stopped container has
        zeros."""
        watched = self._watched.setdefault(container.id, _Watched(container))
        watched.viewers += 1
        try:
            if not watched.line:
                await self._sample([watched])
            yield watched.line
            self._start_ticking()
            while container.id in self._containers:
                await self._ticked.wait()
                yield watched.line
        finally:
            watched.viewers -= 1
            if not watched.viewers:
                self._watched.pop(container.id, None)

    def _start_ticking(self) -> None:
        if not self._ticking:
            self._ticking = True
            self._nursery.start_soon(self._tick)

    async def _tick(self) -> None:
        try:
            failing = False
            while self._watched:
                began = trio.current_time()
                try:
                    await self._sample(list(self._watched.values()))
                    failing = False
                except Exception:  # for example no thread or file descriptor left: the daemon must go on
                    if not failing:
                        _log.exception("cannot read the resource usage of containers")
                    failing = True
                ticked, self._ticked = self._ticked, trio.Event()
                ticked.set()
                await trio.sleep_until(began + _PERIOD)
        finally:
            self._ticking = False
            self._ticked.set()
            self._ticked = trio.Event()

    async def _sample(self, watched: list[_Watched]) -> None:
        for item in watched:
            self._follow(item)
        await trio.to_thread.run_sync(_read_all, watched)
        for item in watched:
            item.line = self._encoded(item) + b"\n"

    def _follow(self, item: _Watched) -> None:
        """Switch to the container's current run, if it has one."""
        container, run = item.container, item.container.run
        running = container.record.state.running and run is not None and container.record.state.pid > 0
        run_dir = f"{run.run_dir} {container.record.state.started_ns}" if running and run is not None else ""
        if run_dir != item.run_dir:
            init = runs.init_record(run.run_dir) if running and run is not None else None
            item.source = reading.Source.find(init.cgroups) if init is not None else reading.Source()
            item.run_dir = run_dir
            item.before, item.now = _Sample(), _Sample()
        item.pid = container.record.state.pid if running else 0
        item.network = container.record.host_config.network_mode != defaults.HOST_NETWORK

    def _encoded(self, item: _Watched) -> bytes:
        record, now, before = item.container.record, item.now, item.before
        stats: dict[str, Any] = {
            "id": record.id,
            "name": f"/{record.name}",
            "os_type": "linux",
            "read": now.read,
            "preread": before.read,
            "num_procs": 0,
            "storage_stats": {},
            "pids_stats": now.figures.get("pids_stats", {}),
            "blkio_stats": now.figures.get("blkio_stats", reading.NO_BLKIO),
            "cpu_stats": now.figures.get("cpu_stats", _NO_CPU),
            "precpu_stats": before.figures.get("cpu_stats", _NO_CPU),
            "memory_stats": now.figures.get("memory_stats", {}),
        }
        if now.networks:
            stats["networks"] = now.networks
        return _encode(stats)


def _read_all(watched: list[_Watched]) -> None:
    """Read all samples. Runs on a worker thread."""
    cpus = reading.online_cpus()
    for item in watched:
        if not item.pid:
            item.before, item.now = _Sample(), _Sample()
            continue
        figures, system = item.source.read(), reading.system_cpu(cpus)
        figures["cpu_stats"] = {**figures["cpu_stats"], "system_cpu_usage": system, "online_cpus": cpus}
        networks = reading.networks(item.pid) if item.network else {}
        item.before, item.now = item.now, _Sample(rfc3339(time.time_ns()), figures, networks)
