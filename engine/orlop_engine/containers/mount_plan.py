"""The mounts that a container gets when it is started. These are OCI mounts, made from the container's mount records, and
mount trees, which the container's monitor prepares. A tree is used for a mount whose source is not a plain directory of the
host: a part of a volume, an image, or the shared memory of several containers.
"""

from __future__ import annotations

import os
from functools import partial
from typing import Any, NamedTuple

from orlop_engine.spec.host import facts
from orlop_engine.system.programs import Programs
from orlop_monitor.protocol import Tree
from orlop_sdk import InvalidParameter, Mount, NotFound, Runtime, mountinfo

from . import mount_spec, user_namespaces, volumes
from .container import Container
from .ports import Ports
from .record import ContainerRecord, MountRecord

__all__ = ["MountPlan", "beforehand", "mounted"]

_RECURSIVE = (5, 12)  # mount_setattr(2) exists since Linux 5.12


class MountPlan(NamedTuple):
    """The mounts that a container gets at one start. `shm` is the source of the bind at /dev/shm; "" if the container has
    its own shared memory."""

    oci: list[dict[str, Any]]
    trees: tuple[Tree, ...] = ()
    shm: str = ""


def beforehand(ports: Ports, record: ContainerRecord) -> MountPlan | None:
    """The mount plan for a prepared sandbox; None if the plan depends on other containers, volumes or images."""
    if any(mount.type in ("volume", "image") for mount in record.mounts):
        return None
    if record.host_config.ipc_mode.startswith("container:"):
        return None
    trees, shm = _shared_memory(ports, record)
    return MountPlan([item for mount in record.mounts for item in mount_spec.oci(mount)], trees, shm)


async def mounted(ports: Ports, container: Container, runtime: Runtime) -> MountPlan:
    """The mount plan of a start. Raises `InvalidParameter` and `NotFound` for sources that are invalid or missing."""
    record = container.record
    trees, shm = _shared_memory(ports, record)
    more: list[Tree] = []
    oci: list[dict[str, Any]] = []
    mapped = user_namespaces.ids_of(ports.ids, record.host_config) is not None
    for number, mount in enumerate(record.mounts):
        sources = await _sources(ports, container, mount)
        if mount.type == "volume" and mount.subpath and len(sources) == 1 and sources[0].type == "bind":
            await volumes.patiently(partial(volumes.check_subpath, sources[0].source, mount.subpath))
        if mount.type == "image" or (mount.type == "volume" and (mount.subpath or mapped)):
            more.append(Tree(str(number), sources, mount.subpath))
            sources = (Mount("bind", f"{ports.paths.stage(record.id)}/{number}"),)
        if mount.type == "bind" and mount.propagation.removeprefix("r") in ("shared", "slave"):
            await volumes.patiently(partial(_check_propagation, mount))
        deep = not mount.rw and await _can_be_deep(ports.programs, runtime, mount)
        oci += mount_spec.oci(mount, sources, deep=deep)
    for number, tree in enumerate(container.unlisted.trees if container.unlisted else ()):
        name = f"tree{number}"
        more.append(Tree(name, tree.mounts, tree.subpath))
        record_ = MountRecord("bind", tree.target, f"{ports.paths.stage(record.id)}/{name}", rw=not tree.readonly)
        oci += mount_spec.oci(record_)
    return MountPlan(oci, (*trees, *more), shm)


async def _sources(ports: Ports, container: Container, mount: MountRecord) -> tuple[Mount, ...]:
    if mount.type == "volume":
        users = container.run.volume_users if container.run else []  # a dry run has no run, and mounts nothing
        return tuple(await ports.volumes.mount(mount.name, container.id, users))
    if mount.type != "image":
        return ()
    image = ports.images.get(mount.name)
    if image is None:
        raise NotFound(f"No such image: {mount.source}")
    return tuple(await ports.storage.mounts(image.snapshot, readonly=True))


def _shared_memory(ports: Ports, record: ContainerRecord) -> tuple[tuple[Tree, ...], str]:
    """The tree for /dev/shm, and the source of its bind. Containers that share an IPC namespace also share /dev/shm, because
    POSIX shared memory consists of files in /dev/shm."""
    mode, shm = record.host_config.ipc_mode, f"{ports.paths.stage(record.id)}/shm"
    if mode == "host":
        return (), "/dev/shm"
    if mode == "shareable":
        options = ("nosuid", "noexec", "nodev", "mode=1777", f"size={record.host_config.shm_size or 64 << 20}")
        return (Tree("shm", (Mount("tmpfs", "shm", options=options),)),), shm
    if not mode.startswith("container:"):
        return (), ""
    other = ports.index.get(mode.removeprefix("container:"))
    theirs = other.record.host_config.ipc_mode
    if theirs == "host":
        return (), "/dev/shm"
    ports.index.namespace_of(other.id, "ipc")  # raises an error if the container does not run
    if theirs != "shareable" and not theirs.startswith("container:"):
        raise InvalidParameter(
            f"failed to join IPC namespace: container {other.id}: non-shareable IPC (hint: use IpcMode:shareable for the "
            "donor container)"
        )
    assert other.run is not None and other.run.monitor is not None
    return (Tree("shm", pid=other.run.monitor.pid, path=f"{ports.paths.stage(other.id)}/shm"),), shm


async def _can_be_deep(programs: Programs, runtime: Runtime, mount: MountRecord) -> bool:
    if facts().kernel >= _RECURSIVE and "rro" in await programs.mount_options(runtime):
        return True
    if mount.deep_readonly:
        raise InvalidParameter(
            f"cannot make {mount.destination} recursively read-only: that needs Linux {_RECURSIVE[0]}.{_RECURSIVE[1]} and a "
            "runtime that knows the mount option rro"
        )
    return False


def _check_propagation(mount: MountRecord) -> None:
    """Raise an error if the mount of the source on the host does not allow the requested propagation."""
    path = os.path.realpath(mount.source)
    parts = [entry for entry in mountinfo.read() if path == entry.path or path.startswith(entry.path.rstrip("/") + "/")]
    if not parts:
        return
    longest = max(len(entry.path) for entry in parts)
    # Of several mounts on one path, the last one is on top
    source = [entry for entry in parts if len(entry.path) == longest][-1]
    where = f"path {mount.source} is mounted on {source.path} but it is not a"
    if mount.propagation in ("shared", "rshared") and not source.shared:
        raise InvalidParameter(f"{where} shared mount")
    if not source.propagates:
        raise InvalidParameter(f"{where} shared or slave mount")
