"""Reads the state that the check compares, and changes nothing. Functions that block are marked, and run in a worker
thread."""

from __future__ import annotations

import hashlib
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace

import trio

from orlop_engine.config import Config, defaults
from orlop_engine.drivers import Drivers, used_network_drivers
from orlop_engine.processes.control import Disconnected, connect, encode, receive
from orlop_kernel.store import Examined
from orlop_monitor import records
from orlop_monitor.protocol import Reply, Request, State, Status
from orlop_sdk import NetworkAudit, NetworkSpec, OrlopError, StorageAudit, Subnet, cgroups, linux, mountinfo

from .facts import Blob, Facts, Process, RunFacts, StorageFacts, VolumeFacts
from .rows import Rows, read
from .runs import run_name

__all__ = ["gather"]

_ANSWER = 3.0  # seconds within which a monitor must report its status
_HEX = re.compile(r"[0-9a-f]{64}")
_NAMES = frozenset({"orlop-zygote", "orlop-monitor", "orlop-unpack"})
_PIECE = 1 << 20


async def gather(
    config: Config, drivers: Drivers, storage_name: str, database: Examined, *, serving: bool, deep: bool = False
) -> Facts:
    """Gather all facts once."""
    facts = await trio.to_thread.run_sync(_machine, config, database, serving, deep)
    rows_read, _ = read(facts.database)
    facts.runs = await _asked(config.exec_root, facts.runs)
    facts.storage = await _storage(drivers, storage_name)
    await _volumes(facts, drivers, rows_read)
    await _networks(facts, drivers, rows_read)
    return facts


# --- the machine (blocking) -------------------------------------------------------------------------------------------


def _machine(config: Config, database: Examined, serving: bool, deep: bool) -> Facts:
    data, run = os.path.realpath(config.data_root), os.path.realpath(config.exec_root)
    facts = Facts(data, run, database, serving=serving, deep=deep, daemon_pid=os.getpid() if serving else 0)
    facts.directories = frozenset(_list(os.path.join(data, "containers")))
    facts.runs = {name: _run(os.path.join(run, "run", name)) for name in _list(os.path.join(run, "run"))}
    facts.mount_points = frozenset(_list(os.path.join(run, "mnt")))
    facts.blobs, facts.odd_blobs = _blobs(os.path.join(data, "content", "blobs", "sha256"), deep)
    roots = (f"{data}/", f"{run}/")
    facts.mounts = tuple(entry.path for entry in mountinfo.read() if entry.path.startswith(roots))
    facts.cgroups = _container_cgroups(config, read(database)[0])
    facts.runtime_states = _runtime_states(run)
    facts.processes = tuple(_processes(os.path.join(run, "monitors.log")))
    return facts


