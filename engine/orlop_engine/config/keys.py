"""The engine's keys of daemon.json: all keys of dockerd 29, except the keys of the kernel and of other plugins."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, ClassVar

import msgspec

import orlop_kernel.config as kernel
from orlop_kernel.config import Keys, Problem
from orlop_sdk import Register, hookimpl
from orlop_sdk.base import ConfigBase
from orlop_sdk.sizes import parse_size

from . import defaults, flags, policy

__all__ = ["AddressPool", "EngineKeys", "Proxies", "RegistryRules", "RuntimeEntry", "Ulimit"]


class AddressPool(ConfigBase, frozen=True, kw_only=True):
    """A pool of addresses. A network that is created without a subnet gets a subnet from a pool. `size` is the prefix length
    of each subnet."""

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
    """The proxies for registry traffic. Values that are missing in daemon.json are taken from the environment."""

    http_proxy: str = ""
    https_proxy: str = ""
    no_proxy: str = ""


class RegistryRules(ConfigBase, frozen=True, kw_only=True, omit_defaults=True):
    """Patterns for the names of repositories. Images may be pulled from repositories that match `pull`, and pushed to
    repositories that match `push`; None allows all repositories. Repositories that match `digest_only` may only be pulled by
    digest."""

    pull: tuple[str, ...] | None = None
    push: tuple[str, ...] | None = None
    digest_only: tuple[str, ...] = ()


class EngineKeys(Keys, frozen=True, kw_only=True):
    allow_direct_routing: bool = False
    allow_nondistributable_artifacts: tuple[str, ...] = ()
    bip: str = ""
    bip6: str = ""
    bridge: str = ""
    bridge_accept_fwmark: str = ""
    cdi_spec_dirs: tuple[str, ...] = ("/etc/cdi", "/var/run/cdi")
    cgroup_parent: str = ""
    containerd: str = ""
    containerd_namespace: str = "moby"
    containerd_plugin_namespace: str = "plugins.moby"
    cpu_rt_period: int = 0
    cpu_rt_runtime: int = 0
    cri_containerd: bool = False
    default_address_pools: tuple[AddressPool, ...] = ()
    default_cgroupns_mode: str = ""
    default_gateway: str = ""
    default_gateway_v6: str = ""
    default_ipc_mode: str = "private"
    default_network_opts: dict[str, dict[str, str]] = msgspec.field(default_factory=dict)
    default_runtime: str = defaults.RUNTIME
    default_shm_size: str = "64M"
    default_stop_timeout: int = 10
    default_ulimits: dict[str, Ulimit] = msgspec.field(default_factory=dict)
    deprecated_key_path: str = ""
    dns: tuple[str, ...] = ()
    dns_opts: tuple[str, ...] = ()
    dns_search: tuple[str, ...] = ()
    exec_opts: tuple[str, ...] = ()
    experimental: bool = False
    features: dict[str, bool] = msgspec.field(default_factory=dict)
    firewall_backend: str = ""
    fixed_cidr: str = ""
    fixed_cidr_v6: str = ""
    host_gateway_ip: str = ""
    host_gateway_ips: tuple[str, ...] = ()
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
    live_restore: bool = False
    log_driver: str = defaults.LOG_DRIVER
    log_opts: dict[str, str] = msgspec.field(default_factory=dict)
    max_concurrent_downloads: int = 3
    max_concurrent_uploads: int = 5
    max_download_attempts: int = 5
    max_upload_attempts: int = 5
    mtu: int = 1500
    network_control_plane_mtu: int = 1500
    network_diagnostic_port: int = 0
    no_new_privileges: bool = False
    node_generic_resources: tuple[str, ...] = ()
    nri_opts: dict[str, Any] = msgspec.field(default_factory=dict)
    proxies: Proxies = Proxies()
    raw_logs: bool = False
    registry_mirrors: tuple[str, ...] = ()
    registry_rules: RegistryRules = RegistryRules()
    rootless: bool = False
    runtimes: dict[str, RuntimeEntry] = msgspec.field(default_factory=dict)
    seccomp_profile: str = "builtin"
    selinux_enabled: bool = False
    shutdown_timeout: int = 15
    storage_driver: str = ""
    storage_opts: tuple[str, ...] = ()
    swarm_default_advertise_addr: str = ""
    userland_proxy: bool = True
    userland_proxy_path: str = ""
    userns_remap: str = ""

    FLAGS: ClassVar = flags.FLAGS
    HELP: ClassVar = {
        "allow-nondistributable-artifacts": "Without effect, as in dockerd",
        "deprecated-key-path": "Without effect, as in dockerd",
        "host-gateway-ip": "The older form of host-gateway-ips",
        "image-compression": "Compression of layers that are pushed: gzip or zstd",
        "max-upload-attempts": "Attempts for each layer of a push",
        "nri-opts": "Refused",
        "registry-rules": "Repositories that clients may pull from and push to",
    }
    HINTS: ClassVar = policy.HINTS
    OLDER: ClassVar = {"host-gateway-ip": "host-gateway-ips"}
    ZEROS: ClassVar = frozenset({"default-stop-timeout"})
    BOTH: ClassVar = frozenset({"runtimes"})
    RELOADABLE: ClassVar = policy.RELOADABLE
    REFUSED: ClassVar = policy.REFUSED
    IGNORED: ClassVar = policy.IGNORED

    # --- derived values -----------------------------------------------------------------------------------------------

    @property
    def cgroup_driver(self) -> str:
        """The driver that creates cgroups: `native.cgroupdriver` of exec-opts; otherwise systemd, if it runs on this host
        and the host uses only cgroup v2."""
        for option in self.exec_opts:
            key, _, value = option.partition("=")
            if key.strip().lower() == "native.cgroupdriver":
                return value.strip()
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        return "systemd" if unified and os.path.isdir("/run/systemd/system") else "cgroupfs"

    @property
    def cdi_directories(self) -> tuple[str, ...] | None:
        """The directories with CDI files; None when CDI is disabled, by the feature `cdi` or by a single empty directory,
        as in dockerd."""
        return None if self.features.get("cdi") is False or self.cdi_spec_dirs == ("",) else self.cdi_spec_dirs

    @property
    def shm_bytes(self) -> int:
        return parse_size(self.default_shm_size)

    @property
    def effective_storage_driver(self) -> str:
        return self.storage_driver or defaults.STORAGE_DRIVER

    def all_runtimes(self) -> dict[str, RuntimeEntry]:
        """All runtimes that a container may use: those of `runtimes`, and the built-in ones whose program is installed. The
        default runtime is included even if it is not installed."""
        built_in = [name for name in defaults.AUTO_RUNTIMES if name == defaults.RUNTIME or shutil.which(name)]
        return {**{name: RuntimeEntry(path=name) for name in built_in}, **self.runtimes}

    @property
    def effective_runtime(self) -> str:
        """The runtime of new containers whose request names none."""
        if self.default_runtime != defaults.AUTO_RUNTIME:
            return self.default_runtime
        known = self.all_runtimes()
        return next(name for name in defaults.AUTO_RUNTIMES if name in known)

    def storage_options(self, driver: str) -> tuple[tuple[str, str], ...]:
        """The `storage-opts` of one driver, without the driver's prefix: `overlay2.size=10G` becomes ("size", "10G")."""
        found = []
        for option in self.storage_opts:
            key, _, value = option.partition("=")
            prefix, _, name = key.strip().partition(".")
            if prefix == driver:
                found.append((name, value.strip()))
        return tuple(found)

    # --- see Keys -----------------------------------------------------------------------------------------------------

    def problems(self, config: kernel.Config) -> Iterable[Problem]:
        """See Keys."""
        from .validate import validate

        return validate(self)

    @classmethod
    def complete(cls, values: dict[str, Any], environ: Mapping[str, str], directory: str) -> Iterator[tuple[str, str]]:
        """See Keys. As in dockerd, environment variables set the proxies (if neither daemon.json nor a flag sets them) and
        the storage driver."""
        proxies = dict(values.get("proxies") or {})
        for key in ("http-proxy", "https-proxy", "no-proxy"):
            name = key.upper().replace("-", "_")
            name = name if environ.get(name) else name.lower()
            if environ.get(name) and not proxies.get(key):
                proxies[key] = environ[name]
                yield "proxies", f"environment {name}"
        if proxies:
            values["proxies"] = proxies
        if driver := environ.get("DOCKER_DRIVER"):
            values["storage-driver"] = driver
            yield "storage-driver", "environment DOCKER_DRIVER"
        _make_absolute(values, directory)

    def reload_attributes(self) -> dict[str, str]:
        """Attributes of the event `reload` for which dockerd uses another form than daemon.json."""
        unified = os.path.exists("/sys/fs/cgroup/cgroup.controllers")
        return {
            "allow-nondistributable-artifacts": "[]",
            "default-cgroupns-mode": self.default_cgroupns_mode or ("private" if unified else "host"),
            "default-shm-size": str(self.shm_bytes),
            "runtimes": " ".join(f"{name}:{entry.path}" for name, entry in sorted(self.runtimes.items())),
        }


def _make_absolute(values: dict[str, Any], directory: str) -> None:
    """Make relative paths absolute, as dockerd does. A name without a slash is kept, because it may be a program on
    PATH."""

    def absolute(path: str) -> str:
        return os.path.join(directory, path) if "/" in path else path

    if values.get("init-path"):
        values["init-path"] = absolute(values["init-path"])
    if values.get("cdi-spec-dirs"):
        values["cdi-spec-dirs"] = [each and os.path.join(directory, each) for each in values["cdi-spec-dirs"]]
    if values.get("runtimes"):
        entries = values["runtimes"].items()
        values["runtimes"] = {
            name: {**entry, "path": absolute(entry["path"])} if "path" in entry else entry for name, entry in entries
        }


@hookimpl
def orlop_keys(register: Register) -> None:
    register("engine", EngineKeys)
