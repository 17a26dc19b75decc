"""Requests that are forbidden to clients that must not become root: access to resources of the host, and to running
containers. This module checks the decoded bodies that the handlers use. It does no I/O.

These checks do not isolate containers from each other. A client may mount any volume and join any network whose name it
knows, unless `label_scope` prevents this.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from msgspec import UNSET

from orlop_engine.config import defaults
from orlop_engine.containers.mount_spec import parse_bind
from orlop_engine.types.containers import CreateRequest, HostConfig, Resources, UpdateRequest
from orlop_engine.types.networks import CreateRequest as NetworkRequest
from orlop_engine.types.volumes import VolumeCreateRequest

__all__ = ["OWN_MOUNTS", "PS_ARGS", "of_container", "of_network", "of_update", "of_volume"]

PS_ARGS = frozenset({"", "-ef", "aux", "-aux"})
"""Allowed arguments of `ps`. Other arguments, such as `ef`, show the environment of processes, and some make `ps` list all
processes of the host (`containers.processes`)."""

OWN_MOUNTS = frozenset({"volume", "tmpfs"})
"""Mount types that use no resources of the host. Volumes on a host directory are an exception
(`VolumeRecord.is_host_path`)."""

_BLOCK_DEVICES = {
    "blkio_weight_device": "BlkioWeightDevice",
    "blkio_device_read_bps": "BlkioDeviceReadBps",
    "blkio_device_write_bps": "BlkioDeviceWriteBps",
    "blkio_device_read_iops": "BlkioDeviceReadIOps",
    "blkio_device_write_iops": "BlkioDeviceWriteIOps",
}
"""Limits for devices that are given by host path. They are refused, because the error of a start reveals whether a path
exists, and its type."""

_HOST_MODES = {
    "network_mode": "NetworkMode",
    "pid_mode": "PidMode",
    "ipc_mode": "IpcMode",
    "uts_mode": "UTSMode",
    "userns_mode": "UsernsMode",
    "cgroupns_mode": "CgroupnsMode",
}
_HOSTS_OWN = ("com.docker.network.bridge.name", "com.docker.network.host_ipv4", "com.docker.network.host_ipv6")
"""Network options that contain the name of a link or an address of the host."""


def _of_resources(host: Resources) -> Iterator[str]:
    if host.devices:
        yield "Devices"
    if host.device_cgroup_rules:
        yield "DeviceCgroupRules"
    if host.device_requests:
        yield "DeviceRequests"
    if host.cgroup_parent:
        yield "CgroupParent"
    for field, name in _BLOCK_DEVICES.items():
        if getattr(host, field):
            yield name


def _of_mounts(host: HostConfig) -> Iterator[str]:
    for text in host.binds or ():
        if parse_bind(text).type == "bind":
            yield f"the bind mount {text}"
    for spec in host.mounts or ():
        options = spec.volume_options
        if spec.type not in OWN_MOUNTS:
            yield f"the {spec.type} mount of {spec.source}"
        elif options and options.driver_config:
            yield from _of_volume_driver(options.driver_config.name)
            if options.driver_config.options:
                # The local driver can mount any device or path with `o=bind`
                yield f"the volume {spec.source} with options of its driver"


def _of_volume_driver(driver: str) -> Iterator[str]:
    """Other drivers than the default driver may use any path as the mount point of a volume, and Docker's volume plugins are
    programs that run as root."""
    if driver not in ("", defaults.VOLUME_DRIVER):
        yield f"a volume of driver {driver}"


def of_container(request: CreateRequest, *, apart: bool) -> Iterator[str]:
    """Yields each item that allows the new container access to the host; with `apart`, also to processes of other
    containers."""
    host = request.host_config
    if host is None:
        return
    yield from _of_resources(host)
    yield from _of_mounts(host)
    yield from _of_volume_driver(host.volume_driver)
    if host.privileged:
        yield "Privileged"
    if host.cap_add:
        yield "CapAdd"
    for option in host.security_opt or ():
        if option.partition("=")[0].partition(":")[0] != "no-new-privileges":
            yield f"SecurityOpt {option}"
    if host.masked_paths is not None:
        yield "MaskedPaths"
    if host.readonly_paths is not None:
        yield "ReadonlyPaths"
    if host.annotations is not UNSET and host.annotations:
        yield "Annotations"  # annotations are instructions to the runtime, which runs as root
    for field, name in _HOST_MODES.items():
        mode = getattr(host, field)
        if mode == "host" or (apart and field in ("pid_mode", "ipc_mode") and mode.startswith("container:")):
            yield f"{name} {mode}"


def of_update(request: UpdateRequest) -> Iterator[str]:
    yield from _of_resources(request)


def of_volume(request: VolumeCreateRequest) -> Iterator[str]:
    yield from _of_volume_driver(request.driver)
    if request.driver_opts:
        yield "a volume with options of its driver"


def of_network(request: NetworkRequest) -> Iterator[str]:
    """Yields each item that connects the new network to a link or an address of the host."""
    options: Mapping[str, str] = request.options or {}
    if request.driver not in ("", "bridge"):
        yield f"a network of driver {request.driver}"
    for option in _HOSTS_OWN:
        if option in options:
            yield f"a network with {option}"
    if request.config_from and request.config_from.network:  # the other network may have host links as options
        yield "a network with the settings of a configuration-only network"
