"""Explains images, networks and volumes: who uses the object, what space it holds, and why it cannot be removed."""

from __future__ import annotations

from orlop_cli.explain.report import Explanation, shell_word
from orlop_cli.values import units

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from typing import Any

    Json = Mapping[str, Any]

__all__ = ["explain_image", "explain_network", "explain_volume"]

_PREDEFINED = ("bridge", "host", "none")
_ALIVE = ("running", "paused", "restarting")


def _name(container: Json) -> str:
    names = [str(name).removeprefix("/") for name in container.get("Names") or []]
    return next((name for name in names if "/" not in name), str(container["Id"])[:12])


def _use(report: Explanation, lines: list[tuple[Json, str]]) -> None:
    """Add the users, and the number of users to the summary."""
    users = [container for container, _ in lines]
    running = sum(container.get("State") in _ALIVE for container in users)
    report.facts["UsedBy"] = [_name(container) for container in users]
    plural = "" if len(users) == 1 else "s"
    report.summary = f"used by {len(users)} container{plural}, {running} running" if users else "used by no container"
    report.add("Used by", [f"{_name(one)} ({one.get('Status', '')})" + (f" {text}" if text else "") for one, text in lines])


def _project(report: Explanation, labels: Mapping[str, str] | None) -> None:
    project = (labels or {}).get("com.docker.compose.project")
    if project:
        report.add("Compose project", [project])


def explain_volume(found: Json, containers: Sequence[Json], usage: Sequence[Json]) -> Explanation:
    """The explanation of a volume. `usage` are rows of `system df`."""
    report = Explanation("Volume", found["Name"], found["Name"])
    lines = [
        (container, f"at {mount['Destination']}, {'writable' if mount.get('RW') else 'read-only'}")
        for container in containers
        for mount in container.get("Mounts") or []
        if mount.get("Type") == "volume" and mount.get("Name") == found["Name"]
    ]
    _use(report, lines)
    size = next(((row.get("UsageData") or {}).get("Size", -1) for row in usage if row["Name"] == found["Name"]), -1)
    report.facts["Size"] = size
    labels = found.get("Labels") or {}
    report.add(
        "Disk", ([f"{units.human_size(size)}"] if size >= 0 else []) + [f"{found['Mountpoint']} (driver {found['Driver']})"]
    )
    _project(report, labels)
    name = shell_word(report.name)
    if not lines:
        report.suggest(f"orlop volume rm {name}", "remove the volume and its files")
    else:
        report.summary += "; it cannot be removed before these containers are removed"
        report.suggest(f"orlop ps -a --filter volume={name}", "the containers that use the volume")
    if "com.docker.volume.anonymous" in labels:
        report.add("Name", ["the volume is anonymous; `orlop volume prune` removes it if no container uses it"])
    return report


def explain_network(found: Json, containers: Sequence[Json]) -> Explanation:
    """The explanation of a network."""
    report = Explanation("Network", found["Name"], found["Id"])
    lines = []
    for container in containers:
        endpoint = ((container.get("NetworkSettings") or {}).get("Networks") or {}).get(found["Name"])
        if endpoint is not None:
            lines.append((container, endpoint.get("IPAddress") or endpoint.get("GlobalIPv6Address") or ""))
    _use(report, lines)
    subnets = [one.get("Subnet", "") for one in (found.get("IPAM") or {}).get("Config") or []]
    report.facts.update(Driver=found["Driver"], Subnets=subnets, Internal=bool(found.get("Internal")))
    reach = "internal: containers cannot reach other networks" if found.get("Internal") else ""
    report.add(
        "Addresses",
        [*(f"subnet {subnet}" for subnet in subnets if subnet), f"driver {found['Driver']}", *filter(None, [reach])],
    )
    _project(report, found.get("Labels"))
    name, active = shell_word(report.name), [_name(one) for one, _ in lines if one.get("State") in _ALIVE]
    if report.name in _PREDEFINED:
        report.summary += "; the network is predefined and cannot be removed"
    elif active:
        report.summary += "; it cannot be removed while these containers are connected"
        report.suggest(f"orlop network disconnect {name} {shell_word(active[0])}", "disconnect a container")
    else:
        report.suggest(f"orlop network rm {name}", "remove the network")
    return report


def explain_image(found: Json, containers: Sequence[Json], usage: Sequence[Json]) -> Explanation:
    """The explanation of an image. `usage` are rows of `system df`."""
    tags = found.get("RepoTags") or []
    short = found["Id"].removeprefix("sha256:")[:12]
    report = Explanation("Image", tags[0] if tags else short, found["Id"])
    lines = [(container, "") for container in containers if container.get("ImageID") == found["Id"]]
    _use(report, lines)
    row = next((row for row in usage if row["Id"] == found["Id"]), None)
    size, shared = found.get("Size") or 0, (row or {}).get("SharedSize", -1)
    report.facts.update(Size=size, SharedSize=shared, Tags=tags)
    disk = [f"{units.human_size(size)} in all"]
    if shared >= 0:
        disk.append(
            f"{units.human_size(shared)} shared with other images; "
            f"removing this image frees {units.human_size(size - shared)}"
        )
    report.add("Disk", disk)
    report.add("Names", tags or ["none: a newer image has taken the name, or the image was built without a name"])
    name = shell_word(report.name)
    if lines:
        report.summary += "; it cannot be removed before these containers are removed"
        report.suggest(f"orlop ps -a --filter ancestor={name}", "the containers of the image")
    else:
        report.suggest(f"orlop rmi {name}", "remove the image" if len(tags) < 2 else "remove this name")
    report.suggest(f"orlop history {name}", "the layers and their sizes")
    return report
