"""The daemon's information about itself: `GET /version`, `GET /info`, `GET /system/df`.

Field names are the same as Docker's. Some of them are not plain pascal case (`CPUShares`, `IPv4Forwarding`, `NCPU`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from msgspec import UNSET, Struct, UnsetType, field

__all__ = [
    "AddressPoolInfo",
    "Component",
    "DeviceInfo",
    "DiskUsage",
    "DriverInfo",
    "IndexInfo",
    "ObjectUsage",
    "PluginsInfo",
    "RegistryInfo",
    "RuntimeInfo",
    "SystemInfo",
    "SystemVersion",
]


class _Wire(Struct, frozen=True, kw_only=True, rename="pascal"):
    """Base of the structs of answers. They are frozen, because an answer is built once and then only encoded."""


class Component(_Wire, frozen=True, kw_only=True):
    name: str
    version: str
    details: dict[str, str]


class SystemVersion(_Wire, frozen=True, kw_only=True):
    """`GET /version`. The flat fields repeat the component `Engine`, for old clients."""

    platform: dict[str, str]
    components: list[Component]
    version: str
    api_version: str
    min_api_version: str = field(name="MinAPIVersion")
    git_commit: str = ""
    go_version: str = ""
    os: str = "linux"
    arch: str = ""
    kernel_version: str = ""
    build_time: str = ""


class PluginsInfo(_Wire, frozen=True, kw_only=True):
    """Plugin names that a request may use, by kind."""

    volume: list[str]
    network: list[str]
    authorization: list[str] | None
    log: list[str]


class IndexInfo(_Wire, frozen=True, kw_only=True):
    name: str
    mirrors: list[str]
    secure: bool
    official: bool


class RegistryInfo(_Wire, frozen=True, kw_only=True):
    insecure_registry_cidrs: list[str] = field(name="InsecureRegistryCIDRs")
    index_configs: dict[str, IndexInfo]
    mirrors: list[str]
    allow_nondistributable_artifacts_cidrs: UnsetType | None = field(
        default=UNSET, name="AllowNondistributableArtifactsCIDRs"
    )
    allow_nondistributable_artifacts_hostnames: UnsetType | None = UNSET


class RuntimeInfo(Struct, frozen=True, omit_defaults=True, rename={"runtime_args": "runtimeArgs"}):
    path: str
    runtime_args: list[str] | None = None
    status: dict[str, str] | None = None


class AddressPoolInfo(_Wire, frozen=True, kw_only=True):
    base: str
    size: int


class DriverInfo(_Wire, frozen=True, kw_only=True):
    """A driver in use and its package. Orlop adds this field to `GET /info`. `degraded` says why calls of the driver fail
    immediately."""

    kind: str
    name: str
    distribution: str
    version: str
    degraded: str | UnsetType = UNSET


class DeviceInfo(_Wire, frozen=True, kw_only=True):
    """A device that `DeviceRequests` may ask for."""

    source: str
    id: str = field(name="ID")


class SystemInfo(_Wire, frozen=True, kw_only=True):
    """`GET /info`."""

    id: str = field(name="ID")
    containers: int
    containers_running: int
    containers_paused: int
    containers_stopped: int
    images: int
    driver: str
    driver_status: list[tuple[str, str]]
    docker_root_dir: str
    plugins: PluginsInfo
    memory_limit: bool
    swap_limit: bool
    cpu_cfs_period: bool
    cpu_cfs_quota: bool
    cpu_shares: bool = field(name="CPUShares")
    cpu_set: bool = field(name="CPUSet")
    pids_limit: bool
    ipv4_forwarding: bool = field(name="IPv4Forwarding")
    bridge_nf_iptables: bool | UnsetType = UNSET
    bridge_nf_ip6tables: bool | UnsetType = field(default=UNSET, name="BridgeNfIp6tables")
    oom_kill_disable: bool
    debug: bool
    n_fd: int = field(name="NFd")
    n_goroutines: int
    system_time: str
    logging_driver: str
    cgroup_driver: str
    cgroup_version: str
    n_events_listener: int
    kernel_version: str
    operating_system: str
    os_version: str = field(name="OSVersion")
    os_type: str = field(name="OSType")
    architecture: str
    index_server_address: str
    registry_config: RegistryInfo
    ncpu: int = field(name="NCPU")
    mem_total: int
    generic_resources: list[Any] | None = None
    http_proxy: str
    https_proxy: str
    no_proxy: str
    name: str
    labels: list[str]
    experimental_build: bool
    server_version: str
    runtimes: dict[str, RuntimeInfo]
    default_runtime: str
    swarm: dict[str, Any]
    live_restore_enabled: bool
    isolation: str = ""
    init_binary: str
    containerd_commit: dict[str, str]
    runc_commit: dict[str, str]
    init_commit: dict[str, str]
    security_options: list[str]
    execution_driver: str | UnsetType = UNSET
    product_license: str
    default_address_pools: list[AddressPoolInfo] | UnsetType = UNSET
    firewall_backend: dict[str, Any] | UnsetType = UNSET
    cdi_spec_dirs: list[str] = field(name="CDISpecDirs")
    discovered_devices: list[DeviceInfo] | UnsetType = UNSET
    warnings: list[str] | None
    orlop_drivers: list[DriverInfo]


class ObjectUsage(_Wire, frozen=True, kw_only=True):
    """The disk usage of one type of objects. Only a verbose answer has `items`."""

    active_count: int
    total_count: int
    reclaimable: int
    total_size: int
    items: Sequence[Any] | UnsetType = UNSET


class BuildCache(_Wire, frozen=True, kw_only=True):
    """A record of the build cache. API 1.42 replaced `Parent` by `Parents`."""

    id: str = field(name="ID")
    parent: str | UnsetType = UNSET
    parents: Sequence[str] | UnsetType = UNSET
    type: str
    description: str
    in_use: bool
    shared: bool
    size: int
    created_at: str
    last_used_at: str | None
    usage_count: int


class DiskUsage(_Wire, frozen=True, kw_only=True):
    """`GET /system/df`. Lists that were not requested are null. API 1.52 introduced the sums by type, and omits the lists in
    a verbose answer."""

    layers_size: int | UnsetType = UNSET
    images: Sequence[Any] | UnsetType | None = UNSET
    containers: Sequence[Any] | UnsetType | None = UNSET
    volumes: Sequence[Any] | UnsetType | None = UNSET
    build_cache: Sequence[Any] | UnsetType | None = UNSET
    builder_size: int | UnsetType = UNSET
    image_usage: ObjectUsage | UnsetType = UNSET
    container_usage: ObjectUsage | UnsetType = UNSET
    volume_usage: ObjectUsage | UnsetType = UNSET
    build_cache_usage: ObjectUsage | UnsetType = UNSET
