"""The metrics. `Metrics` contains the metric families. Most values are read from the engine when a scraper asks.

Metrics whose names begin with `engine_daemon_` and `process_` are the same as dockerd's, with the same labels, so that
existing dashboards work. Metrics whose names begin with `orlop_` exist only in Orlop. dockerd's metrics of builds and of
swarm mode are omitted.
"""

from __future__ import annotations

import math
import os
import resource
from collections import Counter
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING

import trio

from orlop_engine.system.host import facts
from orlop_engine.system.identity import daemon_id
from orlop_kernel import __version__

from .registry import Family, Histogram, Labels, Values

if TYPE_CHECKING:
    from orlop_engine.engine import Engine
    from orlop_kernel.routing.call import Call

__all__ = ["Metrics"]

_TICK, _PAGE = os.sysconf("SC_CLK_TCK"), os.sysconf("SC_PAGE_SIZE")
_LAG_EVERY = 1.0
_LAG_BUCKETS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0)
_COMMIT_BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0, 5.0)
_CONTAINER_ACTIONS = ("changes", "commit", "create", "delete", "start")
_counter, _gauge = partial(Values, "counter"), partial(Values, "gauge")
# dockerd measures these actions internally; Orlop measures the requests
_BY_REQUEST = {("GET", "/containers/{id}/changes"): "changes", ("POST", "/commit"): "commit"}


def _stat(field: int) -> int:
    """A field of /proc/self/stat by its number in proc(5), from 3 on. The second field may contain any characters, so the
    line is split after it."""
    with open("/proc/self/stat") as file:
        return int(file.read().rpartition(") ")[2].split()[field - 3])


def _started() -> float:
    """Unix time of this process's start."""
    with open("/proc/stat") as file:
        booted = next((int(line.split()[1]) for line in file if line.startswith("btime ")), 0)
    return booted + _stat(22) / _TICK


