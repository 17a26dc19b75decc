"""Plan a container without creating it, for `orlop run --dry-run`.

The plan is made by the functions that create and start use: `create.settle` merges the request, `mount_plan` plans the
mounts, and `bundle.compose` builds the OCI spec. A dry run writes no row and no file, creates no volume or snapshot, and
reserves no address or port. The values that exist only after a create or a start are placeholders in angle brackets
(`Plan.placeholders`).

Requests that a create refuses are refused with the same error. All other problems are collected in `Plan.problems`.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator, Mapping, MutableSequence, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import msgspec
from msgspec import structs

from orlop_engine.calls import asked
from orlop_engine.config import defaults
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.records import Image
from orlop_engine.networks.ports import wanted_ports
from orlop_engine.networks.preview import PreviewedNetwork, PreviewedPort
from orlop_engine.types.containers import BindOptions, CreateRequest, HostConfig
from orlop_engine.types.images import ImageConfig
from orlop_engine.volumes.record import VolumeCheck, VolumeRecord, check_name
from orlop_sdk import Mount, NotFound, OrlopError, Runtime, users
from orlop_sdk.base import WireBase

from . import (
    bundle,
    create,
    launch,
    layer_users,
    links,
    mount_plan,
    mount_spec,
    names,
    netfiles,
    user_namespaces,
    volumes,
)
from .container import Container
from .ports import Ports
from .record import ContainerRecord, MountRecord
from .services import Volumes

__all__ = ["Plan", "plan"]

_COMMAND = "<command of the image>"
_HOME = "<home directory of the user>"
_NAME = "<name of the container>"
_NETWORK, _USERS = "<network namespace>", "<user namespace>"
_ID, _RUN, _SHORT = "<container id>", "<first 32 digits of the container id>", "<first 12 digits of the container id>"
_MEANINGS = {
    _COMMAND: "is known when the image has been pulled",
    _HOME: "is in /etc/passwd of the image, whose layers can be read only while they are mounted",
    _NETWORK: "the path of the network namespace, which the start creates",
    _USERS: "the path of the user namespace, which the start creates",
    _NAME: "the create chooses it",
    _ID: "the create chooses it",
    _RUN: "the create chooses it",
    _SHORT: "the create chooses it",
}


class PlannedImage(WireBase):
    """`id` is "" if the image is not present, and would be pulled."""

    reference: str
    id: str


class PlannedUser(WireBase):
    """`given`: the user as the request or the image sets it. `uid` and `gid` are None if they cannot be resolved without a
    mount, or if the image is not present."""

    given: str
    uid: int | None = None
    gid: int | None = None


class PlannedVolume(WireBase):
    """A volume that the create would create. The name of an anonymous volume is a placeholder."""

    name: str
    driver: str
    target: str


class PlannedLog(WireBase):
    driver: str
    options: Mapping[str, str]


class PlannedRestart(WireBase):
    name: str
    maximum_retry_count: int


class Plan(WireBase):
    """`spec` is the OCI spec, None if a problem prevents it. `directories` are the missing sources of `--volume` binds:
    directories that the creation of the container would make."""

    name: str
    image: PlannedImage
    user: PlannedUser
    runtime: str
    spec: dict[str, Any] | None
    volumes: list[PlannedVolume]
    directories: list[str]
    network_mode: str
    networks: list[PreviewedNetwork]
    ports: list[PreviewedPort]
    log: PlannedLog
    restart_policy: PlannedRestart
    placeholders: dict[str, str]
    warnings: list[str]
    problems: list[str]


class _PlannedVolumes:
    """Looks up volumes like the volume service, but changes nothing. A missing volume has a placeholder as its source."""

    def __init__(self, real: Volumes) -> None:
        self._real = real

    def get(self, name: str) -> VolumeRecord:
        return self._real.get(name)

    async def mount(self, name: str, container_id: str, users: MutableSequence[str]) -> Sequence[Mount]:
        try:
            found = await self._real.mounts(name)
        except NotFound:
            found = ()
        return found or (Mount("bind", f"<source of volume {name}>"),)


class _Problems(list[str]):
    @contextmanager
    def collect(self) -> Iterator[None]:
        """Collect an error that the `with` block raises."""
        try:
            yield
        except OrlopError as error:
            self.append(str(error))


async def plan(
    ports: Ports,
    name: str,
    platform: str,
    request: CreateRequest,
    vet: VolumeCheck | None = None,
    *,
    images: ImagePolicy = UNRESTRICTED,
    flat_readonly: bool = False,
    newest: bool = False,
) -> Plan:
    """See `create.create` for the parameters, and for the errors that are raised."""
    problems, container_id = _Problems(), names.new_id()
    image, warnings = _image(ports, platform, request, images, newest)
    config = image.config if image else ImageConfig(cmd=[_COMMAND])
    bare = names.check(name) if name else ""
    with problems.collect():
        ports.index.check_free(bare)
    settled = create.settle(ports, container_id, request, config, warnings)
    host = settled.host
    refused = await volumes.patiently(partial(_allow_missing_sources, host, problems)) if host.mounts else set()
    mounts = await _mounts(ports, settled, flat_readonly=flat_readonly)
    mounts = tuple(_resolved(ports, mount, problems) for mount in mounts)
    image_id = image.id if image else ""
    record = create.new_record(ports, container_id, bare or _NAME, settled, request, config, image_id, mounts)
    new = await _new_volumes(ports, record, vet, problems)
    runtime = await _drivers(ports, host, problems)
    found = await ports.networks.preview(host.network_mode, settled.endpoints, _published(record))
    problems += found.problems
    user, spec = await _spec(ports, record, image, runtime, problems)
    answer = Plan(
        name=record.name,
        image=PlannedImage(reference=request.image, id=image_id),
        user=user,
        runtime=host.runtime,
        spec=spec,
        volumes=new,
        directories=await volumes.patiently(partial(_missing_directories, mounts, refused)),
        network_mode=host.network_mode,
        networks=found.networks,
        ports=found.ports,
        log=PlannedLog(driver=host.log_config.type, options=host.log_config.config or {}),
        restart_policy=PlannedRestart(
            name=host.restart_policy.name, maximum_retry_count=host.restart_policy.maximum_retry_count
        ),
        placeholders={},
        warnings=settled.warnings,
        problems=list(dict.fromkeys(problems)),
    )
    created = {each.name for each in new}
    return _with_placeholders(answer, container_id, [name for name in volumes.anonymous(mounts) if name in created])


def _image(
    ports: Ports, platform: str, request: CreateRequest, policy: ImagePolicy, newest: bool
) -> tuple[Image | None, list[str]]:
    """The image, None if it is not present."""
    try:
        return create.choose_image(ports.images, platform, request, policy, newest)
    except NotFound:
        return None, []


def _allow_missing_sources(host: HostConfig, problems: list[str]) -> set[str]:
    """Report the missing sources of `--mount type=bind`, and make `mount_spec.plan` accept them. Returns these sources."""
    refused = set()
    for number, spec in enumerate(host.mounts or ()):
        options = spec.bind_options or BindOptions()
        if spec.type != "bind" or not spec.source.startswith("/") or options.create_mountpoint:
            continue
        if not os.path.exists(spec.source):
            problems.append(f'invalid mount config for type "bind": bind source path does not exist: {spec.source}')
            options = structs.replace(options, create_mountpoint=True)
            host.mounts = [*(host.mounts or ())]
            host.mounts[number] = structs.replace(spec, bind_options=options)
            refused.add(posixpath.normpath(spec.source))
    return refused


async def _mounts(ports: Ports, settled: create.Settled, *, flat_readonly: bool) -> tuple[MountRecord, ...]:
    inherited = create.inherited(ports.index, settled.host)
    image_volumes = settled.config.volumes or ()
    made = partial(mount_spec.plan, settled.host, image_volumes, inherited, flat_readonly=flat_readonly)
    return await volumes.patiently(made) if settled.host.mounts else made()


def _resolved(ports: Ports, mount: MountRecord, problems: _Problems) -> MountRecord:
    with problems.collect():
        return create.with_image(ports.images, mount)
    return mount


async def _new_volumes(
    ports: Ports, record: ContainerRecord, vet: VolumeCheck | None, problems: _Problems
) -> list[PlannedVolume]:
    """The volumes that a create would create. Raises an error if the client may not use an existing volume."""
    found = []
    for mount in record.mounts:
        if mount.type != "volume":
            continue
        wanted = mount.driver or record.host_config.volume_driver
        try:
            existing = ports.volumes.get(mount.name)
        except NotFound:
            with problems.collect():
                check_name(mount.name)
                await ports.drivers.volume(wanted or defaults.VOLUME_DRIVER)
            driver = wanted or defaults.VOLUME_DRIVER
            found.append(PlannedVolume(name=mount.name, driver=driver, target=mount.destination))
            continue
        if vet:
            vet(existing, mount.anonymous)
        if wanted and wanted != existing.driver:
            conflict = f"driver '{existing.driver}' already has volume '{mount.name}': volume name must be unique"
            problems.append(f"create {mount.name}: {conflict}")
    return found


async def _drivers(ports: Ports, host: HostConfig, problems: _Problems) -> Runtime | None:
    """Report an unknown log driver, invalid log options, and an unknown runtime. Returns the runtime's driver."""
    with problems.collect():
        log_driver = await ports.drivers.log(host.log_config.type)
        await asked(log_driver.validate, host.log_config.config or {})
    with problems.collect():
        return await ports.drivers.runtime(host.runtime)
    return None


