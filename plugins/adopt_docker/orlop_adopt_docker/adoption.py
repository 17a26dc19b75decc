"""Adopts a Docker root: `orlop system adopt`, and `orlopd --adopt`.

    Steps: lock the roots of Orlop and dockerd, read the Docker root, make a plan, commit the list of links, make the links,
commit all rows. An adoption for good then moves the directories.

If a crash happens before the second commit, the data root contains only links, which the next daemon removes. Only a move
for good changes the Docker root. The move begins after the second commit; after a crash, the next daemon completes it.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import partial

import msgspec
import trio

from orlop_engine.config import Config
from orlop_engine.drivers import Drivers
from orlop_kernel.store import Delete, Put, Store
from orlop_sdk import Conflict, InvalidParameter, mountinfo

from . import adopted as rows
from . import docker_root, links, moving
from . import plan as plans
from .adopted import Adopted, Phase
from .plan import Plan

__all__ = ["Outcome", "adopt", "clean_up", "look"]

STORAGE = "overlay2"


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of an adoption. If this root was adopted before, `plan` is None, and `adopted` describes the earlier
    adoption."""

    adopted: Adopted | None
    plan: Plan | None


def _check_config(config: Config, root: str) -> None:
    if config.effective_storage_driver != STORAGE:
        raise InvalidParameter(
            f"cannot adopt {root}: the storage driver is {config.effective_storage_driver}, and only {STORAGE} can use the "
            "files of a dockerd"
        )


def _check_place(config: Config, root: str) -> None:
    """Check that both roots are on one file system, because hard links and renames need this."""
    mounted = any(entry.path == root for entry in mountinfo.read())
    if mounted and os.stat(root).st_dev == os.stat(os.path.dirname(root)).st_dev:  # a bind mount of the root on itself
        raise Conflict(
            f"cannot adopt {root}: a dockerd that did not stop cleanly has left a mount there, and files cannot be linked "
            f"across mounts. Remove it: umount {root}"
        )
    place = config.data_root
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    if os.stat(place).st_dev != os.stat(root).st_dev:
        raise InvalidParameter(
            f"cannot adopt {root}: it is on another file system than the data root {config.data_root}, and adoption copies "
            "no files. Choose a data-root on its file system"
        )


async def look(config: Config, root: str) -> Plan:
    """The plan of an adoption, for `--dry-run`. Changes nothing."""
    root = os.path.realpath(root)
    _check_config(config, root)
    drivers = Drivers(config)
    try:
        with docker_root.locked(root):
            _check_place(config, root)
            return await _plan(config, root, drivers)
    finally:
        await drivers.close()


async def _plan(config: Config, root: str, drivers: Drivers) -> Plan:
    inventory = await trio.to_thread.run_sync(docker_root.read, root)
    known = plans.Known.read(config, links.known_snapshots(config.data_root))
    return await plans.make(inventory, known, config, drivers)


async def adopt(config: Config, root: str, *, for_good: bool = False) -> Outcome:
    """Adopt all objects that can be adopted. Raises `Conflict` while dockerd runs on the root, or if another root was
    adopted."""
    root = os.path.realpath(root)
    _check_config(config, root)
    database = os.path.join(config.data_root, "orlop.db")
    if not os.path.exists(database):  # a refusal must not leave a new data root
        docker_root.check(root)
        with docker_root.locked(root):
            _check_place(config, root)
    drivers = Drivers(config)
    try:
        async with Store.open(database) as store:
            found = rows.load(store)
            if found is not None:
                return Outcome(await _again(store, config.data_root, found, root, for_good=for_good), None)
            docker_root.check(root)
            with docker_root.locked(root):
                _check_place(config, root)
                await clean_up(store, config.data_root)
                plan = await _plan(config, root, drivers)
                made = await _carry_out(store, config.data_root, plan, for_good=for_good)
                return Outcome(made, plan)
    finally:
        await drivers.close()


async def _again(store: Store, data_root: str, found: Adopted, root: str, *, for_good: bool) -> Adopted:
    if found.root != root:
        raise Conflict(f"cannot adopt {root}: {found.root} was adopted before. Give it back first: orlop system give-back")
    if found.phase in (Phase.RETURNING, Phase.LEAVING):
        raise Conflict(f"cannot adopt {root}: giving it back was interrupted. First complete this: orlop system give-back")
    if found.phase == Phase.MOVING:
        with docker_root.locked(root):
            return await finish_move(store, data_root, found)
    if for_good and found.phase == Phase.IN_PLACE:
        with docker_root.locked(root):
            return await _for_good(store, data_root, found)
    return found


async def _carry_out(store: Store, data_root: str, plan: Plan, *, for_good: bool) -> Adopted:
    base = Adopted(
        root=plan.inventory.root,
        engine_id=plan.inventory.engine_id,
        time_ns=time.time_ns(),
        transactions=docker_root.transactions(plan.inventory.root),
    )
    made = links.describe(plan, base)
    if for_good:
        moving.check(data_root, made.directories)
    await store.commit([rows.put_links(made)])
    await trio.to_thread.run_sync(links.make, data_root, plan, made)
    await store.commit([*plan.operations, rows.put(made), rows.delete_links()])
    return await _for_good(store, data_root, made) if for_good else made


async def _for_good(store: Store, data_root: str, made: Adopted) -> Adopted:
    moving.check(data_root, made.directories)
    made = msgspec.structs.replace(made, phase=Phase.MOVING)
    await store.commit([rows.put(made)])
    return await finish_move(store, data_root, made)


async def finish_move(store: Store, data_root: str, made: Adopted) -> Adopted:
    """Complete a move for good."""
    await trio.to_thread.run_sync(moving.move_here, data_root, made)
    made = msgspec.structs.replace(made, phase=Phase.MOVED)
    await store.commit([rows.put(made)])
    return made


async def clean_up(store: Store, data_root: str) -> None:
    """Remove the links of an incomplete adoption, or of an adoption that was returned to dockerd."""
    left = rows.load_links(store)
    if left is not None:
        await trio.to_thread.run_sync(partial(links.remove, data_root, left))
        operations: list[Put | Delete] = [rows.delete_links()]
        await store.commit(operations)
