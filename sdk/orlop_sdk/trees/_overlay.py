"""Drivers that stack layers by overlayfs. A snapshot's directory contains `diff`, the files of this snapshot. If the
snapshot has a parent, it also contains `work`, the work directory of overlayfs."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, TypeVar

from orlop_sdk.common import Mount
from orlop_sdk.files import tree_usage
from orlop_sdk.overlay import MAX_LOWERS, check_root, overlay_changes, overlay_mount, plain_mount
from orlop_sdk.storage import Change, StorageContext, Usage

from ._storage import Snapshot, TreeStorage

__all__ = ["OverlaySnapshot", "OverlayStorage"]


@dataclass(slots=True, eq=False)
class OverlaySnapshot(Snapshot):
    """`marked` is true if the work directory may contain `incompat`, a directory that the kernel makes at a volatile mount.
    A restarted daemon does not know which snapshots have this directory, so at first `marked` is true for all snapshots."""

    marked: bool = True


O = TypeVar("O", bound=OverlaySnapshot)  # noqa: E741 - like S of `TreeStorage`


class OverlayStorage(TreeStorage[O], Generic[O]):
    """Base of drivers whose layers are lower directories of overlayfs. Implements `LayerRebase`, too."""

    overlay_whiteouts = True
    max_depth = MAX_LOWERS
    files = "diff"
    snapshot_type: ClassVar[type[Any]] = OverlaySnapshot

    def __init__(self, context: StorageContext) -> None:
        check_root(context.root)
        super().__init__(context)

    # --- What drivers override

    def lower(self, snapshot: O) -> str:
        """The path of a snapshot, relative to the root, in the options of an overlay mount."""
        return f"{snapshot.id}/diff"

    def shown(self, snapshot: O) -> str:
        """The path that inspect shows for a snapshot."""
        return self.tree(snapshot)

    def mount_plan(self, snapshot: O, *, readonly: bool, volatile: bool) -> Sequence[Mount]:
        if snapshot.below is None:
            return plain_mount(self.tree(snapshot), readonly=readonly)
        lowers = [self.lower(each) for each in (snapshot if readonly else snapshot.below).stack()]
        return overlay_mount(self.root, lowers, None if readonly else self.path(snapshot), volatile=volatile)

    # --- Storage and TreeStorage

    def create(self, snapshot: O, directory: str) -> None:
        snapshot.marked = False
        os.mkdir(os.path.join(directory, "diff"))
        os.chmod(os.path.join(directory, "diff"), 0o755)  # noqa: S103 - it becomes the root of a container
        if snapshot.below:
            os.mkdir(os.path.join(directory, "work"), 0o700)

    def measure(self, snapshot: O) -> Usage:
        return tree_usage(self.tree(snapshot))

    def compare(self, snapshot: O) -> Sequence[Change]:
        tree, *lowers = [self.tree(each) for each in snapshot.stack()]
        return overlay_changes(tree, lowers)

    async def commit_on(self, key: str, name: str, parent: str) -> None:
        await self._commit(key, name, parent)

    async def mounts(self, key: str, *, readonly: bool = False, volatile: bool = False) -> Sequence[Mount]:
        snapshot = await self.get(key)
        readonly = readonly or snapshot.committed
        if not readonly:
            if snapshot.marked:
                await self.run(f"mount snapshot {key}", lambda: self._allow_remount(snapshot))
            snapshot.marked = volatile
        return self.mount_plan(snapshot, readonly=readonly, volatile=volatile)

    def _allow_remount(self, snapshot: O) -> None:
        """Remove the directory `incompat` that a volatile mount has left. While this directory exists, the kernel refuses
        the next mount, because data may have been lost (Documentation/filesystems/overlayfs.rst, "Volatile mount"). A caller
        that asks for a volatile mount accepts this loss."""
        mark = self.path(snapshot, "work", "work", "incompat")
        if os.path.isdir(mark):
            self.trash.take(mark)

    async def describe(self, key: str) -> dict[str, str]:
        snapshot = await self.get(key)
        upper, *lowers = [self.shown(each) for each in snapshot.stack()]
        described = {"LowerDir": ":".join(lowers)} if lowers else {}
        described |= {f"{name}Dir": self.path(snapshot, name.lower()) for name in ("Merged", "Work")}
        return {**described, "UpperDir": upper}
