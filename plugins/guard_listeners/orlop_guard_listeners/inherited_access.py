"""What comes by way of another container, where clients must not become root on the machine: a new container can take over
the host's files and namespaces from one that has them, and the API reads files of a container with all its mounts. `walls`
judges what a new container asks for itself.

What is judged is what is taken: the ID of the other stands in its name's place afterwards, whoever gets the name meanwhile.
What another has of this kind does not change while it exists.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop_engine.types.containers import HostConfig
from orlop_sdk import OrlopError

from .host_access import OWN_MOUNTS

if TYPE_CHECKING:
    from orlop_engine.containers.container import Container
    from orlop_engine.containers.record import ContainerRecord
    from orlop_engine.containers.service import Containers

__all__ = ["of_others", "outside_mount"]

_SHARED = {"network_mode": "NetworkMode", "pid_mode": "PidMode", "ipc_mode": "IpcMode"}
_PREFIX = "container:"


def outside_mount(record: ContainerRecord) -> str:
    """The first mount that a guarded client could not have asked for; "" for none. Volumes are judged by what they are made
    of, by the caller."""
    found = next((mount for mount in record.mounts if mount.type not in OWN_MOUNTS), None)
    return f"the {found.type} mount of {found.source}" if found else ""


def of_others(containers: Containers, host: HostConfig) -> Iterator[str]:
    """Each thing of the host's that comes with another container; also what is not there yet, and could be anything then."""
    given = host.volumes_from or []
    for at, text in enumerate(given):
        name, colon, access = text.partition(":")
        other = _find(containers, name)
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
        other = _find(containers, mode.removeprefix(_PREFIX))
        if other is None:
            yield f"{shown} {mode}, which does not exist,"
        elif what := _leads_to_host(containers, field, other):
            yield f"{shown} {mode}, which {what},"
        else:
            setattr(host, field, _PREFIX + other.id)


def _leads_to_host(containers: Containers, field: str, other: Container) -> str:
    seen = {other.id}
    mode = getattr(other.record.host_config, field)
    while mode.startswith(_PREFIX):
        following = _find(containers, mode.removeprefix(_PREFIX))
        if following is None:
            return "joins what does not exist"
        if following.id in seen:
            return "leads in a circle"
        seen.add(following.id)
        mode = getattr(following.record.host_config, field)
    return "has the host's" if mode == "host" else ""


def _find(containers: Containers, name: str) -> Container | None:
    try:
        return containers.get(name)
    except OrlopError:
        return None
