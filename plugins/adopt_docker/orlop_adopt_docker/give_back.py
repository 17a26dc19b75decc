"""Returns an adopted Docker root to dockerd: `orlop system give-back`.

    Steps: check, commit the phase, move the directories back (only after a move for good), return the logs, commit the
    removal of all rows, remove the links.

Containers have used Docker's directories in place, so the directories contain their data. Docker's records of containers are
unchanged since the adoption. After a crash, the next daemon completes the return.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from functools import partial

import msgspec
import trio

from orlop_engine.config import Config
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.record import decode as decode_container
from orlop_engine.images.records import ImageRecord, decode_name, encode_name
from orlop_engine.networks.records import decode as decode_network
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import Conflict, NotFound, linux

from . import adopted as rows
from . import docker_root, moving
from .adopted import Adopted, Phase
from .adoption import clean_up

__all__ = ["finish_return", "give_back"]

_REF = "ref:"
_image = msgspec.json.Decoder(ImageRecord).decode


async def give_back(config: Config, *, force: bool = False) -> tuple[Adopted, list[str]]:
    """Return the adopted root to dockerd. The result is the adoption, and the directories that Orlop has removed after a
    move for good. Raises `NotFound` if nothing was adopted. Raises `Conflict` while containers run. Also raises `Conflict`
    if objects of Orlop need adopted objects; with `force`, these objects of Orlop are removed instead."""
    async with Store.open(os.path.join(config.data_root, "orlop.db")) as store:
        found = rows.load(store)
        if found is None:
            await clean_up(store, config.data_root)
            raise NotFound(f"cannot give anything back: nothing was adopted into {config.data_root}")
        with docker_root.locked(found.root):
            dependents = list(_dependents(store, found))
            _check_stopped(store, {*found.containers, *(key for table, key, _ in dependents if table == "containers")})
            if dependents and not force:
                raise Conflict(
                    f"cannot give {found.root} back: {'; '.join(f'{table[:-1]} {name}' for table, _, name in dependents)} "
                    "of Orlop depend on adopted objects. Remove them, or use --force, which removes them"
                )
            if dependents:
                await store.commit([Delete(table, key) for table, key, _ in dependents])
            return found, await finish_return(store, config.data_root, found)


async def finish_return(store: Store, data_root: str, found: Adopted) -> list[str]:
    """Return the files to dockerd, then remove the rows, then the links. The result is the list of directories that are
    lost."""
    lost: list[str] = []
    in_place = found.phase in (Phase.IN_PLACE, Phase.LEAVING)
    found = msgspec.structs.replace(found, phase=Phase.LEAVING if in_place else Phase.RETURNING)
    await store.commit([rows.put(found)])  # from here on, the logs in the Docker root change
    if not in_place:
        lost = await trio.to_thread.run_sync(moving.move_back, data_root, found)
    await trio.to_thread.run_sync(partial(moving.return_logs, data_root, found))
    operations: list[Put | Delete] = [*_rows(store, found), rows.delete(), rows.put_links(found)]
    await store.commit(operations)
    await clean_up(store, data_root)
    return lost


def _rows(store: Store, found: Adopted) -> Iterator[Put | Delete]:
    images = set(found.images)
    for table, keys in (
        ("containers", found.containers),
        ("images", found.images),
        ("volumes", found.volumes),
        ("networks", found.networks),
    ):
        yield from (Delete(table, key) for key in keys)
    for key, value in store.load("images"):
        if key.startswith(_REF):
            yield from _name(key, value, images)


def _name(key: str, value: bytes, given_back: Collection[str]) -> Iterator[Put | Delete]:
    """The changes of a name's row. A name may also refer to images of other platforms that Orlop has pulled; these images
    keep the name."""
    try:
        name = decode_name(value)
    except UNREADABLE:
        return
    left = tuple(id for id in name.images if id not in given_back)
    if not left:
        yield Delete("images", key)
    elif left != name.images:
        yield Put("images", key, encode_name(msgspec.structs.replace(name, images=left)))


def _records(store: Store) -> Iterator[ContainerRecord]:
    for _, row in store.load("containers"):
        try:
            yield decode_container(row)
        except UNREADABLE:
            continue  # the row is damaged; the next daemon quarantines it


def _check_stopped(store: Store, concerned: Collection[str]) -> None:
    """Raise `Conflict` if one of these containers runs. `concerned` are the containers that are returned to dockerd, or that
    use objects that are returned."""
    for record in _records(store):
        state = record.state
        if record.id in concerned and state.pid and linux.is_process(state.pid, state.pid_start_time):
            raise Conflict(f"cannot give anything back: container {record.name} is running. Stop it before you stop orlopd")


def _names_of_networks(store: Store, found: Adopted) -> set[str]:
    """The names and IDs of the networks that are returned to dockerd, except the predefined networks."""
    given_back, names = set(found.networks), set()
    for _, row in store.load("networks"):
        try:
            record = decode_network(row)
        except UNREADABLE:
            continue
        if record.id in given_back and not record.predefined:
            names |= {record.id, record.name}
    return names


def _dependents(store: Store, found: Adopted) -> Iterator[tuple[str, str, str]]:
    """Yields (table, key, name) of the objects that Orlop has made and that use returned layers, volumes or networks."""
    images, volumes, networks = set(found.images), set(found.volumes), _names_of_networks(store, found)
    given_back, chains = set(found.containers), {entry.key for entry in found.entries}
    standing: set[str] = set()
    for key, row in store.load("images"):
        if not key.startswith("sha256:") or key in images:
            continue
        try:
            record = _image(row)
        except UNREADABLE:
            continue
        if any(layer.chain_id in chains for layer in record.layers):
            standing.add(key)
            yield "images", key, key[7:19]
    for container in _records(store):
        if container.id in given_back:
            continue
        if (
            container.image_id in images | standing
            or any(mount.name in volumes for mount in container.mounts)
            or networks.intersection(container.endpoints)
        ):
            yield "containers", container.id, container.name
