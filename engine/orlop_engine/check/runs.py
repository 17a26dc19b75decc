"""Compares rows with running processes and their files: run directories, monitors, zygotes, cgroups, state of runtimes. This
module does no I/O."""

from __future__ import annotations

import os
from collections.abc import Iterator

from orlop_engine.containers.record import ContainerRecord
from orlop_engine.processes.runs import STAGE
from orlop_sdk.findings import ERROR, INFO, WARNING, Finding, Remedy

from .facts import Facts, RunFacts
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
    """The severity of a finding. Without a running daemon the severity is "info", because the next daemon repairs the
    finding."""
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
                text=f"{file} in its run directory cannot be read",
                id=owner.id if owner else name,
            )
        if owner is None:
            alive = f", and its monitor (pid {run.monitor.pid}) is alive" if run.alive and run.monitor else ""
            yield Finding(
                severity=_later(facts, ERROR if run.alive else WARNING),
                area="monitors",
                object=what,
                text=f"belongs to no container{alive}",
                repair="kill the processes and remove the directory",
                id=name,
                remedy=Remedy("remove-run", name),
            )
        elif not owner.state.running:
            yield from _of_stopped(facts, owner, run)


def _of_stopped(facts: Facts, owner: ContainerRecord, run: RunFacts) -> Iterator[Finding]:
    if run.alive or run.init_alive:
        text = "is recorded as stopped, but " + ("its monitor is alive" if run.alive else "its init process is alive")
        yield Finding(
            severity=_later(facts, ERROR), area="monitors", object=f"container {owner.name}", text=text, id=owner.id
        )
    else:
        yield Finding(
            severity=_later(facts, WARNING),
            area="monitors",
            object=f"container {owner.name}",
            text="is not running, but has a run directory",
            repair="remove the directory",
            id=owner.id,
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
                text=f"is recorded as running, but {fault}",
                repair="" if facts.serving else "the next start records its exit",
                id=record.id,
            )


def _fault(record: ContainerRecord, run: RunFacts | None) -> str:
    if run is None:
        return "it has no run directory"
    if run.monitor is None or not run.alive:
        return "its monitor is dead"
    if run.init is None:
        return "the record of its init process is missing"
    if run.init.pid != record.state.pid or run.init.start_time != record.state.pid_start_time:
        return f"its init process is {run.init.pid}, not {record.state.pid}"
    if run.monitor.container_id != record.id:
        return f"its monitor belongs to container {run.monitor.container_id[:12]}"
    if run.status is None:
        return f"its monitor (pid {run.monitor.pid}) does not answer"
    if run.status.phase != "running":
        return f'its monitor reports the phase "{run.status.phase}"'
    if run.exit is not None:
        return "it has an exit record"
    if run.sandbox_agrees is False:
        return "its network namespace is not that of its monitor"
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
            id=owner.id if owner else name,
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
                text="is a monitor without a run directory",
                repair="kill it",
                id="*",
                remedy=Remedy("kill", f"{process.pid} {process.name}"),
            )
        elif process.name == "orlop-zygote" and process.parent != facts.daemon_pid and not process.children:
            yield Finding(
                severity=WARNING,
                area="monitors",
                object=what,
                text="was left by an earlier daemon and has no monitors",
                repair="kill it",
                remedy=Remedy("kill", f"{process.pid} {process.name}"),
            )
        elif process.name == "orlop-unpack" and (process.parent not in zygotes or not facts.serving):
            yield Finding(
                severity=WARNING,
                area="images",
                object=what,
                text="is an orphaned unpack worker",
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
            owner = f"belongs to container {record.name}, which is not running" if record else "belongs to no container"
            yield Finding(
                severity=_later(facts, ERROR if processes else WARNING),
                area="cgroups",
                object=f"cgroup {directory}",
                text=f"{owner}{inside}",
                repair="kill the processes and remove the cgroup",
                id=container_id,
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
                text="belongs to a container that is not running",
                repair="remove it",
                id=container_id,
                remedy=Remedy("remove-tree", directory),
            )
