"""Create a container: merge the request, the image's configuration and the daemon's defaults into one record, make the
writable snapshot and the container's directory, and commit the row last. A container without a row does not exist. After a
crash, the next daemon removes the snapshot and the directory of an unfinished create.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from operator import itemgetter
from typing import NamedTuple

from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from orlop_engine.calls import asked, origin
from orlop_engine.config import defaults
from orlop_engine.images import platforms
from orlop_engine.images.platforms import rank
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.records import Image
from orlop_engine.networks.ports import wanted_ports
from orlop_engine.spec.host import facts
from orlop_engine.types.containers import ContainerConfig, CreateRequest, EndpointSettings, HostConfig
from orlop_engine.types.images import ImageConfig
from orlop_engine.unpacking import make_directory
from orlop_engine.volumes.record import VolumeCheck
from orlop_kernel.store import Put
from orlop_sdk import InvalidParameter, NotFound

from . import entry_limits, labels, links, mount_spec, names, removal, rootfs, user_namespaces, validate, volumes
from .configuration import clean_path, merge_config, with_defaults
from .container import Container
from .emulation import is_foreign
from .index import ContainerIndex
from .ports import Ports
from .record import ContainerRecord, ImageManifest, MountRecord, encode
from .services import Images, Networks

__all__ = ["Created", "Settled", "choose_image", "create", "inherited", "new_record", "settle", "with_image"]

log = logging.getLogger("orlop.containers")


@dataclass(frozen=True, slots=True)
class Created:
    container: Container
    warnings: list[str]


class Settled(NamedTuple):
    """A validated request, merged with image and daemon defaults."""

    config: ContainerConfig
    args: list[str]
    host: HostConfig
    endpoints: dict[str, EndpointSettings]
    warnings: list[str]


def _joined(index: ContainerIndex, host: HostConfig) -> None:
    """Replace `container:<name>` by `container:<id>`, so that a rename does not change which container is joined. For an IPC
    or PID namespace, the named container must exist already. For a network namespace, it must exist only when the new
    container is started, as in dockerd."""
    for name in ("network_mode", "ipc_mode", "pid_mode"):
        mode = getattr(host, name)
        if not mode.startswith("container:"):
            continue
        try:
            setattr(host, name, f"container:{index.get(mode.removeprefix('container:')).id}")
        except NotFound as error:
            if name != "network_mode":
                # After a 404, clients believe that the image is missing, and pull it
                raise InvalidParameter(str(error)) from None


def inherited(index: ContainerIndex, host: HostConfig) -> list[MountRecord]:
    found: list[MountRecord] = []
    for text in host.volumes_from or ():
        name, _, mode = text.partition(":")
        if not name:
            raise InvalidParameter("volumes-from specification cannot be an empty string")
        if mode not in ("", "ro", "rw", "z", "Z"):
            raise InvalidParameter(f"invalid mode for volumes-from: {mode}")
        try:
            shared = [mount for mount in index.get(name).record.mounts if mount.type != "tmpfs"]
        except NotFound as error:  # after a 404, clients believe that the image is missing
            raise InvalidParameter(str(error)) from None
        if len(found) + len(shared) > entry_limits.MOUNTS:
            raise InvalidParameter(f"too many mounts in VolumesFrom: at most {entry_limits.MOUNTS} are allowed")
        found += [replace(mount, rw=mount.rw and mode != "ro", mode="", copy=False) for mount in shared]
    return found


def with_image(images: Images, mount: MountRecord) -> MountRecord:
    if mount.type != "image":
        return mount
    try:
        return replace(mount, name=images.resolve(mount.source).id)
    except NotFound as error:  # after a 404, clients pull the container's image
        raise InvalidParameter(f'invalid mount config for type "image": {error}') from None


def _image(images: Images, request: CreateRequest, platform: str, newest: bool) -> tuple[Image, list[str]]:
    """The image for `platform` (by default for this host), and warnings. `newest`: see `resolve` of the image service."""
    if not request.image:
        raise InvalidParameter("no image specified: set Image in the request")
    reference = request.image
    image = images.resolve(reference, newest=newest)
    if platform:
        wanted = platforms.parse(platform)
        ranked = [
            (position, one)
            for one in images.all_platforms(reference)
            if (position := rank(wanted, one.platform)) is not None
        ]
        if not ranked:
            raise NotFound(
                f"image with reference {reference} was found but does not match the specified platform: "
                f"wanted {platform}, actual: {image.os}/{image.architecture}"
            )
        return min(ranked, key=itemgetter(0))[1], []
    host_platform = platforms.host()
    if image.architecture and image.architecture != host_platform.architecture:
        return image, [
            f"The requested image's platform ({image.os}/{image.architecture}) does not match the detected host platform "
            f"({host_platform}) and no specific platform was requested"
        ]
    return image, []


def _endpoints(networks: Networks, request: CreateRequest, host: HostConfig) -> dict[str, EndpointSettings]:
    """The container's networks, with the settings for each. A MAC address at the top level of the request applies to the
    network that the network mode names; ambiguous requests have been refused before."""
    given = (request.networking_config.endpoints_config or {}) if request.networking_config else {}
    if request.network_disabled is True:
        given = {}
    host.network_mode, found = networks.pin(host.network_mode, given)
    main = found.get(host.network_mode)
    if main and not main.mac_address and host.network_mode not in (defaults.HOST_NETWORK, defaults.NO_NETWORK):
        main.mac_address = request.mac_address or ""
    return found


def choose_image(
    images: Images, platform: str, request: CreateRequest, policy: ImagePolicy, newest: bool
) -> tuple[Image, list[str]]:
    """The image of the request, and warnings. Raises an error if the client may not use the image."""
    entry_limits.check(request, request.host_config or HostConfig())
    image, warnings = _image(images, request, platform, newest)
    if not policy.may_use(image):
        raise policy.denied(f"image {request.image}")
    return image, warnings


def settle(ports: Ports, container_id: str, request: CreateRequest, image: ImageConfig, warnings: list[str]) -> Settled:
    """Merge and validate the request. Does not access paths of the host."""
    given = request.host_config or HostConfig()
    config = merge_config(request, image, container_id)
    args = [*(config.entrypoint or ()), *(config.cmd or ())]
    if not args:
        raise InvalidParameter("no command specified")
    if request.healthcheck is not UNSET:
        validate.check(ContainerConfig(healthcheck=request.healthcheck), HostConfig(), facts())
    host = with_defaults(ports.config, config, given)
    if host.uts_mode != "host" and host.network_mode == defaults.HOST_NETWORK and not request.hostname:
        config.hostname = os.uname().nodename
    warnings += validate.check(request, host, facts())
    user_namespaces.check(ports.ids, host)
    _joined(ports.index, host)
    links.check(ports.index, host)
    endpoints = _endpoints(ports.networks, request, host)
    _check_networks(ports.networks, host, endpoints)
    wanted_ports(request.exposed_ports or (), host.port_bindings or {}, host.publish_all_ports)
    return Settled(config, args, host, endpoints, warnings)


def new_record(
    ports: Ports,
    container_id: str,
    name: str,
    settled: Settled,
    request: CreateRequest,
    image: ImageConfig,
    image_id: str,
    mounts: tuple[MountRecord, ...],
) -> ContainerRecord:
    """The record of a container that does not exist yet."""
    record = ContainerRecord(
        id=container_id,
        name=name,
        created_ns=time.time_ns(),
        args=settled.args,
        config=settled.config,
        host_config=settled.host,
        image_id=image_id,
        storage_driver=ports.storage_name,
        endpoints=settled.endpoints,
        endpoints_complete=True,
        mounts=mounts,
        image_labels=labels.of_image_alone(request, image),
        monitor_pid=0,
    )
    labels.shed(record, labels.deciding(ports.config))
    return record


async def create(
    ports: Ports,
    name: str,
    platform: str,
    request: CreateRequest,
    volume_labels: Mapping[str, str] | None = None,
    vet: VolumeCheck | None = None,
    *,
    images: ImagePolicy = UNRESTRICTED,
    flat_readonly: bool = False,
    newest: bool = False,
) -> Created:
    """Create a container. If this function raises an error, it has undone all changes. New volumes also get `volume_labels`.
    The callback `vet` can refuse volumes, and the policy `images` can refuse the image. `flat_readonly`: see
    `mount_spec.plan`; `newest`: see `resolve` of the image service."""
    container_id = names.new_id()
    image, warnings = choose_image(ports.images, platform, request, images, newest)
    settled = settle(ports, container_id, request, image.config, warnings)
    host = settled.host
    runtime = await ports.drivers.runtime(host.runtime)
    log_driver = await ports.drivers.log(host.log_config.type)
    await asked(log_driver.validate, host.log_config.config or {})
    plan = partial(
        mount_spec.plan, host, settled.config.volumes or (), inherited(ports.index, host), flat_readonly=flat_readonly
    )
    planned = await volumes.patiently(plan) if host.mounts else plan()
    planned = tuple(with_image(ports.images, mount) for mount in planned)
    manifest = await _manifest(ports.images, image)
    bare = names.check(name) if name else ""
    named = [mount.name for mount in planned if mount.type == "volume"]
    made: list[str] = []
    intents, cleared = volumes.note(container_id, planned)
    if intents:
        await ports.store.commit(intents)
    try:
        with ports.index.reserve_name(bare, container_id) as chosen, ports.volumes.hold(named):
            draft = new_record(ports, container_id, chosen, settled, request, image.config, image.id, planned)
            draft.emulated = str(image.platform) if platform and is_foreign(image.platform) else UNSET
            draft.image_manifest = manifest
            draft.made_with = {"log": origin(log_driver), "runtime": origin(runtime)}
            try:
                draft.mounts = await _ensure_volumes(ports, planned, host, made, volume_labels, vet)
                await _prepare(ports, draft, image)
                await ports.store.commit([Put("containers", container_id, encode(draft)), *cleared])
            except Exception:
                await _undo(ports, draft)
                raise
            container = Container(draft)
            ports.index.add(container)
    except Exception:
        await volumes.discard(ports.volumes, made)  # after the block, because `hold` prevents removals of the volumes
        await volumes.clear_intent(ports.store, cleared)
        raise
    ports.events.publish(container, "create")
    return Created(container, settled.warnings)


async def _ensure_volumes(
    ports: Ports,
    planned: tuple[MountRecord, ...],
    host: HostConfig,
    made: list[str],
    volume_labels: Mapping[str, str] | None,
    vet: VolumeCheck | None,
) -> tuple[MountRecord, ...]:
    try:
        return await volumes.ensure(ports.volumes, planned, host, made, volume_labels, vet)
    except NotFound as error:  # a volume driver is not installed; after a 404, clients would pull the container's image
        raise InvalidParameter(str(error)) from error


async def _manifest(images: Images, image: Image) -> ImageManifest | UnsetType:
    found, platform = await images.manifest(image), image.platform
    if found is None:
        return UNSET
    return ImageManifest(found.digest, found.size, found.media_type, platform.os, platform.architecture, platform.variant)


async def _prepare(ports: Ports, record: ContainerRecord, image: Image) -> None:
    await rootfs.prepare(ports, record, image)
    os.mkdir(ports.paths.directory(record.id), 0o710)
    os.chmod(ports.paths.directory(record.id), 0o710)  # noqa: S103 - Docker's mode: log shippers have access through the group
    asked = record.config.working_dir
    if asked not in ("", "/", clean_path(image.config.working_dir)):  # the runtime creates the image's working directory
        await _make_working_directory(ports, record, asked)
    await volumes.populate(ports, record)


async def _make_working_directory(ports: Ports, record: ContainerRecord, path: str) -> None:
    """Create the container's working directory when the container is created, as in Docker: clients may copy files into it
    before the start."""
    root = ports.paths.root(record.id)
    os.makedirs(root, mode=0o700, exist_ok=True)
    try:
        await make_directory(ports.zygote, await ports.storage.mounts(record.id), path, root)
    finally:
        os.rmdir(root)


def _check_networks(networks: Networks, host: HostConfig, endpoints: Mapping[str, EndpointSettings]) -> None:
    """Refuse impossible endpoints. A missing network is reported only at the start, because clients pull the image if the
    answer to a create request is a 404."""
    with suppress(NotFound):
        networks.check(host.network_mode, endpoints)


async def _undo(ports: Ports, record: ContainerRecord) -> None:
    """Remove all objects that a failed create has made. Errors are only logged, because the user must see the original
    error. If the daemon ends meanwhile, the next start of the daemon cleans up."""
    try:
        await removal.discard_files(ports, record.id)
    except Exception as error:
        log.warning(
            "cannot remove the files of container %s, whose create failed; the next start of the daemon removes them: %s",
            record.name,
            error,
        )
