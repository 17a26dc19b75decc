"""Reads containerd's stores as dockerd uses them with the feature `containerd-snapshotter` (containerd core/metadata).

    io.containerd.metadata.v1.bolt/meta.db                     v1/moby/images/<name>: names and what they refer to
    io.containerd.content.v1.content/blobs/sha256/<hex>        configurations, manifests, compressed layers
    io.containerd.snapshotter.v1.overlayfs/metadata.db         v1/snapshots/moby/<n>/<key>: parent, size, number
    io.containerd.snapshotter.v1.overlayfs/snapshots/<number>/{fs,work}

The key of a layer is its chain ID. The key of a container is its ID, and the key of its init layer ends in "-init". A layer
that was committed from a container has the container's init layer below it. The init layer is not a part of the image and
is omitted.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from orlop_engine.images import documents
from orlop_sdk import OrlopError

from . import containerd_images, files
from .bolt import BoltError
from .containerd_images import Named
from .inventory import IndexedName, Remark, Snapshot, Store

__all__ = ["NAME", "is_present", "read"]

NAME = "containerd"
_NAMESPACE = "moby"
_INIT = "-init"
_COMMITTED = 3
_PARENT = "org.mobyproject.image.parent"


@dataclass(frozen=True, slots=True)
class _Snapshot:
    number: int
    parent: str
    size: int
    committed: bool


def database(base: str) -> str:
    """The path of the database of a containerd whose root directory is `base`. A running containerd locks this file."""
    return os.path.join(base, "io.containerd.metadata.v1.bolt", "meta.db")


def is_present(base: str) -> bool:
    """Whether dockerd has images in this containerd."""
    path = database(base)
    try:
        return os.path.isfile(path) and files.bolt(path).root.find("v1", _NAMESPACE, "images") is not None
    except BoltError as error:
        raise files.Unreadable(f"cannot read {path}: {error}") from error


def read(base: str) -> Store:
    """Read all objects. An unreadable object is replaced by a remark. Raises `Unreadable` for damaged databases."""
    snapshotter = os.path.join(base, "io.containerd.snapshotter.v1.overlayfs")
    store = Store(NAME)
    try:
        snapshots = dict(_snapshots(os.path.join(snapshotter, "metadata.db")))
        named = list(_named(database(base)))
    except BoltError as error:
        raise files.Unreadable(f"cannot read the databases of containerd in {base}: {error}") from error
    _place(store, snapshots, os.path.join(snapshotter, "snapshots"))
    blobs = os.path.join(base, "io.containerd.content.v1.content", "blobs", "sha256")
    sizes = {key: snapshot.size for key, snapshot in snapshots.items()}
    parents: dict[str, str] = {}
    for each in named:
        try:
            found = containerd_images.read(blobs, each, sizes)
        except (files.Unreadable, OrlopError) as error:
            store.remarks.append(Remark("image", each.name, str(error)))
            continue
        store.remarks += found.remarks
        for image in found.images:
            store.images[image.id] = containerd_images.joined(store.images.get(image.id), image)
            parents[image.id] = each.parent or parents.get(image.id, "")
        if found.index:
            indexed = IndexedName(found.index, tuple(image.id for image in found.images))
            store.indexed.update(dict.fromkeys(found.images[0].names or (each.name,), indexed))
    _set_parents(store, parents)
    blobs_of = {layer.diff_id: layer.blob for image in store.images.values() for layer in image.layers if layer.blob}
    store.images = {id: containerd_images.with_blobs(image, blobs_of) for id, image in store.images.items()}
    return store


def _set_parents(store: Store, parents: Mapping[str, str]) -> None:
    """Replace aliases of parents by IDs of images."""
    for id, alias in parents.items():
        if alias:
            chains = [layer.chain_id for layer in store.images[id].layers]
            store.images[id] = replace(store.images[id], parent=store.by_alias(alias, chains))


# --- databases --------------------------------------------------------------------------------------------------------


def _varint(data: bytes) -> int:
    """An unsigned varint of Go's encoding/binary."""
    value = 0
    for place, byte in enumerate(data[:10]):
        value |= (byte & 0x7F) << 7 * place
        if not byte & 0x80:
            return value
    raise BoltError("a number is damaged")


def _signed(data: bytes) -> int:
    """A signed varint, which Go writes in zigzag form."""
    value = _varint(data)
    return value >> 1 ^ -(value & 1)


def _snapshots(path: str) -> Iterator[tuple[str, _Snapshot]]:
    """Yields all snapshots with their keys. A key in the file, such as "moby/12/sha256:...", begins with a namespace and a
    number, which are removed."""
    found = files.bolt(path).root.find("v1", "snapshots")
    for name, bucket in found.buckets() if found else ():
        namespace, _, rest = name.partition("/")
        values = bucket.values()
        if namespace == _NAMESPACE and "id" in values:
            parent = values.get("parent", b"").decode("utf-8", "replace")
            size = _signed(values["size"]) if "size" in values else 0
            kind = _varint(values.get("kind", b"\0"))
            yield _key(rest), _Snapshot(_varint(values["id"]), _key(parent.partition("/")[2]), size, kind == _COMMITTED)


def _key(numbered: str) -> str:
    return numbered.partition("/")[2]


def _named(path: str) -> Iterator[Named]:
    found = files.bolt(path).root.find("v1", _NAMESPACE, "images")
    for name, bucket in found.buckets() if found else ():
        target, labels = bucket.find("target"), bucket.find("labels")
        values = {key: value.decode("utf-8", "replace") for key, value in (target.values() if target else {}).items()}
        parent = (labels.values() if labels else {}).get(_PARENT, b"").decode("utf-8", "replace")
        yield Named(name, values.get("digest", ""), values.get("mediatype", ""), parent)


# --- snapshots --------------------------------------------------------------------------------------------------------


def _below(snapshots: Mapping[str, _Snapshot], key: str) -> str:
    """The key of the next lower snapshot that is not the init layer of a container; "" for none."""
    for _ in range(documents.MAX_LAYERS):
        key = snapshots[key].parent if key in snapshots else ""
        if not key.endswith(_INIT):
            return key
    return ""


def _directory(snapshot: _Snapshot) -> str:
    """The name of the directory for a snapshot in Orlop's storage."""
    return f"containerd-{snapshot.number}"


def _place(store: Store, snapshots: Mapping[str, _Snapshot], directory: str) -> None:
    """Put the snapshots whose files exist into the store, as layers or containers."""
    for key, snapshot in snapshots.items():
        if not os.path.isdir(os.path.join(directory, str(snapshot.number), "fs")):
            continue
        below = snapshots.get(_below(snapshots, key) if files.is_digest(key) else snapshot.parent)
        made = Snapshot(
            key,
            _directory(snapshot),
            _directory(below) if below else "",
            os.path.join(directory, str(snapshot.number)),
            snapshot.committed,
            "fs",
        )
        if files.is_digest(key):
            store.layers[key] = made
        elif files.is_hex(key.removesuffix(_INIT)):
            container = key.removesuffix(_INIT)
            found = store.containers.get(container, ())
            if key.endswith(_INIT):
                store.containers[container] = (replace(made, key=f"init-{container}"), *found)
            else:
                store.containers[container] = (*found, made)
