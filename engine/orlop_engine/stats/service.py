"""Stats: one sampler for all viewers.

The last sample of each watched container is kept in memory. One task runs while there are viewers. Each second this task
reads every watched container once, in one call on a worker thread. All viewers of a container get the same object.
"""

from __future__ import annotations

import logging
import time
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import trio

from orlop_engine.config import defaults
from orlop_engine.containers.container import Container
from orlop_engine.containers.index import ContainerIndex
from orlop_engine.processes import runs

from . import reading

__all__ = ["Measurement", "Sample", "Stats"]

_log = logging.getLogger("orlop.stats")
_PERIOD = 1.0
_FIRST = 0.1  # seconds between the two samples of a single answer; long enough to compute a CPU percentage


class Sample(NamedTuple):
    """The resource usage at one moment. `usage` is None while the container is not running. `system_cpu`: see
    `reading.system_cpu`."""

    time_ns: int = 0
    usage: reading.Usage | None = None
    networks: Mapping[str, reading.Interface] = {}
    cpus: int = 0
    system_cpu: int = 0


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class Measurement:
    """Two samples of a container, from which clients compute rates. Until the second sample has been taken, `before` is
    empty."""

    id: str
    name: str
    before: Sample
    now: Sample


_EMPTY = Sample()


@dataclass(slots=True)
class _Watched:
    """A container with viewers. `source` is for the run whose directory and start time are in `run_dir`."""

    container: Container
    viewers: int = 0
    run_dir: str = ""
    pid: int = 0
    source: reading.Source = field(default_factory=reading.Source)
    before: Sample = _EMPTY
    now: Sample = _EMPTY
    latest: Measurement | None = None
    network: bool = True

    def measured(self) -> Measurement:
        record = self.container.record
        return Measurement(record.id, record.name, self.before, self.now)


class Stats:
    def __init__(self, containers: ContainerIndex, nursery: trio.Nursery) -> None:
        self._containers, self._nursery = containers, nursery
        self._watched: dict[str, _Watched] = {}
        self._ticking = False
        self._ticked = trio.Event()

    async def once(self, container: Container, *, twice: bool) -> Measurement:
        """One measurement. With `twice`, it contains two samples, from which the client computes the CPU percentage."""
        watched = _Watched(container)
        if container.record.state.running:
            await self._sample([watched])
            if twice:
                await trio.sleep(_FIRST)
                await self._sample([watched])
        return watched.measured()

    async def stream(self, container: Container) -> AsyncGenerator[Measurement, None]:
        """Yield one measurement per second, the first one immediately, until the container is removed. For a stopped
        container, the measurements are empty."""
        watched = self._watched.setdefault(container.id, _Watched(container))
        watched.viewers += 1
        try:
            if watched.latest is None:
                await self._sample([watched])
            yield watched.latest or watched.measured()
            self._start_ticking()
            while container.id in self._containers:
                await self._ticked.wait()
                yield watched.latest or watched.measured()
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
                except Exception:  # for example, no thread or file descriptor is left; the sampler must continue
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
            item.latest = item.measured()

    def _follow(self, item: _Watched) -> None:
        """Switch to the container's current run, if it has one."""
        container, run = item.container, item.container.run
        running = container.record.state.running and run is not None and container.record.state.pid > 0
        run_dir = f"{run.run_dir} {container.record.state.started_ns}" if running and run is not None else ""
        if run_dir != item.run_dir:
            init = runs.init_record(run.run_dir) if running and run is not None else None
            item.source = reading.Source.find(init.cgroups) if init is not None else reading.Source()
            item.run_dir = run_dir
            item.before, item.now = _EMPTY, _EMPTY
        item.pid = container.record.state.pid if running else 0
        item.network = container.record.host_config.network_mode != defaults.HOST_NETWORK


def _read_all(watched: list[_Watched]) -> None:
    """Read all samples. Runs on a worker thread."""
    cpus = reading.online_cpus()
    for item in watched:
        if not item.pid:
            item.before, item.now = _EMPTY, _EMPTY
            continue
        usage, system = item.source.read(), reading.system_cpu(cpus)
        networks = reading.networks(item.pid) if item.network else {}
        item.before, item.now = item.now, Sample(time.time_ns(), usage, networks, cpus, system)
