"""Reads dockerd's image store and layer store for the graph driver overlay2 (moby image/, layer/, daemon/graphdriver).

image/overlay2/repositories.json                          names
image/overlay2/imagedb/content/sha256/<id>                configurations
image/overlay2/imagedb/metadata/sha256/<id>/{parent,lastUpdated}
image/overlay2/layerdb/sha256/<chain>/{cache-id,diff,parent,size,tar-split.json.gz}
image/overlay2/layerdb/mounts/<container>/{mount-id,init-id,parent}
overlay2/<cache id>/{diff,work}
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from orlop_engine.images import documents
from orlop_sdk import OrlopError

from . import files
from .inventory import Image, Layer, Remark, Snapshot, Store

__all__ = ["NAME", "is_present", "read"]

NAME = "overlay2"
_DIRECTORY = re.compile(r"[0-9a-z]{1,128}(-init)?")


@dataclass(frozen=True, slots=True)
class _Layer:
    directory: str
    diff_id: str
    parent: str
    size: int
    tar_split: str


def is_present(root: str) -> bool:
    return os.path.isdir(os.path.join(root, "image", NAME, "imagedb", "content", "sha256"))


def read(root: str) -> Store:
    """Read all objects. An unreadable object is replaced by a remark."""
    store = Store(NAME)
    base = os.path.join(root, "image", NAME)
    layers = dict(_layers(os.path.join(base, "layerdb", "sha256"), store))
    for chain_id, layer in layers.items():
        parent = layers.get(layer.parent)
        path = os.path.join(root, NAME, layer.directory)
        if (layer.parent and parent is None) or not os.path.isdir(os.path.join(path, "diff")):
            store.remarks.append(Remark("layer", chain_id, "its files, or those of a layer below it, are missing"))
            continue
        store.layers[chain_id] = Snapshot(chain_id, layer.directory, parent.directory if parent else "", path)
    names = _names(os.path.join(base, "repositories.json"), store)
    for name in files.hex_names(os.path.join(base, "imagedb", "content", "sha256")):
        try:
            image = _image(base, name, layers, names)
        except (files.Unreadable, OrlopError) as error:
            store.remarks.append(Remark("image", f"sha256:{name}", str(error)))
            continue
        store.images[image.id] = image
    store.containers.update(_containers(root, base, layers, store))
    return store


def _layers(directory: str, store: Store) -> Iterator[tuple[str, _Layer]]:
    for name in files.hex_names(directory):
        at = os.path.join(directory, name)
        tar_split = os.path.join(at, "tar-split.json.gz")
        try:
            cache, diff_id, parent, size = (
                files.text(os.path.join(at, each)) for each in ("cache-id", "diff", "parent", "size")
            )
            if not _DIRECTORY.fullmatch(cache) or not files.is_digest(diff_id) or (parent and not files.is_digest(parent)):
                raise files.Unreadable(f"{at} is damaged")
            found = _Layer(cache, diff_id, parent, int(size), tar_split if os.path.isfile(tar_split) else "")
        except ValueError as error:
            store.remarks.append(Remark("layer", f"sha256:{name}", str(error)))
            continue
        yield f"sha256:{name}", found


def _names(path: str, store: Store) -> Mapping[str, list[str]]:
    """Image ID -> names."""
    found: dict[str, list[str]] = {}
    if not os.path.exists(path):
        return found
    try:
        repositories = files.json(path).get("Repositories")
        if not isinstance(repositories, dict):
            raise files.Unreadable(f"{path} is damaged")
    except files.Unreadable as error:
        store.remarks.append(Remark("names", path, str(error)))
        return found
    for references in repositories.values():
        for reference, id in references.items() if isinstance(references, dict) else ():
            found.setdefault(str(id), []).append(reference)
    return found


def _image(base: str, name: str, known: Mapping[str, _Layer], names: Mapping[str, list[str]]) -> Image:
    id = f"sha256:{name}"
    raw = files.raw(os.path.join(base, "imagedb", "content", "sha256", name))
    if documents.digest(raw) != id:
        raise files.Unreadable("its configuration is damaged")
    rootfs = documents.parse(raw).rootfs
    layers = []
    for chain_id in documents.chain_ids(rootfs.diff_ids if rootfs else ()):
        layer = known.get(chain_id)
        if layer is None:
            raise files.Unreadable(f"its layer {chain_id} is missing")
        layers.append(Layer(layer.diff_id, chain_id, layer.size, tar_split=layer.tar_split))
    metadata = os.path.join(base, "imagedb", "metadata", "sha256", name)
    parent, tagged = (files.text(os.path.join(metadata, each)) for each in ("parent", "lastUpdated"))
    return Image(id, raw, tuple(layers), tuple(sorted(names.get(id, ()))), parent if files.is_digest(parent) else "", tagged)


def _containers(
    root: str, base: str, layers: Mapping[str, _Layer], store: Store
) -> Iterator[tuple[str, tuple[Snapshot, ...]]]:
    directory = os.path.join(base, "layerdb", "mounts")
    for container in files.hex_names(directory):
        at = os.path.join(directory, container)
        mount, init, parent = (files.text(os.path.join(at, each)) for each in ("mount-id", "init-id", "parent"))
        image = layers.get(parent)
        if not all(_DIRECTORY.fullmatch(each) for each in (mount, init or mount)) or (parent and image is None):
            store.remarks.append(Remark("container", container, f"{at} is damaged"))
            continue
        below, found = image.directory if image else "", []
        if init:
            found.append(Snapshot(f"init-{container}", init, below, os.path.join(root, NAME, init)))
            below = init
        found.append(Snapshot(container, mount, below, os.path.join(root, NAME, mount), committed=False))
        if all(os.path.isdir(os.path.join(each.path, "diff")) for each in found):
            yield container, tuple(found)
