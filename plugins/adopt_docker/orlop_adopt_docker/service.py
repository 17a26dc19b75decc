"""Maintains an adopted Docker root while orlopd runs. This is the service `adopt`, if there is an adoption.

The service is opened before the engine. It completes a move or a return that a crash interrupted, and prevents dockerd from
starting on the root. If dockerd has run on the root since the last start of orlopd, the service logs the changes that
dockerd has made.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Collection
from contextlib import ExitStack

import msgspec
import trio

from orlop_kernel.store import Store
from orlop_sdk import OrlopError

from . import adopted as rows
from . import adoption, docker_root, files, give_back
from .adopted import Adopted, Phase

__all__ = ["watch"]

log = logging.getLogger("orlop.adopt")

_NAMED = 10  # limit for the number of objects in one line of the log


async def watch(store: Store, data_root: str, stack: ExitStack) -> None:
    """Complete an interrupted move or return, and lock dockerd's databases until `stack` is closed. Raises `Conflict` while
    dockerd runs on the adopted root."""
    found = rows.load(store)
    if found is None:
        log.warning("an adoption was interrupted, so its links are removed. To adopt again: orlop system adopt")
        await adoption.clean_up(store, data_root)
        return
    if not os.path.isdir(found.root):
        log.error("the adopted Docker root %s is missing: its images, containers and volumes cannot be used", found.root)
        return
    stack.enter_context(docker_root.locked(found.root))
    if found.phase == Phase.MOVING:
        found = await adoption.finish_move(store, data_root, found)
    elif found.phase in (Phase.RETURNING, Phase.LEAVING):
        log.warning("giving %s back was interrupted and is now completed", found.root)
        await give_back.finish_return(store, data_root, found)
        return
    try:
        now = docker_root.transactions(found.root)
    except files.Unreadable as error:
        log.error("cannot tell whether dockerd has run on the adopted root: %s", error)
        return
    if now != found.transactions:
        await _report(found)
        await store.commit([rows.put(msgspec.structs.replace(found, transactions=now))])


async def _report(found: Adopted) -> None:
    """Log the changes that dockerd has made."""
    log.warning("dockerd has run on the adopted root %s since its adoption", found.root)
    try:
        there = await trio.to_thread.run_sync(docker_root.read, found.root)
    except OrlopError as error:
        log.error("cannot read what dockerd has changed: %s", error)
        return
    names = {container.id: container.name for container in there.containers}
    usable = {
        image.id for image in there.store.images.values() if all(x.chain_id in there.store.layers for x in image.layers)
    }
    if found.phase == Phase.MOVED:
        usable = set(there.store.images)  # usable, because the files of their layers are in Orlop's data root
    for what, before, after in (
        ("container", found.containers, names),
        ("image", found.images, usable),
        ("volume", found.volumes, [volume.name for volume in there.volumes]),
        ("network", found.networks, [network.id for network in there.networks]),
    ):
        _report_kind(what, before, after, names)


def _report_kind(what: str, before: Collection[str], after: Collection[str], names: dict[str, str]) -> None:
    def shown(keys: list[str]) -> str:
        text = ", ".join(names.get(key) or key.removeprefix("sha256:")[:12] for key in keys[:_NAMED])
        return f"{text} and {len(keys) - _NAMED} more" if len(keys) > _NAMED else text

    if gone := sorted(set(before) - set(after)):
        log.warning("dockerd has removed %d adopted %ss: %s", len(gone), what, shown(gone))
    if new := sorted(set(after) - set(before)):
        log.warning("dockerd has %d %ss that are not adopted: %s", len(new), what, shown(new))
