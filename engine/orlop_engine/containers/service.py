"""The operations on containers that front ends and other services of the engine can call. Each method calls a function of
this package with the `Ports`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from orlop_engine.futures import Future
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.logs import LogsRequest, LogStream, read_logs
from orlop_engine.types.containers import CreateRequest, EndpointSettings, UpdateRequest
from orlop_engine.volumes.record import VolumeCheck
from orlop_monitor.protocol import Attach

from . import (
    attach,
    checkpoints,
    connections,
    create,
    details,
    launch,
    lifecycle,
    links,
    listing,
    log_cache,
    pausing,
    processes,
    removal,
    stopping,
    update,
    waits,
)
from .container import Container
from .log_info import log_info
from .ports import Ports

if TYPE_CHECKING:
    from . import dry_run

__all__ = ["Containers"]


class Containers:
    def __init__(self, ports: Ports) -> None:
        self.ports = ports
        self.index = ports.index
        self.paths = ports.paths
        self.events = ports.events

    def get(self, text: str) -> Container:
        """Find a container by id, name, or a unique prefix of its id."""
        return self.index.get(text)

    async def create(
        self,
        name: str,
        platform: str,
        request: CreateRequest,
        volume_labels: Mapping[str, str] | None = None,
        vet: VolumeCheck | None = None,
        *,
        images: ImagePolicy = UNRESTRICTED,
        flat_readonly: bool = False,
        newest: bool = False,
    ) -> create.Created:
        with self.ports.counters.timed("container", "create"):
            created = await create.create(
                self.ports,
                name,
                platform,
                request,
                volume_labels,
                vet,
                images=images,
                flat_readonly=flat_readonly,
                newest=newest,
            )
        await launch.begin(self.ports, created.container)
        return created

    async def plan(
        self,
        name: str,
        platform: str,
        request: CreateRequest,
        vet: VolumeCheck | None = None,
        *,
        images: ImagePolicy = UNRESTRICTED,
        flat_readonly: bool = False,
        newest: bool = False,
    ) -> dry_run.Plan:
        """What `create` and `start` would make: see `dry_run.plan`."""
        from . import dry_run  # imported here, because the daemon's start does not need it

        return await dry_run.plan(
            self.ports, name, platform, request, vet, images=images, flat_readonly=flat_readonly, newest=newest
        )

    async def start(self, container: Container, checkpoint: str = "", directory: str = "") -> None:
        await lifecycle.start(self.ports, container, checkpoint, directory)

    async def stop(self, container: Container, signal: str, seconds: int | None) -> None:
        await stopping.stop(self.ports, container, signal, seconds)

    async def restart(self, container: Container, signal: str, seconds: int | None) -> None:
        await lifecycle.restart(self.ports, container, signal, seconds)

    async def kill(self, container: Container, signal: str) -> None:
        await stopping.kill(self.ports, container, signal)

    async def pause(self, container: Container) -> None:
        await pausing.pause(self.ports, container)

    async def unpause(self, container: Container) -> None:
        await pausing.unpause(self.ports, container)

    async def rename(self, container: Container, name: str) -> None:
        await lifecycle.rename(self.ports, container, name)

    async def update(self, container: Container, request: UpdateRequest) -> list[str]:
        return await update.update(self.ports, container, request)

    async def remove(self, container: Container, force: bool, volumes: bool) -> None:
        with self.ports.counters.timed("container", "delete"):
            await removal.remove(self.ports, container, force=force, volumes=volumes)

    async def remove_link(self, name: str) -> None:
        await links.remove(self.ports, name)

    async def prune(self, filters: listing.Filters) -> tuple[list[str], int]:
        return await removal.prune(self.ports, filters)

    def waiting(self, container: Container, condition: str) -> Future[int]:
        return waits.waiting(container, condition)

    async def attach(self, container: Container, client: attach.Duplex, request: Attach, detach_keys: bytes) -> None:
        await attach.attach(self.ports.events, container, client, request, detach_keys)

    async def logs(self, container: Container, request: LogsRequest, *, living: bool) -> LogStream:
        """The container's log. If `living` is false, a request with `follow` ends after the existing records."""
        config, run = container.record.host_config.log_config, container.run
        ended = run.finished if living and run is not None else None
        driver, options = await self.ports.drivers.log(*container.record.log_driver), config.config or {}
        if not driver.capabilities.readable and (copy := log_cache.driver_of_copy(config.type, options)):
            driver, options = await self.ports.drivers.log(copy), log_cache.options_of_copy(options)
        return read_logs(driver, log_info(self.paths, container), options, request, ended)

    async def processes(self, container: Container, ps_args: str, *, apart: bool = False) -> processes.ProcessTable:
        return await processes.processes(self.ports, container, ps_args, apart=apart)

    async def connect(self, container: Container, network: str, settings: EndpointSettings) -> None:
        await connections.connect(self.ports, container, network, settings)

    async def disconnect(self, container: Container, network: str) -> None:
        await connections.disconnect(self.ports, container, network)

    async def checkpoint(self, container: Container, name: str, directory: str, *, end: bool) -> None:
        await checkpoints.create(self.ports, container, name, directory, end=end)

    def checkpoints(self, container: Container, directory: str) -> list[str]:
        return checkpoints.names(self.paths, container, directory)

    async def remove_checkpoint(self, container: Container, name: str, directory: str) -> None:
        await checkpoints.remove(self.paths, container, name, directory)

    def select(self, *, everything: bool, limit: int, filters: listing.Filters) -> list[Container]:
        """The containers that a list request selects: see `listing.select`."""
        return listing.select(self.ports, everything=everything, limit=limit, filters=filters)

    async def port_holder(self, error: BaseException) -> str:
        """The user of the host port that has caused the error: see `port_holders.describe`."""
        from . import port_holders

        return await port_holders.describe(self.ports, error)

    def summary(self, container: Container) -> details.Summary:
        """The values that a list shows of a container. They do not change until the container's `revision` or
        `images_revision` changes."""
        return details.summary(self.ports, container)

    async def describe(self, container: Container) -> details.Details:
        """All values that are shown of a container. They do not change until the container's `revision` changes. Only
        `links` may change earlier, because it contains names of other containers."""
        return await details.details(self.ports, container)

    @property
    def images_revision(self) -> int:
        """A number that changes whenever the name of an image in a summary may have changed."""
        return self.ports.images.changes

    def linked_names(self) -> dict[str, list[str]]:
        """Container id -> the additional names that links give to the container."""
        return links.names(self.index, self.ports.networks)

    async def sizes(self, container: Container) -> details.Sizes:
        """Ask the storage driver for a container's disk usage."""
        return await details.sizes(self.ports, container)

    async def measure(self, containers: Iterable[Container], *, at_once: int = 1 << 16) -> dict[str, details.Sizes]:
        """The sizes by container id, without containers that cannot be measured. `at_once` is the number of containers that
        are measured at the same time."""
        return await details.measure(self.ports, containers, at_once)
