"""Build the OCI spec of a container, in Docker's order and with Docker's defaults. This module does no I/O, because the
inputs are resolved already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from orlop_engine.types.containers import HostConfig
from orlop_sdk.users import Identity

from . import resources
from .host import Host

__all__ = ["DEFAULT_PATH", "MASKED_PATHS", "READONLY_PATHS", "ProcessInput", "SpecInput", "build", "process"]

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")

# destination: (type, source, options). `_mounts` adds /dev/shm, resolv.conf, hostname and hosts.
_MOUNTS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("/proc", "proc", "proc", ("nosuid", "noexec", "nodev")),
    ("/dev", "tmpfs", "tmpfs", ("nosuid", "strictatime", "mode=755", "size=65536k")),
    ("/dev/pts", "devpts", "devpts", ("nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5")),
    ("/sys", "sysfs", "sysfs", ("nosuid", "noexec", "nodev", "ro")),
    ("/sys/fs/cgroup", "cgroup", "cgroup", ("ro", "nosuid", "noexec", "nodev")),
    ("/dev/mqueue", "mqueue", "mqueue", ("nosuid", "noexec", "nodev")),
)
_UNLIMITED = (1 << 64) - 1  # the value -1 in the spec's type, uint64
_STAY_WRITABLE = frozenset({"/proc", "/dev", "/dev/pts", "/dev/shm", "/dev/mqueue"})


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessInput:
    """A resolved process: the complete `args`, the final `env`, and the bounding set in `capabilities`."""

    args: Sequence[str]
    env: Sequence[str]
    cwd: str
    identity: Identity
    capabilities: Sequence[str]
    terminal: bool = False
    console_size: Sequence[int] = (0, 0)
    no_new_privileges: bool = False
    apparmor: str = ""
    rlimits: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    oom_score_adj: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class SpecInput:
    """A resolved container. `namespaces` maps a type of namespace to the path of the namespace to join. "" means a new
    namespace; if a type is absent, the host's namespace is used. `mounts` are the user's mounts in OCI form. `files` are
    binds of resolv.conf, hostname and hosts (destination: source), with `file_options`. `shm` is the source of the bind at
    /dev/shm, if the shared memory is shared with other containers."""

    root: str
    process: ProcessInput
    host_config: HostConfig
    hostname: str
    domainname: str
    namespaces: Mapping[str, str]
    cgroup_path: str
    mounts: Sequence[Mapping[str, Any]]
    files: Mapping[str, str]
    file_options: Sequence[str] = ()
    seccomp: Mapping[str, Any] | None
    facts: Host
    annotations: Mapping[str, str] = field(default_factory=dict)
    init_binary: str = ""
    shm: str = ""
    writable_cgroups: bool = False
    sysctls: Mapping[str, str] = field(default_factory=dict)


def process(given: ProcessInput) -> dict[str, Any]:
    """The `process` object of a spec. An exec uses it too."""
    capabilities = list(given.capabilities)
    out: dict[str, Any] = {
        "user": {"uid": given.identity.uid, "gid": given.identity.gid, "additionalGids": list(given.identity.groups)},
        "args": list(given.args),
        "env": list(given.env),
        "cwd": given.cwd or "/",
        # Capabilities are never inheritable or ambient, because otherwise a program without file capabilities gets the
        # capabilities of its caller (CVE-2022-24769).
        "capabilities": {"bounding": capabilities, "effective": capabilities, "permitted": capabilities},
        "noNewPrivileges": given.no_new_privileges,
    }
    if given.terminal:
        out["terminal"] = True
        rows, columns = given.console_size
        if rows and columns:
            out["consoleSize"] = {"height": rows, "width": columns}
    if given.rlimits:
        out["rlimits"] = [
            {"type": f"RLIMIT_{name.upper()}", "soft": soft & _UNLIMITED, "hard": hard & _UNLIMITED}
            for name, (soft, hard) in given.rlimits.items()
        ]
    if given.apparmor:
        out["apparmorProfile"] = given.apparmor
    # The score is set even when it is 0, because otherwise the process inherits the daemon's score
    out["oomScoreAdj"] = given.oom_score_adj
    return out


def _mounts(given: SpecInput) -> list[dict[str, Any]]:
    host = given.host_config
    taken = {str(item["destination"]) for item in given.mounts}
    defaults = []
    for destination, kind, source, options in _MOUNTS:
        if destination in taken or ("/dev" in taken and destination.startswith("/dev/")):
            continue
        writable = host.privileged or (given.writable_cgroups and destination == "/sys/fs/cgroup")
        words = [word for word in options if not (writable and word == "ro")]
        if host.readonly_rootfs and destination not in _STAY_WRITABLE and "ro" not in words:
            words.append("ro")
        defaults.append({"destination": destination, "type": kind, "source": source, "options": words})
    if "/dev/shm" not in taken and "/dev" not in taken:
        defaults += _shm(given)
    readonly = ["ro"] if host.readonly_rootfs and "ro" not in given.file_options else []
    binds: list[dict[str, Any]] = [
        {
            "destination": destination,
            "type": "bind",
            "source": source,
            "options": ["rbind", "rprivate", *given.file_options, *readonly],
        }
        for destination, source in given.files.items()
        if destination not in taken
    ]
    if given.init_binary:
        binds.append(
            {"destination": "/sbin/docker-init", "type": "bind", "source": given.init_binary, "options": ["bind", "ro"]}
        )
    binds += [dict(item) for item in given.mounts]
    # A mount below another mount must come after the other mount. For example, resolv.conf must come after a volume at /etc.
    return defaults + sorted(binds, key=lambda item: str(item["destination"]).rstrip("/").count("/"))


def _shm(given: SpecInput) -> list[dict[str, Any]]:
    if given.host_config.ipc_mode == "none":
        return []
    if given.shm:
        return [{"destination": "/dev/shm", "type": "bind", "source": given.shm, "options": ["rbind", "rprivate"]}]
    options = ["nosuid", "noexec", "nodev", "mode=1777", f"size={given.host_config.shm_size or 64 << 20}"]
    return [{"destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": options}]


def _sysctls(given: SpecInput) -> dict[str, str]:
    """The sysctls of the container. As in Docker, the sysctl kernel.domainname sets the domain name, because the OCI spec
    before 1.1 has no field for the domain name."""
    own = {"kernel.domainname": given.domainname} if given.domainname and given.namespaces.get("uts") == "" else {}
    return {**own, **given.sysctls}


def _propagation(mounts: Sequence[Mapping[str, Any]]) -> str:
    """The strongest propagation among the mounts. It is always set, because runtimes have different defaults."""
    words = {word for mount in mounts for word in mount.get("options", ())}
    if words & {"shared", "rshared"}:
        return "rshared"
    return "rslave" if words & {"slave", "rslave"} else "rprivate"


def build(given: SpecInput) -> dict[str, Any]:
    """Build the spec that is written as the bundle's config.json."""
    host = given.host_config
    nodes = (
        resources.privileged_devices(host.devices or []) if host.privileged else resources.device_nodes(host.devices or [])
    )
    linux: dict[str, Any] = {
        "cgroupsPath": given.cgroup_path,
        "namespaces": [{"type": kind, "path": path} if path else {"type": kind} for kind, path in given.namespaces.items()],
        "resources": resources.of(host, privileged=host.privileged, devices=nodes),
        "rootfsPropagation": _propagation(given.mounts),
        "maskedPaths": list(host.masked_paths or ()),
        "readonlyPaths": list(host.readonly_paths or ()),
    }
    if nodes:
        linux["devices"] = [{key: value for key, value in node.items() if key != "access"} for node in nodes]
    if sysctls := _sysctls(given):
        linux["sysctl"] = sysctls
    if given.seccomp is not None:
        linux["seccomp"] = given.seccomp
    out: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": process(given.process),
        "root": {"path": given.root, "readonly": host.readonly_rootfs},
        "mounts": _mounts(given),
        "linux": linux,
    }
    if "uts" in given.namespaces and not given.namespaces["uts"]:
        out["hostname"] = given.hostname
    if given.annotations:
        out["annotations"] = dict(given.annotations)
    return out
