"""Reads a Docker root (`/var/lib/docker`). Also checks that a directory is a Docker root, and that no daemon uses it.

containers/<id>/{config.v2.json,hostconfig.json,<id>-json.log*}
volumes/metadata.db, volumes/<name>/{_data,opts.json}
network/files/local-kv.db                       networks, as libnetwork stores them
swarm/docker-state.json  plugins/<id>/  buildkit/        not adopted
"""

from __future__ import annotations

import fcntl
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import msgspec

from orlop_engine.volumes.record import check_name
from orlop_sdk import Conflict, InvalidParameter

from . import containerd, files, overlay2
from .bolt import BoltError
from .inventory import Container, Inventory, Network, Remark, Snapshot, Store, Volume

__all__ = ["SYSTEM_CONTAINERD", "check", "locked", "read", "transactions"]

SYSTEM_CONTAINERD = "/var/lib/containerd"
"""The root of a containerd that systemd runs, and that dockerd uses."""

_LOCKS = ("network/files/local-kv.db", "volumes/metadata.db")
_REMAPPED = re.compile(r"\d+\.\d+")
_OTHER_DRIVERS = ("aufs", "btrfs", "devicemapper", "fuse-overlayfs", "overlay", "vfs", "windowsfilter", "zfs")
_KEY = "docker/network/v1.0/network/"
_INDEX = 8  # length of the prefix that libkv writes before each value, in bytes


def _containerd_bases(root: str) -> tuple[str, ...]:
    return os.path.join(root, "containerd", "daemon"), SYSTEM_CONTAINERD


# --- checks and locks ---


def check(root: str) -> None:
    """Raise `InvalidParameter` if the directory contains nothing to adopt."""
    if not os.path.isdir(root):
        raise InvalidParameter(f"cannot adopt {root}: there is no such directory")
    known = all(os.path.isdir(os.path.join(root, name)) for name in ("containers", "network"))
    if _REMAPPED.fullmatch(os.path.basename(root)) or (not known and _remapped(root)):
        raise InvalidParameter(
            f"cannot adopt {root}: it belongs to a dockerd with userns-remap, whose files are owned by mapped users"
        )
    if not known:
        raise InvalidParameter(f"cannot adopt {root}: it is not the data root of a dockerd")


def _remapped(root: str) -> list[str]:
    """The subdirectories "<uid>.<gid>", which are the roots of dockerds with userns-remap."""
    return sorted(name for name in os.listdir(root) if _REMAPPED.fullmatch(name))


@contextmanager
def locked(root: str) -> Iterator[None]:
    """Prevent dockerd, and the containerd that dockerd starts, from starting on this root: lock the files that these two
    lock while they run. Raises `Conflict` if one of them is running."""
    with ExitStack() as stack:
        for path in (*(os.path.join(root, name) for name in _LOCKS), containerd.database(_containerd_bases(root)[0])):
            if os.path.exists(path):
                stack.callback(os.close, _lock(path, root, "dockerd", "docker.socket docker"))
        if _uses_system_containerd(root):
            path = containerd.database(SYSTEM_CONTAINERD)
            stack.callback(os.close, _lock(path, root, "containerd", "containerd"))
        yield


