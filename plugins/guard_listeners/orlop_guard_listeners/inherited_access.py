"""Host access through another container, on restricted listeners. A new container can use the host files and namespaces of
an existing container, and the API can read files below all mounts of a container. `host_access` checks the direct requests
of a new container.

After the check, the ID of a container replaces its name in the request, because the name may move to another container. The
host access of a container does not change while the container exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop_engine.types.containers import HostConfig
from orlop_sdk import OrlopError

from .host_access import OWN_MOUNTS

if TYPE_CHECKING:
    from orlop_engine.containers.container import Container
    from orlop_engine.containers.index import ContainerIndex
    from orlop_engine.containers.record import ContainerRecord

__all__ = ["of_others", "outside_mount"]

_SHARED = {"network_mode": "NetworkMode", "pid_mode": "PidMode", "ipc_mode": "IpcMode"}
_PREFIX = "container:"


def outside_mount(record: ContainerRecord) -> str:
    """The first mount that a restricted client may not request; "" for none. The caller checks volumes by their records."""
    found = next((mount for mount in record.mounts if mount.type not in OWN_MOUNTS), None)
    return f"the {found.type} mount of {found.source}" if found else ""


def of_others(index: ContainerIndex, host: HostConfig) -> Iterator[str]:
    """Yields each access to the host that the new container gets through another container. A container that does not exist
    yet is refused, too, because it may later be created with any access."""
    given = host.volumes_from or []
    for at, text in enumerate(given):
        name, colon, access = text.partition(":")
        other = _find(index, name)
        if other is None:
            yield f"VolumesFrom {name}, which does not exist,"
        elif mount := outside_mount(other.record):
            yield f"VolumesFrom {name}, which has {mount},"
        else:
            given[at] = f"{other.id}{colon}{access}"
    for field, shown in _SHARED.items():
        mode: str = getattr(host, field)
        if not mode.startswith(_PREFIX):
            continue
        other = _find(index, mode.removeprefix(_PREFIX))
        if other is None:
            yield f"{shown} {mode}, which does not exist,"
        elif what := _leads_to_host(index, field, other):
            yield f"{shown} {mode}, which {what},"
        else:
            setattr(host, field, _PREFIX + other.id)


def _leads_to_host(index: ContainerIndex, field: str, other: Container) -> str:
    seen = {other.id}
    mode = getattr(other.record.host_config, field)
    while mode.startswith(_PREFIX):
        following = _find(index, mode.removeprefix(_PREFIX))
        if following is None:
            return "joins a container that does not exist"
        if following.id in seen:
            return "is part of a cycle"
        seen.add(following.id)
        mode = getattr(following.record.host_config, field)
    return "uses the host's namespace" if mode == "host" else ""


def _find(index: ContainerIndex, name: str) -> Container | None:
    try:
        return index.get(name)
    except OrlopError:
        return None
