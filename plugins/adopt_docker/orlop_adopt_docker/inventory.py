"""The objects of a Docker root, as values. The modules that read a Docker root make these values. `plan` makes rows of them,
and `links` makes links."""

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
    """A remark about an object that is not adopted, or that is changed by the adoption. `kind` and `name` identify the
    object."""

    kind: str
    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A directory with files of a layer or a container. `key` is the storage key in Orlop, `id` the name of the directory in
    Orlop, `parent` the `id` of the snapshot below, "" for none. `path` is the directory in the Docker root, with the
    subdirectory `work` and a subdirectory for the files, whose name is `files` ("diff" or "fs")."""

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
    """A layer. `size` is the unpacked size in bytes. `tar_split` is the file from which the layer's tar can be made again;
    "" if there is no such file."""

    diff_id: str
    chain_id: str
    size: int
    blob: Blob | None = None
    tar_split: str = ""


@dataclass(frozen=True, slots=True)
class Image:
    """An image. `id` is the digest of `config`. `names` are references as Docker stores them. `tagged`: RFC 3339, "" for
    never. `aliases` are other IDs by which containers refer to the image: the digests of its manifest and of its index.
    Images of several platforms may have the same index. `attachments` are attestations about the image, with their
    content."""

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
    """A container. `config` and `host_config` are the contents of its two files. `image` is the ID of its image. `snapshots`
    are its init layer and its root, in this order. `logs` are its json-file logs, by file name."""

    id: str
    name: str
    config: Json
    host_config: Json
    image: str
    snapshots: tuple[Snapshot, ...]
    logs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Volume:
    """A volume. `path` is its directory, which contains `_data`; "" for a volume of another driver than `local`.
    `created_ns`: Unix time."""

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
    """A name that refers to an index, which is given by its digest. `images` are the IDs of the images in the index; the
    first one is the best for this host."""

    index: str
    images: tuple[str, ...]


@dataclass(slots=True)
class Store:
    """An image store and the snapshots of containers. `indexed` are the names that refer to an index. `containers` are the
    snapshots of each container, by container ID: the init layer, then the root."""

    name: str
    images: dict[str, Image] = field(default_factory=dict)
    indexed: dict[str, IndexedName] = field(default_factory=dict)
    layers: dict[str, Snapshot] = field(default_factory=dict)
    containers: dict[str, tuple[Snapshot, ...]] = field(default_factory=dict)
    remarks: list[Remark] = field(default_factory=list)

    def by_alias(self, alias: str, chains: Collection[str]) -> str:
        """The ID of the image with this alias, "" for none. The digest of an index is an alias of several images. In this
        case, the result is the image whose top layer is in `chains`; if there is none, the best image for this host."""
        indexed = next((name.images for name in self.indexed.values() if name.index == alias), ())
        found = [self.images[id] for id in indexed] or [x for x in self.images.values() if alias in x.aliases]
        fitting = [image for image in found if image.layers and image.layers[-1].chain_id in chains]
        return next((image.id for image in (*fitting, *found)), "")

    def chain_below(self, snapshots: Collection[Snapshot]) -> str:
        """The chain ID of the layer below a container's snapshots; "" for none."""
        below = {each.parent for each in snapshots}
        return next((key for key, layer in self.layers.items() if layer.id in below), "")


@dataclass(slots=True)
class Inventory:
    """All objects in one Docker root. `remarks` are about objects that are unreadable, and about objects that Orlop does not
    support."""

    root: str
    engine_id: str
    store: Store
    containers: list[Container] = field(default_factory=list)
    volumes: list[Volume] = field(default_factory=list)
    networks: list[Network] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)
