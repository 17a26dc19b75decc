"""The disk space of images, containers and volumes, and the part of it that a prune frees.

This module asks the drivers for sizes, a few at a time. Concurrent requests share one measurement. Drivers walk directories
on separate threads. When the last waiting client disconnects, the measurement is cancelled.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import trio

from orlop_engine.containers.container import Container
from orlop_engine.containers.details import Sizes
from orlop_engine.containers.service import Containers
from orlop_engine.images.details import ListedImage
from orlop_engine.images.service import Images
from orlop_engine.images.shared import SharedWork
from orlop_engine.volumes.record import VolumeUsage
from orlop_engine.volumes.service import Volumes

__all__ = ["OBJECT_TYPES", "ContainerUsage", "DiskUsageService", "Measured"]

OBJECT_TYPES = frozenset({"container", "image", "volume", "build-cache"})

# Measurements at a time; each measurement reads directories, and too many slow down the disk for other programs
_AT_ONCE = 4


class ContainerUsage(NamedTuple):
    """`sizes` is None if the container could not be measured."""

    container: Container
    sizes: Sizes | None


@dataclass(frozen=True, slots=True)
class Measured:
    """The disk usage for each requested type of objects. The values of all other types are None. `layers_size`: the bytes of
    all layers of all images, each counted once."""

    layers_size: int = 0
    images: Sequence[ListedImage] | None = None
    containers: Sequence[ContainerUsage] | None = None
    volumes: Sequence[VolumeUsage] | None = None


class DiskUsageService:
    """Measures disk usage; one instance per engine."""

    def __init__(self, containers: Containers, images: Images, volumes: Volumes, nursery: trio.Nursery) -> None:
        self._containers, self._images, self._volumes = containers, images, volumes
        self._shared_items: SharedWork[list[ContainerUsage]] = SharedWork(nursery)
        self._shared_volumes: SharedWork[Sequence[VolumeUsage]] = SharedWork(nursery)

    async def _container_usage(self) -> list[ContainerUsage]:
        found = self._containers.select(everything=True, limit=0, filters={})
        sizes = await self._containers.measure(found, at_once=_AT_ONCE)
        return [ContainerUsage(container, sizes.get(container.id)) for container in found]

    async def measure(self, types: Collection[str], *, blobs: bool = True) -> Measured:
        containers: list[ContainerUsage] | None = None
        volumes: Sequence[VolumeUsage] | None = None

        async def measure_containers() -> None:
            nonlocal containers
            containers = await self._shared_items.run("containers", lambda _report: self._container_usage(), _quiet)

        async def measure_volumes() -> None:
            nonlocal volumes
            volumes = await self._shared_volumes.run("volumes", lambda _report: self._volumes.with_usage(), _quiet)

        async with trio.open_nursery() as nursery:
            if "container" in types:
                nursery.start_soon(measure_containers)
            if "volume" in types:
                nursery.start_soon(measure_volumes)
        images, layers_size = await self._images.usage(blobs=blobs) if "image" in types else (None, 0)
        return Measured(layers_size, images, containers, volumes)


def _quiet(_record: object) -> None:
    """Report nothing, because a measurement has no progress."""