def _published(record: ContainerRecord) -> list[Any]:
    host = record.host_config
    if host.network_mode.startswith("container:") or host.network_mode == defaults.HOST_NETWORK:
        return []
    return wanted_ports(record.config.exposed_ports or (), host.port_bindings or {}, host.publish_all_ports)


def _missing_directories(mounts: Sequence[MountRecord], refused: set[str]) -> list[str]:
    sources = dict.fromkeys(mount.source for mount in mounts if mount.type == "bind")
    return [source for source in sources if source not in refused and not os.path.exists(source)]


async def _spec(
    ports: Ports, record: ContainerRecord, image: Image | None, runtime: Runtime | None, problems: _Problems
) -> tuple[PlannedUser, dict[str, Any] | None]:
    container = Container(record)
    planning = replace(ports, volumes=_PlannedVolumes(ports.volumes))  # type: ignore[arg-type]
    host, given = record.host_config, record.config.user
    identity: users.Identity | None = None
    user = PlannedUser(given=given)
    if image is not None:
        with problems.collect():
            identity = await _identity(ports, image, given, host.group_add or ())
        if identity:
            user = PlannedUser(given=given, uid=identity.uid, gid=identity.gid)
    if runtime is None:
        return user, None
    with problems.collect():
        user_namespaces.check(ports.ids, host)
        network = launch.network_namespace(ports, host)
        launch.share_names(ports.index, container)
        inside = await mount_plan.mounted(planning, container, runtime)
        if network in ("", "new"):
            with problems.collect():
                netfiles.check_gateway(ports.networks, host.extra_hosts or ())
            with problems.collect():
                links.hosts(ports.index, ports.networks, record)
        start = bundle.StartInput(
            identity=identity or users.Identity(0, 0, (), _HOME),
            network=network,
            new_network=_NETWORK,
            user_namespace=_USERS if user_namespaces.ids_of(ports.ids, host) else "",
            files=netfiles.binds(ports, container, network),
            mounts=inside.oci,
            shm=inside.shm,
        )
        spec = bundle.compose(ports, container, start)
        if identity is None:  # `username` is the field of the OCI spec for a name without a uid
            spec["process"]["user"] = {"username": given or "root"}
        return user, spec
    return user, None


