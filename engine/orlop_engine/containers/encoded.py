"""Encoded answers of inspect and list, from the cache `Container.views` or made by `view`. Without sizes they call no driver
that can hang, and take no lock.
"""

from __future__ import annotations

import logging

import msgspec
import trio

from orlop_sdk import OrlopError

from . import links, listing, view
from .container import Container
from .ports import Ports

__all__ = ["inspect", "summaries"]

log = logging.getLogger("orlop.containers")


async def inspect(ports: Ports, container: Container, version: tuple[int, int], size: bool = False) -> bytes:
    key = f"inspect {view.form(version)}"
    # The target of a link may be renamed, which clears the views of the target only.
    kept = not size and not container.record.host_config.links
    found = container.views.get(key) if kept else None
    if found is None:
        graph = await ports.storage.describe(container.id)
        sizes = await _sizes(ports, container) if size else None
        shown = view.inspect(ports, container, graph, version)
        if sizes is not None:
            shown.size_rw, shown.size_root_fs = sizes
        found = msgspec.json.encode(shown)
        if kept:
            container.views[key] = found
    return found


async def _sizes(ports: Ports, container: Container) -> tuple[int, int]:
    """(bytes that the container has written, those plus the size of its image)."""
    usage = await ports.storage.usage(container.id)
    image = ports.images.get(container.record.image_id)
    return usage.size, usage.size + (image.size if image else 0)


async def summaries(
    ports: Ports, *, everything: bool, limit: int, filters: listing.Filters, size: bool, health: bool = False
) -> bytes:
    """The list of containers, as JSON. `health`: with the result of health checks."""
    chosen = listing.select(ports, everything=everything, limit=limit, filters=filters)
    sizes: dict[str, tuple[int, int]] = {}

    async def measure(item: Container) -> None:
        try:
            sizes[item.id] = await _sizes(ports, item)
        except OrlopError as error:  # removed meanwhile, or a failure of the driver: list the others all the same
            log.warning("cannot measure container %s: %s", item.name, error)

    async with trio.open_nursery() as nursery:
        for item in chosen if size else ():
            nursery.start_soon(measure, item)
    linked = links.names(ports.index, ports.networks)
    items = (view.summary(ports, item, linked.get(item.id, ()), sizes.get(item.id), health=health) for item in chosen)
    return b"[" + b",".join(items) + b"]"
