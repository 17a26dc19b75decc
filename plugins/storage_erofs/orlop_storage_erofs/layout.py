"""The directories on disk. All functions block; call them on worker threads."""

from __future__ import annotations

import ctypes
import os
import secrets
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from orlop_sdk import Drift, Mount, Usage
from orlop_sdk.files import Trash
from orlop_sdk.linux import detached_mount
from orlop_sdk.overlay import overlay_mount, plain_mount
from orlop_sdk.snapshots import SnapshotIndex, fsync_directory

from . import image as images
from .image import IMAGE, TAR, Image

__all__ = ["Layout", "Snapshot"]

_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(slots=True)
class Snapshot:
    """`image` is set when the snapshot is an image; otherwise it is a directory. `below` is the snapshot on which it stands,
    `depth` the number of snapshots below. `children` is the number of snapshots on top of this one. `broken`: why it cannot
    be used, as a clause. `marked`: it may have been mounted volatile; true after a restart. `verified`: the digests of its
    image were checked since the start."""

    id: str
    parent: str | None = None
    below: Snapshot | None = None
    image: Image | None = None
    committed: bool = False
    children: int = 0
    broken: str = ""
    marked: bool = True
    verified: bool = False

    def stack(self) -> Iterator[Snapshot]:
        """This snapshot and those below, uppermost first."""
        each: Snapshot | None = self
        while each is not None:
            yield each
            each = each.below

    @property
    def depth(self) -> int:
        return sum(1 for _ in self.stack()) - 1


