"""The OCI bundle of a container: gather the inputs of its spec, and write config.json for the runtime.

The inputs include users from the container's root, namespaces of other containers, and programs and profiles of the host.
`engine.spec` builds the document from the results. A start calls `write`, which needs the container's monitor. `compose`
needs no monitor and writes nothing, so that `dry_run` can show the spec of a container that does not exist.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec
from msgspec import UNSET

from orlop_engine.config import Config
from orlop_engine.init_programs import find_init, no_init
from orlop_engine.processes.monitor_client import MonitorClient
from orlop_engine.spec import build, capabilities, environment, seccomp, security
from orlop_engine.spec.host import facts
from orlop_engine.terminals import rows_and_columns
from orlop_engine.types.containers import HostConfig
from orlop_sdk import InvalidParameter, users
from orlop_sdk.idmaps import IdMap

from . import apparmor_profile, devices, links, netfiles, user_namespaces
from .container import Container
from .index import ContainerIndex
from .paths import ContainerPaths
from .ports import Ports
from .record import ContainerRecord
from .runtime import cgroup_path

__all__ = ["StartInput", "bounding_set", "compose", "process_input", "resolve_user", "write"]

_encode = msgspec.json.Encoder().encode
_READ_ONLY = ("ro", "nosuid", "nodev", "noexec")  # BuildKit's options


@dataclass(frozen=True, slots=True, kw_only=True)
class StartInput:
    """Those inputs of the OCI spec that are known only at a start. `network` is "new", "" for the host's network, or the
    path of another container's network namespace. `new_network` and `user_namespace` are the paths of the monitor's
    namespaces. `files` are the bind mounts of resolv.conf, hostname and hosts. `mounts` and `shm`: see
    `mount_plan.MountPlan`."""

    identity: users.Identity
    network: str
    new_network: str
    user_namespace: str
    files: Mapping[str, str]
    mounts: list[dict[str, Any]]
    shm: str


async def write(
    ports: Ports,
    container: Container,
    monitor: MonitorClient,
    user_mounts: list[dict[str, Any]],
    network: str,
    shm: str,
) -> None:
    record = container.record
    identity = resolve_user(ports.paths, container, monitor, record.config.user, record.host_config.group_add or ())
    files = netfiles.write(ports, container, network)
    with container.publish() as draft:  # the start commits this change
        draft.no_new_privileges = _no_new_privileges(ports.config, record.host_config)
    spec = compose(
        ports,
        container,
        StartInput(
            identity=identity,
            network=network,
            new_network=monitor.netns_path,
            user_namespace=monitor.userns_path,
            files=files,
            mounts=user_mounts,
            shm=shm,
        ),
    )
    path = f"{ports.paths.run_dir(record.id)}/config.json"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(fd, "wb") as file:
        file.write(_encode(spec))


def compose(ports: Ports, container: Container, given: StartInput) -> dict[str, Any]:
    """The OCI spec. Changes nothing. Raises `OrlopError` for options that the host or the daemon does not support."""
    record, network, identity = container.record, given.network, given.identity
    names = _namespaces(ports.index, record.host_config, given)
    ids = user_namespaces.ids_of(ports.ids, record.host_config)
    bounding = bounding_set(record.host_config)
    asked = security.parse(record.host_config.security_opt or ())
    linked = links.environment(ports.index, ports.networks, record)
    init = _init_binary(ports.config, record.host_config)
    args = ["/sbin/docker-init", "--", *record.args] if init else record.args
    process = process_input(ports.config, record, identity, args, bounding, linked)
    if container.unlisted:  # the caller has set all environment variables except HOME
        process = replace(process, env=environment.with_home(record.config.env or (), identity.home))
    spec = build.build(
        build.SpecInput(
            root=ports.paths.root(record.id),
            process=process,
            host_config=record.host_config,
            hostname=record.config.hostname,
            domainname=record.config.domainname,
            namespaces=names,
            cgroup_path=cgroup_path(ports.config, record.id, record.host_config),
            mounts=given.mounts,
            files=given.files,
            file_options=_READ_ONLY if container.unlisted and not container.unlisted.editable_files else (),
            seccomp=_seccomp(ports.config, record.host_config, asked.seccomp, bounding),
            facts=facts(),
            annotations=record.host_config.annotations or {},
            init_binary=init,
            shm=given.shm,
            writable_cgroups=asked.writable_cgroups,
            sysctls=_sysctls(record.host_config, network, names, ids),
        )
    )
    devices.inject(spec, record.host_config.device_requests or (), ports.config.cdi_directories)
    return spec


def resolve_user(
    paths: ContainerPaths,
    container: Container,
    monitor: MonitorClient,
    user: str,
    group_add: list[str] | tuple[str, ...] = (),
) -> users.Identity:
    root = os.open(f"/proc/{monitor.pid}/root{paths.root(container.id)}", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return users.resolve(root, user, group_add)
    finally:
        os.close(root)


def bounding_set(host: HostConfig) -> tuple[str, ...]:
    add = [host.cap_add] if isinstance(host.cap_add, str) else host.cap_add or []
    drop = [host.cap_drop] if isinstance(host.cap_drop, str) else host.cap_drop or []
    return capabilities.effective(add, drop, host.privileged)


def process_input(
    config: Config,
    record: ContainerRecord,
    identity: users.Identity,
    args: list[str],
    bounding: tuple[str, ...],
    linked: list[str],
) -> build.ProcessInput:
    """The inputs of the spec for a process of the container: the first process, or an exec. An exec has the privileges with
    which its container was started, even if the daemon's default has changed since then. `linked`: environment variables of
    linked containers."""
    host = record.host_config
    started_with = record.no_new_privileges
    return build.ProcessInput(
        args=args,
        env=environment.container(
            record.config.hostname,
            record.config.tty,
            record.config.env or (),
            identity.home,
            linked,
        ),
        cwd=record.config.working_dir or "/",
        identity=identity,
        capabilities=bounding,
        terminal=record.config.tty,
        console_size=rows_and_columns(host.console_size),
        no_new_privileges=_no_new_privileges(config, host) if started_with is None else started_with,
        apparmor=apparmor_profile.profile(host),
        rlimits={limit.name: (limit.soft, limit.hard) for limit in host.ulimits or ()},
        oom_score_adj=host.oom_score_adj,
    )


def _no_new_privileges(config: Config, host: HostConfig) -> bool:
    asked = security.parse(host.security_opt or ()).no_new_privileges
    return config.no_new_privileges if asked is None else asked


def _seccomp(config: Config, host: HostConfig, asked: str, bounding: tuple[str, ...]) -> dict[str, Any] | None:
    """The seccomp section of the spec. `asked` is the value that the client sent: "", a keyword, or the text of a profile.
    (`docker run` reads the file of a profile and sends the text.) The value in daemon.json is a keyword or the path of a
    profile's file."""
    profile = asked or ("unconfined" if host.privileged else config.seccomp_profile)
    if profile == "unconfined":
        return None
    if profile in ("", "builtin"):
        return seccomp.default(tuple(sorted(bounding)))
    if not asked:
        try:
            with open(profile) as file:
                profile = file.read()
        except OSError as error:
            raise InvalidParameter(f"cannot use seccomp profile {profile}: {error.strerror}") from None
    return seccomp.parse(profile, bounding)


