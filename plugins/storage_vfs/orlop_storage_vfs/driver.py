"""The driver. Each snapshot is a complete tree, made as a copy of its parent."""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop_sdk import InvalidParameter, StorageContext
from orlop_sdk.files import copy_directory
from orlop_sdk.trees import Snapshot, TreeStorage

__all__ = ["Vfs", "check_options"]


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """Raise `InvalidParameter` for any option, because this driver has no options."""
    for name, _ in options:
        raise InvalidParameter(f"vfs: unknown option vfs.{name}")


class Vfs(TreeStorage[Snapshot]):
    """Implements `Storage` and `StorageAudit`. `GraphDriver.Data` of Docker's vfs is null, so there is no `describe`."""

    name = "vfs"
    place = "dir"

    def __init__(self, context: StorageContext) -> None:
        check_options(context.options)
        super().__init__(context)

    def create(self, snapshot: Snapshot, directory: str) -> None:
        os.chmod(directory, 0o755)  # noqa: S103 - it becomes the root of a container
        if snapshot.below:
            copy_directory(self.tree(snapshot.below), directory)
