"""The disk space of images, containers and volumes, and how much of it a prune would reclaim.

Asks the drivers for sizes, a few at a time, and once for all concurrent requests. Drivers walk directories on threads
reserved for this. When the last waiting client disconnects, the measurement is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import trio

from orlop_engine.containers.service import Containers
from orlop_engine.images.service import Images
from orlop_engine.images.shared import SharedWork
from orlop_engine.types.images import ImageSummary
from orlop_engine.volumes.record import VolumeUsage
from orlop_engine.volumes.service import Volumes
from orlop_sdk import OrlopError, Storage

__all__ = ["OBJECT_TYPES", "DiskUsageService", "Measured"]

OBJECT_TYPES = frozenset({"container", "image", "volume", "build-cache"})

_log = logging.getLogger("orlop.system")
_AT_ONCE = 4  # measuring reads directories: more at a time only slows the disk down for everything else


async def _measure_all(
    items: Iterable[dict[str, Any]], measure: Callable[[dict[str, Any]], Awaitable[None]]
) -> list[dict[str, Any]]:
    """Measure every item. An item that cannot be measured keeps its previous sizes; the rest is measured all the same."""
    found = list(items)
    slots = trio.CapacityLimiter(_AT_ONCE)

    async def one(item: dict[str, Any]) -> None:
        async with slots:
            try:
                await measure(item)
            except OrlopError as error:
                _log.warning("cannot measure %s: %s", item.get("Id") or item.get("Name"), error)

    async with trio.open_nursery() as nursery:
        for item in found:
            nursery.start_soon(one, item)
    return found


@dataclass(frozen=True, slots=True)
class Measured:
    """The disk usage of each type of objects that was requested; None for the others. `layers_size`: the bytes of all layers
    of all images, each counted once."""

    layers_size: int = 0
    images: Sequence[ImageSummary] | None = None
    containers: Sequence[dict[str, Any]] | None = None
    volumes: Sequence[VolumeUsage] | None = None


class DiskUsageService:
    """Measures disk usage; one instance per engine."""

    def __init__(
        self, containers: Containers, images: Images, volumes: Volumes, storage: Storage, nursery: trio.Nursery
    ) -> None:
        self._containers, self._images, self._volumes, self._storage = containers, images, volumes, storage
        self._shared_items: SharedWork[list[dict[str, Any]]] = SharedWork(nursery)
        self._shared_volumes: SharedWork[Sequence[VolumeUsage]] = SharedWork(nursery)

    async def _container_items(self) -> list[dict[str, Any]]:
        async def measure(item: dict[str, Any]) -> None:
            usage = await self._storage.usage(item["Id"])
            image = self._images.get(item["ImageID"])
            item["SizeRw"] = usage.size
            item["SizeRootFs"] = usage.size + (image.size if image else 0)

        shown = await self._containers.summaries(everything=True, limit=0, filters={}, size=False)
        return await _measure_all(msgspec.json.decode(shown), measure)

    async def measure(self, types: Collection[str], version: tuple[int, int]) -> Measured:
        containers: list[dict[str, Any]] | None = None
        volumes: Sequence[VolumeUsage] | None = None

        async def measure_containers() -> None:
            nonlocal containers
            containers = await self._shared_items.run("containers", lambda _report: self._container_items(), _quiet)

        async def measure_volumes() -> None:
            nonlocal volumes
            volumes = await self._shared_volumes.run("volumes", lambda _report: self._volumes.with_usage(), _quiet)

        async with trio.open_nursery() as nursery:
            if "container" in types:
                nursery.start_soon(measure_containers)
            if "volume" in types:
                nursery.start_soon(measure_volumes)
        images, layers_size = await self._images.usage(version) if "image" in types else (None, 0)
        return Measured(layers_size, images, containers, volumes)


def _quiet(_record: object) -> None:
    """A measurement has no progress to report."""
