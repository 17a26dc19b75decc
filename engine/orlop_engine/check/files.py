"""Compares rows with the disk and the drivers: directories, snapshots, blobs, volumes, mounts, networks. This module does no
I/O."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from orlop_engine.config import defaults
from orlop_engine.images.layers import BUILD, below_init_layer
from orlop_sdk import Drift
from orlop_sdk.findings import ERROR, INFO, WARNING, Finding, Remedy

from .facts import Facts
from .rows import Rows

__all__ = ["compare"]

_CONTAINER_ID = re.compile(r"[0-9a-f]{64}")


def compare(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    yield from _directories(facts, rows_read)
    yield from _snapshots(facts, rows_read)
    yield from _blobs(facts, rows_read)
    yield from _volumes(facts, rows_read)
    yield from _mounts(facts, rows_read)
    yield from _networks(facts)


def _swept(facts: Facts, rows_read: Rows) -> str:
    """The severity of a finding about container files without a row. The next daemon removes these files. "" if the files
    must be kept."""
    return "" if rows_read.rows_incomplete else INFO if not facts.serving else WARNING


def _directories(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    for name in sorted(facts.directories - rows_read.containers.keys() - rows_read.quarantined):
        severity = _swept(facts, rows_read)
        known = _CONTAINER_ID.fullmatch(name) is not None
        yield Finding(
            severity=severity or WARNING,
            area="containers",
            object=f"directory containers/{name}",
            text="belongs to no container",
            repair="remove it" if severity and known else "",
            id=name,
            remedy=Remedy("discard-container", name) if severity and known else None,
        )
    for record in rows_read.containers.values():
        if record.id not in facts.directories:
            yield Finding(
                severity=ERROR,
                area="containers",
                object=f"container {record.name}",
                text=f"has a row, but its directory containers/{record.id} and its log are missing",
                repair="create an empty one",
                id=record.id,
                remedy=Remedy("make-directory", record.id),
            )


def _snapshots(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    storage = facts.storage
    for left in storage.leftovers:
        yield _leftover(left, f"storage {storage.name}", "storage", storage.name, WARNING)
    if storage.keys is None:
        yield Finding(severity=ERROR, area="storage", object=f"storage driver {storage.name}", text=storage.failure)
        return
    wanted = {layer.key for image in rows_read.images.values() for layer in image.layers}
    wanted |= {layer.key for base in rows_read.bases.values() for layer in base.layers}
    held = {chain for resume in rows_read.resumes.values() for chain in resume.chains}
    for key in sorted(storage.keys):
        if _CONTAINER_ID.fullmatch(key):
            if key not in rows_read.containers and key not in rows_read.quarantined:
                yield Finding(
                    severity=_swept(facts, rows_read) or WARNING,
                    area="storage",
                    object=f"snapshot {key[:12]}",
                    text="is a root file system without a container",
                    repair="remove it" if _swept(facts, rows_read) else "",
                    id=key,
                    remedy=Remedy("discard-container", key) if _swept(facts, rows_read) else None,
                )
        elif key.startswith(BUILD):
            if key not in rows_read.builds and key not in wanted:
                yield _of_build(facts, rows_read, key, "belongs to no build", "write its row, or remove it if it is unused")
        elif not _needed(
            key, wanted | held | rows_read.builds.keys() | rows_read.containers.keys()
        ) and not _held_by_container(rows_read):
            yield _unused(facts, rows_read, f"snapshot {key[:19]}", "is a layer that no image uses", "storage")
    for record in rows_read.containers.values():
        if record.id not in storage.keys and record.storage_driver == storage.name:
            yield Finding(
                severity=ERROR,
                area="storage",
                object=f"container {record.name}",
                text="has no root file system: the data that the container wrote is lost; the next start of the daemon "
                "creates an empty root file system",
                id=record.id,
            )
    for image in rows_read.images.values():
        for layer in image.layers:
            if layer.key not in storage.keys:
                yield Finding(
                    severity=ERROR,
                    area="images",
                    object=f"image {image.id[:19]}",
                    text=f"its layer {layer.chain_id[:19]} is not in storage: pull, load or build the image again",
                )
    for key in sorted(rows_read.builds.keys() - storage.keys):
        yield _of_build(facts, rows_read, key, "of the build cache is not in storage", "remove its row")


def _of_build(facts: Facts, rows_read: Rows, key: str, text: str, repair: str) -> Finding:
    """A snapshot of a build that does not agree with its row. The next start of the daemon makes the same repair."""
    severity = _swept(facts, rows_read)
    if not facts.serving or not severity:
        repair = ""
    return Finding(
        severity=severity or WARNING,
        area="storage",
        object=f"snapshot {key}",
        text=text,
        repair=repair,
        id=key,
        remedy=Remedy("repair-build", key) if repair else None,
    )


def _needed(key: str, owners: set[str]) -> bool:
    """Whether a layer, or an init layer, is needed. `owners`: chain IDs of layers, and IDs of containers, because a
    container may have its own init layer."""
    below = below_init_layer(key)
    return key in owners or below == "" or below in owners


def _held_by_container(rows_read: Rows) -> bool:
    """Whether a container's image was removed before the container. The layers of such an image have no row, and only the
    storage driver knows which snapshots use them."""
    return any(record.image_id not in rows_read.images for record in rows_read.containers.values())


def _unused(facts: Facts, rows_read: Rows, what: str, text: str, area: str) -> Finding:
    images_incomplete = rows_read.images_incomplete
    return Finding(
        severity=WARNING if facts.serving else INFO,
        area=area,
        object=what,
        text=f"{text}; kept while rows of images may be missing" if images_incomplete else text,
        repair="" if images_incomplete else "remove it",
        remedy=None if images_incomplete else Remedy("collect"),
    )


def _blobs(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    keep: set[str] = {blob for resume in rows_read.resumes.values() for blob in resume.blobs}
    keep |= {blob for base in rows_read.bases.values() for layer in base.layers for blob in layer.blobs}
    for image in rows_read.images.values():
        name = f"image {image.id[:19]}"
        keep.update(
            (image.id, *image.manifests, *image.attachments, *(blob for layer in image.layers for blob in layer.blobs))
        )
        for digest in (image.id, *image.manifests):
            if digest not in facts.blobs:
                yield _lost_blob(name, digest, "is not in the content store")
        for layer in image.layers:
            if not layer.blob:
                continue  # only the layer's unpacked files are stored
            blob = facts.blobs.get(layer.blob)
            if blob is None:
                yield _lost_blob(name, layer.blob, "is not in the content store")
            elif blob.size != layer.blob_size:
                text = f"has {blob.size} bytes, not {layer.blob_size}"
                yield _lost_blob(name, layer.blob, text, Remedy("remove-blob", layer.blob))
    for digest, blob in facts.blobs.items():
        if not blob.sound:
            yield _lost_blob("content", digest, "does not match its digest", Remedy("remove-blob", digest))
        elif digest not in keep:
            yield _unused(facts, rows_read, f"blob {digest[:19]}", "belongs to no image", "images")
    for name in facts.odd_blobs:
        yield Finding(
            severity=WARNING,
            area="images",
            object=f"file content/blobs/sha256/{name}",
            text="is not a blob: its name is not a digest",
        )


def _lost_blob(what: str, digest: str, text: str, remedy: Remedy | None = None) -> Finding:
    return Finding(
        severity=ERROR,
        area="images",
        object=what,
        text=f"blob {digest[:19]} {text}: the image cannot be saved or pushed; pull or load the image again",
        repair="remove the damaged blob; the next pull or load of the image stores it again" if remedy else "",
        remedy=remedy,
    )


def _volumes(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    for driver, seen in facts.volumes.items():
        if seen.failure:
            yield Finding(severity=ERROR, area="volumes", object=f"volume driver {driver}", text=seen.failure)
            continue
        rows = {name for name, record in rows_read.volumes.items() if record.driver == driver}
        for name in sorted(rows - seen.names):
            if rows_read.volumes[name].removing:
                continue
            yield Finding(severity=ERROR, area="volumes", object=f"volume {name}", text="its data is missing")
        for name in sorted(seen.names - rows) if driver == defaults.VOLUME_DRIVER else ():
            yield Finding(
                severity=WARNING if facts.serving else INFO,
                area="volumes",
                object=f"volume {name}",
                text="has data but no database row; the next start creates it",
                repair="create the row",
                remedy=Remedy("adopt-volumes"),
            )
    for name, record in rows_read.volumes.items():
        if record.removing:
            yield Finding(
                severity=WARNING if facts.serving else INFO,
                area="volumes",
                object=f"volume {name}",
                text="its removal is incomplete; the next start completes it",
            )


def _mounts(facts: Facts, rows_read: Rows) -> Iterator[Finding]:
    private = os.path.join(facts.exec_root, "mnt")
    volumes = os.path.join(facts.data_root, "volumes")
    others = os.path.join(facts.data_root, "volume-drivers")
    for path in facts.mounts:
        if path in (private, facts.data_root, facts.exec_root):
            continue
        if path.startswith(f"{others}/"):
            continue  # external volume drivers mount here
        if os.path.dirname(path) == facts.data_root:
            continue  # the administrator has mounted it, for example a separate disk for volumes
        name, _, rest = os.path.relpath(path, volumes).partition("/")
        if rest == "_data" and name in rows_read.volumes:
            continue
        below = path.startswith(f"{private}/")
        yield Finding(
            severity=WARNING,
            area="mounts",
            object=f"mount {path}",
            text="is a container's mount, and was left in the host's mount namespace",
            repair="unmount it" if below else "",
            remedy=Remedy("unmount", path) if below else None,
        )


def _networks(facts: Facts) -> Iterator[Finding]:
    for driver, found in facts.networks.items():
        for left in found:
            yield _leftover(left, f"network {driver}", "network", driver, WARNING if facts.serving else INFO)
    for driver, failure in facts.network_failures.items():
        yield Finding(severity=ERROR, area="network", object=f"network driver {driver}", text=failure)


def _leftover(left: Drift, source: str, area: str, driver: str, severity: str) -> Finding:
    return Finding(
        severity=ERROR if left.kind in ("damaged", "missing") else severity,
        area=area,
        object=left.object,
        text=f"{left.text} ({source})",
        repair=left.repair,
        id=left.id,
        remedy=Remedy(f"repair-{area}", driver, left) if left.repair else None,
    )
