"""Mounts of a container: the notations of `--volume`, `--mount`, `--tmpfs` and image VOLUMEs parsed into `MountRecord`s,
and records turned into OCI mounts. Pure, but for the look at bind sources that Docker promises too."""

from __future__ import annotations

import os
import posixpath
import secrets
from collections.abc import Iterable, Mapping
from typing import Any

from orlop_kernel.spi import InvalidParameter, Mount
from orlop_kernel.types.containers import HostConfig, MountPoint, MountSpec

from .record import MountRecord

__all__ = ["oci", "parse_bind", "plan", "views"]

_PROPAGATION = frozenset({"private", "rprivate", "shared", "rshared", "slave", "rslave"})
_MODES = frozenset({"ro", "rw", "z", "Z", "nocopy", "consistent", "cached", "delegated"})
_TMPFS = ("noexec", "nosuid", "nodev")


def _destination(path: str, text: str) -> str:
    if not path.startswith("/"):
        raise InvalidParameter(
            f"invalid volume specification: '{text}': invalid mount config for type \"volume\": "
            f"invalid mount path: '{path}' mount path must be absolute"
        )
    clean = posixpath.normpath(path)
    clean = "/" + clean.lstrip("/")
    if clean == "/":
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid specification: destination can't be '/'")
    return clean


def parse_bind(text: str) -> MountRecord:
    """`[source:]destination[:mode]`. An absolute source is a bind, another one a volume's name."""
    parts = text.split(":")
    if not 1 <= len(parts) <= 3 or not all(parts):
        raise InvalidParameter(f"invalid volume specification: '{text}'")
    mode = ""
    if len(parts) == 3:
        source, destination, mode = parts
    elif len(parts) == 2 and not parts[1].startswith("/") and parts[0].startswith("/"):
        source, destination, mode = "", parts[0], parts[1]
    elif len(parts) == 2:
        source, destination = parts
    else:
        source, destination = "", parts[0]
    words = [word for word in mode.split(",") if word]
    if len(set(words)) != len(words) or any(word not in _MODES | _PROPAGATION for word in words):
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mode: {mode}")
    propagation = next((word for word in words if word in _PROPAGATION), "")
    destination = _destination(destination, text)
    if source.startswith("/"):
        clean = posixpath.normpath(source)
        return MountRecord(
            type="bind",
            destination=destination,
            source=clean,
            mode=mode,
            rw="ro" not in words,
            propagation=propagation or "rprivate",
        )
    if propagation:
        raise InvalidParameter(f"invalid volume specification: '{text}': invalid mode: {mode}")
    return MountRecord(
        type="volume",
        destination=destination,
        name=source or secrets.token_hex(32),
        mode=mode or "z",
        rw="ro" not in words,
        anonymous=not source,
        copy="nocopy" not in words,
    )


def _invalid(spec: MountSpec, why: str) -> InvalidParameter:
    return InvalidParameter(f'invalid mount config for type "{spec.type}": {why}')


def parse_spec(spec: MountSpec) -> MountRecord:
    """One `--mount`."""
    if not spec.target:
        raise _invalid(spec, "field Target must not be empty")
    if not spec.target.startswith("/"):
        raise _invalid(spec, f"invalid mount path: '{spec.target}' mount path must be absolute")
    destination = "/" + posixpath.normpath(spec.target).lstrip("/")
    if destination == "/":
        raise _invalid(spec, "invalid specification: destination can't be '/'")
    if spec.type == "bind":
        return _bind_spec(spec, destination)
    if spec.type == "volume":
        options = spec.volume_options
        if options and options.subpath and (options.subpath.startswith("/") or ".." in options.subpath.split("/")):
            raise _invalid(spec, "subpath must be a relative path within the volume")
        driver = options.driver_config.name if options and options.driver_config else ""
        return MountRecord(
            type="volume",
            destination=destination,
            name=spec.source or secrets.token_hex(32),
            driver=driver,
            mode="z",
            rw=not spec.read_only,
            subpath=options.subpath if options else "",
            anonymous=not spec.source,
            copy=not (options and options.no_copy),
        )
    if spec.type == "tmpfs":
        if spec.source:
            raise _invalid(spec, "field Source must not be specified")
        words = []
        if spec.tmpfs_options:
            if spec.tmpfs_options.size_bytes:
                words.append(f"size={spec.tmpfs_options.size_bytes}")
            if spec.tmpfs_options.mode:
                words.append(f"mode={spec.tmpfs_options.mode:o}")
        return MountRecord(type="tmpfs", destination=destination, rw=not spec.read_only, options=(*_TMPFS, *words))
    raise InvalidParameter(f'invalid mount config for type "{spec.type}": mount type unknown: "{spec.type}"')


