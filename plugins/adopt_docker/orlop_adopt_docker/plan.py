"""Decides which objects of a Docker root are adopted. The result is the rows, the links, and the reasons why other objects
are not adopted."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from orlop_engine.config import Config
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.record import decode as decode_container
from orlop_engine.containers.record import encode as encode_container
from orlop_engine.drivers import Drivers
from orlop_engine.images import references
from orlop_engine.images.records import ImageRecord, Layer, NameRecord, encode_name
from orlop_engine.networks.ipam import parse_subnet
from orlop_engine.networks.records import NetworkRecord
from orlop_engine.networks.records import decode as decode_network
from orlop_engine.networks.records import encode as encode_network
from orlop_engine.volumes.record import VolumeRecord
from orlop_engine.volumes.record import encode as encode_volume
from orlop_kernel.store import UNREADABLE, Examined, Put, examine
from orlop_sdk import InvalidParameter, OrlopError, Unavailable, discovery

from . import containers, networks
from .inventory import Container, Image, Inventory, Snapshot, Store, Volume

__all__ = ["Item", "Known", "Plan", "make"]

T = TypeVar("T")

_REF = "ref:"
_VOLUME_OPTIONS = frozenset({"type", "o", "device"})
_SHARING = ("network_mode", "ipc_mode", "pid_mode")


@dataclass(frozen=True, slots=True)
class Item:
    """An object of the Docker root. `text`: the reason why it is not adopted, or the changes for an adopted object."""

    kind: str
    name: str
    id: str
    adopted: bool
    text: str = ""


@dataclass(slots=True)
class Known:
    """The objects that are in the data root already. `snapshots` maps storage keys to the names of their directories."""

    images: set[str] = field(default_factory=set)
    references: set[str] = field(default_factory=set)
    containers: dict[str, str] = field(default_factory=dict)
    volumes: set[str] = field(default_factory=set)
    networks: dict[str, NetworkRecord] = field(default_factory=dict)
    snapshots: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def read(cls, config: Config, snapshots: Mapping[str, str]) -> Known:
        try:
            found = examine(os.path.join(config.data_root, "orlop.db"))
        except Unavailable:
            found = Examined({})
        rows = found.rows
        images = rows.get("images", {})
        return cls(
            {key for key in images if key.startswith("sha256:")},
            {key.removeprefix(_REF) for key in images if key.startswith(_REF)},
            {key: record.name for key, record in _decoded(rows.get("containers", {}), decode_container)},
            set(rows.get("volumes", {})),
            {record.name: record for _, record in _decoded(rows.get("networks", {}), decode_network)},
            snapshots,
        )


def _decoded(rows: Mapping[str, bytes], decode: Callable[[bytes], T]) -> Iterator[tuple[str, T]]:
    for key, row in rows.items():
        try:
            yield key, decode(row)
        except UNREADABLE:
            continue  # the next daemon quarantines the row


@dataclass(slots=True)
class Plan:
    """The adopted objects. `operations` are the changes of rows, to be made in one commit. For each of `snapshots`, a
    directory and an entry in the index must be made."""

    inventory: Inventory
    items: list[Item] = field(default_factory=list)
    operations: list[Put] = field(default_factory=list)
    snapshots: list[Snapshot] = field(default_factory=list)
    images: list[Image] = field(default_factory=list)
    containers: list[Container] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    networks: list[str] = field(default_factory=list)

    def counts(self) -> dict[str, tuple[int, int]]:
        """Kind of object -> the number of adopted objects, and the number of other objects."""
        found: dict[str, tuple[int, int]] = {}
        for item in self.items:
            taken, left = found.get(item.kind, (0, 0))
            found[item.kind] = (taken + item.adopted, left + (not item.adopted))
        return found

    def leave(self, kind: str, name: str, id: str, why: object) -> None:
        """List an object that is not adopted."""
        self.items.append(Item(kind, name, id, False, str(why)))

    def take(self, kind: str, name: str, id: str, text: str = "") -> None:
        """List an object that is adopted."""
        self.items.append(Item(kind, name, id, True, text))


async def make(inventory: Inventory, known: Known, config: Config, drivers: Drivers) -> Plan:
    """Make the plan, without changing a file or a row."""
    plan = Plan(inventory)
    _images(plan, known)
    volumes = _volumes(plan, known, config)
    reachable = _networks(plan, known)
    around = containers.Surroundings(drivers, known.images | {image.id for image in plan.images}, volumes, reachable)
    await _containers(plan, known, around)
    for remark in inventory.remarks:
        plan.leave(remark.kind, remark.name, "", remark.text)
    return plan


# --- images ---


def _images(plan: Plan, known: Known) -> None:
    store, placed = plan.inventory.store, set[str]()
    names, present = _names(store, known), {*store.layers, *known.snapshots}
    for image in store.images.values():
        name = next(iter(image.names), "<none>")
        if image.id in known.images:
            plan.leave("image", name, image.id, "it exists in Orlop already")
            continue
        missing = [layer.chain_id for layer in image.layers if layer.chain_id not in present]
        if missing:
            plan.leave("image", name, image.id, f"the files of its layer {missing[0]} are missing")
            continue
        plan.images.append(image)
        plan.operations.append(Put("images", image.id, msgspec.json.encode(_image_row(image))))
        plan.take("image", name, image.id, "; ".join(_changes(image, names)))
        for layer in image.layers:
            if layer.chain_id not in placed and layer.chain_id not in known.snapshots:
                placed.add(layer.chain_id)
                plan.snapshots.append(_placed(store.layers[layer.chain_id], plan, known))
    plan.operations += _name_rows(plan, names)


def _changes(image: Image, names: Mapping[str, NameRecord]) -> Iterator[str]:
    """Descriptions of the changes that the adoption makes to the image."""
    taken = sum(image.id not in names.get(_reference(each), NameRecord(())).images for each in image.names)
    if taken:
        yield f"{taken} of its names are not adopted: other images have them"
    if any(layer.blob is None and not layer.tar_split for layer in image.layers):
        yield "to push or save it, pull it again: an archive of a layer is missing"


def _names(store: Store, known: Known) -> dict[str, NameRecord]:
    """The images of each free name. If several images have the same name, the first image gets the name, unless all of these
    images are from one index."""
    found: dict[str, NameRecord] = {}
    for image in store.images.values():
        for each in image.names:
            name = _reference(each)
            if name and name not in known.references and name not in found:
                indexed = store.indexed.get(each)
                found[name] = NameRecord(indexed.images, indexed.index) if indexed else NameRecord((image.id,))
    return found


def _name_rows(plan: Plan, names: Mapping[str, NameRecord]) -> Iterator[Put]:
    coming = {image.id for image in plan.images}
    for name, meaning in names.items():
        images = tuple(id for id in meaning.images if id in coming)
        if images:
            yield Put("images", f"{_REF}{name}", encode_name(msgspec.structs.replace(meaning, images=images)))


def _reference(text: str) -> str:
    """The full form of a name; "" for an invalid name."""
    try:
        return str(references.parse(text).with_default_tag())
    except InvalidParameter:
        return ""


def _image_row(image: Image) -> ImageRecord:
    layers = tuple(
        Layer(
            layer.blob.digest if layer.blob else "",
            layer.blob.media_type if layer.blob else "",
            layer.blob.size if layer.blob else 0,
            layer.diff_id,
            layer.chain_id,
            layer.size,
        )
        for layer in image.layers
    )
    manifests, attachments = (tuple(blob.digest for blob in blobs) for blobs in (image.manifests, image.attachments))
    return ImageRecord(image.id, layers, manifests, image.parent, image.tagged, attachments=attachments)


def _placed(snapshot: Snapshot, plan: Plan, known: Known) -> Snapshot:
    """The snapshot. If the data root already contains the parent layer, the snapshot's parent is Orlop's directory of that
    layer."""
    for key, parent in plan.inventory.store.layers.items():
        if parent.id == snapshot.parent and key in known.snapshots:
            return Snapshot(
                snapshot.key, snapshot.id, known.snapshots[key], snapshot.path, snapshot.committed, snapshot.files
            )
    return snapshot


# --- volumes and networks ---


def _volumes(plan: Plan, known: Known, config: Config) -> set[str]:
    """Plan the volumes. Returns the names that containers may use."""
    installed = discovery.installed("volume")
    usable = set(known.volumes)
    for volume in plan.inventory.volumes:
        if volume.name in known.volumes:
            usable.discard(volume.name)  # Orlop has another volume with this name, with other data
            plan.leave("volume", volume.name, "", "a volume of this name exists in Orlop already")
        elif volume.driver not in installed:
            plan.leave("volume", volume.name, "", f'its driver "{volume.driver}" is not installed')
        elif volume.driver == "local" and (more := sorted(set(volume.options) - _VOLUME_OPTIONS)):
            plan.leave("volume", volume.name, "", f"its option {more[0]} is not supported: there are no quotas")
        else:
            mountpoint = os.path.join(config.data_root, "volumes", volume.name, "_data") if volume.path else ""
            row = VolumeRecord(
                volume.name, volume.driver, volume.created_ns, mountpoint, dict(volume.options), dict(volume.labels)
            )
            plan.volumes.append(volume)
            plan.operations.append(Put("volumes", volume.name, encode_volume(row)))
            plan.take("volume", volume.name, "")
            usable.add(volume.name)
    return usable


def _networks(plan: Plan, known: Known) -> dict[str, NetworkRecord]:
    """Plan the networks. Returns the networks that containers may be on, by name and by ID."""
    installed = discovery.installed("network")
    taken = [parse_subnet(each.subnet) for record in known.networks.values() for each in record.subnets]
    usable = {name: record for record in known.networks.values() for name in (record.name, record.id)}
    for network in plan.inventory.networks:
        ours = known.networks.get(network.name)
        if ours is not None and ours.predefined and network.name in networks.PREDEFINED:
            continue  # containers on this network are connected to Orlop's predefined network
        if ours is not None:
            usable.pop(network.name, None)
            plan.leave("network", network.name, network.id, "a network of this name exists in Orlop already")
            continue
        try:
            row = networks.record(network, installed, taken)
        except OrlopError as error:
            plan.leave("network", network.name, network.id, error)
            continue
        usable[row.name] = usable[row.id] = row
        taken += [parse_subnet(each.subnet) for each in row.subnets]
        plan.networks.append(row.id)
        plan.operations.append(Put("networks", row.id, encode_network(row)))
        plan.take("network", row.name, row.id)
    for name, driver in networks.PREDEFINED.items():  # a root on which dockerd has never started has no networks
        usable.setdefault(name, NetworkRecord(id=name, name=name, driver=driver, created_ns=0, predefined=True))
    return usable


# --- containers ---


async def _containers(plan: Plan, known: Known, around: containers.Surroundings) -> None:
    names = set(known.containers.values())
    rows: dict[str, tuple[Container, ContainerRecord, str]] = {}
    for container in plan.inventory.containers:
        try:
            if container.id in known.containers:
                raise InvalidParameter("it exists in Orlop already")
            if container.name in names:
                raise InvalidParameter(f"the name {container.name} is taken by another container")
            row, changes = await containers.record(container, around)
        except OrlopError as error:
            plan.leave("container", container.name, container.id, error)
            continue
        names.add(container.name)
        rows[container.id] = container, row, "; ".join(changes)
    _drop_dependents(plan, known, rows)
    for container, row, text in rows.values():
        plan.containers.append(container)
        plan.operations.append(Put("containers", container.id, encode_container(row)))
        plan.snapshots += [_placed(each, plan, known) for each in container.snapshots]
        plan.take("container", container.name, container.id, text)


def _drop_dependents(plan: Plan, known: Known, rows: dict[str, tuple[Container, ContainerRecord, str]]) -> None:
    """Do not adopt a container that shares a namespace with a container that is not adopted. The containers may share the
    namespace directly, or through a third container."""
    for _ in itertools.repeat(None):
        lost = {
            id: other
            for id, (_, row, _) in rows.items()
            for other in _shared(row)
            if other not in rows and other not in known.containers
        }
        if not lost:
            return
        for id, other in lost.items():
            container, _, _ = rows.pop(id)
            plan.leave(
                "container", container.name, id, f"it shares a namespace with container {other[:12]}, which is not adopted"
            )


def _shared(row: ContainerRecord) -> Iterable[str]:
    modes = (str(getattr(row.host_config, name)) for name in _SHARING)
    return [mode.removeprefix("container:") for mode in modes if mode.startswith("container:")]
