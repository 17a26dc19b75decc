"""Turns the two files of a container, `config.v2.json` and `hostconfig.json`, into Orlop's row."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from msgspec import UNSET
from msgspec.structs import replace

from orlop_engine.calls import asked
from orlop_engine.containers import mount_spec, names, validate
from orlop_engine.containers.record import ContainerRecord, MountRecord
from orlop_engine.containers.state import Phase, State
from orlop_engine.drivers import Drivers
from orlop_engine.networks.records import NetworkRecord
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import ContainerConfig, EndpointSettings, HostConfig, MountSpec
from orlop_sdk import InvalidParameter
from orlop_sdk.base import parse_rfc3339

from .inventory import Container

__all__ = ["Surroundings", "record"]

T = TypeVar("T")

_SWARM = "com.docker.swarm.task.id"
_SHIM_RUNTIME = "io.containerd.runc.v2"  # the name of runc in some versions of dockerd
_STORAGE = "overlay2"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The objects to which containers may refer: objects of Orlop, and objects that are adopted at the same time. `networks`
    has names and IDs as keys."""

    drivers: Drivers
    images: Collection[str]
    volumes: Collection[str]
    networks: Mapping[str, NetworkRecord]


class _State(msgspec.Struct, rename="pascal"):
    running: bool = False
    pid: int = 0
    exit_code: int = 0
    error: str = ""
    started_at: str = ""
    finished_at: str = ""
    oom_killed: bool = msgspec.field(default=False, name="OOMKilled")
    removal_in_progress: bool = False
    dead: bool = False


class _Mount(msgspec.Struct, rename="pascal"):
    """An entry of `MountPoints` (volume/mounts.MountPoint)."""

    type: str = ""
    source: str = ""
    destination: str = ""
    name: str = ""
    driver: str = ""
    relabel: str = ""
    rw: bool = msgspec.field(default=True, name="RW")
    propagation: str = ""
    copy_data: bool | None = None
    spec: MountSpec | None = None


class _Settings(msgspec.Struct, rename="pascal"):
    networks: dict[str, dict[str, Any] | None] | None = None


class _Config(msgspec.Struct, rename="pascal"):
    """The fields of `config.v2.json` that are not in `Config` and `HostConfig`."""

    path: str = ""
    args: list[str] | None = None
    created: str = ""
    driver: str = ""
    managed: bool = False
    state: _State = msgspec.field(default_factory=_State)
    network_settings: _Settings | None = None
    mount_points: dict[str, _Mount | None] | None = None
    restart_count: int = 0
    has_been_started_before: bool = False
    has_been_manually_stopped: bool = False


def _without_nulls(value: Mapping[str, Any]) -> dict[str, Any]:
    """Remove nulls, because Go writes null for fields that are not set."""
    return {key: each for key, each in value.items() if each is not None}


def _as(value: Mapping[str, Any], kind: type[T]) -> T:
    return msgspec.convert(_without_nulls(value), kind)


def _ns(text: str) -> int:
    return max(parse_rfc3339(text), 0) if text and not text.startswith("0001-") else 0


async def record(container: Container, around: Surroundings) -> tuple[ContainerRecord, list[str]]:
    """The row, and descriptions of changes for the container. Raises `InvalidParameter`, with the reason, if the container
    cannot be adopted."""
    try:
        found = _as(container.config, _Config)
        config = _as(container.config.get("Config") or {}, ContainerConfig)
        host = _as(container.host_config, HostConfig)
        endpoints = _endpoints(found)
        created, started, finished = (_ns(text) for text in (found.created, found.state.started_at, found.state.finished_at))
    except (msgspec.MsgspecError, ValueError, TypeError) as error:
        raise InvalidParameter(f"its configuration is not understood: {error}") from error
    _check_kind(container, found, config, host, around)
    _complete(host, around.drivers)
    main = endpoints.get(host.network_mode)
    if main is not None:
        # Before 25.0, only the container's configuration contains the address. Since 25.0, the endpoint also contains it,
        # from the first start on
        main.mac_address = main.mac_address or config.mac_address or ""
        config.mac_address = main.mac_address or UNSET
    changes = await _check_options(config, host, around)
    _check_networks(host, endpoints, around.networks)
    exited = found.has_been_started_before or bool(started)
    state = State(
        phase=Phase.EXITED if exited and started else Phase.CREATED,
        oom_killed=found.state.oom_killed,
        exit_code=found.state.exit_code,
        error=found.state.error,
        started_ns=started,
        finished_ns=finished,
    )
    row = ContainerRecord(
        id=container.id,
        name=names.check(container.name),
        created_ns=created,
        args=[found.path, *(found.args or ())],
        config=config,
        host_config=host,
        image_id=container.image,
        storage_driver=_STORAGE,
        endpoints=endpoints,
        endpoints_complete=True,
        mounts=tuple(_mounts(found, config, host, around)),
        state=state,
        restart_count=found.restart_count,
        started_before=found.has_been_started_before,
        monitor_pid=0,
        manually_stopped=found.has_been_manually_stopped,
    )
    return row, changes


