"""`Config`: the daemon's configuration as one frozen value. Field names are daemon.json's keys, with "_" for "-".

Holds every key that dockerd 29 knows; `policy` lists those that Orlop ignores or refuses. Names derived from the
configuration (bridge, nft table, cgroup parent, pid file) are derived only here, so that daemons with different data roots
never share one.
"""

from __future__ import annotations

import os
from binascii import crc32
from functools import lru_cache
from typing import Any

import msgspec

from orlop_sdk.base import ConfigBase

from .values import parse_size

__all__ = [
    "BUILTIN_RUNTIME",
    "DEFAULT_DATA_ROOT",
    "DEFAULT_EXEC_ROOT",
    "DEFAULT_HOST",
    "DEFAULT_TLS_HOST",
    "AddressPool",
    "AuditLog",
    "Config",
    "Listener",
    "Proxies",
    "RegistryRules",
    "RuntimeEntry",
    "Ulimit",
]

DEFAULT_DATA_ROOT = "/var/lib/orlop"
DEFAULT_EXEC_ROOT = "/run/orlop"
DEFAULT_HOST = "unix:///run/orlop.sock"
DEFAULT_TLS_HOST = "tcp://localhost:2376"
BUILTIN_RUNTIME = "runc"


class AddressPool(ConfigBase, frozen=True, kw_only=True):
    """A pool that subnets of networks without one are cut from: `size` is the prefix length of each subnet."""

    base: str
    size: int


class Ulimit(ConfigBase, frozen=True, kw_only=True, rename={"name": "Name", "hard": "Hard", "soft": "Soft"}):
    """A resource limit; -1 is unlimited."""

    name: str
    hard: int
    soft: int


class RuntimeEntry(
    ConfigBase,
    frozen=True,
    kw_only=True,
    rename={"runtime_args": "runtimeArgs", "runtime_type": "runtimeType"},
    omit_defaults=True,
):
    """An entry of `runtimes`: the path of a program with runc's command line."""

    path: str = ""
    runtime_args: tuple[str, ...] = ()
    runtime_type: str = ""
    options: dict[str, Any] | None = None


class Proxies(ConfigBase, frozen=True, kw_only=True):
    """The proxies for registry traffic. Values missing in daemon.json come from the environment."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class Listener(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """An entry of `listeners`: one more socket, and what its clients may do. `mode` is octal; without it 0660 if there is a
    `group`, else 0600. `labels`: only objects with all of these labels are visible. `tlscacert`: the CA of its clients over
    TCP; without it the daemon's. `image_names`: patterns of the image names that its clients may assign, move and remove."""

    host: str
    role: str
    labels: tuple[str, ...] = ()
    image_names: tuple[str, ...] = ()
    shared_images: bool = False
    show_env: bool = False
    tlscacert: str = ""
    owner: str = ""
    group: str = ""
    mode: str = ""


