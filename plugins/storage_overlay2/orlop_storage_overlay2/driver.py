"""The driver: the base class for layers that overlayfs stacks, with Docker's short names of layers."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from orlop_sdk import DriverError, StorageContext
from orlop_sdk.files import filesystem_type
from orlop_sdk.snapshots import fsync_directory, sync_filesystem
from orlop_sdk.trees import OverlaySnapshot, OverlayStorage

from .host import sync_few, tells_types
from .options import check_options

__all__ = ["Overlay2"]


@dataclass(slots=True, eq=False)
class Snapshot(OverlaySnapshot):
    """`link` is the short name of a committed snapshot."""

    link: str = ""


class Overlay2(OverlayStorage[Snapshot]):
    """Implements `Storage`, `LayerRebase` and `StorageAudit`."""

    name = "overlay2"
    snapshot_type = Snapshot

    def __init__(self, context: StorageContext) -> None:
        check_options(context.options)
        super().__init__(context)
        self._links = os.path.join(self.root, "l")
        self._found_links: dict[str, str] = {}  # short names found at the start, by the layer's id

    def opened(self) -> None:
        os.makedirs(self._links, 0o700, exist_ok=True)
        if not tells_types(self.root):
            raise DriverError(
                f"cannot use overlay2 on {self.root}: its file system, {filesystem_type(self.root)}, does not store "
                "file types in directories (d_type). Format xfs with ftype=1, or use the vfs storage driver"
            )
        self._found_links = self._load_links()

    def _load_links(self) -> dict[str, str]:
        links = {}
        for link in os.listdir(self._links):
            path = os.path.join(self._links, link)
            if not os.path.islink(path):
                continue  # this driver makes only symlinks, so other files are kept
            ident = os.path.basename(os.path.dirname(os.readlink(path)))
            leads_here = os.readlink(path) == f"../{ident}/diff"
            if ident and leads_here and os.path.lexists(os.path.join(self.root, ident)):
                links[ident] = link
            else:
                os.unlink(path)
        return links

    def load(self, snapshot: Snapshot) -> None:
        snapshot.link = self._found_links.get(snapshot.id, "")
        if snapshot.committed and not snapshot.link:
            snapshot.link = self._new_link(snapshot.id)

    def is_offline(self, snapshot: Snapshot) -> bool:
        """Whether the snapshot, whose files are missing, is a link to the data of an adopted dockerd. The disk with this
        data may not be mounted, so the snapshot is ignored until a later start finds its files."""
        directory = self.path(snapshot)
        return os.path.islink(directory) or os.path.islink(os.path.join(directory, "diff"))

    def _new_link(self, ident: str) -> str:
        while True:
            link = base64.b32encode(secrets.token_bytes(17)).decode()[:26]
            try:
                os.symlink(f"../{ident}/diff", os.path.join(self._links, link))
                return link
            except FileExistsError:
                continue

    def lower(self, snapshot: Snapshot) -> str:
        return f"l/{snapshot.link}" if snapshot.link else super().lower(snapshot)

    def seal(self, snapshot: Snapshot) -> None:
        marker = os.open(self.path(snapshot, "committed"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(marker)
        snapshot.link = snapshot.link or self._new_link(snapshot.id)

    def sync(self, snapshot: Snapshot) -> None:
        directory = self.path(snapshot)
        if not sync_few(directory):
            sync_filesystem(directory)
        fsync_directory(self._links)

    def destroy(self, snapshot: Snapshot) -> None:
        super().destroy(snapshot)
        if snapshot.link:
            with suppress(FileNotFoundError):
                os.unlink(os.path.join(self._links, snapshot.link))

    async def status(self) -> Sequence[tuple[str, str]]:
        return (
            *await super().status(),
            ("Supports d_type", "true"),
            ("Using metacopy", "false"),
            ("Native Overlay Diff", "true"),
            ("userxattr", "false"),
        )
