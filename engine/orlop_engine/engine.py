"""The engine: Docker's containers, images, networks and volumes. This module creates the services, and opens and closes them
in order.

   `open` creates the services and loads their rows. `restore` adopts running containers, and records the exits of containers
   that have ended. Then requests are served. `shutdown` stops the containers, or leaves them to their monitors.

Mutating operations run in the engine's nursery (`Engine.run`), so a client that disconnects does not interrupt them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar, TypeVarTuple, Unpack

import trio

from orlop_engine.config import Config
from orlop_engine.counters import Counters
from orlop_kernel.config import Loaded
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_sdk import InvalidParameter, cgroups
from orlop_sdk.idmaps import IdMap

from .containers import connections, labels, links, reload_constraints, restore
from .containers.background import Background
from .containers.events import ContainerEvents
from .containers.index import ContainerIndex
from .containers.paths import ContainerPaths
from .containers.ports import CurrentConfig, Ports
from .containers.rows import Rows
from .drivers import Drivers
from .execs import Execs
from .futures import run_to_completion
from .images.service import Images
from .networks.service import Networks
from .processes.runs import private_directory, release_private_directory
from .processes.zygote import Zygote
from .volumes.service import Volumes

if TYPE_CHECKING:
    from .building.service import Building
    from .containers.service import Containers
    from .files.service import Files
    from .stats.service import Stats

__all__ = ["Engine"]

T = TypeVar("T")
Args = TypeVarTuple("Args")


class Engine:
    """The engine's services are its attributes. A reload replaces `config`; all other attributes stay the same as long as
    the engine exists. `loaded` is the configuration with the origin of each value. `needs_restart` are changed keys that the
    last reload could not apply."""

    def __init__(self, config: Config, store: Store, events: EventBus, zygote: Zygote, nursery: trio.Nursery) -> None:
        self.current = CurrentConfig(config)
        self.loaded = Loaded(config.daemon)
        self.needs_restart: tuple[str, ...] = ()
        self.store = store
        self.events = events
        self.zygote = zygote
        self.nursery = nursery
        self.serving = trio.Event()
        self.counters = Counters()
        self.drivers = Drivers(config)
        self.storage_name = config.effective_storage_driver
        self.storage = self.drivers.storage(self.storage_name)
        self.images = Images(os.path.join(config.data_root, "content"), store, events, self.storage, zygote, config, nursery)
        self.volumes = Volumes(store, events, self.drivers.volume, self._volume_users)
        self.networks = Networks(store, events, self.drivers.network, config)
        self.index = ContainerIndex(lambda index, name: links.resolve(index, self.networks, name))
        self.paths = ContainerPaths(config.data_root, config.exec_root)
        container_events = ContainerEvents(events)
        self.execs = Execs(
            containers=self.index,
            paths=self.paths,
            events=container_events,
            networks=self.networks,
            drivers=self.drivers,
            current=self.current,
        )
        self.ports = Ports(
            index=self.index,
            paths=self.paths,
            rows=Rows(store, self.index),
            events=container_events,
            background=Background(nursery),
            current=self.current,
            store=store,
            images=self.images,
            volumes=self.volumes,
            networks=self.networks,
            storage=self.storage,
            storage_name=self.storage_name,
            drivers=self.drivers,
            execs=self.execs,
            zygote=zygote,
            counters=self.counters,
            serving=self.serving,
            ids=self._id_map(),
        )
        self.images.users = self.index.users_of_images
        self.images.counters = self.counters

    # The modules of these services are imported at the first request, or by `preload`, because the daemon's start does not
    # need them

    @cached_property
    def containers(self) -> Containers:
        from .containers.service import Containers

        return Containers(self.ports)

    @cached_property
    def files(self) -> Files:
        from .files.service import Files

        return Files(self.ports, self.images)

    @cached_property
    def stats(self) -> Stats:
        from .stats.service import Stats

        return Stats(self.index, self.nursery)

    @cached_property
    def building(self) -> Building:
        from .building.service import Building

        return Building(self)

    def _id_map(self) -> IdMap | None:
        if not self.config.userns_remap:
            return None
        from .config.remapping import id_map

        ids = id_map(self.config.userns_remap)
        if ids and not self.storage.capabilities.idmapped_mounts:
            raise InvalidParameter(
                f'cannot use userns-remap with storage driver "{self.storage_name}": its mounts cannot be id-mapped'
            )
        return ids

    def _volume_users(self) -> dict[str, list[str]]:
        return self.index.users_of_volumes()

    @property
    def config(self) -> Config:
        return self.current.config

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: Config, store: Store, events: EventBus, zygote: Zygote, nursery: trio.Nursery
    ) -> AsyncIterator[Engine]:
        """Create the services and load their rows. No container is changed yet."""
        mount_points = os.path.join(config.exec_root, "mnt")
        private_directory(mount_points, 0o711 if config.userns_remap else 0o700)
        engine = cls(config, store, events, zygote, nursery)
        try:
            engine.paths.make_roots()
            await engine.ports.rows.load(labels.deciding(config))
            # Checked before anything is changed to match this configuration
            reload_constraints.check_at_start(engine.index, engine.paths, config)
            if rows := list(store.load("builds")):
                await engine.building.load(rows)
            await engine.images.load()
            await engine.volumes.load()
            await engine.networks.load()
            for container in engine.index:
                connections.complete(engine.networks, container)
            yield engine
        finally:
            release_private_directory(mount_points)
            with trio.move_on_after(5, shield=True):
                await engine.drivers.close()

    async def restore(self) -> None:
        """Adopt running containers, record the exits of containers that ended while no daemon ran, remove orphaned files,
        and start containers as their restart policies require."""
        self.nursery.start_soon(self.networks.names.write_again)
        if "building" in vars(self) or self.images.image_store.layers.of_builds:
            self.ports.background.start(self.building.snapshots.sweep)
        await restore.restore(self.ports)

    async def shutdown(self, *, leave_running: bool) -> None:
        """Stop the containers, or leave them to their monitors. If no container runs afterwards, remove Orlop's network
        objects and cgroups from the host."""
        await restore.shutdown(self.ports, leave_running=leave_running)
        if not restore.any_alive(self.index, self.paths):
            await self.networks.remove_from_host()
            # With the cgroup driver systemd, systemd must remove the slice
            if self.config.cgroup_driver == "cgroupfs":
                cgroups.remove(cgroups.named(self.config.effective_cgroup_parent))

    def reconfigure(self, config: Config) -> None:
        self.current.config = config
        self.drivers.reconfigure(config)
        self.images.reconfigure(config)

    async def run(self, operation: Callable[[Unpack[Args]], Awaitable[T]], *args: *Args) -> T:
        """Run an operation to completion, even if the caller is cancelled."""
        return await run_to_completion(self.nursery, operation, *args)
