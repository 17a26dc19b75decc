"""The configuration of a new container. As in Docker, values in the request override values in the image's configuration,
and these override the daemon's defaults."""

from __future__ import annotations

from msgspec import UNSET

from orlop_engine.config import Config, defaults
from orlop_engine.spec import environment, security
from orlop_engine.spec.build import MASKED_PATHS, READONLY_PATHS
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import ContainerConfig, Healthcheck, HostConfig, Ulimit
from orlop_engine.types.images import ImageConfig

from . import mount_spec

__all__ = ["clean_path", "merge_config", "with_defaults"]


def _strings(value: list[str] | str | None) -> list[str] | None:
    return [value] if isinstance(value, str) else value


def _merge_command(
    cmd: list[str] | None, entrypoint: list[str] | None, image: ImageConfig
) -> tuple[list[str] | None, list[str] | None]:
    """Merge command and entrypoint. An empty entrypoint removes the image's entrypoint and keeps the image's command. The
    entrypoint [""] also removes the image's command."""
    if not cmd and not entrypoint:
        cmd = list(image.cmd) if image.cmd else None
    if entrypoint is None and image.entrypoint:
        entrypoint = list(image.entrypoint)
    return cmd, None if entrypoint == [""] else entrypoint


def merge_config(given: ContainerConfig, image: ImageConfig, container_id: str) -> ContainerConfig:
    """Merge the user's configuration with the image's, as Docker does. The user's values win."""
    cmd, entrypoint = _merge_command(_strings(given.cmd), _strings(given.entrypoint), image)
    merged = {name: getattr(given, name) for name in ContainerConfig.__struct_fields__}
    exposed = {**(image.exposed_ports or {}), **(given.exposed_ports or {})}
    merged |= {
        "hostname": given.hostname or container_id[:12],
        "user": given.user or image.user,
        "env": environment.inherit(given.env or (), image.env or ()),
        "cmd": cmd,
        "entrypoint": entrypoint,
        "exposed_ports": {port if "/" in port else f"{port}/tcp": {} for port in exposed} or UNSET,
        "volumes": {path: {} for path in (*(image.volumes or ()), *(given.volumes or ()))} or None,
        "working_dir": clean_path(given.working_dir or image.working_dir),
        "labels": {**(image.labels or {}), **(given.labels or {})},
        "stop_signal": (given.stop_signal or image.stop_signal) or UNSET,
        "shell": given.shell or image.shell or UNSET,
        "healthcheck": _merge_health(given.healthcheck or None, image),
    }
    return ContainerConfig(**merged)


def clean_path(path: str) -> str:
    """Normalise the path. A relative path (from an image) is returned unchanged, and the runtime refuses it later."""
    return mount_spec.normal_target(path) if path.startswith("/") else path


def _merge_health(given: Healthcheck | None, image: ImageConfig) -> object:
    if image.healthcheck is None:
        return given or UNSET
    base = Healthcheck(**{name: getattr(image.healthcheck, name) for name in Healthcheck.__struct_fields__})
    if given is None:
        return base
    for name in Healthcheck.__struct_fields__:
        if value := getattr(given, name):
            setattr(base, name, value)
    return base


def with_defaults(daemon: Config, config: ContainerConfig, host: HostConfig) -> HostConfig:
    """Fill in the daemon's defaults, and normalise values that clients write in different ways. Changes `host`, and returns
    it."""
    if host.network_mode in ("", "default"):
        host.network_mode = defaults.DEFAULT_NETWORK
    if config.network_disabled is True:
        host.network_mode = defaults.NO_NETWORK
    host.restart_policy.name = host.restart_policy.name or "no"
    host.runtime = host.runtime or daemon.effective_runtime
    host.shm_size = host.shm_size or daemon.shm_bytes
    host.ipc_mode = host.ipc_mode or daemon.default_ipc_mode
    host.cgroupns_mode = (
        host.cgroupns_mode or daemon.default_cgroupns_mode or ("private" if facts().cgroup_version == 2 else "host")
    )
    if host.oom_kill_disable is None:
        host.oom_kill_disable = False if facts().cgroup_version == 1 else None
    if host.log_config.type in ("", daemon.log_driver):
        host.log_config.config = {**daemon.log_opts, **(host.log_config.config or {})}
    host.log_config.type = host.log_config.type or daemon.log_driver
    host.log_config.config = host.log_config.config or {}
    own = {limit.name for limit in host.ulimits or ()}
    missing = [
        Ulimit(name=limit.name, hard=limit.hard, soft=limit.soft)
        for limit in daemon.default_ulimits.values()
        if limit.name not in own
    ]
    if missing:
        host.ulimits = [*(host.ulimits or ()), *missing]
    # Clients write "no limit" in several ways, but inspect always shows null
    if host.pids_limit is not None and host.pids_limit <= 0:
        host.pids_limit = None
    if host.memory_swappiness == -1:
        host.memory_swappiness = None
    if security.parse(host.security_opt or ()).unmasked and not host.privileged:
        host.masked_paths, host.readonly_paths = host.masked_paths or [], host.readonly_paths or []
    elif not host.privileged:
        if host.masked_paths is None:
            host.masked_paths = [*MASKED_PATHS, *facts().thermal_paths]
        if host.readonly_paths is None:
            host.readonly_paths = list(READONLY_PATHS)
    if (host.privileged or "host" in (host.ipc_mode, host.pid_mode)) and not security.parse(host.security_opt or ()).labels:
        host.security_opt = [*(host.security_opt or ()), "label=disable"]
    return host