async def _identity(ports: Ports, image: Image, user: str, groups: Sequence[str]) -> users.Identity | None:
    """The identity of the user in the image. None if the image would have to be mounted: a dry run mounts nothing, so it
    cannot read the layers of some storage drivers."""
    mounts = await ports.storage.mounts(image.snapshot, readonly=True) if image.snapshot else ()
    return await volumes.patiently(partial(layer_users.resolve, mounts, user, groups))


def _with_placeholders(answer: Plan, container_id: str, anonymous: Sequence[str]) -> Plan:
    """Replace the random texts that were chosen for this dry run (such as the container's id) by placeholders. These texts
    are too long to occur in the plan by chance."""
    text = msgspec.json.encode(answer).decode()
    short, run = container_id[:12], container_id[:32]
    chosen = {container_id: _ID, run: _RUN, short: _SHORT}
    chosen |= {name: f"<anonymous volume {number}>" for number, name in enumerate(anonymous, 1)}
    for value, placeholder in chosen.items():
        text = text.replace(value, placeholder)
    found = msgspec.json.decode(text, type=Plan)
    found.placeholders = {key: meaning for key, meaning in _MEANINGS.items() if key in text}
    found.placeholders |= {each: "the create chooses its name" for each in chosen.values() if each not in _MEANINGS}
    for volume in found.volumes:
        source = f"<source of volume {volume.name}>"
        if source in text:
            found.placeholders[source] = "the create creates the volume"
    return found
