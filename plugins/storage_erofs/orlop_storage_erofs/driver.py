"""The driver: images of layers, and their mounts, on which overlayfs is mounted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

from orlop_sdk import Change, Drift, DriverError, Mount, StorageContext, StreamTarget, Usage
from orlop_sdk.linux import detached_mount
from orlop_sdk.overlay import overlay_changes
from orlop_sdk.snapshots import fsync_directory, fsync_file
from orlop_sdk.trees import OverlaySnapshot, OverlayStorage

from .host import check_installed, probe
from .image import IMAGE, RECORD, TAR, Image, damage, discard, read_image, write_image
from .options import mkfs_command, parse_options

__all__ = ["Erofs"]


@dataclass(slots=True, eq=False)
class Snapshot(OverlaySnapshot):
    """`image` is set if the snapshot is an image. If it is not set, the snapshot is a directory. `verified`: the digests of
    the image have been checked since the start of the daemon."""

    image: Image | None = None
    verified: bool = False


class Erofs(OverlayStorage[Snapshot]):
    """Implements `Storage`, `LayerStream`, `LayerRebase` and `StorageAudit`."""

    name = "erofs"
    idmapped_mounts = False  # not supported, because every mounted image needs an id-mapped mount, not only the directory
    id_bytes = 10  # short ids, in bytes, so that the paths of 128 lower directories fit in the mount options
    snapshot_type = Snapshot

    def __init__(self, context: StorageContext) -> None:
        super().__init__(context)
        self._options = parse_options(context.options)
        self._command = mkfs_command(check_installed(), self._options, IMAGE)
        self._tar = TAR if self._options.mode == "index" else ""
        with tempfile.TemporaryDirectory(prefix=".probe-", dir=context.root) as directory:
            self._loop = probe(self._command, directory, self._tar, IMAGE, self._options.mount)

    def load(self, snapshot: Snapshot) -> None:
        directory = self.path(snapshot)
        try:
            snapshot.image = read_image(directory)
            if snapshot.image is not None and snapshot.committed:
                snapshot.broken = damage(directory, snapshot.image)
        except ValueError as error:
            snapshot.broken = str(error)

    # --- layers

    async def stream_target(self, key: str) -> StreamTarget:
        snapshot = await self.get_active(key)
        directory = self.path(snapshot)
        await self.run(f"write snapshot {key}", lambda: discard(directory))
        snapshot.image = None
        return StreamTarget(directory, self._command, self._tar)

    async def stream_written(self, key: str, usage: Usage) -> None:
        snapshot = await self.get_active(key)
        write = partial(write_image, self.path(snapshot), usage, digests=self._options.verify == "digest")
        snapshot.image = await self.run(f"write snapshot {key}", write, self.slow)

    def sync(self, snapshot: Snapshot) -> None:
        if snapshot.image is None:
            super().sync(snapshot)
            return
        directory = self.path(snapshot)
        for file in (*snapshot.image.files, RECORD):
            fsync_file(os.path.join(directory, file))
        fsync_directory(directory)

    # --- mounts

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        await self._verify(await self.get(key))
        return await super().mounts(key, readonly=readonly, volatile=volatile)

    async def _verify(self, snapshot: Snapshot) -> None:
        """If the option `verify` asks for it, check the digests of the images of a snapshot, once after each start of the
        daemon."""
        if self._options.verify != "digest":
            return
        for each in snapshot.stack():
            if each.image is None or each.verified:
                continue
            text = await self.run("verify a layer", partial(damage, self.path(each), each.image, digests=True), self.slow)
            if text:
                raise DriverError(f"cannot mount a layer: {text}; remove the image and pull it again")
            each.verified = True

    def _image_mount(self, snapshot: Snapshot, mountpoint: str = "") -> Mount:
        assert snapshot.image
        options = ["ro"]
        if TAR in snapshot.image.files:
            options.append(f"device={self.path(snapshot, TAR)}")
        if self._loop:
            options.append("loop")
        return Mount("erofs", self.path(snapshot, IMAGE), "", tuple(options), mountpoint)

    def mount_plan(self, snapshot: Snapshot, *, readonly: bool, volatile: bool) -> Sequence[Mount]:
        """The first mounts are the mounts of the images. The overlay uses the mount point of each image as a lower
        directory."""
        plan = super().mount_plan(snapshot, readonly=readonly, volatile=volatile)
        if snapshot.below is None:
            return plan if snapshot.image is None else (self._image_mount(snapshot),)
        lowers = list((snapshot if readonly else snapshot.below).stack())
        layers = [self._image_mount(each, self.tree(each)) for each in reversed(lowers) if each.image is not None]
        return (*layers, *plan)

    # --- measuring and comparing

    def measure(self, snapshot: Snapshot) -> Usage:
        return snapshot.image.usage if snapshot.image is not None else super().measure(snapshot)

    def compare(self, snapshot: Snapshot) -> Sequence[Change]:
        with self._lower_directories(snapshot) as lowers:
            return overlay_changes(self.tree(snapshot), lowers)

    @contextmanager
    def _lower_directories(self, snapshot: Snapshot) -> Iterator[list[str]]:
        """Paths of the trees below a snapshot, uppermost first. Images are mounted without a mount point during the block,
        so no other process sees the mounts, and no mount remains if the daemon is killed."""
        with ExitStack() as stack:
            found = []
            for each in snapshot.below.stack() if snapshot.below is not None else ():
                if each.image is None:
                    found.append(self.tree(each))
                    continue
                mount = self._image_mount(each)
                fd = detached_mount(mount.type, mount.source, mount.options)
                stack.callback(os.close, fd)
                found.append(f"/proc/self/fd/{fd}")
            yield found

    def shown(self, snapshot: Snapshot) -> str:
        """The path that inspect shows, as for overlay2. A layer that is an image has no directory, so the path of the image
        is shown."""
        return self.path(snapshot, IMAGE) if snapshot.image else super().shown(snapshot)

    async def status(self) -> Sequence[tuple[str, str]]:
        return (
            *await super().status(),
            ("Mode", self._options.mode),
            ("Compression", self._options.compression or "none"),
            ("Mounted by", "loop device" if self._loop else "file"),
            ("Verified", self._options.verify),
        )

    # --- consistency check

    def find_drift(self) -> list[Drift]:
        """See StorageAudit. Also compares images with their records."""
        found = super().find_drift()
        for key, record in sorted(self.index.read().items()):
            directory = self.path(Snapshot(record.id))
            try:
                image = read_image(directory)
                text = damage(directory, image, digests=True) if image and record.committed else ""
            except ValueError as error:
                text = str(error)
            if text:
                found.append(Drift("damaged", f"snapshot {key[:19]}", text, id=key))
        return found

    def is_empty(self, snapshot: Snapshot) -> bool:
        return set(os.listdir(self.path(snapshot))) <= {"diff", "work"} and super().is_empty(snapshot)
