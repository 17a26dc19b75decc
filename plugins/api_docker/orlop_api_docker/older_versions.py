"""Applies the rules of older API versions to requests: removes fields that a version did not have, fills in its defaults,
and refuses fields that need a newer version. Rules and messages are the same as Docker's (moby
daemon/server/router/container/container_routes.go). Answers of older versions are made in `container_views` and
`wire.images`.
"""

from __future__ import annotations

from msgspec import UNSET

from orlop_engine.types.containers import CreateRequest, EndpointSettings, ExecConfig, HostConfig, MountSpec, UpdateRequest
from orlop_sdk import InvalidParameter

__all__ = [
    "Version",
    "create_warnings",
    "flat_read_only",
    "settle_connect",
    "settle_create",
    "settle_exec",
    "settle_update",
]

Version = tuple[int, int]


def flat_read_only(version: Version) -> bool:
    """Whether mounts below a read-only bind stay writable, which is so before API 1.44."""
    return version < (1, 44)


def settle_create(request: CreateRequest, version: Version, cgroup_version: int) -> None:
    """Apply the rules to a create request. Raises InvalidParameter."""
    host = request.host_config = request.host_config or HostConfig()
    for spec in host.mounts or ():
        _settle_mount(spec, version)
    for settings in _endpoints(request):
        settle_endpoint(settings, version)
    if version < (1, 25):
        # Old clients remove the container themselves, and this fails if the daemon has removed it already
        host.auto_remove = False
    if version < (1, 40):
        host.ipc_mode = host.ipc_mode or "shareable"
    if version < (1, 41) and cgroup_version == 1:
        host.cgroupns_mode = host.cgroupns_mode or "host"
    if version < (1, 42):
        host.console_size = [0, 0]
    if version < (1, 43):
        host.annotations = UNSET
    if version < (1, 44):
        if request.healthcheck:
            request.healthcheck.start_interval = 0
        names = (request.networking_config.endpoints_config or {}) if request.networking_config else {}
        if len(names) > 1:
            raise InvalidParameter(
                f"Container cannot be created with multiple network endpoints: {', '.join(sorted(names))}"
            )


def _endpoints(request: CreateRequest) -> list[EndpointSettings]:
    found = (request.networking_config.endpoints_config or {}) if request.networking_config else {}
    return [settings for settings in found.values() if settings]


def _settle_mount(spec: MountSpec, version: Version) -> None:
    if version < (1, 42):
        # Old versions did not check this, so clients sent both options
        spec.volume_options = None if spec.type == "tmpfs" else spec.volume_options
        spec.tmpfs_options = spec.tmpfs_options if spec.type == "tmpfs" else None
    if bind := spec.bind_options:
        bind.non_recursive = bind.non_recursive and version >= (1, 40)
        bind.create_mountpoint = bind.create_mountpoint and version >= (1, 42)
        if version < (1, 44) and bind.read_only_force_recursive:
            # The option must not be ignored, because then mounts are writable that the client requires to be read-only
            raise InvalidParameter("BindOptions.ReadOnlyForceRecursive needs API v1.44 or newer")
    if version < (1, 45) and spec.volume_options and spec.volume_options.subpath:
        raise InvalidParameter("VolumeOptions.Subpath needs API v1.45 or newer")
    if version < (1, 48) and spec.type == "image":
        raise InvalidParameter('Mount type "Image" needs API v1.48 or newer')


def settle_endpoint(settings: EndpointSettings, version: Version) -> None:
    if version < (1, 48):
        settings.gw_priority = 0


def settle_connect(settings: EndpointSettings, version: Version) -> None:
    settle_endpoint(settings, version)
    if version < (1, 54):
        settings.mac_address = ""  # Docker ignores the field in these versions


def settle_exec(config: ExecConfig, version: Version) -> None:
    if version < (1, 42):
        config.console_size = None


def settle_update(request: UpdateRequest, version: Version) -> None:
    if version < (1, 40):
        request.pids_limit = None
    if version < (1, 55):
        request.blkio_weight_device = None
        request.blkio_device_read_bps = request.blkio_device_write_bps = None
        request.blkio_device_read_iops = request.blkio_device_write_iops = None


def create_warnings(request: CreateRequest, version: Version) -> list[str]:
    host = request.host_config
    empty = [port for port, bindings in ((host and host.port_bindings) or {}).items() if not bindings]
    if version < (1, 52) or not empty:
        return []
    return [
        f"Published port {port} has no host port: one is chosen when the container starts. A future API version drops "
        "empty PortBindings"
        for port in sorted(empty)
    ]