def _lock(path: str, root: str, daemon: str, units: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(fd)
        raise Conflict(f"cannot use {root}: a running {daemon} has it open. Stop it first: systemctl stop {units}") from None
    return fd


def _uses_system_containerd(root: str) -> bool:
    """Whether the images of this root are in the containerd of the system. dockerd mounts containers of a containerd
    snapshotter below `rootfs`."""
    own, system = _containerd_bases(root)
    return (
        os.path.isdir(os.path.join(root, "rootfs")) and not os.path.exists(containerd.database(own)) and _has_images(system)
    )


def _has_images(base: str) -> bool:
    try:
        return containerd.is_present(base)
    except files.Unreadable:
        return False


# --- objects ---


def read(root: str) -> Inventory:
    """Read all objects. Raises `InvalidParameter` if the directory is not a Docker root, or if Orlop cannot use its image
    store."""
    check(root)
    remarks: list[Remark] = []
    configs = dict(_configs(root, remarks))
    try:
        store = _store(root, configs, remarks)
        found = Inventory(root, files.text(os.path.join(root, "engine-id")), store, remarks=remarks)
        found.volumes = list(_volumes(root, remarks))
        found.networks = list(_networks(root, remarks))
    except files.Unreadable as error:
        raise InvalidParameter(f"cannot adopt {root}: {error}") from error
    for id, (config, host_config) in configs.items():
        name = str(config.get("Name", "")).removeprefix("/")
        snapshots = store.containers.get(id, ())
        image = _image(config, store, snapshots)
        logs = tuple(_logs(os.path.join(root, "containers", id), id))
        found.containers.append(Container(id, name, config, host_config, image, snapshots, logs))
    remarks += store.remarks
    remarks += _without_place(root)
    return found


def _configs(root: str, remarks: list[Remark]) -> Iterator[tuple[str, tuple[dict[str, Any], dict[str, Any]]]]:
    directory = os.path.join(root, "containers")
    for id in files.hex_names(directory):
        at = os.path.join(directory, id)
        try:
            config = files.json(os.path.join(at, "config.v2.json"))
            if config.get("ID") != id:
                raise files.Unreadable(f"{at}/config.v2.json names another container")
            yield id, (config, files.json(os.path.join(at, "hostconfig.json")))
        except files.Unreadable as error:
            remarks.append(Remark("container", id[:12], str(error)))


def _store(root: str, configs: Mapping[str, tuple[dict[str, Any], dict[str, Any]]], remarks: list[Remark]) -> Store:
    """The image store that dockerd uses. If both kinds of stores exist, this is the store that most containers use."""
    bases = [
        base for base in _containerd_bases(root)[: 2 if _uses_system_containerd(root) else 1] if containerd.is_present(base)
    ]
    drivers = Counter(str(config.get("Driver", "")) for config, _ in configs.values())
    graph = overlay2.is_present(root)
    if bases and graph:
        preferred, other = (overlay2.NAME, containerd.NAME)
        if drivers["overlayfs"] > drivers[overlay2.NAME]:
            preferred, other = other, preferred
        remarks.append(Remark("images", other, f"dockerd uses the image store {preferred}, not this image store"))
        graph = preferred == overlay2.NAME
    if graph:
        return overlay2.read(root)
    if bases:
        return containerd.read(bases[0])
    used = [name for name in _OTHER_DRIVERS if os.path.isdir(os.path.join(root, "image", name))]
    if used:
        raise InvalidParameter(
            f"cannot adopt {root}: its storage driver is {used[0]}. Only overlay2 and the containerd image store can be "
            "adopted"
        )
    return Store(overlay2.NAME)


def _image(config: Mapping[str, Any], store: Store, snapshots: Sequence[Snapshot]) -> str:
    """The ID of a container's image. With the containerd image store, `Image` may be the digest of an index of several
    images. Since 24.0, `ImageManifest` is the digest of the image's manifest."""
    named = str(config.get("Image", ""))
    manifest = config.get("ImageManifest")
    exact = str(manifest.get("digest", "")) if isinstance(manifest, dict) else ""
    if named in store.images:
        return named
    chains = (store.chain_below(snapshots),)
    return store.by_alias(exact or named, chains) or named


def _logs(directory: str, id: str) -> Iterator[str]:
    """The files of the log driver json-file."""
    pattern = re.compile(rf"{id}-json\.log(\.\d{{1,4}}(\.gz)?)?")
    with os.scandir(directory) as entries:
        yield from sorted(
            each.name for each in entries if pattern.fullmatch(each.name) and each.is_file(follow_symlinks=False)
        )


# --- volumes and networks ---


class _Volume(msgspec.Struct, rename="pascal"):
    driver: str = ""
    labels: dict[str, str] | None = None
    options: dict[str, str] | None = None


_volume = msgspec.json.Decoder(_Volume).decode


def _volumes(root: str, remarks: list[Remark]) -> Iterator[Volume]:
    directory = os.path.join(root, "volumes")
    known = _known_volumes(os.path.join(directory, "metadata.db"), remarks)
    try:
        present = {each.name for each in os.scandir(directory) if each.is_dir(follow_symlinks=False)}
    except FileNotFoundError:
        present = set()
    for name in sorted(known.keys() | present):
        path, meta = os.path.join(directory, name), known.get(name, _Volume())
        local = meta.driver in ("", "local")
        try:
            check_name(name)
        except InvalidParameter as error:
            remarks.append(Remark("volume", name, str(error)))
            continue
        if local and not os.path.isdir(os.path.join(path, "_data")):
            if name in known:
                remarks.append(Remark("volume", name, "its directory is missing"))
            continue
        created = os.stat(path).st_mtime_ns if local else 0
        yield Volume(name, meta.driver or "local", path if local else "", created, meta.options or {}, meta.labels or {})


def _known_volumes(path: str, remarks: list[Remark]) -> dict[str, _Volume]:
    """Volumes by name, from the database. Volumes that were created before dockerd 1.13 have no entry."""
    if not os.path.exists(path):
        return {}
    found = {}
    try:
        bucket = files.bolt(path).root.find("volumes")
        values = bucket.values() if bucket else {}
    except BoltError as error:
        raise files.Unreadable(f"cannot read {path}: {error}") from error
    for name, value in values.items():
        try:
            found[name] = _volume(value)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            remarks.append(Remark("volume", name, f"its entry in {path} is damaged: {error}"))
    return found


def _networks(root: str, remarks: list[Remark]) -> Iterator[Network]:
    path = os.path.join(root, "network", "files", "local-kv.db")
    if not os.path.exists(path):
        return
    try:
        bucket = files.bolt(path).root.find("libnetwork")
        values = bucket.values() if bucket else {}
    except BoltError as error:
        raise files.Unreadable(f"cannot read {path}: {error}") from error
    for key, value in values.items():
        if not key.startswith(_KEY):
            continue
        try:
            record = msgspec.json.decode(value[_INDEX:], type=dict[str, Any])
            id, name, driver = (str(record[each]) for each in ("id", "name", "networkType"))
        except (msgspec.MsgspecError, RecursionError, UnicodeDecodeError, KeyError) as error:
            remarks.append(
                Remark("network", key.removeprefix(_KEY).strip("/")[:12], f"its entry in {path} is damaged: {error}")
            )
            continue
        yield Network(id, name, driver, record)


def _without_place(root: str) -> Iterator[Remark]:
    if os.path.exists(os.path.join(root, "swarm", "docker-state.json")):
        yield Remark("swarm", "", "this node is part of a swarm: its services, secrets and configs are not adopted")
    for id in files.hex_names(os.path.join(root, "plugins")):
        try:
            name = str(files.json(os.path.join(root, "plugins", id, "config.json"))["plugin"]["Name"])
        except (files.Unreadable, KeyError, TypeError):
            name = id[:12]
        yield Remark("plugin", name, "managed plugins are not supported")
    for name in _remapped(root):
        yield Remark("root", name, "is the root of a dockerd with userns-remap, whose files are owned by mapped users")
    if os.path.isdir(os.path.join(root, "buildkit")):
        yield Remark("build cache", "", "the cache of `docker build` is not adopted")


def transactions(root: str) -> dict[str, int]:
    """The last transaction numbers of dockerd's databases, by path below the root. Every start of dockerd writes to the
    databases."""
    found = {}
    for name in _LOCKS:
        path = os.path.join(root, name)
        if os.path.exists(path):
            found[name] = files.bolt(path).transaction
    return found
