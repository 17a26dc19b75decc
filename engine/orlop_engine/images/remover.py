"""Executes removals and prunes of images, and reports them in Docker's order."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

from orlop_engine.pace import Pace, no_full_collection
from orlop_kernel.events import EventBus
from orlop_sdk import Conflict

from . import listing, removal
from .details import Pruned, RemovedItem
from .image_store import Collected, ImageStore
from .listing import Filters
from .platforms import Platform
from .policy import ImagePolicy, removable
from .records import Image
from .references import Reference
from .removal import Removal, Step, Users

__all__ = ["Remover"]


class Remover:
    """Removes images. `users` returns a map from each image's ID to the containers that were created from the image."""

    def __init__(self, image_store: ImageStore, events: EventBus, users: Callable[[], Users]) -> None:
        self._image_store, self._events, self._users = image_store, events, users
        self._pruning = False

    async def remove(
        self, name: str, *, force: bool, prune: bool, platforms: Sequence[Platform], policy: ImagePolicy
    ) -> list[RemovedItem]:
        with no_full_collection():
            return await self._remove(name, force, prune, platforms, policy)

    async def _remove(
        self, name: str, force: bool, prune: bool, platforms: Sequence[Platform], policy: ImagePolicy
    ) -> list[RemovedItem]:
        async with self._image_store.lock:
            planned = removal.plan(
                self._image_store.catalog,
                self._users(),
                name,
                force=force,
                prune=prune,
                platforms=platforms,
                policy=policy,
            )
            gone, steps = await self._carry_out(planned)
        # If only names were removed, all content is still needed, so nothing has to be collected
        collected = await self._image_store.collect() if gone else Collected()
        return await self._items(steps, gone, collected)

    async def prune(self, filters: Filters, policy: ImagePolicy, *, blobs: bool) -> Pruned:
        if self._pruning:
            raise Conflict("a prune operation is already running")
        self._pruning = True
        try:
            with no_full_collection():
                return await self._prune(filters, policy, blobs)
        finally:
            self._pruning = False

    async def _prune(self, filters: Filters, policy: ImagePolicy, blobs: bool) -> Pruned:
        async with self._image_store.lock:
            catalog = self._image_store.catalog
            chosen = await removable(policy, catalog, await listing.prunable(catalog, filters, time.time()))
            planned = await self._plan_prune(chosen, policy)
            gone, steps = await self._carry_out(planned) if planned.steps else ([], [])
        await self._image_store.give_up(self._image_store.leases.interrupted())
        collected = await self._image_store.collect()
        items = await self._items(steps, gone, collected)
        space = sum(size for _, size in collected.layers)
        space += collected.blob_bytes if blobs else 0
        self._events.publish("image", "prune", "", {"reclaimed": str(space)})
        return Pruned(items, space)

    async def _plan_prune(self, images: Sequence[Image], policy: ImagePolicy) -> Removal:
        """Plan a prune. If a container is created from one of the images meanwhile, plan again."""
        while True:
            users, planned, pace = self._users(), Removal(), Pace()
            for _ in removal.prune(self._image_store.catalog, users, images, planned, policy):
                await pace()
            now = self._users()
            if not any(step.id in now and step.id not in users for step in planned.steps):
                return planned

    async def _carry_out(self, planned: Removal) -> tuple[list[Image], list[Step]]:
        """Execute a plan. Returns the removed images, and the steps to report."""
        gone = [self._image_store.catalog.images[id] for id in planned.images]
        images = {step.id: self._image_store.catalog.images[step.id] for step in planned.steps}
        untagged = await self._image_store.forget(await _lost_names(planned.steps), planned.images)
        steps = await _reported(planned.steps, untagged)
        pace = Pace(shielded=True)
        for step in steps:
            for name in step.names:
                if name not in step.silent:
                    self._event("untag", images[step.id])
                await pace()
            if step.delete:
                self._event("delete", images[step.id])
        return gone, steps

    def _event(self, action: str, image: Image) -> None:
        self._events.publish("image", action, image.id, {**(image.config.labels or {}), "name": image.id})

    async def _items(self, steps: Sequence[Step], gone: Iterable[Image], collected: Collected) -> list[RemovedItem]:
        """The deleted items in Docker's order: for each image its names, the image itself, and its layers, the top layer
        first."""
        layers = {image.id: image.chain_ids for image in gone}
        left = {chain_id for chain_id, _ in collected.layers}
        pace, result = Pace(shielded=True), []
        for id, names, delete, _ in steps:
            for name in names:
                result.append(RemovedItem(untagged=name.familiar))
                await pace()
            if delete:
                result.append(RemovedItem(deleted=id))
                mine = [chain_id for chain_id in reversed(layers[id]) if chain_id in left]
                left.difference_update(mine)
                result += [RemovedItem(deleted=chain_id) for chain_id in mine]
                await pace()
        return result


async def _lost_names(steps: Iterable[Step]) -> dict[Reference, set[str]]:
    """Maps each name to the IDs of the images from which the steps remove the name. A name disappears when it has no image
    any more."""
    pace, result = Pace(shielded=True), dict[Reference, set[str]]()
    for step in steps:
        for name in step.names:
            result.setdefault(name, set()).add(step.id)
            await pace()
    return result


async def _reported(steps: Iterable[Step], untagged: Iterable[Reference]) -> list[Step]:
    """The steps to report. Each name is reported only once, and only if no image for another platform keeps the name."""
    pace, left, result = Pace(shielded=True), set[Reference](), list[Step]()
    for name in untagged:
        left.add(name)
        await pace()
    for step in steps:
        shown = []
        for name in step.names:
            if name in left:
                left.remove(name)
                shown.append(name)
            await pace()
        result.append(step._replace(names=shown))
    return result
