"""Containers in lists of the API."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET

from orlop_api_docker.responses import encode
from orlop_engine.containers.container import Container
from orlop_engine.containers.details import Sizes, Summary
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.state import State

from .container_networks import networks_in_list, published_ports
from .containers import manifest_descriptor, mount_points

__all__ = ["changing", "human_duration", "list_item", "manifest", "status_text"]


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


def list_item(found: Summary, names: Sequence[str]) -> dict[str, Any]:
    """The fields that change only when the container changes; `changing` makes the other fields. `names` are additional
    names by links."""
    record = found.record
    host: dict[str, Any] = {"NetworkMode": record.host_config.network_mode}
    if annotations := record.host_config.annotations:
        host["Annotations"] = annotations
    return {
        "Id": record.id,
        "Names": [f"/{name}" for name in (record.name, *names)],
        "Image": found.image,
        "ImageID": record.image_id,
        "Command": _command(record.args),
        "Created": record.created_ns // 1_000_000_000,
        "Ports": published_ports(found.networks),
        "Labels": record.config.labels or {},
        "State": "removing" if record.removing and not record.state.running else record.state.status,
        "HostConfig": host,
        "NetworkSettings": {"Networks": networks_in_list(found.networks)},
        "Mounts": mount_points(found.mounts),
    }


def manifest(record: ContainerRecord) -> bytes:
    """The field about the manifest of the container's image, since API 1.48."""
    shown = manifest_descriptor(record)
    return b"" if shown is UNSET else b',"ImageManifestDescriptor":' + encode(shown)


def changing(container: Container, sizes: Sizes | None, now_ns: int, *, health: bool) -> str:
    """The fields of an item that are made for each list: `Status`, which contains a relative time, sizes and `Health`."""
    record, checked = container.record, container.health
    status = status_text(record.state, record.removing, checked.status if checked else "", now_ns)
    more = ""
    if sizes is not None:
        more = "".join(f',"{name}":{size}' for name, size in zip(("SizeRw", "SizeRootFs"), sizes, strict=True) if size)
    if health:
        state, streak = (checked.status, checked.streak) if checked else ("none", 0)
        more += f',"Health":{{"Status":"{state}","FailingStreak":{streak}}}'
    return f'{more},"Status":"{status}"'
