"""Values of a container that front ends (such as the Docker API) show in addition to its record. The functions take no lock.
Only `sizes` and `measure` call drivers that can hang.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import NamedTuple

import msgspec
import trio
from msgspec.structs import replace

from orlop_engine.calls import asked
from orlop_engine.config import defaults
from orlop_engine.networks.status import ContainerNetworks
from orlop_sdk import NotFound, OrlopError

from . import apparmor_profile, links
from .container import Container
from .health import Health
from .log_info import log_info
from .mount_spec import normal_target
from .ports import Ports
from .record import ContainerRecord, MountRecord
from .services import Images, Networks, Volumes

__all__ = [
    "Details",
    "FilePaths",
    "Sizes",
    "Summary",
    "details",
    "image_name",
    "measure",
    "mounts",
    "networks_of",
    "shown_mounts",
    "sizes",
    "summary",
]

log = logging.getLogger("orlop.containers")


class FilePaths(NamedTuple):
    """Paths, on the host, of the files that the engine makes for a container. They are "" before the container's first
    start."""

    resolv_conf: str = ""
    hostname: str = ""
    hosts: str = ""


class Sizes(NamedTuple):
    """`written`: bytes that the container has written. `root`: the sum of `written` and the size of the container's
    image."""

    written: int
    root: int


class Summary(msgspec.Struct, frozen=True):
    """The values that a list shows of a container. `image`: see `image_name`. `mounts`: see the function `mounts`."""

    record: ContainerRecord
    image: str
    networks: ContainerNetworks
    mounts: list[MountRecord]


class Details(msgspec.Struct, frozen=True, kw_only=True):
    """All values that front ends show of one container. `storage` is the storage driver's description of the container's
    root. `links` is the result of `links.shown`."""

    record: ContainerRecord
    networks: ContainerNetworks
    mounts: list[MountRecord]
    storage: Mapping[str, str]
    files: FilePaths
    log_path: str
    links: list[str] | None
    app_armor_profile: str
    execs: list[str]
    health: Health | None


def shown_mounts(record: ContainerRecord) -> list[MountRecord]:
    """The mounts in the record, without those of `--tmpfs`, which clients see only in `HostConfig`."""
    hidden = {normal_target(path) for path in record.host_config.tmpfs or ()}
    return [mount for mount in record.mounts if mount.type != "tmpfs" or mount.destination not in hidden]


def mounts(volumes: Volumes, record: ContainerRecord) -> list[MountRecord]:
    """The result of `shown_mounts`, with the mount point and the driver of each volume."""
    return [
        replace(mount, source=volumes.mountpoint(mount.name), driver=mount.driver or defaults.VOLUME_DRIVER)
        if mount.type == "volume"
        else mount
        for mount in shown_mounts(record)
    ]


def networks_of(networks: Networks, container: Container) -> ContainerNetworks:
    """The container's networks and ports."""
    record = container.record
    return networks.of_container(
        record.sandbox,
        endpoints=record.endpoints,
        exposed=set(record.config.exposed_ports or ()),
        running=record.state.running,
    )


def image_name(images: Images, record: ContainerRecord) -> str:
    """The image's name in the create request. If this name now refers to another image or to none, the image's id is
    returned instead."""
    with suppress(NotFound):
        if any(image.id == record.image_id for image in images.all_platforms(record.config.image)):
            return record.config.image
    return record.image_id


def _tried(record: ContainerRecord) -> bool:
    """Whether a start was ever tried, with or without success."""
    return record.started_before or bool(record.state.error)


def file_paths(ports: Ports, record: ContainerRecord) -> FilePaths:
    """Paths of resolv.conf, hostname and hosts. The first start creates the files. A container that shares the network of
    another container also shares these files."""
    if not _tried(record):
        return FilePaths()
    owner = record.host_config.network_mode.removeprefix("container:")
    directory = ports.paths.directory(owner if owner in ports.index else record.id)
    return FilePaths(f"{directory}/resolv.conf", f"{directory}/hostname", f"{directory}/hosts")


async def _log_path(ports: Ports, container: Container) -> str:
    """The path of the log file. Returns "" if the log driver is missing or fails, so that inspect still works."""
    if not _tried(container.record):
        return ""
    try:
        driver = await ports.drivers.log(*container.record.log_driver)
        return await asked(driver.path, log_info(ports.paths, container))
    except OrlopError as error:
        log.info("cannot show the log path of container %s: %s", container.name, error)
        return ""


def summary(ports: Ports, container: Container) -> Summary:
    record = container.record
    networks = networks_of(ports.networks, container)
    return Summary(record, image_name(ports.images, record), networks, mounts(ports.volumes, record))


async def details(ports: Ports, container: Container) -> Details:
    """All values that front ends show of a container. The values are consistent with each other, because this function
    awaits nothing after it has the storage driver's answer."""
    log_path = await _log_path(ports, container)
    storage = await ports.storage.describe(container.id)
    record = container.record
    host = record.host_config
    return Details(
        record=record,
        networks=networks_of(ports.networks, container),
        mounts=mounts(ports.volumes, record),
        storage=storage,
        files=file_paths(ports, record),
        log_path=log_path,
        links=links.shown(ports.index, ports.networks, record) if host.links else host.links,
        app_armor_profile=apparmor_profile.profile(host),
        execs=sorted(container.execs),
        health=container.health,
    )


async def sizes(ports: Ports, container: Container) -> Sizes:
    """The container's disk usage, from the storage driver, which may walk directories."""
    usage = await ports.storage.usage(container.id)
    image = ports.images.get(container.record.image_id)
    return Sizes(usage.size, usage.size + (image.size if image else 0))


async def measure(ports: Ports, containers: Iterable[Container], at_once: int) -> dict[str, Sizes]:
    """The sizes by container id, without containers that cannot be measured."""
    found: dict[str, Sizes] = {}
    slots = trio.CapacityLimiter(at_once)

    async def one(container: Container) -> None:
        try:
            async with slots:
                found[container.id] = await sizes(ports, container)
        except OrlopError as error:  # the container was removed meanwhile, or the driver failed
            log.warning("cannot measure container %s: %s", container.name, error)

    async with trio.open_nursery() as nursery:
        for container in containers:
            nursery.start_soon(one, container)
    return found
