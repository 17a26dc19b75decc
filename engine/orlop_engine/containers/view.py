"""Inspect and list answers of containers: made from records, without calls of drivers and without locks. List items are
cached until the record changes, or an image.
"""

from __future__ import annotations

import posixpath
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from orlop_engine.networks.predefined import PREDEFINED
from orlop_engine.types.containers import ContainerView, StateView
from orlop_sdk import NotFound
from orlop_sdk.base import rfc3339

from . import apparmor_profile, links, mount_spec
from .container import Container
from .log_info import log_info
from .ports import Ports
from .record import ContainerRecord, MountRecord
from .services import Images, Networks, Volumes
from .state import State

__all__ = [
    "human_duration",
    "image_name",
    "inspect",
    "network_settings",
    "published_ports",
    "shown_mounts",
    "status_text",
    "summary",
]

_ONLY_INSPECT = {"Links": None, "Aliases": None, "DriverOpts": None, "DNSNames": None}
"""Fields of a network that the list omits."""
_SINCE_1_52 = ("SandboxID", "SandboxKey", "Ports", "Networks")
"""Fields of `NetworkSettings`. Older versions have those of the default bridge as well."""
ZERO_TIME = "0001-01-01T00:00:00Z"
_encode = msgspec.json.Encoder().encode


def when(ns: int) -> str:
    return rfc3339(ns) if ns else ZERO_TIME


def state_view(container: Container) -> StateView:
    state, removing = container.record.state, container.record.removing
    return StateView(
        status="removing" if removing and not state.running else state.status,
        running=state.running,
        paused=state.paused,
        restarting=state.restarting,
        oom_killed=state.oom_killed,
        dead=state.dead,
        pid=state.pid,
        exit_code=state.exit_code,
        error=state.error,
        started_at=when(state.started_ns),
        finished_at=when(state.finished_ns),
        health=container.health.view() if container.health else UNSET,
    )


def shown_mounts(record: ContainerRecord) -> list[MountRecord]:
    """The mounts shown to clients. A `--tmpfs` is shown in `HostConfig` only."""
    hidden = {posixpath.normpath(path) for path in record.host_config.tmpfs or ()}
    return [mount for mount in record.mounts if mount.type != "tmpfs" or mount.destination not in hidden]


def _tried(record: ContainerRecord) -> bool:
    """Whether a start was ever tried, with or without success."""
    return record.started_before or bool(record.state.error)


def _file_paths(ports: Ports, record: ContainerRecord) -> tuple[str, str, str]:
    """Paths of resolv.conf, hostname and hosts. The first start makes them; with a shared network they are the owner's."""
    if not _tried(record):
        return "", "", ""
    owner = record.host_config.network_mode.removeprefix("container:")
    directory = ports.paths.directory(owner if owner in ports.index else record.id)
    return f"{directory}/resolv.conf", f"{directory}/hostname", f"{directory}/hosts"


def network_settings(networks: Networks, container: Container) -> dict[str, Any]:
    """`NetworkSettings` of inspect and list."""
    record = container.record
    return networks.settings(
        record.sandbox,
        endpoints=record.endpoints,
        exposed=set(record.config.exposed_ports or ()),
        running=record.state.running,
    )


