"""`GET /system/df`: the disk space of images, containers and volumes, and how much of it a prune would reclaim.

Asks the drivers for sizes, a few at a time, and once for all concurrent requests. Drivers walk directories on threads
reserved for this. When the last waiting client disconnects, the measurement is cancelled.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Any

import msgspec
import trio
from msgspec import UNSET

from orlop_engine.containers.service import Containers
from orlop_engine.images.service import Images
from orlop_engine.images.shared import SharedWork
from orlop_engine.types.system import DiskUsage
from orlop_engine.volumes.service import Volumes
from orlop_sdk import OrlopError, Storage

__all__ = ["OBJECT_TYPES", "DiskUsageService"]

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


class DiskUsageService:
    """Measures disk usage; one instance per engine."""

    def __init__(
        self, containers: Containers, images: Images, volumes: Volumes, storage: Storage, nursery: trio.Nursery
    ) -> None:
        self._containers, self._images, self._volumes, self._storage = containers, images, volumes, storage
        self._shared: SharedWork[list[dict[str, Any]]] = SharedWork(nursery)

    async def _container_items(self) -> list[dict[str, Any]]:
        async def measure(item: dict[str, Any]) -> None:
            usage = await self._storage.usage(item["Id"])
            image = self._images.get(item["ImageID"])
            item["SizeRw"] = usage.size
            item["SizeRootFs"] = usage.size + (image.size if image else 0)

        shown = await self._containers.summaries(everything=True, limit=0, filters={}, size=False)
        return await _measure_all(msgspec.json.decode(shown), measure)

    async def _volume_items(self) -> list[dict[str, Any]]:
        return [msgspec.to_builtins(volume) for volume in await self._volumes.with_usage()]

    async def disk_usage(self, types: Collection[str], version: tuple[int, int]) -> DiskUsage:
        """The answer for these object types; the others are null."""
        found: dict[str, list[dict[str, Any]]] = {}

        async def share(name: str, key: str, work: Callable[[], Awaitable[list[dict[str, Any]]]]) -> None:
            found[name] = await self._shared.run(key, lambda _report: work(), _quiet)

        async with trio.open_nursery() as nursery:
            if "container" in types:
                nursery.start_soon(share, "container", "containers", self._container_items)
            if "volume" in types:
                nursery.start_soon(share, "volume", "volumes", self._volume_items)
        images, layers_size = await self._images.usage(version) if "image" in types else (None, 0)
        return DiskUsage(
            layers_size=layers_size,
            images=images,
            containers=found.get("container"),
            volumes=found.get("volume"),
            build_cache=[] if "build-cache" in types else None,
            builder_size=0 if version < (1, 42) else UNSET,
        )


def _quiet(_record: object) -> None:
    """A measurement has no progress to report."""
