"""Checks the database itself: whether all rows can be decoded, names are unique, and references resolve. This module does no
I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec

from orlop_engine.building.records import BASE, BaseRecord, SnapshotRecord, decode_base, decode_snapshot
from orlop_engine.containers.record import ContainerRecord
from orlop_engine.containers.record import decode as decode_container
from orlop_engine.images.records import ImageRecord, NameRecord, ResumeRecord, decode_name
from orlop_engine.networks.records import NetworkRecord
from orlop_engine.networks.records import decode as decode_network
from orlop_engine.volumes.record import VolumeRecord
from orlop_engine.volumes.record import decode as decode_volume
from orlop_kernel.store import Examined
from orlop_sdk.findings import ERROR, WARNING, Finding, Remedy

__all__ = ["Rows", "compare", "read"]

T = TypeVar("T")

_image = msgspec.json.Decoder(ImageRecord).decode
_resume = msgspec.json.Decoder(ResumeRecord).decode
_REF, _RESUME = "ref:", "resume:"
NOT_READABLE = (ValueError, TypeError, RecursionError)


@dataclass
class Rows:
    """The decoded rows, by key. `quarantined` are the keys of quarantined containers. `images_incomplete`: rows of
    images may be missing, so unreferenced layers and blobs may still belong to an image."""

    containers: dict[str, ContainerRecord] = field(default_factory=dict)
    images: dict[str, ImageRecord] = field(default_factory=dict)
    names: dict[str, NameRecord] = field(default_factory=dict)
    resumes: dict[str, ResumeRecord] = field(default_factory=dict)
    networks: dict[str, NetworkRecord] = field(default_factory=dict)
    volumes: dict[str, VolumeRecord] = field(default_factory=dict)
    builds: dict[str, SnapshotRecord] = field(default_factory=dict)
    bases: dict[str, BaseRecord] = field(default_factory=dict)
    quarantined: frozenset[str] = frozenset()
    images_incomplete: bool = False
    rows_incomplete: bool = False
    """Rows of any kind may be missing, so objects without a row are not reported as garbage."""

    def running(self) -> list[ContainerRecord]:
        """Containers that are running according to their rows."""
        return [record for record in self.containers.values() if record.state.running and not record.state.restarting]


def read(database: Examined) -> tuple[Rows, list[Finding]]:
    """Decode all rows. Returns the rows, and a finding for each row that cannot be decoded."""
    findings: list[Finding] = []

    def decoded(table: str, decode: Callable[[bytes], T], rows: Mapping[str, bytes]) -> dict[str, T]:
        found = {}
        for key, value in rows.items():
            try:
                found[key] = decode(value)
            except NOT_READABLE as error:
                findings.append(_unreadable(table, key, error))
        return found

    rows = database.rows
    refs = {key: value for key, value in rows["images"].items() if key.startswith(_REF)}
    resumes = {key: value for key, value in rows["images"].items() if key.startswith(_RESUME)}
    images = {key: value for key, value in rows["images"].items() if key not in refs and key not in resumes}
    builds = rows["builds"]
    bases = {key: value for key, value in builds.items() if key.startswith(BASE)}
    rows_read = Rows(
        containers=decoded("containers", decode_container, rows["containers"]),
        images=decoded("images", _image, images),
        names=decoded("images", decode_name, refs),
        resumes=decoded("images", _resume, resumes),
        networks=decoded("networks", decode_network, rows["networks"]),
        volumes=decoded("volumes", decode_volume, rows["volumes"]),
        builds=decoded("builds", decode_snapshot, {key: value for key, value in builds.items() if key not in bases}),
        bases=decoded("builds", decode_base, bases),
        quarantined=frozenset(key for table, key, _ in database.quarantined if table == "containers"),
    )
    rows_read.rows_incomplete = bool(database.damage or database.damaged_files)
    rows_read.images_incomplete = (
        rows_read.rows_incomplete or any(table == "images" for table, _, _ in database.quarantined) or bool(findings)
    )
    return rows_read, findings


def _unreadable(table: str, key: str, error: Exception) -> Finding:
    return Finding(
        severity=ERROR,
        area="database",
        object=f"row {table}/{_short(key)}",
        text=f"cannot be read ({error}): the next start quarantines it",
    )


def _short(key: str) -> str:
    return key[:200].encode("utf-8", "replace").decode()


def compare(rows_read: Rows) -> Iterator[Finding]:
    yield from _identities(rows_read)
    yield from _containers(rows_read)
    yield from _images(rows_read)


def _identities(rows_read: Rows) -> Iterator[Finding]:
    kept: list[tuple[str, Mapping[str, object], str]] = [
        ("containers", rows_read.containers, "id"),
        ("images", rows_read.images, "id"),
        ("networks", rows_read.networks, "id"),
        ("volumes", rows_read.volumes, "name"),
    ]
    for table, records, name in kept:
        for key, record in records.items():
            if getattr(record, name) != key:
                yield Finding(
                    severity=ERROR,
                    area="database",
                    object=f"row {table}/{_short(key)}",
                    text=f"contains another {name}: {_short(getattr(record, name))}",
                )
    for table, records in (("container", rows_read.containers), ("network", rows_read.networks)):
        for name, count in Counter(record.name for record in records.values()).items():
            if count > 1:
                yield Finding(
                    severity=ERROR, area="database", object=f"{table} name {name}", text=f"{count} rows have this name"
                )


def _containers(rows_read: Rows) -> Iterator[Finding]:
    for record in rows_read.containers.values():
        what = f"container {record.name}"
        for mount in record.mounts:
            if mount.type == "volume" and mount.name not in rows_read.volumes:
                yield Finding(
                    severity=ERROR,
                    area="volumes",
                    object=what,
                    text=f"uses the volume {mount.name}, which has no row: the container cannot start",
                    id=record.id,
                )
        if record.state.running and record.sandbox is not None:
            for attached in record.sandbox.endpoints:
                if attached.network.id not in rows_read.networks:
                    yield Finding(
                        severity=ERROR,
                        area="network",
                        object=what,
                        text=f"is on the network {attached.network.name}, which has no row",
                        id=record.id,
                    )
        if record.sandbox is not None and not record.state.running:
            yield Finding(
                severity=WARNING,
                area="network",
                object=what,
                text="is stopped, but still has addresses and ports",
                repair="release them",
                id=record.id,
                remedy=Remedy("release-network", record.id),
            )


def _images(rows_read: Rows) -> Iterator[Finding]:
    for ref, id in ((ref, id) for ref, meaning in rows_read.names.items() for id in meaning.images):
        if id not in rows_read.images:
            yield Finding(
                severity=ERROR,
                area="images",
                object=f"image name {ref.removeprefix(_REF)}",
                text=f"refers to image {id[:19]}, which has no row: the next start quarantines it",
            )