def _list(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _lives(pid: int, start_time: int) -> bool:
    try:
        return linux.is_process(pid, start_time) and not _is_zombie(pid)
    except (OSError, ValueError):
        return False


def _is_zombie(pid: int) -> bool:
    return _stat(pid)[0] == "Z"


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat after the name: state, parent, ..."""
    with open(f"/proc/{pid}/stat", errors="replace") as file:
        return file.read().rpartition(") ")[2].split()


def _run(directory: str) -> RunFacts:
    monitor, init, ended = records.read_monitor(directory), records.read_init(directory), records.read_exit(directory)
    read_ones = (("monitor.json", monitor), ("init.json", init), ("exit.json", ended))
    damaged = [name for name, record in read_ones if record is None and os.path.lexists(os.path.join(directory, name))]
    if not os.path.isdir(directory):
        damaged.append("the directory")
    return RunFacts(
        monitor,
        init,
        ended,
        alive=monitor is not None and _lives(monitor.pid, monitor.start_time),
        init_alive=init is not None and _lives(init.pid, init.start_time),
        damaged=tuple(damaged),
    )


def _blobs(directory: str, deep: bool) -> tuple[dict[str, Blob], tuple[str, ...]]:
    found, odd = {}, []
    for name in _list(directory):
        path = os.path.join(directory, name)
        if not _HEX.fullmatch(name) or not os.path.isfile(path) or os.path.islink(path):
            odd.append(name)
            continue
        try:
            found[f"sha256:{name}"] = Blob(os.stat(path).st_size, not deep or _digest(path) == name)
        except FileNotFoundError:
            continue  # removed meanwhile
        except OSError:
            found[f"sha256:{name}"] = Blob(0, sound=False)
    return found, tuple(odd)


def _digest(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def _container_cgroups(config: Config, rows_read: Rows) -> dict[str, dict[str, int]]:
    """The cgroups whose name contains a container ID, below the cgroup parents of this engine's containers. If an
    administrator chose the parent, another engine may use this parent too. In this case only cgroups of this engine's
    containers are included."""
    found: dict[str, dict[str, int]] = {}
    own = config.effective_cgroup_parent
    shared = bool(config.cgroup_parent)
    parents = {record.host_config.cgroup_parent or own for record in rows_read.containers.values()} | {own}
    for parent in parents:
        ours_alone = parent == own and not shared
        child = cgroups.relative(f"{parent}:orlop:x" if parent.endswith(".slice") else f"{parent}/x")
        for directory in cgroups.named(os.path.dirname(child)):
            for name in _list(directory):
                match = re.search(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])", name)
                path = os.path.join(directory, name)
                if match and os.path.isdir(path) and (ours_alone or match[0] in rows_read.containers):
                    found.setdefault(match[0], {})[path] = _population(path)
    return found


def _population(directory: str) -> int:
    total = 0
    for path, _, files in os.walk(directory):
        if "cgroup.procs" in files:
            try:
                with open(os.path.join(path, "cgroup.procs")) as file:
                    total += len(file.read().split())
            except OSError:
                continue  # the cgroup was removed meanwhile, or is threaded
    return total


def _runtime_states(exec_root: str) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {}
    for name in _list(exec_root):
        if name.startswith("runtime-"):
            for entry in _list(os.path.join(exec_root, name)):
                if _HEX.fullmatch(entry):
                    found[entry] = (*found.get(entry, ()), os.path.join(exec_root, name, entry))
    return found


def _processes(log: str) -> Iterable[Process]:
    """The processes of this exec root. They are recognized by their log file, which is below the exec root. Processes of
    another daemon have another log file."""
    seen: dict[int, tuple[str, int]] = {}
    parents: Counter[int] = Counter()
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        pid = int(name)
        try:
            fields = _stat(pid)
            if fields[0] == "Z":
                continue
            parents[int(fields[1])] += 1
            with open(f"/proc/{pid}/comm") as file:
                comm = file.read().strip()
            if comm in _NAMES and os.readlink(f"/proc/{pid}/fd/2").removesuffix(" (deleted)") == log:
                seen[pid] = comm, int(fields[1])
        except (OSError, IndexError):
            continue  # the process exited meanwhile
    return [Process(pid, comm, parent, parents[pid]) for pid, (comm, parent) in seen.items()]


# --- monitors ---------------------------------------------------------------------------------------------------------


async def _asked(exec_root: str, runs: Mapping[str, RunFacts]) -> dict[str, RunFacts]:
    """Add the answers of running monitors."""
    found = dict(runs)

    async def ask(name: str, run: RunFacts) -> None:
        status = await _status(os.path.join(exec_root, "run", name))
        agrees = await trio.to_thread.run_sync(_agrees, status) if status else None
        found[name] = replace(run, status=status, sandbox_agrees=agrees)

    async with trio.open_nursery() as nursery:
        for name, run in runs.items():
            if run.alive:
                nursery.start_soon(ask, name, run)
    return found


async def _status(run_dir: str) -> Status | None:
    with trio.move_on_after(_ANSWER):
        try:
            stream = await connect(run_dir)
            async with stream:
                await stream.send_all(encode(Request(1, State())))
                message = await receive(stream)
        except (OSError, Disconnected, trio.BrokenResourceError):
            return None
        if isinstance(message, Reply) and isinstance(message.body, Status):
            return message.body
    return None


def _agrees(status: Status) -> bool | None:
    """Whether the container is in the network namespace that its monitor keeps open."""
    if status.netns_fd < 0 or not status.pid:
        return None
    try:
        held = os.stat(f"/proc/{status.monitor_pid}/fd/{status.netns_fd}")
        used = os.stat(f"/proc/{status.pid}/ns/net")
    except OSError:
        return None
    return (held.st_dev, held.st_ino) == (used.st_dev, used.st_ino)


# --- drivers ----------------------------------------------------------------------------------------------------------


async def _storage(drivers: Drivers, name: str) -> StorageFacts:
    try:
        driver = drivers.storage(name)
        leftovers = tuple(await driver.audit()) if isinstance(driver, StorageAudit) else ()
        return StorageFacts(name, frozenset(await driver.keys()), leftovers)
    except OrlopError as error:
        return StorageFacts(name, failure=str(error))


async def _volumes(facts: Facts, drivers: Drivers, rows_read: Rows) -> None:
    found = {}
    made_with = {defaults.VOLUME_DRIVER: "", **{record.driver: record.made_with for record in rows_read.volumes.values()}}
    for name in sorted(made_with):
        try:
            found[name] = VolumeFacts(frozenset(await (await drivers.volume(name, made_with[name])).names()))
        except OrlopError as error:
            found[name] = VolumeFacts(failure=str(error))
    facts.volumes = found


async def _networks(facts: Facts, drivers: Drivers, rows_read: Rows) -> None:
    """Compare networks with the host. While a container runs, its networks must exist on the host; if the daemon is
    stopped and no container runs, they need not exist."""
    alive = {name for name, run in facts.runs.items() if run.alive}
    living = [record for record in rows_read.running() if run_name(record.id) in alive]
    wanted = [record for record in rows_read.networks.values() if facts.serving or living]
    leftovers, failures = {}, {}
    known = {record.driver for record in rows_read.networks.values()}
    for name in sorted(known | used_network_drivers(drivers.config.exec_root)):
        specs = [
            NetworkSpec(
                id=record.id,
                name=record.name,
                subnets=tuple(Subnet(each.subnet, each.gateway) for each in record.subnets),
                options=record.options,
                internal=record.internal,
                ipv6=record.ipv6,
            )
            for record in wanted
            if record.driver == name
        ]
        endpoints = [
            (attached.endpoint, attached.state)
            for record in living
            if record.sandbox is not None
            for attached in record.sandbox.endpoints
            if attached.driver == name
        ]
        try:
            driver = await drivers.network(name)
            leftovers[name] = tuple(await driver.audit(specs, endpoints)) if isinstance(driver, NetworkAudit) else ()
        except OrlopError as error:
            if name in known:  # other drivers may have been uninstalled
                failures[name] = str(error)
    facts.networks, facts.network_failures = leftovers, failures