class AuditLog(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """The log of who did what, as JSON lines. `required`: a change that cannot be logged is refused."""

    path: str
    max_size: str = "100m"
    max_file: int = 5
    required: bool = False


class RegistryRules(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """Which repositories may be pulled from and pushed to, by patterns of their names; None: all. Those in `digest_only` may
    be pulled by digest only."""

    pull: tuple[str, ...] | None = None
    push: tuple[str, ...] | None = None
    digest_only: tuple[str, ...] = ()


@lru_cache(maxsize=16)
def _instance(data_root: str) -> str:
    """Kept: it resolves two paths, and a boot asks for each container."""
    root = os.path.realpath(data_root)
    return "" if root == os.path.realpath(DEFAULT_DATA_ROOT) else f"{crc32(os.fsencode(root)):08x}"


class Config(ConfigBase, frozen=True, kw_only=True):
    """The merged configuration. Immutable: a reload makes a new one."""

    allow_direct_routing: bool = False
    allow_insecure_tcp: bool = False
    allow_nondistributable_artifacts: tuple[str, ...] = ()
    audit_log: AuditLog | None = None
    authorization_plugins: tuple[str, ...] = ()
    bip: str = ""
    bip6: str = ""
    bridge: str = ""
    bridge_accept_fwmark: str = ""
    builder: dict[str, Any] = msgspec.field(default_factory=dict)
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    cgroup_parent: str = ""
    containerd: str = ""
    containerd_namespace: str = "moby"
    containerd_plugin_namespace: str = "plugins.moby"
    cpu_rt_period: int = 0
    cpu_rt_runtime: int = 0
    cri_containerd: bool = False
    data_root: str = DEFAULT_DATA_ROOT
    debug: bool = False
    default_address_pools: tuple[AddressPool, ...] = ()
    default_cgroupns_mode: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_ipc_mode: str = "private"
    default_network_opts: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    default_runtime: str = BUILTIN_RUNTIME
    default_shm_size: str = "64M"
    default_stop_timeout: int = 10
    default_ulimits: dict[str, Ulimit] = msgspec.field(default_factory=dict)
    deprecated_key_path: str = ""
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    exec_opts: tuple[str, ...] = ()
    exec_root: str = DEFAULT_EXEC_ROOT
    experimental: bool = False
    features: dict[str, bool] = msgspec.field(default_factory=dict)
    firewall_backend: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    front_ends: tuple[str, ...] = ("docker", "check")
    group: str = "docker"
    guards: tuple[str, ...] = ("listeners",)
    host_gateway_ip: str = ""
    host_gateway_ips: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    icc: bool = True
    image_compression: str = "gzip"
    init: bool = False
    init_path: str = ""
    insecure_registries: tuple[str, ...] = ()
    ip: str = "0.0.0.0"
    ip_forward: bool = True
    ip_forward_no_drop: bool = False
    ip_masq: bool = True
    ip6tables: bool = True
    iptables: bool = True
    ipv6: bool = False
    labels: tuple[str, ...] = ()
    listeners: tuple[Listener, ...] = ()
    live_restore: bool = False
    log_driver: str = "json-file"
    log_format: str = "text"
    log_level: str = "info"
    log_opts: dict[str, str] = msgspec.field(default_factory=dict)
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    max_upload_attempts: int = 5
    metrics_addr: str = ""
    min_api_version: str = "1.24"
    mtu: int = 1500
    network_control_plane_mtu: int = 1500
    network_diagnostic_port: int = 0
    no_new_privileges: bool = False
    node_generic_resources: tuple[str, ...] = ()
    nri_opts: dict[str, Any] = msgspec.field(default_factory=dict)
    pidfile: str = ""
    proxies: Proxies = Proxies()
    raw_logs: bool = False
    registry_mirrors: tuple[str, ...] = ()
    registry_rules: RegistryRules = RegistryRules()
    rootless: bool = False
    runtimes: dict[str, RuntimeEntry] = msgspec.field(default_factory=dict)
    seccomp_profile: str = "builtin"
    selinux_enabled: bool = False
    services: tuple[str, ...] = ("engine", "metrics")
    shutdown_timeout: int = 15
    storage_driver: str = ""
    storage_opts: tuple[str, ...] = ()
    swarm_default_advertise_addr: str = ""
    tls: bool = False
    tlscacert: str = ""
    tlscert: str = ""
    tlskey: str = ""
    tlsverify: bool | None = None
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    userns_remap: str = ""

    # --- derived values -------------------------------------------------------------------------------------------------

    @property
    def instance(self) -> str:
        """ "" for the daemon on the default data root, else eight hex digits derived from its data root. Part of every name
        that this daemon gives to an object of the host."""
        return _instance(self.data_root)

    @property
    def bridge_name(self) -> str:
        """The link of the network `bridge`; "" when `bridge` is "none" (no such network). At most 15 bytes, the kernel's
        limit."""
        if self.bridge:
            return "" if self.bridge == "none" else self.bridge
        return self.default_bridge

    @property
    def default_bridge(self) -> str:
        """The bridge that the daemon creates; any other that `bridge` names must be created by the administrator."""
        return f"orlop-{self.instance}" if self.instance else "orlop0"

    @property
    def cgroup_driver(self) -> str:
        """What creates cgroups: `native.cgroupdriver` of exec-opts, else systemd on a pure cgroup v2 host that runs it."""
        for option in self.exec_opts:
            key, _, value = option.partition("=")
            if key.strip().lower() == "native.cgroupdriver":
                return value.strip()
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        return "systemd" if unified and os.path.isdir("/run/systemd/system") else "cgroupfs"

    @property
    def effective_cgroup_parent(self) -> str:
        """The parent of containers without a `CgroupParent` of their own."""
        if self.cgroup_parent:
            return self.cgroup_parent
        if self.cgroup_driver == "systemd":
            return f"orlop-{self.instance}.slice" if self.instance else "orlop.slice"
        return f"/orlop-{self.instance}" if self.instance else "/orlop"

    @property
    def effective_hosts(self) -> tuple[str, ...]:
        """The addresses to listen on. With TLS and no `hosts`, dockerd listens on its TLS port of loopback; Orlop listens on
        the socket too. An empty host means the socket, never an address."""
        if self.hosts:
            return tuple(dict.fromkeys(host if host.strip() else DEFAULT_HOST for host in self.hosts))
        return (DEFAULT_HOST, DEFAULT_TLS_HOST) if self.uses_tls else (DEFAULT_HOST,)

    @property
    def cdi_directories(self) -> tuple[str, ...] | None:
        """The directories of device descriptions; None when CDI is off, by dockerd's switch or by a single empty
        directory."""
        return None if self.features.get("cdi") is False or self.cdi_spec_dirs == ("",) else self.cdi_spec_dirs

    @property
    def pid_path(self) -> str:
        """The path of the pid file: beside the default exec root, inside any other."""
        if self.pidfile:
            return self.pidfile
        return "/run/orlop.pid" if self.exec_root == DEFAULT_EXEC_ROOT else os.path.join(self.exec_root, "orlop.pid")

    @property
    def shm_bytes(self) -> int:
        return parse_size(self.default_shm_size)

    @property
    def uses_tls(self) -> bool:
        """As in dockerd, `tlsverify` means TLS even when it is false: then clients need no certificate."""
        return self.tls or self.tlsverify is not None

    @property
    def verifies_clients(self) -> bool:
        """Whether TLS clients need a certificate: yes, unless `tlsverify` is false. `tls` alone verifies."""
        return self.uses_tls and self.tlsverify is not False

    @property
    def effective_log_level(self) -> str:
        return "debug" if self.debug else self.log_level

    @property
    def effective_storage_driver(self) -> str:
        return self.storage_driver or "overlay2"

    def all_runtimes(self) -> dict[str, RuntimeEntry]:
        """Every runtime that a container may name, the built-in one included."""
        return {BUILTIN_RUNTIME: RuntimeEntry(path=BUILTIN_RUNTIME), **self.runtimes}

    def storage_options(self, driver: str) -> tuple[tuple[str, str], ...]:
        """The `storage-opts` of one driver, without its prefix: `overlay2.size=10G` is ("size", "10G")."""
        found = []
        for option in self.storage_opts:
            key, _, value = option.partition("=")
            prefix, _, name = key.strip().partition(".")
            if prefix == driver:
                found.append((name, value.strip()))
        return tuple(found)
