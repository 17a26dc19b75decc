"""`docker commit`: store a container's changes as a layer on top of its image. `docker export`: pack a container's root
as one tar."""

from __future__ import annotations

import logging
import os
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from functools import partial
from typing import Protocol

import msgspec
import trio
from msgspec import UNSET

from orlop_engine.containers import pausing
from orlop_engine.containers.container import Container
from orlop_engine.containers.ports import Ports
from orlop_engine.images import changes as instructions
from orlop_engine.images.committed import CommitRequest, merge
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.records import Image
from orlop_engine.images.references import Reference
from orlop_engine.types.containers import ContainerConfig
from orlop_engine.types.images import ImageConfig, ImageHealthcheck
from orlop_monitor.unpack.request import Change as Listed
from orlop_monitor.unpack.request import Pack
from orlop_sdk import Change, Conflict, NotFound, OrlopError
from orlop_sdk.storage import ChangeKind

from . import archive

__all__ = ["Committer", "commit", "export", "listed_changes"]

log = logging.getLogger("orlop.files")

_THAW = 30.0  # seconds within which a container must be resumed, also when the daemon is shutting down
_encode = msgspec.json.Encoder().encode


class Committer(Protocol):
    """The images service."""

    def get(self, image_id: str) -> Image | None: ...
    async def commit(self, request: CommitRequest, diff: AsyncIterable[bytes]) -> Image: ...


async def export(ports: Ports, container: Container) -> archive.TarStream:
    """Pack the container's root without its mounts."""
    pieces = await archive.stream(ports, container, Pack, f"export container {container.name}")
    ports.events.publish(container, "export")
    return pieces


def _image_config(config: ContainerConfig) -> ImageConfig:
    """The fields of a container's configuration that an image configuration also has."""
    health = None
    if config.healthcheck is not UNSET:
        health = ImageHealthcheck(**{name: getattr(config.healthcheck, name) for name in ImageHealthcheck.__struct_fields__})
    return ImageConfig(
        user=config.user,
        exposed_ports=config.exposed_ports or None,
        env=list(config.env) if config.env else None,
        cmd=[config.cmd] if isinstance(config.cmd, str) else config.cmd,
        healthcheck=health,
        volumes=config.volumes or None,
        working_dir=config.working_dir,
        entrypoint=[config.entrypoint] if isinstance(config.entrypoint, str) else config.entrypoint,
        labels=config.labels or None,
        stop_signal=config.stop_signal or "",
        shell=config.shell or None,
    )


async def commit(
    ports: Ports,
    images: Committer,
    container: Container,
    name: Reference | None,
    *,
    config: ContainerConfig | None,
    instructions_: Sequence[str],
    comment: str,
    author: str,
    pause: bool,
    policy: ImagePolicy = UNRESTRICTED,
) -> Image:
    """Commit a container, and return the image once it is durable. For an invalid request, raises before any change is
    made."""
    record = container.record
    base = images.get(record.image_id)
    if base is None:
        raise NotFound(f"cannot commit container {container.id}: its image {record.image_id} has been removed")
    if record.removing or record.state.dead:
        raise Conflict(f"you cannot commit container {container.id} which is being removed")
    own = _image_config(record.config)

    def configure() -> ImageConfig:
        return merge(instructions.apply(_image_config(config) if config else own, instructions_), own)

    wanted = await trio.to_thread.run_sync(configure)  # on a thread, because both configurations may have megabytes
    request = CommitRequest(
        base=base,
        config=wanted,
        name=name,
        comment=comment,
        author=author,
        created_by=" ".join(record.args),
        policy=policy,
    )
    async with _still(ports, container, pause), AsyncExitStack() as stack:
        listed = listed_changes(await ports.storage.changes(container.id))
        stack.callback(os.close, listed)
        packing = partial(Pack, layer=True, sparse=False)
        what = f"commit container {container.name}"
        pieces = await archive.stream(ports, container, packing, what, changes=listed)
        async with aclosing(pieces):
            image = await images.commit(request, pieces)
        reference = name.familiar if name else ""
        ports.events.publish(container, "commit", comment=comment, imageID=image.id, imageRef=reference)
    return image


@asynccontextmanager
async def _still(ports: Ports, container: Container, pause: bool) -> AsyncIterator[None]:
    """Pause the container during the block. If a user has paused the container before, it stays paused."""
    paused = False
    if pause and container.record.state.running and not container.record.state.paused:
        try:
            await pausing.pause(ports, container, paused_by_engine=True)
            paused = True
        except OrlopError:
            if container.record.paused_by_engine:  # the container is frozen, but the row could not be committed
                await _resume(ports, container)
            if container.record.state.running:
                raise  # a container that has ended need not be paused, because its files do not change any more
    try:
        yield
    finally:
        if paused:
            await _resume(ports, container)


async def _resume(ports: Ports, container: Container) -> None:
    with trio.move_on_after(_THAW, shield=True) as patience:
        await pausing.resume(ports, container)
    if patience.cancelled_caught:
        log.error("container %s is still frozen: it did not thaw in %g s", container.name, _THAW)


def listed_changes(changes: Sequence[Change]) -> int:
    """Write the changes to an anonymous memory file for the worker."""
    fd = os.memfd_create("changes", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.writelines(_encode(Listed(change.path, change.kind == ChangeKind.DELETED)) + b"\n" for change in changes)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd
