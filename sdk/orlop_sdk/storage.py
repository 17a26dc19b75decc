"""The contract of a storage driver: snapshots in, mounts out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Protocol, runtime_checkable

import msgspec

from .common import Drift, Mount

__all__ = [
    "Change",
    "ChangeKind",
    "Storage",
    "StorageAudit",
    "StorageCapabilities",
    "StorageContext",
    "UnpackTarget",
    "Usage",
]


class StorageCapabilities(msgspec.Struct, frozen=True):
    """What a storage driver can do. `overlay_whiteouts`: layers keep deletions as overlayfs does (a 0:0 device, an opaque
    xattr); false: a layer is a whole tree and a deletion is just an absence."""

    overlay_whiteouts: bool = False
    max_depth: int = 128


class StorageContext(msgspec.Struct, frozen=True):
    """What the kernel gives a storage factory. `root` is the driver's own directory; it exists, mode 0710."""

    root: str
    options: tuple[tuple[str, str], ...] = ()


class UnpackTarget(msgspec.Struct, frozen=True):
    """Where the kernel's unpacker writes a layer's files. `overlay_whiteouts` says how to write a `.wh.` entry: as an
    overlayfs whiteout, or by removing the name from the tree."""

    directory: str
    overlay_whiteouts: bool


class Usage(msgspec.Struct, frozen=True):
    """What a snapshot itself holds, without its parents: bytes of file content and inodes."""

    size: int
    inodes: int = 0


class ChangeKind(IntEnum):
    """Docker's numbers in `GET /containers/{id}/changes`."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(msgspec.Struct, frozen=True):
    """One changed path, absolute inside the root."""

    path: str
    kind: ChangeKind


@runtime_checkable
class Storage(Protocol):
    """Snapshots, by key. A key is opaque text chosen by the kernel (`[A-Za-z0-9:_.-]{1,128}`).

    A snapshot is *active* (made by `prepare`, writable) or *committed* (immutable, may be a parent). Every method may be
    called again after a crash at any point of an earlier call, and `prepare`, `commit` and `remove` of a state that is
    already there succeed. Methods may be called concurrently for different keys. Unknown keys raise `NotFound`.
    """

    @property
    def capabilities(self) -> StorageCapabilities: ...

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        """Make an active snapshot on top of the committed `parent` (None: an empty root). `Conflict` when `key` exists
        with another parent or is committed. It exists whole or not at all, but is not synced: after a power cut one that
        was made moments before may be missing, and is prepared again. `options` are a container's `--storage-opt`:
        `InvalidParameter` for any that the driver does not have."""
        ...

    async def commit(self, key: str, name: str) -> None:
        """Make the active snapshot `key` immutable under the new key `name`. When `name` is already committed (two pulls
        of one layer), `key` is dropped. Durable on return: survives a power cut."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot. Returns at once even for large trees (rename aside, delete later). Unknown: no error.
        `Conflict` when it is the parent of another one. A monitor that is about to end may still have it mounted: a driver
        that cannot remove it then raises `DriverError`, and is asked again when the mount is gone."""
        ...

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        """What to mount, in order, so that the mount point shows the snapshot on top of its parents. Committed
        snapshots are always read-only. Nothing is mounted by the driver. `volatile`: what is written need not survive a
        power cut (the root of a `--rm` container), so the driver may leave out syncing. Ask again for each new mount, and
        only when the last writable one of this key is gone."""
        ...

    async def unpack_target(self, key: str) -> UnpackTarget:
        """Where the kernel unpacks a layer into the active snapshot `key`."""
        ...

    async def usage(self, key: str) -> Usage: ...

    async def changes(self, key: str) -> Sequence[Change]:
        """What the active snapshot changed against its parents, sorted by path, parents of changes included as
        MODIFIED."""
        ...

    async def describe(self, key: str) -> dict[str, str]:
        """`GraphDriver.Data` of inspect, in Docker's keys (UpperDir, LowerDir, WorkDir, MergedDir for overlay2)."""
        ...

    async def keys(self) -> Sequence[str]:
        """All snapshots that exist, for reconciliation at boot."""
        ...

    async def status(self) -> Sequence[tuple[str, str]]:
        """Rows of `DriverStatus` in `GET /info`."""
        ...


@runtime_checkable
class StorageAudit(Protocol):
    """What a storage driver may have besides: comparing its directory with its own index, for `orlop system check`."""

    async def audit(self) -> Sequence[Drift]:
        """What is damaged, missing, or of no snapshot. Reads the disk, changes nothing."""
        ...

    async def repair(self, found: Drift) -> None:
        """Do what its `repair` says; never at the cost of what a container may have written. It has put itself right: no
        error."""
        ...
