"""The contract of a storage driver, which manages snapshots and describes how to mount them.

To pull a layer, the daemon calls `prepare` and `unpack_target`, writes the files itself, and calls `commit`. To create a
container, the daemon calls `prepare` with a committed snapshot as parent. For each start of the container, it calls
`mounts`.

Some drivers do not store a layer as a tree of files, but for example as a file system image. Such a driver also implements
`LayerStream`. The daemon then calls `stream_target` and `stream_written` instead of `unpack_target`.

A driver whose layers do not depend on the layers below also implements `LayerRebase`. The daemon then makes several layers
of an image at the same time, and commits them in order by `commit_on`.

A driver that can sync a snapshot after its commit also implements `DeferredSync`. The daemon then writes the result of a
build step to the disk while the next step runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import IntEnum
from typing import Protocol, runtime_checkable

import msgspec

from .common import Drift, Mount

__all__ = [
    "Change",
    "ChangeKind",
    "DeferredSync",
    "LayerRebase",
    "LayerStream",
    "Storage",
    "StorageAudit",
    "StorageCapabilities",
    "StorageContext",
    "StreamTarget",
    "UnpackTarget",
    "Usage",
]


class StorageCapabilities(msgspec.Struct, frozen=True):
    """`overlay_whiteouts`: layers record deletions as overlayfs does (a 0:0 character device, an opaque xattr). If it is
    false, a layer is a complete tree, and does not contain deleted paths. `max_depth`: the greatest number of layers of an
    image. `idmapped_mounts`: all files that the mounts use are in the driver's root, on one file system that can be
    id-mapped (see `orlop_sdk.idmaps`). Containers can then have a user namespace."""

    overlay_whiteouts: bool = False
    max_depth: int = 128
    idmapped_mounts: bool = False


class StorageContext(msgspec.Struct, frozen=True):
    """Argument of a storage factory. `root` is the driver's private directory; it exists, with mode 0710. `options` are the
    (name, value) pairs of `storage-opts` in daemon.json, without the driver's prefix ("overlay2.") in the names."""

    root: str
    options: tuple[tuple[str, str], ...] = ()


class UnpackTarget(msgspec.Struct, frozen=True):
    """The directory where the daemon's unpacker writes a layer's files. If `overlay_whiteouts` is true, a `.wh.` entry
    becomes an overlayfs whiteout. If it is false, the unpacker deletes the file or directory that the entry names."""

    directory: str
    overlay_whiteouts: bool


class StreamTarget(msgspec.Struct, frozen=True):
    """The program that turns a tar stream into a layer (see `LayerStream`). `argv` begins with the program's absolute path.
    The program's working directory is `directory`, and the program can write only there. `keep` is the name of a file in
    `directory` to which the daemon writes a copy of the tar, "" for none."""

    directory: str
    argv: tuple[str, ...]
    keep: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Disk usage of a snapshot, without its parents. `size` is the size of the files' content in bytes."""

    size: int
    inodes: int = 0


class ChangeKind(IntEnum):
    """The values of `Kind` in Docker's `GET /containers/{id}/changes`."""

    MODIFIED = 0
    ADDED = 1
    DELETED = 2


class Change(msgspec.Struct, frozen=True):
    """One changed path, absolute from the root of the snapshot."""

    path: str
    kind: ChangeKind


@runtime_checkable
class Storage(Protocol):
    """Snapshots by key. A key is opaque text chosen by the daemon (`[A-Za-z0-9:_.-]{1,128}`); `prepare` raises
    `InvalidParameter` for any other text.

    A snapshot is *active* (made by `prepare`, writable) or *committed* (immutable, may be a parent). Every method may be
    called again after a crash or a cancellation has interrupted an earlier call at any point. `prepare`, `commit` and
    `remove` succeed if the requested state exists already. Methods may be called concurrently. Unknown keys raise
    `NotFound`, except in `remove`.

    The daemon calls each async method with a deadline, and may cancel it at any await. `capabilities` must not wait.
    """

    @property
    def capabilities(self) -> StorageCapabilities: ...

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        """Make an active snapshot on top of the committed `parent` (None: an empty root). If `key` is already active with
        this parent, it is left unchanged. Raises `Conflict` if `key` has another parent or is committed, or if `parent` is
        active.

        The call is atomic: a crash leaves a complete snapshot or none. The snapshot need not be synced to disk: if a power
        cut loses it, the daemon calls `prepare` again. `options` are a container's `--storage-opt`. Raises
        `InvalidParameter` for an option that the driver does not have."""
        ...

    async def commit(self, key: str, name: str) -> None:
        """Make the active snapshot `key` immutable under the new key `name`. If `name` is already committed (by another pull
        of the same layer), keep the committed snapshot and remove `key`. Raises `Conflict` if `name` is an active snapshot.
        When the method returns, the commit and all files of the snapshot survive a power cut."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot. Succeeds for an unknown key. Raises `Conflict` if the snapshot is the parent of another
        snapshot. Must return quickly even for large trees: rename the tree, and delete it in the background. A monitor that
        is about to exit may still have the snapshot mounted. A driver that cannot remove a mounted snapshot raises
        `DriverError`. The daemon calls `remove` again after the unmount."""
        ...

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        """The mounts that show the snapshot on top of its parents, in the order in which the monitor makes them. The driver
        itself mounts nothing. Mounts of a committed snapshot are always read-only. `volatile`: written data need not survive
        a power cut (the root of a `--rm` container), so the driver may leave out syncing. The daemon calls `mounts` for each
        new mount. It never does so while another writable mount of the same key exists."""
        ...

    async def unpack_target(self, key: str) -> UnpackTarget:
        """The directory into which the daemon unpacks the layer of the active snapshot `key`. Raises `Conflict` if the
        snapshot is committed."""
        ...

    async def usage(self, key: str) -> Usage:
        """Disk usage of the snapshot without its parents. Each call measures an active snapshot again."""
        ...

    async def changes(self, key: str) -> Sequence[Change]:
        """The differences between the active snapshot and its parents, sorted by path. The parent directories of a changed
        path are included as MODIFIED. If a tree was deleted, only its top directory is listed."""
        ...

    async def describe(self, key: str) -> dict[str, str]:
        """`GraphDriver.Data` of inspect, with Docker's keys (UpperDir, LowerDir, WorkDir, MergedDir for overlay2)."""
        ...

    async def keys(self) -> Sequence[str]:
        """The keys of all snapshots, active and committed, for reconciliation at the start of the daemon."""
        ...

    async def status(self) -> Sequence[tuple[str, str]]:
        """`DriverStatus` of `GET /info`: (name, value) rows."""
        ...


