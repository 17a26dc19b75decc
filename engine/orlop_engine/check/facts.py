"""The gathered state, as one value. It contains all data that the comparisons need."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from orlop_kernel.store import Examined
from orlop_monitor.protocol import ExitRecord, InitRecord, MonitorRecord, Status
from orlop_sdk import Drift

__all__ = ["Blob", "Facts", "Process", "RunFacts", "StorageFacts", "VolumeFacts"]


@dataclass(frozen=True, slots=True)
class RunFacts:
    """One directory of `<exec-root>/run`. `alive`: the process of `monitor`, identified by pid and start time, exists.
    `init_alive`: the container's init process exists. `status` is the monitor's answer, None if the monitor did not answer.
    `damaged` are the names of unreadable records. `sandbox_agrees` is true if the container is in the network namespace that
    its monitor keeps open; None if this is unknown."""

    monitor: MonitorRecord | None = None
    init: InitRecord | None = None
    exit: ExitRecord | None = None
    alive: bool = False
    init_alive: bool = False
    status: Status | None = None
    damaged: tuple[str, ...] = ()
    sandbox_agrees: bool | None = None


@dataclass(frozen=True, slots=True)
class Process:
    """A zygote, a monitor or an unpack worker of this exec root, by `name` ("orlop-zygote", ...)."""

    pid: int
    name: str
    parent: int
    children: int


@dataclass(frozen=True, slots=True)
class Blob:
    """A file of the content store. `sound` is False if its bytes were hashed and their digest is not the file's name."""

    size: int
    sound: bool = True


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """The keys of the storage driver's snapshots. `keys` is None if the driver failed; `failure` is then the error."""

    name: str
    keys: frozenset[str] | None = None
    leftovers: tuple[Drift, ...] = ()
    failure: str = ""


@dataclass(frozen=True, slots=True)
class VolumeFacts:
    """The names of a driver's volumes. `failure`: the error, if the driver does not answer."""

    names: frozenset[str] = frozenset()
    failure: str = ""


@dataclass(slots=True)
class Facts:
    """`serving`: a daemon is running, so a finding is not repaired by a start of the daemon. Paths are absolute; `cgroups`
    and `runtime_states` are by container ID."""

    data_root: str
    exec_root: str
    database: Examined
    serving: bool = False
    deep: bool = False
    daemon_pid: int = 0
    entries: tuple[str, ...] = ()
    directories: frozenset[str] = frozenset()
    runs: Mapping[str, RunFacts] = field(default_factory=dict)
    mount_points: frozenset[str] = frozenset()
    blobs: Mapping[str, Blob] = field(default_factory=dict)
    odd_blobs: tuple[str, ...] = ()
    storage: StorageFacts = StorageFacts("")
    volumes: Mapping[str, VolumeFacts] = field(default_factory=dict)
    networks: Mapping[str, tuple[Drift, ...]] = field(default_factory=dict)
    network_failures: Mapping[str, str] = field(default_factory=dict)
    mounts: tuple[str, ...] = ()
    cgroups: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    """Container ID -> cgroup directory -> number of processes."""
    runtime_states: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    processes: tuple[Process, ...] = ()
