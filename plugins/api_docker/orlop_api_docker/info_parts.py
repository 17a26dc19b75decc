"""Builds the answers of `GET /info` and `GET /version` from the configuration, counts and facts about the host. This module
does no I/O."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import UNSET, UnsetType

from orlop_engine.config import Config
from orlop_engine.config.policy import IGNORED
from orlop_engine.system.host import Cgroups

from .wire.system import AddressPoolInfo, IndexInfo, RegistryInfo, RuntimeInfo

__all__ = [
    "address_pools",
    "commit",
    "parse_runtime_version",
    "registry",
    "runtimes",
    "security_options",
    "warnings",
]

Version = tuple[int, int]

ALWAYS_INSECURE = ("::1/128", "127.0.0.0/8")
_ROOT = "\n         Access to the remote API is equivalent to root access on the host."
_LIMITS = (
    ("memory", "memory limit"),
    ("swap", "swap limit"),
    ("cfs_period", "cpu cfs period"),
    ("cfs_quota", "cpu cfs quota"),
    ("shares", "cpu shares"),
    ("cpuset", "cpuset"),
)


def registry(config: Config, version: Version) -> RegistryInfo:
    """Docker Hub with its mirrors, and all registries that may be used without TLS."""
    mirrors = [mirror.rstrip("/") + "/" for mirror in config.registry_mirrors]
    indexes = {"docker.io": IndexInfo(name="docker.io", mirrors=mirrors, secure=True, official=True)}
    cidrs = list(ALWAYS_INSECURE)
    for name in config.insecure_registries:
        if "/" in name:
            cidrs.append(name)
        else:
            indexes[name] = IndexInfo(name=name, mirrors=[], secure=False, official=False)
    dropped = None if version < (1, 49) else UNSET  # the settings of nondistributable artifacts have no effect
    return RegistryInfo(
        insecure_registry_cidrs=cidrs,
        index_configs=indexes,
        mirrors=mirrors,
        allow_nondistributable_artifacts_cidrs=dropped,
        allow_nondistributable_artifacts_hostnames=dropped,
    )


def runtimes(config: Config, status: Mapping[str, dict[str, str]], version: Version) -> dict[str, RuntimeInfo]:
    """The runtimes by name. `status` contains the values that each runtime reports; clients know this field since API
    1.44."""
    known = status if version >= (1, 44) else {}
    return {
        name: RuntimeInfo(entry.path, list(entry.runtime_args) or None, known.get(name) or None)
        for name, entry in config.all_runtimes().items()
    }


def address_pools(config: Config) -> list[AddressPoolInfo] | UnsetType:
    """The configured address pools; UNSET if no pools are configured. As in Docker, the built-in pools are not shown."""
    return [AddressPoolInfo(base=pool.base, size=pool.size) for pool in config.default_address_pools] or UNSET


def commit(found: str, version: Version) -> dict[str, str]:
    """Clients before 1.49 warn if the commit differs from `Expected`, so `Expected` is the same commit."""
    return {"ID": found, "Expected": found} if version < (1, 49) else {"ID": found}


def security_options(
    config: Config, cgroups: Cgroups, seccomp: bool, apparmor: bool = False, *, version: Version
) -> list[str]:
    """Items of the form "name=NAME,KEY=VALUE". Before API 1.25, an item is only a name."""
    options = ["name=apparmor"] if apparmor else []
    if seccomp:
        options.append(f"name=seccomp,profile={config.seccomp_profile}")
    if config.userns_remap not in ("", "host"):
        options.append("name=userns")
    if cgroups.version == "2" and config.default_cgroupns_mode != "host":
        options.append("name=cgroupns")
    if config.no_new_privileges:
        options.append("name=no-new-privileges")
    return options if version >= (1, 25) else [option.removeprefix("name=").partition(",")[0] for option in options]


def _open_tcp(config: Config) -> Sequence[str]:
    hosts = [host for host in config.daemon.effective_hosts if host.partition("://")[0] not in ("unix", "fd")]
    return [] if config.daemon.verifies_clients else [host.removeprefix("tcp://") for host in hosts]


def warnings(
    config: Config, cgroups: Cgroups, forwarding: bool, missing_runtimes: Sequence[str], degraded: Iterable[str] = ()
) -> list[str] | None:
    """The warnings that `docker info` prints: limits without effect, unprotected API sockets, configuration keys without
    effect, runtimes that are not installed, and drivers that do not answer (`degraded` contains a sentence for each of these
    drivers)."""
    found = [f"WARNING: No {name} support" for field, name in _LIMITS if not getattr(cgroups, field)]
    if config.ip_forward and not forwarding:
        found.append("WARNING: IPv4 forwarding is disabled")
    found += [
        f"WARNING: API is accessible on https://{host} without TLS client verification.{_ROOT}"
        if config.daemon.uses_tls
        else f"WARNING: API is accessible on http://{host} without encryption.{_ROOT}"
        for host in _open_tcp(config)
    ]
    defaults = Config()
    for key, reason in IGNORED.items():
        field = key.replace("-", "_")
        if getattr(config, field) != getattr(defaults, field):
            found.append(f"WARNING: {key} is ignored: {reason}")
    found += [f"WARNING: runtime {name} is not installed" for name in missing_runtimes]
    found += [f"WARNING: {sentence}" for sentence in degraded]
    return found or None


def parse_runtime_version(output: str) -> Mapping[str, str]:
    """Parse the output of `runc --version`: "runc version 1.1.15", "commit: ...", "spec: ...". crun and youki have the same
    format."""
    found: dict[str, str] = {}
    for line in output.splitlines():
        name, colon, value = line.partition(":")
        if colon and value.strip():
            found.setdefault(name.strip().lower(), value.strip())
        elif " version " in line:
            found.setdefault("version", line.partition(" version ")[2].strip())
    return found
