"""The tree of `ps --tree`: compose projects, their networks, and the containers of each network."""

from __future__ import annotations

from orlop_cli.values import ports

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    Json = Mapping[str, Any]
    Node = tuple[tuple[str, ...], "list[Node]"]

__all__ = ["render"]

PROJECT = "com.docker.compose.project"
NEEDS = "com.docker.compose.depends_on"  # "db:service_healthy:true,cache:service_started:false"
_UNICODE = ("├── ", "└── ", "│   ", "    ")
_ASCII = ("|-- ", "`-- ", "|   ", "    ")


def render(containers: Sequence[Json], unicode: bool) -> str:
    """The text of the tree. A container with several networks is shown below each of them; its dependencies and volumes are
    shown below the first one."""
    names = {one["Id"]: _name(one) for one in containers}
    projects: dict[str, list[Json]] = {}
    for container in containers:
        projects.setdefault((container.get("Labels") or {}).get(PROJECT, ""), []).append(container)
    rows: list[tuple[str, ...]] = []
    for project in sorted(projects, key=lambda name: (not name, name)):
        rows.append((f"project {project}" if project else "no project",))
        _draw(_networks(projects[project], names), "", _UNICODE if unicode else _ASCII, rows)
    return _aligned(rows)


def _aligned(rows: Sequence[tuple[str, ...]]) -> str:
    """The lines of the rows. Columns are aligned over the whole tree, although rows of networks have only one cell."""
    columns = max((len(row) for row in rows), default=0)
    widths = [max((len(row[at]) for row in rows if len(row) > at + 1), default=0) for at in range(columns)]
    return "".join("   ".join(map(str.ljust, row, widths)).rstrip() + "\n" for row in rows)


def _networks(containers: Iterable[Json], names: Mapping[str, str]) -> list[Node]:
    members: dict[str, list[Node]] = {}
    for container in sorted(containers, key=_name):
        details = _details(container)
        for network in _joined(container, names):
            members.setdefault(network, []).append((_cells(container), details))
            details = []
    return [((network,), members[network]) for network in sorted(members)]


def _joined(container: Json, names: Mapping[str, str]) -> list[str]:
    """The networks of a container. A container that uses the network namespace of another container has no networks of its
    own."""
    found = sorted((container.get("NetworkSettings") or {}).get("Networks") or {})
    if found:
        return [f"network {name}" for name in found]
    kind, colon, ident = str((container.get("HostConfig") or {}).get("NetworkMode", "")).partition(":")
    return [f"network of container {names.get(ident, ident[:12])}"] if colon and kind == "container" else ["no network"]


def _cells(container: Json) -> tuple[str, ...]:
    published = ports.displayable(container.get("Ports") or [])
    cells = (_name(container), container.get("Image") or "<no image>", container.get("Status") or "")
    return (*cells, published) if published else cells


def _details(container: Json) -> list[Node]:
    needed = [part.split(":") for part in ((container.get("Labels") or {}).get(NEEDS) or "").split(",") if part]
    lines = [f"needs {name}" + (f" ({how[0].removeprefix('service_')})" if how else "") for name, *how in needed]
    volumes = [mount for mount in container.get("Mounts") or [] if mount.get("Type") == "volume"]
    lines += [f"volume {mount.get('Name', '')} at {mount.get('Destination', '')}" for mount in volumes]
    return [((line,), []) for line in lines]


def _name(container: Json) -> str:
    names = [name.removeprefix("/") for name in container.get("Names") or []]
    return str(next((name for name in names if "/" not in name), container["Id"][:12]))  # names with a slash are links


def _draw(nodes: Sequence[Node], indent: str, marks: tuple[str, str, str, str], rows: list[tuple[str, ...]]) -> None:
    for at, (cells, children) in enumerate(nodes):
        last = at == len(nodes) - 1
        rows.append((indent + marks[last] + cells[0], *cells[1:]))
        _draw(children, indent + marks[2 + last], marks, rows)
