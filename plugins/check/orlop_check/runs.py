"""Compares rows with what runs: run directories, monitors, zygotes, cgroups, state of runtimes. Pure."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orlop_engine.containers.record import ContainerRecord
from orlop_engine.processes.runs import STAGE

from .facts import Facts, RunFacts
from .findings import ERROR, INFO, WARNING, Finding, Remedy
from .rows import Rows

__all__ = ["compare", "run_name"]

_RUN_NAME = 32


def run_name(container_id: str) -> str:
    """The name of a container's run directory."""
    return container_id[:_RUN_NAME]


def compare(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    owners = {run_name(key): record for key, record in rows_read.containers.items()}
    yield from _runs(facts, owners)
    yield from _running(facts, rows_read)
    yield from _mount_points(facts, owners)
    yield from _processes(facts)
    yield from _cgroups(facts, rows_read)
    yield from _runtime_states(facts, rows_read)


def _later(facts: Facts, severity: str) -> str:
    """Without a daemon, the next start settles the finding, so that its severity is info."""
    return severity if facts.serving else INFO


def _runs(facts: Facts, owners: dict[str, ContainerRecord]) -> Iterator[Finding]:
    for name, run in facts.runs.items():
        owner = owners.get(name)
        what = f"container {owner.name}" if owner else f"run {name}"
        for file in run.damaged:
            yield Finding(
                severity=ERROR if run.alive else _later(facts, WARNING),
                area="monitors",
                object=what,
                text=f"{file} of its run cannot be read",
                container=owner.id if owner else name,
            )
        if owner is None:
            alive = f", and a monitor (pid {run.monitor.pid}) lives there" if run.alive and run.monitor else ""
            yield Finding(
                severity=_later(facts, ERROR if run.alive else WARNING),
                area="monitors",
                object=what,
                text=f"belongs to no container{alive}",
                repair="end what runs there and remove the directory",
                container=name,
                remedy=Remedy("remove-run", name),
            )
        elif not owner.state.running:
            yield from _of_stopped(facts, owner, run)


def _of_stopped(facts: Facts, owner: ContainerRecord, run: RunFacts) -> Iterator[Finding]:
    if run.alive or run.init_alive:
        text = "does not run by its row, and " + ("its monitor lives" if run.alive else "its process lives")
        yield Finding(
            severity=_later(facts, ERROR), area="monitors", object=f"container {owner.name}", text=text, container=owner.id
        )
    else:
        yield Finding(
            severity=_later(facts, WARNING),
            area="monitors",
            object=f"container {owner.name}",
            text="does not run, and has a run directory",
            repair="remove the directory",
            container=owner.id,
            remedy=Remedy("remove-run", run_name(owner.id)),
        )


def _running(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    for record in rows_read.running():
        fault = _fault(record, facts.runs.get(run_name(record.id)))
        if fault:
            yield Finding(
                severity=_later(facts, ERROR),
                area="monitors",
                object=f"container {record.name}",
                text=f"runs by its row, and {fault}",
                repair="" if facts.serving else "the next start accounts for it",
                container=record.id,
            )


def _fault(record: ContainerRecord, run: RunFacts | None) -> str:
    if run is None:
        return "has no run directory"
    if run.monitor is None or not run.alive:
        return "its monitor is dead"
    if run.init is None:
        return "nothing says what its process is"
    if run.init.pid != record.state.pid or run.init.start_time != record.state.pid_start_time:
        return f"its process is {run.init.pid}, not {record.state.pid}"
    if run.monitor.container_id != record.id:
        return f"its monitor says that it is of {run.monitor.container_id[:12]}"
    if run.status is None:
        return f"its monitor (pid {run.monitor.pid}) gives no answer"
    if run.status.phase != "running":
        return f'its monitor says that it is "{run.status.phase}"'
    if run.exit is not None:
        return "has an exit record"
    if run.sandbox_agrees is False:
        return "its network namespace is not the one that its monitor holds"
    return ""


def _mount_points(facts: Facts, owners: dict[str, ContainerRecord]) -> Iterator[Finding]:
    for name in sorted({point.removesuffix(STAGE) for point in facts.mount_points} - facts.runs.keys()):
        owner = owners.get(name)
        yield Finding(
            severity=_later(facts, WARNING),
            area="mounts",
            object=f"mount point {name}",
            text=f"belongs to no run of container {owner.name}" if owner else "belongs to no container",
            repair="remove it",
            container=owner.id if owner else name,
            remedy=Remedy("remove-run", name),
        )


def _processes(facts: Facts) -> Iterator[Finding]:
    known = {run.monitor.pid for run in facts.runs.values() if run.monitor is not None and run.alive}
    zygotes = {process.pid for process in facts.processes if process.name == "orlop-zygote"}
    for process in facts.processes:
        what = f"process {process.pid} ({process.name})"
        if process.name == "orlop-monitor" and process.pid not in known:
            yield Finding(
                severity=ERROR,
                area="monitors",
                object=what,
                text="is the monitor of no run",
                repair="kill it",
                container="*",
                remedy=Remedy("kill", f"{process.pid} {process.name}"),
            )
        elif process.name == "orlop-zygote" and process.parent != facts.daemon_pid and not process.children:
            yield Finding(
                severity=WARNING,
                area="monitors",
                object=what,
                text="is of an earlier daemon and has no monitors left",
                repair="kill it",
                remedy=Remedy("kill", f"{process.pid} {process.name}"),
            )
        elif process.name == "orlop-unpack" and (process.parent not in zygotes or not facts.serving):
            yield Finding(
                severity=WARNING,
                area="images",
                object=what,
                text="unpacks a layer for nobody",
                repair="kill it",
                remedy=Remedy("kill", f"{process.pid} {process.name}"),
            )


def _cgroups(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    running = {record.id for record in rows_read.running()}
    for container_id, directories in facts.cgroups.items():
        if container_id in running:
            continue
        record = rows_read.containers.get(container_id)
        for directory, processes in directories.items():
            inside = f", with {processes} processes in it" if processes else ""
            owner = f"of container {record.name}, which does not run" if record else "of no container"
            yield Finding(
                severity=_later(facts, ERROR if processes else WARNING),
                area="cgroups",
                object=f"cgroup {directory}",
                text=f"is {owner}{inside}",
                repair="kill what is in it and remove it",
                container=container_id,
                remedy=Remedy("remove-cgroup", directory),
            )


def _runtime_states(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    running = {record.id for record in rows_read.running()}
    for container_id, directories in facts.runtime_states.items():
        if container_id in running:
            continue
        for directory in directories:
            yield Finding(
                severity=_later(facts, WARNING),
                area="monitors",
                object=f"runtime state {os.path.relpath(directory, facts.exec_root)}",
                text="is of a container that does not run",
                repair="remove it",
                container=container_id,
                remedy=Remedy("remove-tree", directory),
            )