def _init_binary(config: Config, host: HostConfig) -> str:
    wanted = config.init if host.init is UNSET else host.init
    if not wanted or host.pid_mode:
        return ""
    if found := find_init(config.init_path):
        return found
    raise InvalidParameter(f"cannot use --init: {no_init(config.init_path)}")


def _namespaces(index: ContainerIndex, host: HostConfig, given: StartInput) -> dict[str, str]:
    out = {"mount": ""}
    if given.network:
        out["network"] = given.new_network if given.network == "new" else given.network
    for kind, mode in (("uts", host.uts_mode), ("pid", host.pid_mode), ("ipc", host.ipc_mode)):
        if mode == "host":
            continue
        joined = mode.removeprefix("container:")
        out[kind] = index.namespace_of(joined, kind) if joined != mode else ""
    if host.cgroupns_mode == "private":
        out["cgroup"] = ""
    if given.user_namespace:
        out["user"] = given.user_namespace
    return out


def _sysctls(host: HostConfig, network: str, names: dict[str, str], ids: IdMap | None) -> dict[str, str]:
    out = {}
    if network == "new":
        groups = (1 << 31) - 1 if ids is None else next(each.size for each in ids.gids if each.inside == 0) - 1
        out = {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": f"0 {groups}"}
    for name, value in (host.sysctls or {}).items():
        if name.startswith("net.") and "network" not in names:
            raise InvalidParameter(f"sysctl {name} is not allowed in the host's network namespace")
        out[name] = value
    return out