def _check_kind(
    container: Container, found: _Config, config: ContainerConfig, host: HostConfig, around: Surroundings
) -> None:
    state = found.state
    if state.running and _lives(state.pid, container.id):
        raise InvalidParameter("it is still running (live-restore): stop it before you stop dockerd")
    if state.dead or state.removal_in_progress:
        raise InvalidParameter("its removal was not completed")
    if found.managed or _SWARM in (config.labels or {}):
        raise InvalidParameter("it is a task of a swarm's service")
    if not container.snapshots or container.snapshots[-1].key != container.id:
        raise InvalidParameter("its files are not in the image store that is adopted")
    if container.image not in around.images:
        raise InvalidParameter("its image is not adopted")
    if host.storage_opt:
        raise InvalidParameter("it has a quota (--storage-opt), which the storage driver does not support")
    if not found.path:
        raise InvalidParameter("it has no command")


def _lives(pid: int, container: str) -> bool:
    """Whether the process exists and is in a cgroup of the container."""
    try:
        with open(f"/proc/{pid}/cgroup") as file:
            return pid > 0 and container in file.read()
    except OSError:
        return False


def _complete(host: HostConfig, drivers: Drivers) -> None:
    """Fill in values that older versions of dockerd did not store."""
    config = drivers.config
    host.network_mode = "bridge" if host.network_mode in ("", "default") else host.network_mode
    host.restart_policy.name = host.restart_policy.name or "no"
    host.runtime = config.effective_runtime if host.runtime in ("", _SHIM_RUNTIME) else host.runtime
    host.shm_size = host.shm_size or config.shm_bytes
    host.ipc_mode = host.ipc_mode or config.default_ipc_mode
    host.cgroupns_mode = host.cgroupns_mode or ("private" if facts().cgroup_version == 2 else "host")
    host.log_config.type = host.log_config.type or "json-file"


async def _check_options(config: ContainerConfig, host: HostConfig, around: Surroundings) -> list[str]:
    """Check the options like the options of a create request. The check may reset options, so copies are passed to it."""
    wanted, own = replace(config), msgspec.convert(msgspec.to_builtins(host), HostConfig)
    if own.network_mode.startswith("container:"):
        wanted.hostname, wanted.exposed_ports = "", UNSET  # these values were set by dockerd, not by a client
    if own.uts_mode == "host":
        wanted.hostname = ""
    validate.check(wanted, own, facts())
    await around.drivers.runtime(own.runtime)
    try:
        log_driver = await around.drivers.log(own.log_config.type)
        await asked(log_driver.validate, own.log_config.config or {})
    except InvalidParameter as error:
        raise InvalidParameter(f"its log driver cannot be used: {error}") from error
    if own.log_config.type == "local":
        return ["its log is not adopted: Docker's log driver local has another format"]
    return []


def _check_networks(host: HostConfig, endpoints: Mapping[str, EndpointSettings], known: Mapping[str, NetworkRecord]) -> None:
    mode = host.network_mode
    wanted = set(endpoints) if mode.startswith("container:") else {mode, *endpoints}
    for name in sorted(wanted):
        if name not in known:
            raise InvalidParameter(f"its network {name} is not adopted")


class _Endpoint(EndpointSettings):
    """`DesiredMacAddress` is the address that a user chose; `MacAddress` may be a generated address."""

    desired_mac_address: str = ""


def _endpoints(found: _Config) -> dict[str, EndpointSettings]:
    endpoints = {}
    for name, given in ((found.network_settings and found.network_settings.networks) or {}).items():
        each = _as(given or {}, _Endpoint)
        endpoints[name] = EndpointSettings(
            ipam_config=each.ipam_config,
            links=each.links,
            aliases=each.aliases,
            mac_address=each.desired_mac_address,
            driver_opts=each.driver_opts,
            gw_priority=each.gw_priority,
        )
    return endpoints


# --- mounts ---

_HEX = re.compile(r"[0-9a-f]{64}")


def _mounts(found: _Config, config: ContainerConfig, host: HostConfig, around: Surroundings) -> Iterator[MountRecord]:
    """The mounts that the options require. They use the values that dockerd has resolved: names of anonymous volumes, mounts
    of other containers (--volumes-from), volumes of the image."""
    points = {mount.destination: mount for mount in (found.mount_points or {}).values() if mount is not None}
    specs = [spec for spec in host.mounts or () if spec.type != "bind" or os.path.exists(spec.source)]
    planned = {each.destination: each for each in mount_spec.plan(replace(host, mounts=specs), config.volumes or ())}
    for destination, mount in planned.items():
        if mount.type == "tmpfs" and mount.mode:
            yield mount  # dockerd stores no mount point for --tmpfs
        elif destination not in points and mount.type != "volume":
            yield mount
    for destination, point in points.items():
        known = planned.get(destination)
        if point.type == "volume" and point.name not in around.volumes:
            raise InvalidParameter(f"its volume {point.name} is not adopted")
        if point.type not in ("bind", "volume", "tmpfs"):
            raise InvalidParameter(f'its mount {destination} has the unsupported type "{point.type}"')
        yield _resolved(point, known if known and known.type == point.type else None)


def _resolved(point: _Mount, planned: MountRecord | None) -> MountRecord:
    base = planned or MountRecord(point.type, point.destination)
    options = point.spec.bind_options if point.spec else None
    volume = point.spec.volume_options if point.spec else None
    return replace(
        base,
        source=point.source if point.type == "bind" else "",
        name=point.name if point.type == "volume" else "",
        driver=(point.driver or "local") if point.type == "volume" else "",
        mode=point.relabel,
        rw=point.rw,
        propagation=point.propagation,
        recursive=not (options and options.non_recursive),
        subpath=volume.subpath if volume else base.subpath,
        anonymous=base.anonymous or (point.type == "volume" and _HEX.fullmatch(point.name) is not None),
        copy=base.copy if point.copy_data is None else point.copy_data,
    )