@runtime_checkable
class LayerRebase(Protocol):
    """Optional method of a storage driver: set the parent of a layer at its commit (containerd's snapshotters call this
    "rebase"). The method belongs to version 1 of the storage contract. It requires the capability `overlay_whiteouts`,
    because the files of the layers below do not exist yet while the layer is unpacked."""

    async def commit_on(self, key: str, name: str, parent: str) -> None:
        """Like `commit`, for an active snapshot that was prepared without a parent and has never been mounted. After this
        call, the layer has the committed snapshot `parent` as parent, as if `prepare` had been called with this parent.
        Raises `NotFound` for an unknown parent, and `Conflict` if the parent is active, or if the snapshot has another
        parent. Before its first await, the method must record that `parent` has a child, so that `parent` cannot be removed
        meanwhile."""
        ...


@runtime_checkable
class DeferredSync(Protocol):
    """Optional methods of a storage driver: a commit that is not durable at once. The methods belong to version 1 of the
    storage contract. The next step of a build uses the layer immediately, while the files of the layer are written to the
    disk."""

    async def commit_unsynced(self, key: str, name: str) -> None:
        """Like `commit`, but not durable: a power cut may lose the snapshot, or parts of its files. After a power cut, the
        daemon removes the snapshot unless `make_durable` had returned. A crash of the daemon alone loses nothing."""
        ...

    async def make_durable(self, key: str) -> None:
        """Make a committed snapshot and all of its files durable, but not its parents. Raises `Conflict` if the snapshot is
        active. During the call, all other methods except `remove` may use the snapshot."""
        ...


@runtime_checkable
class LayerStream(Protocol):
    """Optional methods of a storage driver that does not store layers as trees of files: it gets each layer as a tar stream.
    These methods and the form of the tar belong to version 1 of the storage contract.

    The daemon decompresses the layer, computes its diffID, and checks it as for an unpacked layer. It rewrites the tar to a
    normalized form, so that the program reads no header that an image's author has written:

    - ustar with pax headers for `path`, `linkpath`, `uid`, `gid`, `size`, `mtime` and `SCHILY.xattr.*`; types 0 to 6 only,
      no GNU extensions and no sparse files.
    - The first entry is the root, `./`. Other names are relative, without empty, "." and ".." components. A directory comes
      before its content, and nothing is below a symlink or a file. The target of a hard link comes before the link.
    - A name may occur again. The later entry replaces the earlier entry and everything below it. An exception is a directory
      that occurs again as a directory: it keeps its content, and gets new attributes.
    - The whiteouts (OCI image specification) come last: `.wh.NAME` in a directory where the layer has no NAME, and
      `.wh..wh..opq` in a directory that hides all names of lower layers. No other name begins with `.wh.`.

    The program reads the normalized tar from standard input while the layer is downloaded. The program runs in a worker
    process without privileges and network, and with limits of time and memory. It can access only system libraries and
    `StreamTarget.directory`. The kernel kills the program when the worker ends. Exit code 0 means success. After any other
    exit code, the daemon reports the last part of the program's standard error, and removes the snapshot."""

    async def stream_target(self, key: str) -> StreamTarget:
        """Returns the program that makes the layer of the active snapshot `key`. Raises `Conflict` if the snapshot is
        committed."""
        ...

    async def stream_written(self, key: str, usage: Usage) -> None:
        """Called when the program has succeeded, and the layer has the expected diffID. `usage` is the disk usage of the
        layer's files. `commit` follows."""
        ...


@runtime_checkable
class StorageAudit(Protocol):
    """Optional methods of a storage driver: compare its directory with its own index, for `orlop system check`."""

    async def audit(self) -> Sequence[Drift]:
        """Damaged and missing snapshots, and directories that belong to no snapshot. Reads the disk and changes nothing. May
        be the first method called after the factory."""
        ...

    async def repair(self, found: Drift) -> None:
        """Do what `found.repair` describes, but never delete data that a container may have written. May be called twice.
        Succeeds if the difference no longer exists."""
        ...
