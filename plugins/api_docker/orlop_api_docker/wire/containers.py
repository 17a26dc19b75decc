"""Containers in requests and answers of the API, except for lists: `container_list`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from msgspec import UNSET, UnsetType, field
from msgspec.structs import replace

from orlop_engine.config import defaults
from orlop_engine.containers.details import Details
from orlop_engine.containers.health import Health
from orlop_engine.containers.processes import ProcessTable
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.types.containers import ContainerConfig, HostConfig
from orlop_sdk.base import ZERO_TIME, WireBase, rfc3339

from .container_networks import network_settings
from .descriptors import DescriptorView, PlatformView

__all__ = [
    "ContainerView",
    "MountPoint",
    "StateView",
    "TopResponse",
    "container_view",
    "manifest_descriptor",
    "mount_points",
    "top",
]

Version = tuple[int, int]
_SINCE_1_52 = ("SandboxID", "SandboxKey", "Ports", "Networks")
"""The fields of `NetworkSettings` since API 1.52. In older versions, there are also fields for the default bridge."""


class TopResponse(WireBase):
    titles: list[str]
    processes: list[list[str]]


class MountPoint(WireBase):
    """A mount as inspect and list show it."""

    type: str
    name: str | UnsetType = UNSET
    source: str = ""
    destination: str = ""
    driver: str | UnsetType = UNSET
    mode: str = ""
    rw: bool = field(default=True, name="RW")
    propagation: str = ""


class StateView(WireBase, kw_only=True):
    status: str
    running: bool
    paused: bool
    restarting: bool
    oom_killed: bool = field(name="OOMKilled")
    dead: bool
    pid: int
    exit_code: int
    error: str
    started_at: str
    finished_at: str
    health: dict[str, Any] | UnsetType = UNSET


class LogLostView(WireBase):
    """Log entries that the log driver did not log, since the container's creation. dockerd has no such field."""

    count: int
    reason: str


class ContainerView(WireBase, kw_only=True):
    """`GET /containers/{id}/json`."""

    id: str
    created: str
    path: str
    args: list[str]
    state: StateView
    image: str
    resolv_conf_path: str
    hostname_path: str
    hosts_path: str
    log_path: str
    name: str
    restart_count: int
    driver: str
    platform: str
    mount_label: str
    process_label: str
    app_armor_profile: str
    exec_ids: list[str] | None = field(name="ExecIDs")
    host_config: HostConfig
    graph_driver: dict[str, Any]
    size_rw: int | UnsetType = UNSET
    size_root_fs: int | UnsetType = UNSET
    mounts: list[MountPoint]
    config: ContainerConfig
    network_settings: dict[str, Any]
    image_manifest_descriptor: DescriptorView | UnsetType = UNSET
    log_lost: LogLostView | UnsetType = UNSET


def manifest_descriptor(record: ContainerRecord) -> DescriptorView | UnsetType:
    """The manifest of the image that the container was created from, since API 1.48."""
    found = record.image_manifest
    if found is UNSET:
        return UNSET
    platform = PlatformView(found.architecture, found.os, variant=found.variant)
    return DescriptorView(found.media_type, found.digest, found.size, platform=platform)


def _when(ns: int) -> str:
    return rfc3339(ns) if ns else ZERO_TIME


def _health(health: Health) -> dict[str, Any]:
    results = [
        {"Start": rfc3339(each.start_ns), "End": rfc3339(each.end_ns), "ExitCode": each.code, "Output": each.output}
        for each in health.results
    ]
    return {"Status": health.status, "FailingStreak": health.streak, "Log": results}


def _state(record: ContainerRecord, health: Health | None) -> StateView:
    state = record.state
    return StateView(
        status="removing" if record.removing and not state.running else state.status,
        running=state.running,
        paused=state.paused,
        restarting=state.restarting,
        oom_killed=state.oom_killed,
        dead=state.dead,
        pid=state.pid,
        exit_code=state.exit_code,
        error=state.error,
        started_at=_when(state.started_ns),
        finished_at=_when(state.finished_ns),
        health=_health(health) if health else UNSET,
    )


def mount_points(mounts: Iterable[MountRecord]) -> list[MountPoint]:
    return [
        MountPoint(
            type=mount.type,
            name=mount.name if mount.type in ("image", "volume") else UNSET,
            source=mount.source,
            destination=mount.destination,
            driver=mount.driver if mount.type == "volume" else UNSET,
            mode=mount.mode,
            rw=mount.rw,
            propagation=mount.propagation,
        )
        for mount in mounts
    ]


def _log_lost(record: ContainerRecord) -> LogLostView | UnsetType:
    lost = record.log_lost + record.log_lost_before
    return LogLostView(lost, record.log_lost_reason) if lost else UNSET


def container_view(details: Details, version: Version) -> ContainerView:
    """The answer without sizes."""
    record, host, config = details.record, details.record.host_config, details.record.config
    settings = network_settings(details.networks)
    if version < (1, 45):
        _add_old_aliases(record, settings["Networks"])
    if version >= (1, 52):
        settings = {name: value for name, value in settings.items() if name in _SINCE_1_52}
        config = replace(config, on_build=config.on_build or UNSET)
    return ContainerView(
        id=record.id,
        created=rfc3339(record.created_ns),
        path=record.args[0] if record.args else "",
        args=record.args[1:],
        state=_state(record, details.health),
        image=record.image_id,
        resolv_conf_path=details.files.resolv_conf,
        hostname_path=details.files.hostname,
        hosts_path=details.files.hosts,
        log_path=details.log_path,
        name=f"/{record.name}",
        restart_count=record.restart_count,
        driver=record.storage_driver,
        platform=record.platform,
        mount_label="",
        process_label="",
        app_armor_profile=details.app_armor_profile,
        exec_ids=details.execs or None,
        host_config=host if details.links == host.links else replace(host, links=details.links),
        graph_driver={"Data": details.storage, "Name": record.storage_driver},
        mounts=mount_points(details.mounts),
        config=config,
        network_settings=settings,
        image_manifest_descriptor=manifest_descriptor(record) if version >= (1, 48) else UNSET,
        log_lost=_log_lost(record),
    )


def _add_old_aliases(record: ContainerRecord, networks: dict[str, Any]) -> None:
    """Before API 1.45 introduced `DNSNames`, aliases on user-defined networks included the short id and the host name."""
    for name, network in networks.items():
        if name not in defaults.PREDEFINED_NETWORKS:
            more = (record.id[:12], record.config.hostname)
            network["Aliases"] = list(dict.fromkeys([*(network["Aliases"] or ()), *more]))


def top(found: ProcessTable) -> TopResponse:
    return TopResponse(titles=found.titles, processes=found.rows)
