"""The engine as seen by a builder."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orlop_engine.images.archive_save import open_archive_of
from orlop_engine.images.leases import Lease
from orlop_engine.images.progress import Record
from orlop_engine.images.records import Image
from orlop_engine.images.references import parse
from orlop_engine.unpacking import unpack_files
from orlop_sdk import Conflict, Mount, NotFound, OrlopError, Usage

from .images import BaseImage, BaseImages, ImageMaker, Wanted
from .packing import Packing
from .scope import Scope
from .snapshots import Snapshots, active_key
from .steps import StepRequest, Steps

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["Building", "Workspace"]

_CLOSING = 60.0  # seconds to remove what a builder has left


class _File:
    """A regular file as a stream to write to."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    async def __aenter__(self) -> _File:
        return self

    async def __aexit__(self, *_: object) -> None:
        pass

    async def send_all(self, data: bytes) -> None:
        def write() -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

        await trio.to_thread.run_sync(write)


class Building:
    """One for an engine. `workspaces` are those of the builders that are connected."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        image_store = engine.images.image_store
        self.steps = Steps(engine.ports)
        self.snapshots = Snapshots(engine.store, engine.storage, image_store)
        self.packing = Packing(engine.storage, engine.zygote, engine.config.exec_root)
        self.bases = BaseImages(engine.images)
        self.maker = ImageMaker(
            image_store, self.snapshots, self.packing, engine.storage.capabilities.max_depth - 1
        )  # minus the init layer of its containers
        self.workspaces: set[Workspace] = set()
        image_store.content.packed = self.packing.tar

    async def load(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """At boot, before images are loaded."""
        await self.snapshots.load(rows)

    def workspace(self, scope: Scope | None = None) -> Workspace:
        made = Workspace(self, scope or Scope())
        self.workspaces.add(made)
        return made

    async def discard(self, domain: str, kept: Collection[str]) -> None:
        """Remove the snapshots of a domain whose builder is gone, except those that its cache refers to."""
        waiting = [key for key, row in self.snapshots.rows.items() if not row.released and row.domain == domain]
        waiting = [key for key in waiting if key not in kept]
        while waiting:
            blocked = []
            for key in waiting:
                try:
                    await self.snapshots.remove(key)
                except Conflict:  # removed after those that stand on it
                    blocked.append(key)
            if len(blocked) == len(waiting):
                return
            waiting = blocked

    def is_active(self, key: str) -> bool:
        """Whether a builder is at work on the snapshot."""
        return any(key in each.active for each in self.workspaces)


@dataclass(slots=True)
class _Base:
    """An image that builds stand on. `users` counts the builds."""

    snapshot: str
    lease: Lease
    users: int = 1


class Workspace:
    """Everything that one builder has in use. `active` maps its active snapshots to what they stand on."""

    def __init__(self, building: Building, scope: Scope) -> None:
        self._building, self.scope = building, scope
        self._snapshots, self._storage = building.snapshots, building.engine.storage
        self._image_store = building.engine.images.image_store
        self.active: dict[str, str] = {}
        self._bases: dict[str, _Base] = {}

    async def aclose(self) -> None:
        """Release everything, even when cancelled. No call is in progress any more."""
        with trio.move_on_after(_CLOSING, shield=True):
            for key in list(self.active):
                try:
                    await self.remove(key)
                except OrlopError:
                    continue  # the next boot removes it
            for digest in list(self._bases):
                self._drop(digest)
            await self._snapshots.reap()
        self._building.workspaces.discard(self)

    # --- images -----------------------------------------------------------------------------------------------------

    async def resolve(self, wanted: Wanted) -> BaseImage:
        return await self._building.bases.resolve(wanted, self.scope)

    async def base(self, wanted: Wanted, report: Callable[[Record], None]) -> BaseImage:
        """Make an image's layers exist, and keep them until `release` has been called as often."""
        image_store = self._image_store
        lease = image_store.leases.add()
        try:
            while True:
                found = await self._building.bases.fetch(wanted, report, self.scope)
                assert found.image is not None
                lease.chains.update(found.image.chain_ids)
                lease.blobs.update((found.image.id, *(blob for layer in found.image.layers for blob in layer.blobs)))
                await image_store.barrier()
                if found.image.id in image_store.catalog.images:
                    break  # else it was removed before the lease held its layers
        except BaseException:
            image_store.leases.drop(lease)
            raise
        if found.digest in self._bases:
            image_store.leases.drop(lease)
            self._bases[found.digest].users += 1
            return found
        self._bases[found.digest] = _Base(found.snapshot, lease)
        self._snapshots.use(found.snapshot)
        try:
            await self._snapshots.set_base(found.snapshot, found.image.layers)
        except BaseException:
            self._drop(found.digest)
            raise
        return found

    async def release(self, digest: str) -> None:
        """One use of the base, which began with `base`, has ended. No error if there was none."""
        found = self._bases.get(digest)
        if found is None:
            return
        found.users -= 1
        if not found.users:
            self._drop(digest)
            await self._snapshots.reap()

    def _drop(self, digest: str) -> None:
        dropped = self._bases.pop(digest)
        self._snapshots.unuse(dropped.snapshot)
        self._image_store.leases.drop(dropped.lease)

    async def create_image(self, config: bytes, keys: Sequence[str], names: Sequence[str]) -> Image:
        image = await self._building.maker.make(config, keys, names, self.scope)
        self._building.engine.images.announce_tags(image, [parse(name).with_default_tag() for name in names])
        return image

    async def save(self, image_id: str, names: Sequence[str], archive: int) -> None:
        """Write an image as an archive, in which it has these names."""
        tags = [parse(name).with_default_tag() for name in names]
        self.scope.check_image(self._building.engine.images.resolve(image_id), image_id)
        async with (
            aclosing(await open_archive_of(self._image_store, image_id, tags)) as saved,
            trio.lowlevel.FdStream(os.dup(archive))
            if not stat.S_ISREG(os.fstat(archive).st_mode)
            else _File(archive) as stream,
        ):
            async for piece in saved:
                await stream.send_all(piece)

    async def tag(self, image_id: str, name: str) -> None:
        """Give an image a name."""
        images = self._building.engine.images
        self.scope.check_image(images.resolve(image_id), image_id)
        await images.tag(image_id, name, "", self.scope.restrictions.images)

    # --- snapshots --------------------------------------------------------------------------------------------------

    async def prepare(self, parent: str) -> str:
        self._snapshots.check(parent)
        key = active_key()
        self.active[key] = parent
        self._snapshots.use(parent)
        try:
            await self._storage.prepare(key, parent or None)
        except BaseException:
            with trio.move_on_after(_CLOSING, shield=True):
                await self.remove(key)
            raise
        return key

    async def commit(self, key: str) -> str:
        parent = self._parent(key)
        committed = await self._snapshots.commit(key, parent, self.scope.domain)
        del self.active[key]
        self._snapshots.unuse(parent)
        return committed

    def _parent(self, key: str) -> str:
        if key not in self.active:
            raise NotFound(f"snapshot {key} does not exist, or is committed")
        return self.active[key]

    async def remove(self, key: str) -> None:
        if key in self.active:
            await self._storage.remove(key)
            self._snapshots.unuse(self.active.pop(key))
        elif (row := self._snapshots.rows.get(key)) is None or row.domain == self.scope.domain:
            await self._snapshots.remove(key)

    def _check(self, key: str) -> None:
        row = self._snapshots.rows.get(key)
        known = row is not None and (not self.scope.is_restricted or row.domain == self.scope.domain)
        if not known and key not in self.active and key not in self._snapshots.bases:
            raise NotFound(f"snapshot {key} does not exist")

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        self._check(key)
        return await self._storage.mounts(key, readonly=readonly or key not in self.active)

    async def usage(self, key: str) -> Usage:
        self._check(key)
        return await self._storage.usage(key)

    def snapshots(self) -> Sequence[str]:
        """The committed snapshots of the builder's domain that it has not removed."""
        rows = self._snapshots.rows.items()
        return [key for key, row in rows if not row.released and row.domain == self.scope.domain]

    async def pack(self, key: str) -> tuple[str, int]:
        return await self._building.maker.pack(key)

    async def unpack(self, archive: int, directory: int) -> None:
        """Unpack a tar, compressed or not, into a directory: whiteouts are ordinary files."""
        await unpack_files(self._building.engine.zygote, archive, directory)

    # --- steps ------------------------------------------------------------------------------------------------------

    async def run(self, request: StepRequest, outputs: tuple[int, ...]) -> int:
        """Run a step on an active snapshot; for one whose root is read-only, the snapshot may be committed, too."""
        self.scope.check_step(request.host)
        if request.root in self.active:
            return await self._building.steps.run(request, outputs)
        self._check(request.root)
        if not request.host.readonly_rootfs:
            raise Conflict(f"cannot run a step on snapshot {request.root}: it is committed")
        own = await self.prepare(request.root)  # for the mount points that it lacks
        try:
            return await self._building.steps.run(replace(request, root=own), outputs)
        finally:
            with trio.move_on_after(_CLOSING, shield=True):
                await self.remove(own)
