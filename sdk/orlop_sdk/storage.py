"""The contract of a storage driver, which manages snapshots and describes how to mount them.

To pull a layer, the daemon calls `prepare` and `unpack_target`, writes the files itself, and calls `commit`. To create a
container, it calls `prepare` on a committed snapshot; for each start, it calls `mounts`.

A driver that stores a layer in another form than a tree of files (a file system image, for example) also implements
`LayerStream`: the daemon then calls `stream_target` and `stream_written` instead of `unpack_target`.

A driver whose layers do not depend on the layers below also implements `LayerRebase`: the daemon then makes the layers of an
image at the same time, and commits them in order by `commit_on`.

A driver whose commits need not be durable at once also implements `DeferredSync`: the daemon then writes the result of a
build's step to the disk while the next step runs.
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
    """`overlay_whiteouts`: layers record deletions as overlayfs does (a 0:0 character device, an opaque xattr). When false,
    a layer is a complete tree, and a deleted path is absent from it. `max_depth`: the greatest number of layers of an
    image. `idmapped_mounts`: all files that the mounts name are in the driver's root, on one file system that can be
    id-mapped (see `orlop_sdk.idmaps`), so that containers may have a user namespace."""

    overlay_whiteouts: bool = False
    max_depth: int = 128
    idmapped_mounts: bool = False


class StorageContext(msgspec.Struct, frozen=True):
    """Argument of a storage factory. `root` is the driver's private directory; it exists, with mode 0710. `options` are the
    (name, value) pairs of `storage-opts` in daemon.json, without the driver's prefix ("overlay2.") in the names."""

    root: str
    options: tuple[tuple[str, str], ...] = ()


class UnpackTarget(msgspec.Struct, frozen=True):
    """The directory where the daemon's unpacker writes a layer's files. `overlay_whiteouts`: a `.wh.` entry becomes an
    overlayfs whiteout. When false, the unpacker removes the named path from the tree instead."""

    directory: str
    overlay_whiteouts: bool


class StreamTarget(msgspec.Struct, frozen=True):
    """The program that turns a tar stream into a layer (see `LayerStream`). `argv` begins with the program's absolute path.
    Its working directory is `directory`, the only place where it can write. `keep` is the name of a file in `directory` to
    which the daemon writes a copy of the tar, "" for none."""

    directory: str
    argv: tuple[str, ...]
    keep: str = ""


class Usage(msgspec.Struct, frozen=True):
    """Disk usage of a snapshot, without its parents: `size` in bytes of file content, and the number of inodes."""

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
    called again after a crash or a cancellation at any point of an earlier call. `prepare`, `commit` and `remove` succeed
    when the requested state exists already. Methods may be called concurrently. Unknown keys raise `NotFound`, except in
    `remove`.

    The daemon calls each async method with a deadline, and may cancel it at any await. `capabilities` must not wait.
    """

    @property
    def capabilities(self) -> StorageCapabilities: ...

    async def prepare(self, key: str, parent: str | None, *, options: Mapping[str, str] | None = None) -> None:
        """Make an active snapshot on top of the committed `parent` (None: an empty root). When `key` is already active on
        `parent`, it is left unchanged. `Conflict` when `key` has another parent or is committed, or when `parent` is active.

        The call is atomic: a crash leaves a complete snapshot or none. The snapshot need not be synced to disk: if a power
        cut loses it, the daemon calls `prepare` again. `options` are a container's `--storage-opt`; `InvalidParameter` for
        an option that the driver does not have."""
        ...

    async def commit(self, key: str, name: str) -> None:
        """Make the active snapshot `key` immutable under the new key `name`. When `name` is already committed (two pulls of
        one layer), keep the committed snapshot and remove `key`. `Conflict` when `name` is an active snapshot. The commit,
        with all files of the snapshot, is durable on return: it survives a power cut."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot. An unknown key is no error. `Conflict` when the snapshot is the parent of another. Must return
        quickly even for large trees: rename the tree, and delete it in the background. A monitor that is about to exit may
        still have the snapshot mounted. A driver that cannot remove a mounted snapshot raises `DriverError`; the daemon
        calls again after the mount is gone."""
        ...

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        """The mounts that show the snapshot on top of its parents, in the order in which to make them. The driver mounts
        nothing itself. Mounts of a committed snapshot are always read-only. `volatile`: written data need not survive a
        power cut (the root of a `--rm` container), so the driver may leave out syncing. The daemon calls this for each new
        mount, and never while another writable mount of the same key exists."""
        ...

    async def unpack_target(self, key: str) -> UnpackTarget:
        """The directory into which the daemon unpacks the layer of the active snapshot `key`. `Conflict` when it is
        committed."""
        ...

    async def usage(self, key: str) -> Usage:
        """Disk usage of the snapshot without its parents. Each call measures an active snapshot again."""
        ...

    async def changes(self, key: str) -> Sequence[Change]:
        """The differences of the active snapshot from its parents, sorted by path. The parent directories of a changed path
        are included as MODIFIED. If a tree was deleted, only its top directory is listed."""
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
        call, the layer has the committed `parent`, as if it had been prepared on this parent. `NotFound` for an unknown
        parent; `Conflict` when the parent is active, or when the snapshot has another parent. Count the new child of
        `parent` before the first await, so that `parent` cannot be removed meanwhile."""
        ...


@runtime_checkable
class DeferredSync(Protocol):
    """Optional methods of a storage driver: a commit that is not durable at once. The methods belong to version 1 of the
    storage contract. The next step of a build uses the layer immediately, while the files of the layer are written to the
    disk."""

    async def commit_unsynced(self, key: str, name: str) -> None:
        """Like `commit`, but not durable: a power cut may lose the snapshot, or parts of its files. The daemon removes the
        snapshot after a power cut, unless `make_durable` had returned. A crash of the daemon alone loses nothing."""
        ...

    async def make_durable(self, key: str) -> None:
        """Make a committed snapshot durable, with all of its files, but without its parents. `Conflict` when it is active.
        Meanwhile, every other method except `remove` may use the snapshot."""
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
    - A name may occur again. The later entry replaces the earlier entry and everything below it; but a directory that occurs
      again as a directory keeps its content and gets new attributes.
    - Last come the whiteouts (OCI image specification): `.wh.NAME` in a directory where the layer has no NAME, and
      `.wh..wh..opq` in a directory that hides all names of lower layers. No other name begins with `.wh.`.

    The program reads the normalized tar from standard input while the layer is downloaded. It runs in a worker process
    without privileges and network, with limits of time and memory, and can access no files except system libraries and
    `directory`. The kernel kills it when the worker ends. Exit code 0 is success. Otherwise the daemon reports the end of
    what the program wrote to standard error, and removes the snapshot."""

    async def stream_target(self, key: str) -> StreamTarget:
        """Name the program that makes the layer of the active snapshot `key`. `Conflict` if the snapshot is committed."""
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
        """Do what `found.repair` describes, but never delete data that a container may have written. May be called twice; no
        error when the difference no longer exists."""
        ...
