"""The links by which Orlop's data root uses a Docker root in place. All functions block.

    overlay2/<id> -> <docker>/overlay2/<id>                    the graph driver's directories have Orlop's layout
    overlay2/<id>/{diff,work} -> <snapshots>/<n>/{fs,work}     containerd's directories have another layout
    overlay2/.orlop/{active,committed}/<key>                   the index (orlop_sdk.snapshots)
    volumes/<name> -> <docker>/volumes/<name>
    content/tar-split/<chain> -> ../../overlay2/<id>/diff      what the layer's tar can be made of (engine.images.tar_split)
    content/tar-split/<chain>.json.gz                          a hard link, as for all files
    content/blobs/sha256/<digest>                              a blob of containerd
    containers/<id>/<id>-json.log                              a log: one file with two names, which both daemons continue

After a crash, making or removing the links can be repeated, and continues where it stopped. The Docker root is never written
to.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import suppress

import msgspec

from orlop_engine.images.content import ContentStore
from orlop_engine.images.tar_split import paths_of
from orlop_sdk import Conflict
from orlop_sdk.snapshots import SnapshotIndex, fsync_directory

from .adopted import Adopted, Entry, Link
from .inventory import Snapshot
from .plan import Plan

__all__ = ["describe", "known_snapshots", "make", "remove"]

_STORAGE = "overlay2"
_INDEX = os.path.join(_STORAGE, ".orlop")


def _index(data_root: str) -> SnapshotIndex:
    """The index of the storage driver."""
    return SnapshotIndex(os.path.join(data_root, _INDEX))


def known_snapshots(data_root: str) -> dict[str, str]:
    """Storage key -> directory of the snapshots that the data root has."""
    if not os.path.isdir(os.path.join(data_root, _INDEX)):
        return {}
    return {key: record.id for key, record in _index(data_root).load().items()}


# --- list of links ---


def describe(plan: Plan, base: Adopted) -> Adopted:
    """Returns `base` with all links and objects of the plan added. Paths of targets are relative to the data root."""
    containers = os.path.join(base.root, "containers")
    return msgspec.structs.replace(
        base,
        directories=(*_snapshots(plan.snapshots), *_volumes(plan)),
        made=tuple(os.path.join(_STORAGE, each.id) for each in plan.snapshots if each.files != "diff"),
        entries=tuple(Entry(each.key, each.committed) for each in plan.snapshots),
        logs=tuple(Link(os.path.join(containers, each.id), os.path.join("containers", each.id)) for each in plan.containers),
        files=tuple(_files(plan)),
        images=tuple(image.id for image in plan.images),
        containers=tuple(container.id for container in plan.containers),
        volumes=tuple(volume.name for volume in plan.volumes),
        networks=tuple(plan.networks),
    )


def _snapshots(snapshots: Iterable[Snapshot]) -> Iterator[Link]:
    for each in snapshots:
        target = os.path.join(_STORAGE, each.id)
        if each.files == "diff":
            yield Link(each.path, target)
            continue
        yield Link(os.path.join(each.path, each.files), os.path.join(target, "diff"))
        if os.path.isdir(work := os.path.join(each.path, "work")):
            yield Link(work, os.path.join(target, "work"))


def _volumes(plan: Plan) -> Iterator[Link]:
    for volume in plan.volumes:
        if volume.path:
            yield Link(volume.path, os.path.join("volumes", volume.name))


def _files(plan: Plan) -> Iterator[Link]:
    """Links to logs, to blobs, and to the files from which layers can be packed. No file is listed twice."""
    found: dict[str, str] = {}
    for container in plan.containers:
        for name in container.logs:
            found[os.path.join("containers", container.id, name)] = os.path.join(
                plan.inventory.root, "containers", container.id, name
            )
    for image in plan.images:
        for layer in image.layers:
            if layer.tar_split:
                found[os.path.join("content", paths_of(layer.chain_id)[0])] = layer.tar_split
        for blob in (*image.manifests, *image.attachments, *(layer.blob for layer in image.layers if layer.blob)):
            found[_blob(blob.digest)] = blob.path
    return (Link(source, target) for target, source in found.items())


def _blob(digest: str) -> str:
    return os.path.join("content", "blobs", "sha256", digest.removeprefix("sha256:"))


# --- making ---


def make(data_root: str, plan: Plan, adopted: Adopted) -> None:
    """Make all links, and make them durable. Raises `Conflict` if a target exists already and is a different file."""
    for name, mode in ((_STORAGE, 0o710), (_INDEX, 0o700), ("containers", 0o710), ("volumes", 0o710)):
        os.makedirs(os.path.join(data_root, name), mode, exist_ok=True)
    ContentStore(os.path.join(data_root, "content")).prepare()
    for made in (*adopted.made, *(each.target for each in adopted.logs)):
        os.makedirs(os.path.join(data_root, made), 0o710, exist_ok=True)
    for each in adopted.directories:
        _symlink(each.source, os.path.join(data_root, each.target))
    for each in adopted.files:
        _hard_link(each.source, os.path.join(data_root, each.target))
    found = _index(data_root)
    present = found.load()
    for snapshot in plan.snapshots:
        if snapshot.key not in present:
            found.add(snapshot.key, snapshot.id, snapshot.parent or None, committed=snapshot.committed)
    for snapshot in plan.snapshots:
        split, files = (os.path.join(data_root, "content", path) for path in paths_of(snapshot.key))
        if os.path.exists(split):
            _symlink(os.path.join("..", "..", _STORAGE, snapshot.id, "diff"), files)
    _write_configurations(data_root, plan)
    for path in {os.path.dirname(os.path.join(data_root, target)) for target in _targets(adopted)}:
        fsync_directory(path)


def _targets(adopted: Adopted) -> Iterator[str]:
    yield from (os.path.join(_INDEX, state, "x") for state in ("active", "committed"))
    yield from (*adopted.made, _blob("x"))
    for each in (*adopted.logs, *adopted.directories, *adopted.files):
        yield each.target


def _symlink(source: str, target: str) -> None:
    if os.path.islink(target) and os.readlink(target) == source:
        return
    try:
        os.symlink(source, target)
    except FileExistsError:
        raise Conflict(f"cannot link {target} to {source}: {target} already exists") from None


def _hard_link(source: str, target: str) -> None:
    os.makedirs(os.path.dirname(target), 0o700, exist_ok=True)
    try:
        os.link(source, target, follow_symlinks=False)
    # Existing blobs and layers have the same content, because their names are digests of the content
    except FileExistsError:
        if "-json.log" in target and not os.path.samefile(source, target):
            raise Conflict(f"cannot link {target} to {source}: {target} already exists") from None


def _write_configurations(data_root: str, plan: Plan) -> None:
    """Write the configurations of the images as blobs. A crash leaves no incomplete blob."""
    for image in plan.images:
        path = os.path.join(data_root, _blob(image.id))
        if os.path.exists(path):
            continue
        staged = os.path.join(data_root, "content", "ingest", f"tmp-{image.id[7:]}")
        with open(staged, "wb") as file:
            file.write(image.config)
            file.flush()
            os.fsync(file.fileno())
        os.rename(staged, path)


# --- removing ---


def remove(data_root: str, adopted: Adopted) -> None:
    """Remove the links, and no other files. A missing link is ignored, and so is another file with the name of a link."""
    found = _index(data_root)
    for entry in adopted.entries:
        found.drop(entry.key, committed=entry.committed)
    for each in adopted.directories:
        path = os.path.join(data_root, each.target)
        if os.path.islink(path) and os.readlink(path) == each.source:
            os.unlink(path)
    files = [paths_of(entry.key)[1] for entry in adopted.entries]
    tar_split = os.path.join("content", os.path.dirname(paths_of("")[0]))
    for target in (*(each.target for each in adopted.files), *(os.path.join("content", path) for path in files)):
        if not target.startswith(os.path.dirname(_blob("x"))):  # the next daemon removes these blobs
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(data_root, target))
    for made in (*adopted.made, *(each.target for each in adopted.logs), tar_split):
        with suppress(OSError):  # the directory does not exist, or contains other files
            os.rmdir(os.path.join(data_root, made))