class Metrics:
    """The metrics of a running engine. `answered` and the callbacks set by `attach` record events."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._requests: Counter[Labels] = Counter()
        self._scrapes: Counter[Labels] = Counter()
        self._transactions = self._commits = 0
        actions = [(name,) for name in _CONTAINER_ACTIONS]
        self._actions = {
            "container": Histogram(
                "engine_daemon_container_actions_seconds",
                "The number of seconds it takes to process each container action",
                ("action",),
                actions,
            ),
            "network": Histogram(
                "engine_daemon_network_actions_seconds",
                "The number of seconds it takes to process each network action",
                ("action",),
            ),
            "image": Histogram(
                "engine_daemon_image_actions_seconds",
                "The number of seconds it takes to process each image action",
                ("action",),
            ),
        }
        self._latency = Histogram(
            "orlop_api_request_seconds",
            "Seconds from a request's head to its answer, or to the beginning of a stream",
            ("method", "route"),
        )
        self._commit_seconds = Histogram(
            "orlop_store_commit_seconds", "Seconds that a transaction of the state database took", buckets=_COMMIT_BUCKETS
        )
        self._lag = Histogram(
            "orlop_loop_lag_seconds",
            "Delay in seconds with which the event loop wakes a task, measured once a second",
            buckets=_LAG_BUCKETS,
        )
        self.families: list[Family] = [*self._actions.values(), self._latency, self._commit_seconds, self._lag]
        self.families += [*self._docker(), *self._own(), *self._self()]

    def attach(self) -> None:
        """Register callbacks with the engine and its store."""
        self._engine.counters.observe = self._observe
        self._engine.store.on_commit = self._committed

    # --- callbacks ------------------------------------------------------------------------------------------------------

    def answered(self, call: Call, status: int, seconds: float) -> None:
        """Called after an API answer: see `orlop_kernel.routing.router.OnAnswer`."""
        method = call.request.method
        self._requests[method, call.pattern, str(status)] += 1
        self._latency.observe(seconds, method, call.pattern)
        if status < 400 and (action := _BY_REQUEST.get((method, call.pattern))):
            self._actions["container"].observe(seconds, action)

    def scraped(self, status: int) -> None:
        self._scrapes[(str(status),)] += 1

    def _observe(self, kind: str, action: str, seconds: float) -> None:
        if kind in self._actions:
            self._actions[kind].observe(seconds, action)

    def _committed(self, jobs: int, seconds: float) -> None:
        """Called on the store's thread, the only thread that changes these three metrics."""
        self._transactions += 1
        self._commits += jobs
        self._commit_seconds.observe(seconds)

    async def watch_lag(self) -> None:
        """Measure, until cancelled, how late this task wakes up."""
        while True:
            due = trio.current_time() + _LAG_EVERY
            await trio.sleep_until(due)
            self._lag.observe(max(0.0, trio.current_time() - due))

    # --- families ---------------------------------------------------------------------------------------------------

    def _docker(self) -> list[Family]:
        engine, about = self._engine, facts()
        info = {
            "architecture": about.machine,
            "commit": "",
            "daemon_id": daemon_id(engine.config.data_root),
            "graphdriver": engine.storage_name,
            "kernel": about.kernel,
            "os": about.operating_system,
            "os_type": "linux",
            "os_version": about.os_version,
            "version": __version__,
        }
        return [
            _gauge(
                "engine_daemon_container_states_containers",
                "The count of containers in various states",
                self._states,
                ("state",),
            ),
            _gauge(
                "engine_daemon_engine_info",
                "The information related to the engine and the OS it is running on",
                lambda: {tuple(info.values()): 1},
                tuple(info),
            ),
            _gauge(
                "engine_daemon_engine_cpus_cpus",
                "The number of cpus that the host system of the engine has",
                lambda: about.cpus,
            ),
            _gauge(
                "engine_daemon_engine_memory_bytes",
                "The number of bytes of memory that the host system of the engine has",
                lambda: about.memory,
            ),
            _counter("engine_daemon_events_total", "The number of events logged", lambda: engine.events.published),
            _gauge(
                "engine_daemon_events_subscribers_total",
                "The number of current subscribers to events",
                lambda: engine.events.listeners,
            ),
            _counter(
                "engine_daemon_health_checks_total",
                "The total number of health checks",
                lambda: engine.counters.health_checks,
            ),
            _counter(
                "engine_daemon_health_checks_failed_total",
                "The total number of failed health checks",
                lambda: engine.counters.health_checks_failed,
            ),
        ]

    def _own(self) -> list[Family]:
        engine = self._engine
        return [
            _counter(
                "orlop_api_requests_total",
                "Answered requests of the API",
                lambda: self._requests,
                ("method", "route", "code"),
            ),
            _counter(
                "orlop_actions_failed_total",
                "Failed actions, by kind of object and action",
                lambda: engine.counters.failures,
                ("kind", "action"),
            ),
            _counter(
                "orlop_log_lost_entries_total",
                "Log entries of containers that a log driver did not log",
                lambda: engine.counters.log_lost,
                ("driver",),
            ),
            _counter(
                "orlop_driver_failures_total",
                "Failed calls to drivers: no answer in time (reason deadline) or an unexpected exception (reason exception)",
                lambda: {
                    (*key, reason): gate.failures[reason]
                    for key, gate in engine.drivers.gates.items()
                    for reason in ("deadline", "exception")
                },
                ("kind", "driver", "reason"),
            ),
            _gauge(
                "orlop_driver_degraded",
                "1 for a driver whose calls fail immediately, because several calls in a row failed",
                lambda: {key: gate.degraded for key, gate in engine.drivers.gates.items()},
                ("kind", "driver"),
            ),
            _gauge(
                "orlop_driver_abandoned_calls",
                "Calls to drivers that have not ended after the daemon cancelled them at their deadline",
                lambda: {key: gate.abandoned for key, gate in engine.drivers.gates.items()},
                ("kind", "driver"),
            ),
            _counter("orlop_store_transactions_total", "Transactions of the state database", lambda: self._transactions),
            _counter(
                "orlop_store_commits_total",
                "Commits to the state database; concurrent commits share a transaction",
                lambda: self._commits,
            ),
            _gauge("orlop_data_root_free_bytes", "Free bytes of the data root's file system", self._free),
            _gauge("orlop_images", "Images", lambda: engine.images.count),
            _gauge("orlop_monitors", "Monitor processes of running containers", self._monitors),
            _gauge("orlop_tasks", "Tasks of the daemon", lambda: trio.lowlevel.current_statistics().tasks_living),
            _counter(
                "promhttp_metric_handler_requests_total",
                "Total number of scrapes by HTTP status code.",
                lambda: self._scrapes,
                ("code",),
            ),
        ]

    def _self(self) -> list[Family]:
        return [
            _counter(
                "process_cpu_seconds_total",
                "Total user and system CPU time spent in seconds.",
                lambda: (_stat(14) + _stat(15)) / _TICK,
            ),
            _gauge("process_start_time_seconds", "Start time of the process since unix epoch in seconds.", _started),
            _gauge("process_virtual_memory_bytes", "Virtual memory size in bytes.", lambda: _stat(23)),
            _gauge("process_resident_memory_bytes", "Resident memory size in bytes.", lambda: _stat(24) * _PAGE),
            _gauge("process_open_fds", "Number of open file descriptors.", lambda: len(os.listdir("/proc/self/fd"))),
            _gauge("process_max_fds", "Maximum number of open file descriptors.", lambda: _limit(resource.RLIMIT_NOFILE)),
        ]

    def _states(self) -> Mapping[Labels, float]:
        counts = self._engine.containers.index.counts()
        return {(state,): counts[state] for state in ("paused", "running", "stopped")}

    def _free(self) -> int:
        space = os.statvfs(self._engine.config.data_root)
        return space.f_bavail * space.f_frsize

    def _monitors(self) -> int:
        runs = [container.run for container in self._engine.containers.index]
        return sum(run is not None and run.monitor is not None for run in runs)


def _limit(which: int) -> float:
    soft, _ = resource.getrlimit(which)
    return math.inf if soft == resource.RLIM_INFINITY else soft