def _bind_spec(spec: MountSpec, destination: str) -> MountRecord:
    options = spec.bind_options
    if not spec.source:
        raise _invalid(spec, "field Source must not be empty")
    if not spec.source.startswith("/"):
        raise _invalid(spec, f"invalid mount path: '{spec.source}' mount path must be absolute")
    if not os.path.exists(spec.source) and not (options and options.create_mountpoint):
        raise _invalid(spec, f"bind source path does not exist: {spec.source}")
    propagation = options.propagation if options else ""
    if propagation and propagation not in _PROPAGATION:
        raise _invalid(spec, f"invalid propagation mode: {propagation}")
    return MountRecord(
        type="bind",
        destination=destination,
        source=posixpath.normpath(spec.source),
        rw=not spec.read_only,
        propagation=propagation or "rprivate",
        recursive=not (options and options.non_recursive),
    )


def plan(host: HostConfig, image_volumes: Iterable[str], inherited: Iterable[MountRecord] = ()) -> tuple[MountRecord, ...]:
    """All mounts of a container in Docker's order of precedence: volumes-from, then binds, then mounts and tmpfs, then
    the image's volumes where nothing else is."""
    found: dict[str, MountRecord] = {mount.destination: mount for mount in inherited}
    own: set[str] = set()

    def add(mount: MountRecord) -> None:
        if mount.destination in own:
            raise InvalidParameter(f"Duplicate mount point: {mount.destination}")
        own.add(mount.destination)
        found[mount.destination] = mount

    for text in host.binds or ():
        add(parse_bind(text))
    for spec in host.mounts or ():
        add(parse_spec(spec))
    for destination, text in (host.tmpfs or {}).items():
        words = [word for word in text.split(",") if word]
        defaults = [word for word in _TMPFS if word.removeprefix("no") not in words and word not in words]
        add(
            MountRecord(
                type="tmpfs",
                destination=_destination(destination, destination),
                rw="ro" not in words,
                options=(*defaults, *words),
                mode=text,
            )
        )
    for path in image_volumes:
        destination = _destination(path, path)
        if destination not in found:
            found[destination] = MountRecord(
                type="volume", destination=destination, name=secrets.token_hex(32), anonymous=True
            )
    return tuple(found.values())


def oci(record: MountRecord, volume: Iterable[Mount] = ()) -> list[dict[str, Any]]:
    """The OCI mounts of one record. `volume` is what the volume's driver says to mount."""
    readonly = [] if record.rw else ["ro"]
    if record.type == "tmpfs":
        return [
            {
                "destination": record.destination,
                "type": "tmpfs",
                "source": "tmpfs",
                "options": list(dict.fromkeys([*record.options, *readonly])),
            }
        ]
    if record.type == "bind":
        words = ["rbind" if record.recursive else "bind", record.propagation or "rprivate", *readonly]
        return [{"destination": record.destination, "type": "bind", "source": record.source, "options": words}]
    out = []
    for mount in volume:
        words = list(mount.options)
        if mount.type == "bind":
            words = ["rbind", record.propagation or "rprivate", *(w for w in words if w not in ("bind", "rbind", "rw"))]
        out.append(
            {
                "destination": posixpath.join(record.destination, mount.target) if mount.target else record.destination,
                "type": mount.type,
                "source": mount.source,
                "options": list(dict.fromkeys([*words, *readonly])),
            }
        )
    return out


def views(records: Iterable[MountRecord], volumes: Mapping[str, str]) -> list[MountPoint]:
    """`Mounts` of inspect and list. `volumes` maps a volume's name to its mount point. (A `--tmpfs` is not listed.)"""
    out = []
    for record in records:
        if record.type == "tmpfs" and record.mode:
            continue
        point = MountPoint(
            type=record.type,
            source=volumes.get(record.name, "") if record.type == "volume" else record.source,
            destination=record.destination,
            mode=record.mode,
            rw=record.rw,
            propagation=record.propagation,
        )
        if record.type == "volume":
            point.name, point.driver = record.name, record.driver or "local"
        out.append(point)
    return out
