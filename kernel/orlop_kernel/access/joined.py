"""What a new container would take over from others, where clients must not become root on the machine: the host's files and
namespaces also come by way of a container that has them. `walls` judges what is asked for by itself.

Others are looked up as the engine will, and what they have of this kind does not change while they exist.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from orlop_kernel.spi import OrlopError
from orlop_kernel.types.containers import HostConfig

if TYPE_CHECKING:
    from orlop_kernel.engine.containers.container import Container
    from orlop_kernel.engine.containers.service import Containers

__all__ = ["of_others"]

_SHARED = {"network_mode": "NetworkMode", "pid_mode": "PidMode", "ipc_mode": "IpcMode"}
_PREFIX = "container:"


def of_others(containers: Containers, host: HostConfig) -> Iterator[str]:
    """Each thing of the host's that comes with another container; also what is not there yet, and could be anything then."""
    for text in host.volumes_from or ():
        name = text.partition(":")[0]
        other = _find(containers, name)
        if other is None:
            yield f"VolumesFrom {name}, which does not exist,"
        elif any(mount.type == "bind" for mount in other.record.mounts):
            yield f"VolumesFrom {name}, which has a bind mount,"
    for field, shown in _SHARED.items():
        mode: str = getattr(host, field)
        if mode.startswith(_PREFIX) and (what := _lead_to_host(containers, field, mode)):
            yield f"{shown} {mode}, which {what},"


def _lead_to_host(containers: Containers, field: str, mode: str) -> str:
    seen = set()
    while mode.startswith(_PREFIX):
        other = _find(containers, mode.removeprefix(_PREFIX))
        if other is None:
            return "does not exist"
        if other.id in seen:
            return "leads in a circle"
        seen.add(other.id)
        mode = getattr(other.record.host_config, field)
    return "has the host's" if mode == "host" else ""


def _find(containers: Containers, name: str) -> Container | None:
    try:
        return containers.get(name)
    except OrlopError:
        return None
