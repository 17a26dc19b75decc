"""A storage driver for tests of the daemon."""

from __future__ import annotations

from orlop_sdk.files import copy_directory
from orlop_sdk.trees import Snapshot, TreeStorage

__all__ = ["FakeStorage"]


class FakeStorage(TreeStorage[Snapshot]):
    """A storage driver for tests of the daemon. Each snapshot is a complete copy. Needs no root, and passes `StorageSuite`.
    The state is in `context.root`, where a new instance finds it."""

    name = "fake"

    def sync(self, snapshot: Snapshot) -> None:
        """Does nothing, so that tests do not wait for the disk. Commits therefore do not survive a power cut."""

    def create(self, snapshot: Snapshot, directory: str) -> None:
        if snapshot.below:
            copy_directory(self.tree(snapshot.below), directory)