def published_ports(container: Container, settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """`Ports` of a list item: published ports with their host address, exposed ports without."""
    out: list[dict[str, Any]] = []
    if not container.record.state.running:
        return out
    for port, bindings in sorted((settings.get("Ports") or {}).items()):
        number, _, protocol = port.partition("/")
        base = {"PrivatePort": int(number), "Type": protocol or "tcp"}
        if bindings:
            out += [{"IP": b["HostIp"], "PublicPort": int(b["HostPort"]), **base} for b in bindings]
        else:
            out.append(base)
    return out


def _mountpoints(volumes: Volumes, record: ContainerRecord) -> dict[str, str]:
    return {mount.name: volumes.mountpoint(mount.name) for mount in record.mounts if mount.type == "volume"}


def _log_path(ports: Ports, container: Container) -> str:
    driver = ports.drivers.log(container.record.host_config.log_config.type)
    return driver.path(log_info(ports.paths, container))


def image_name(images: Images, record: ContainerRecord) -> str:
    """The image name given at create, or the image's id when the name now refers to another image or none."""
    with suppress(NotFound):
        if any(image.id == record.image_id for image in images.all_platforms(record.config.image)):
            return record.config.image
    return record.image_id


def form(version: tuple[int, int]) -> str:
    """The key of the cached inspect answer: the oldest API version whose answer has the same fields. A field that begins
    with another version needs a line here."""
    return "1.52" if version >= (1, 52) else "1.45" if version >= (1, 45) else "1.24"


def inspect(ports: Ports, container: Container, graph: dict[str, str], version: tuple[int, int]) -> ContainerView:
    record = container.record
    resolv_conf, hostname, hosts = _file_paths(ports, record)
    args = record.args
    host = record.host_config
    if host.links:
        host = replace(host, links=links.shown(ports.index, ports.networks, record))
    settings = network_settings(ports.networks, container)
    if version < (1, 45):
        _add_old_aliases(record, settings["Networks"])
    config = record.config
    if version >= (1, 52):
        settings = {name: value for name, value in settings.items() if name in _SINCE_1_52}
        config = replace(config, on_build=config.on_build or UNSET)
    return ContainerView(
        id=record.id,
        created=rfc3339(record.created_ns),
        path=args[0] if args else "",
        args=args[1:],
        state=state_view(container),
        image=record.image_id,
        resolv_conf_path=resolv_conf,
        hostname_path=hostname,
        hosts_path=hosts,
        log_path=_log_path(ports, container) if _tried(record) else "",
        name=f"/{record.name}",
        restart_count=record.restart_count,
        driver=record.storage_driver,
        platform=record.platform,
        mount_label="",
        process_label="",
        app_armor_profile=apparmor_profile.profile(host),
        exec_ids=sorted(container.execs) or None,
        host_config=host,
        graph_driver={"Data": graph, "Name": record.storage_driver},
        mounts=mount_spec.views(shown_mounts(record), _mountpoints(ports.volumes, record)),
        config=config,
        network_settings=settings,
    )


def _add_old_aliases(record: ContainerRecord, networks: dict[str, Any]) -> None:
    """Before API 1.45 introduced `DNSNames`, aliases on user-defined networks included the short id and the host name."""
    for name, network in networks.items():
        if name not in PREDEFINED:
            more = (record.id[:12], record.config.hostname)
            network["Aliases"] = list(dict.fromkeys([*(network["Aliases"] or ()), *more]))


def human_duration(seconds: float) -> str:
    """Format a duration as Docker does (go-units HumanDuration)."""
    whole = int(seconds)
    if whole < 1:
        return "Less than a second"
    if whole == 1:
        return "1 second"
    if whole < 60:
        return f"{whole} seconds"
    minutes = whole // 60
    if minutes == 1:
        return "About a minute"
    if minutes < 60:
        return f"{minutes} minutes"
    hours = int(seconds / 3600 + 0.5)
    if hours == 1:
        return "About an hour"
    if hours < 48:
        return f"{hours} hours"
    if hours < 24 * 14:
        return f"{hours // 24} days"
    if hours < 24 * 60:
        return f"{hours // 24 // 7} weeks"
    if hours < 24 * 365 * 2:
        return f"{hours // 24 // 30} months"
    return f"{hours // 24 // 365} years"


def status_text(state: State, removing: bool, health: str, now_ns: int) -> str:
    """`Status` of a list item. `health` is "" without a health check."""
    if state.running:
        since = human_duration((now_ns - state.started_ns) / 1e9)
        if state.paused:
            return f"Up {since} (Paused)"
        if state.restarting:
            return f"Restarting ({state.exit_code}) {human_duration((now_ns - state.finished_ns) / 1e9)} ago"
        if health:
            return f"Up {since} ({'health: ' if health == 'starting' else ''}{health})"
        return f"Up {since}"
    if removing:
        return "Removal In Progress"
    if state.dead:
        return "Dead"
    if not state.started_ns:
        return "Created"
    if not state.finished_ns:
        return ""
    return f"Exited ({state.exit_code}) {human_duration((now_ns - state.finished_ns) / 1e9)} ago"


def _command(args: list[str]) -> str:
    return " ".join(f"'{arg}'" if " " in arg else arg for arg in args)


def summary(
    ports: Ports, container: Container, names: Sequence[str], sizes: tuple[int, int] | None, *, health: bool = False
) -> bytes:
    """One item of the list. All of it is cached except `Status`, which contains a relative time, and `Health`. `names` are
    additional names by links; `sizes` are (bytes written, bytes of the whole root)."""
    images = ports.images.changes  # an item contains the name of its image
    found = container.views.get("list") if not names and container.images_seen == images else None
    if found is None:
        found = _encode(_summary(ports, container, names))
        if not names:
            container.views["list"], container.images_seen = found, images
    record = container.record
    checked = container.health
    text = status_text(record.state, record.removing, checked.status if checked else "", time.time_ns())
    more = "".join(f',"{name}":{size}' for name, size in zip(("SizeRw", "SizeRootFs"), sizes or (), strict=False) if size)
    if health:
        status, streak = (checked.status, checked.streak) if checked else ("none", 0)
        more += f',"Health":{{"Status":"{status}","FailingStreak":{streak}}}'
    return found[:-1] + f'{more},"Status":"{text}"}}'.encode()


def _summary(ports: Ports, container: Container, names: Sequence[str]) -> dict[str, Any]:
    record = container.record
    settings = network_settings(ports.networks, container)
    host: dict[str, Any] = {"NetworkMode": record.host_config.network_mode}
    if annotations := record.host_config.annotations:
        host["Annotations"] = annotations
    return {
        "Id": record.id,
        "Names": [f"/{name}" for name in (record.name, *names)],
        "Image": image_name(ports.images, record),
        "ImageID": record.image_id,
        "Command": _command(record.args),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": published_ports(container, settings),
        "Labels": record.config.labels or {},
        "State": "removing" if record.removing and not record.state.running else record.state.status,
        "HostConfig": host,
        "NetworkSettings": {"Networks": {name: {**each, **_ONLY_INSPECT} for name, each in settings["Networks"].items()}},
        "Mounts": mount_spec.views(shown_mounts(record), _mountpoints(ports.volumes, record)),
    }