class Layout:
    """`loop`: images are mounted by loop devices."""

    def __init__(self, root: str, *, loop: bool = False) -> None:
        self.root = root
        self.loop = loop
        self._private = os.path.join(root, ".orlop")
        self._staging = os.path.join(self._private, "staging")
        self.index = SnapshotIndex(self._private)
        self.trash: Trash | None = None

    def path(self, snapshot: Snapshot, *names: str) -> str:
        return os.path.join(self.root, snapshot.id, *names)

    # --- start

    def load(self) -> dict[str, Snapshot]:
        """Undo operations that a crash interrupted. Returns all snapshots by key."""
        for directory in (self._private, self._staging):
            os.makedirs(directory, 0o700, exist_ok=True)
        self.trash = Trash(os.path.join(self._private, "trash"))
        for name in os.listdir(self._staging):
            self.trash.take(os.path.join(self._staging, name))
        records = self.index.load()
        keys = {record.id: key for key, record in records.items()}
        found: dict[str, Snapshot] = {}
        for key, record in records.items():
            if os.path.isdir(os.path.join(self.root, record.id, "diff")):
                parent = None if record.parent is None else keys.get(record.parent, "")
                found[key] = self._loaded(Snapshot(record.id, parent, committed=record.committed))
            else:
                self.index.drop(key, committed=record.committed)
        for snapshot in found.values():
            if snapshot.parent is not None:
                snapshot.below = found.get(snapshot.parent)
                if snapshot.below is None:
                    snapshot.broken = snapshot.broken or "a layer below it is missing"
                else:
                    snapshot.below.children += 1
        return found

    def _loaded(self, snapshot: Snapshot) -> Snapshot:
        directory = self.path(snapshot)
        try:
            snapshot.image = images.read_image(directory)
            if snapshot.image is not None and snapshot.committed:
                snapshot.broken = images.damage(directory, snapshot.image)
        except ValueError as error:
            snapshot.broken = str(error)
        return snapshot

    # --- snapshots

    def create(self, key: str, below: Snapshot | None, parent_key: str | None) -> Snapshot:
        ident = secrets.token_hex(10)  # short, so that 128 lower directories fit in the mount options
        staged = os.path.join(self._staging, ident)
        # Modes are set explicitly, because the daemon may run with umask 022 or 077.
        os.mkdir(staged, 0o710)
        os.mkdir(os.path.join(staged, "diff"))
        os.chmod(os.path.join(staged, "diff"), 0o755)  # noqa: S103 - it becomes the root of a container
        os.mkdir(os.path.join(staged, "work"), 0o700)
        # The key first: `load` drops a key without a directory
        self.index.add(key, ident, below.id if below else None)
        try:
            os.rename(staged, os.path.join(self.root, ident))
        except BaseException:
            self.index.drop(key, committed=False)
            raise
        return Snapshot(ident, parent_key, below, marked=False)

    def write_image(self, snapshot: Snapshot, usage: Usage, *, digests: bool) -> None:
        """Make the active snapshot an image, of the files that mkfs.erofs has written."""
        snapshot.image = images.write_image(self.path(snapshot), usage, digests=digests)

    def rebase(self, snapshot: Snapshot, key: str, below: Snapshot) -> None:
        """Put an active snapshot without a parent on one. Made durable by `commit`."""
        self.index.set_parent(key, snapshot.id, below.id)

    def commit(self, snapshot: Snapshot, key: str, name: str) -> None:
        directory = self.path(snapshot)
        if snapshot.image is None:
            _sync_filesystem(directory)
        else:
            for file in (*snapshot.image.files, images.RECORD):
                _fsync(os.path.join(directory, file))
            fsync_directory(directory)
        fsync_directory(self.root)
        self.index.commit(key, name)

    def remove(self, snapshot: Snapshot, key: str) -> None:
        """Remove the directory, then the key: `load` drops a key without a directory after a crash between the two."""
        assert self.trash
        self.trash.take(self.path(snapshot))
        self.index.drop(key, committed=snapshot.committed)

    def allow_remount(self, snapshot: Snapshot) -> None:
        """Remove the mark of a volatile mount, because of which the kernel would refuse the next mount
        (Documentation/filesystems/overlayfs.rst, "Volatile mount"). Volatile data may be lost by definition."""
        mark = self.path(snapshot, "work", "work", "incompat")
        if os.path.isdir(mark):
            assert self.trash
            self.trash.take(mark)

    # --- mounts

    def _image_mount(self, snapshot: Snapshot, mountpoint: str) -> Mount:
        assert snapshot.image
        options = ["ro"]
        if TAR in snapshot.image.files:
            options.append(f"device={self.path(snapshot, TAR)}")
        if self.loop:
            options.append("loop")
        return Mount("erofs", self.path(snapshot, IMAGE), "", tuple(options), mountpoint)

    def mounts(self, snapshot: Snapshot, *, readonly: bool, volatile: bool) -> Sequence[Mount]:
        """The images below first, each at the directory that the overlay names as a lower one."""
        if snapshot.below is None:
            if snapshot.image is not None:
                return (self._image_mount(snapshot, ""),)
            return plain_mount(self.path(snapshot, "diff"), readonly=readonly)
        lowers = list(snapshot.stack() if readonly else snapshot.below.stack())
        layers = [self._image_mount(each, self.path(each, "diff")) for each in reversed(lowers) if each.image is not None]
        upper = None if readonly else self.path(snapshot)
        return (*layers, *overlay_mount(self.root, [f"{each.id}/diff" for each in lowers], upper, volatile=volatile))

    @contextmanager
    def lower_directories(self, snapshot: Snapshot) -> Iterator[list[str]]:
        """Paths of the trees below a snapshot, uppermost first. Images are mounted without a mount point during the block:
        nobody sees the mounts, and none remains when the daemon is killed."""
        with ExitStack() as stack:
            found = []
            for each in snapshot.below.stack() if snapshot.below is not None else ():
                if each.image is None:
                    found.append(self.path(each, "diff"))
                    continue
                mount = self._image_mount(each, "")
                fd = detached_mount(mount.type, mount.source, mount.options)
                stack.callback(os.close, fd)
                found.append(f"/proc/self/fd/{fd}")
            yield found

    # --- consistency check

    def audit(self) -> list[Drift]:
        """Compare the index with the directories, and images with their records. Changes nothing."""
        present = {name for name in os.listdir(self.root) if os.path.isdir(os.path.join(self.root, name, "diff"))}
        found = self.index.compare(present, self._is_empty)
        for key, record in sorted(self.index.read().items()):
            directory = os.path.join(self.root, record.id)
            try:
                image = images.read_image(directory)
                text = images.damage(directory, image, digests=True) if image and record.committed else ""
            except ValueError as error:
                text = str(error)
            if text:
                found.append(Drift("damaged", f"snapshot {key[:19]}", text, id=key))
        return found

    def _is_empty(self, ident: str) -> bool:
        directory = os.path.join(self.root, ident)
        return set(os.listdir(directory)) <= {"diff", "work"} and not os.listdir(os.path.join(directory, "diff"))

    def discard(self, ident: str) -> None:
        """Remove a directory if it is empty and belongs to no snapshot."""
        if os.path.isdir(os.path.join(self.root, ident, "diff")) and not self.index.knows(ident) and self._is_empty(ident):
            trash = self.trash or Trash(os.path.join(self._private, "trash"))
            trash.take(os.path.join(self.root, ident))


def _fsync(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sync_filesystem(directory: str) -> None:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if _libc.syncfs(fd) < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), directory)
    finally:
        os.close(fd)
