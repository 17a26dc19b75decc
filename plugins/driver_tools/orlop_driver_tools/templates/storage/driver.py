"""The storage driver `mydriver`. Each snapshot is a directory, made as a copy of its parent.

The base class `TreeStorage` stores the index of the snapshots, and cleans up after a crash. Change `create` (and `destroy`)
to make snapshots in another way.
"""

from __future__ import annotations

import os
from collections.abc import Iterable

from orlop_sdk import InvalidParameter, Register, StorageContext, hookimpl
from orlop_sdk.files import copy_directory
from orlop_sdk.trees import Snapshot, TreeStorage

__all__ = ["MyDriver", "check_options", "orlop_storage"]


def check_options(options: Iterable[tuple[str, str]]) -> None:
    """Refuse every option: this driver has none. `orlopd --validate` calls this function, too."""
    for name, _ in options:
        raise InvalidParameter(f"mydriver: unknown option mydriver.{name}")


class MyDriver(TreeStorage[Snapshot]):
    """Implements `Storage`, `StorageAudit` and `DeferredSync`."""

    name = "mydriver"
    place = "trees"  # snapshots are <root>/trees/<id>

    def __init__(self, context: StorageContext) -> None:
        check_options(context.options)
        super().__init__(context)

    def create(self, snapshot: Snapshot, directory: str) -> None:
        """Fill the new directory, on a worker thread. The base class then records the snapshot and renames the directory."""
        os.chmod(directory, 0o755)  # noqa: S103 - it becomes the root of a container
        if snapshot.below:
            copy_directory(self.tree(snapshot.below), directory)


@hookimpl
def orlop_storage(register: Register) -> None:
    register("mydriver", MyDriver, spi_version=1, check_options=check_options)
