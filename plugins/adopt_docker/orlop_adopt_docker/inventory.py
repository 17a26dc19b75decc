"""The objects of a Docker root, as values. The readers make them; `plan` turns them into rows, `links` into links."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = [
    "Blob",
    "Container",
    "Image",
    "IndexedName",
    "Inventory",
    "Layer",
    "Network",
    "Remark",
    "Snapshot",
    "Store",
    "Volume",
]

Json = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Remark:
    """An object that is not adopted, or is changed by the adoption. `kind` and `name` identify the object."""

    kind: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A directory with files of a layer or a container. `key` is our storage key, `id` the name of our directory, `parent`
    the `id` of the snapshot below, "" for none. `path` holds `work` and the files in `files` ("diff" or "fs")."""

    key: str
    id: str
    parent: str
    path: str
    committed: bool = True
    files: str = "diff"


@dataclass(frozen=True, slots=True)
class Blob:
    """A blob of the containerd image store; `path` is its file. `size` in bytes."""

    digest: str
    path: str
    size: int
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """`size` in bytes, unpacked. `tar_split` is the file from which the layer's tar can be made again, "" without one."""

    diff_id: str
    chain_id: str
    size: int
    blob: Blob | None = None
    tar_split: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """`id` is the digest of `config`. `names` are references as Docker stores them. `tagged`: RFC 3339, "" for never.
    `aliases` are other IDs under which containers name the image: its manifest's, its index's, which it may
    share with images of other platforms. `attachments` are attestations about it, with their content."""

    id: str
    config: bytes
    layers: tuple[Layer, ...]
    names: tuple[str, ...] = ()
    parent: str = ""
    tagged: str = ""
    manifests: tuple[Blob, ...] = ()
    aliases: tuple[str, ...] = ()
    attachments: tuple[Blob, ...] = ()


@dataclass(frozen=True, slots=True)
class Container:
    """`config` and `host_config` are its two files. `image` is the ID of its image, `snapshots` its root (last) and its init
    layer. `logs` are its json-file logs, by file name."""

    id: str
    name: str
    config: Json
    host_config: Json
    image: str
    snapshots: tuple[Snapshot, ...]
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """`path` is its directory, which holds `_data`; "" for one of another driver. `created_ns`: Unix time."""

    name: str
    driver: str
    path: str
    created_ns: int
    options: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Network:
    """`record` is the network as libnetwork stores it."""

    id: str
    name: str
    driver: str
    record: Json


@dataclass(frozen=True, slots=True)
class IndexedName:
    """A name that refers to an index, by its digest: the IDs of its images, the best for this host first."""

    index: str
    images: tuple[str, ...]


@dataclass(slots=True)
class Store:
    """An image store and the snapshots of containers. `indexed` are the names that refer to an index. `containers` are by
    container ID: root last, its init layer before."""

    name: str
    images: dict[str, Image] = field(default_factory=dict)
    indexed: dict[str, IndexedName] = field(default_factory=dict)
    layers: dict[str, Snapshot] = field(default_factory=dict)
    containers: dict[str, tuple[Snapshot, ...]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def by_alias(self, alias: str, chains: Collection[str]) -> str:
        """The ID of the image with this alias, "" for none. The digest of an index is an alias of several images: of
        these, the one whose top layer is in `chains`, else the best for this host."""
        indexed = next((name.images for name in self.indexed.values() if name.index == alias), ())
        found = [self.images[id] for id in indexed] or [x for x in self.images.values() if alias in x.aliases]
        fitting = [image for image in found if image.layers and image.layers[-1].chain_id in chains]
        return next((image.id for image in (*fitting, *found)), "")

    def chain_below(self, snapshots: Collection[Snapshot]) -> str:
        """The chain ID of the layer that a container's snapshots are on; "" for none."""
        below = {each.parent for each in snapshots}
        return next((key for key, layer in self.layers.items() if layer.id in below), "")


@dataclass(slots=True)
class Inventory:
    """Everything in one Docker root. `remarks` are about what could not be read, and about what Orlop has no place for."""

    root: str
    engine_id: str
    store: Store
    containers: list[Container] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
