"""The engine's interface for builders."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import trio
from msgspec.structs import replace

from orlop_engine.images.leases import Lease
from orlop_engine.images.progress import Record
from orlop_engine.images.records import Image
from orlop_engine.images.references import parse
from orlop_engine.unpacking import copy_files, unpack_files
from orlop_sdk import Conflict, InvalidParameter, Mount, NotFound, OrlopError, Usage

from .artifacts import Artifacts
from .images import BaseImage, BaseImages, ImageMaker, LayerBlob, NewImage, Wanted
from .interactive import InteractiveSteps, Streams
from .packing import Packing
from .scope import Scope
from .snapshots import Snapshots, active_key
from .steps import StepRequest, Steps

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["Building", "Workspace"]

_CLOSING = 60.0  # seconds within which the snapshots of an ended builder must be removed


class Building:
    """The services for builders; one instance for each engine. `workspaces` are the workspaces of the connected
    builders."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        image_store = engine.images.image_store
        self.steps = Steps(engine.ports)
        self.snapshots = Snapshots(engine.store, engine.storage, image_store, engine.ports.background.start)
        self.packing = Packing(engine.storage, engine.zygote, engine.config.exec_root)
        self.bases = BaseImages(engine.images)
        max_layers = engine.storage.capabilities.max_depth - 1  # one level is for the init layer of the image's containers
        self.maker = ImageMaker(image_store, self.snapshots, self.packing, max_layers)
        self.workspaces: set[Workspace] = set()
        image_store.content.packed = self.packing.tar

    async def load(self, rows: Iterable[tuple[str, bytes]]) -> None:
        """Load the rows of builders. Called when the daemon starts, before images are loaded."""
        await self.snapshots.load(rows)

    def workspace(self, scope: Scope | None = None) -> Workspace:
        made = Workspace(self, scope or Scope())
        self.workspaces.add(made)
        return made

    async def discard(self, domain: str, kept: Collection[str]) -> None:
        """Remove the snapshots of a domain whose builder has ended, except the snapshots in `kept`, to which its cache
        refers."""
        waiting = [key for key, row in self.snapshots.rows.items() if not row.released and row.domain == domain]
        waiting = [key for key in waiting if key not in kept]
        while waiting:
            blocked = []
            for key in waiting:
                try:
                    await self.snapshots.remove(key)
                except Conflict:  # the snapshot has children, which must be removed first
                    blocked.append(key)
            if len(blocked) == len(waiting):
                return
            waiting = blocked

    def is_active(self, key: str) -> bool:
        """Whether a builder is using this active snapshot."""
        return any(key in each.active for each in self.workspaces)

    async def repair(self, key: str) -> None:
        """Repair a snapshot that does not agree with its row. Raises `Conflict` while a builder is connected."""
        if self.workspaces:
            raise Conflict(
                "a builder is running: repeat the repair a minute after the last build, when the builder has ended, or "
                "restart the daemon"
            )
        await self.snapshots.repair(key)


@dataclass(slots=True)
class _Base:
    """An image that builds use as their base. `users` is the number of these builds."""

    snapshot: str
    lease: Lease
    users: int = 1


class Workspace:
    """All objects that one builder is using. `active` maps its active snapshots to their parents."""

    def __init__(self, building: Building, scope: Scope) -> None:
        self._building, self.scope = building, scope
        self._snapshots, self._storage = building.snapshots, building.engine.storage
        self._image_store = building.engine.images.image_store
        self.artifacts = Artifacts(building, scope)
        self.interactive = InteractiveSteps(building.steps, building.engine.ports)
        self.active: dict[str, str] = {}
        self._bases: dict[str, _Base] = {}

    async def aclose(self) -> None:
        """Release all objects of the workspace, even when cancelled. Call this method only when no other call is in
        progress."""
        with trio.move_on_after(_CLOSING, shield=True):
            await self._building.steps.ended()
            await self._snapshots.settle_all()
            for key in list(self.active):
                try:
                    await self.remove(key)
                except OrlopError:
                    continue  # the next start of the daemon removes the snapshot
            for digest in list(self._bases):
                self._drop(digest)
            await self.artifacts.aclose()
            await self._snapshots.reap()
        self._building.workspaces.discard(self)

    async def cdi_devices(self) -> Sequence[str]:
        """The names of the CDI devices of this host."""
        from orlop_engine.containers.devices import discovered

        directories = self._building.engine.config.cdi_directories
        return await trio.to_thread.run_sync(discovered, directories) if directories else ()

    # --- images -----------------------------------------------------------------------------------------------------

    async def resolve(self, wanted: Wanted) -> BaseImage:
        return await self._building.bases.resolve(wanted, self.scope)

    async def base(self, wanted: Wanted, report: Callable[[Record], None]) -> BaseImage:
        """Make sure that an image's layers are stored. They are kept until `release` has been called once for each call of
        `base`."""
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
                    break  # otherwise the image was removed before its layers were added to the lease
        except BaseException:
            image_store.leases.drop(lease)
            raise
        if found.digest in self._bases:
            image_store.leases.drop(lease)
            self._bases[found.digest].users += 1
        else:
            self._bases[found.digest] = _Base(found.snapshot, lease)
            self._snapshots.use(found.snapshot)
        try:
            await self._snapshots.set_base(found.snapshot, found.image.layers)
        except BaseException:
            self._unuse(found.digest)
            raise
        return found

    async def release(self, digest: str) -> None:
        """End one use of a base image. The use began with a call of `base`. It is no error if the base is not in use."""
        if digest in self._bases and self._unuse(digest):
            await self._snapshots.reap()
        await self._building.steps.ended()  # a build releases its bases when it ends, so wait for its steps here

    def _unuse(self, digest: str) -> bool:
        """Decrease the number of users. Returns whether this was the last user."""
        found = self._bases[digest]
        found.users -= 1
        if found.users:
            return False
        self._drop(digest)
        return True

    def _drop(self, digest: str) -> None:
        dropped = self._bases.pop(digest)
        self._snapshots.unuse(dropped.snapshot)
        self._image_store.leases.drop(dropped.lease)

    async def create_images(self, made: Sequence[NewImage], names: Sequence[str], index: str = "") -> list[Image]:
        """Make the images of one build, one for each platform, with the same names. For clients that ask for no platform,
        the names refer to the last image. `index`: the digest of the index with all manifests of the images; the index is a
        blob of an artifact. All images are made in one commit."""
        if not index and len(made) != 1:
            raise InvalidParameter("cannot make images of several platforms without an index")
        images = await self._building.maker.make(made, names, self.scope, index)
        references = [parse(name).with_default_tag() for name in names]
        self._building.engine.images.announce_tags(images[-1], [each for each in references if not each.digest])
        return images

    async def prefix(self, diff_ids: Sequence[str]) -> tuple[str, int, str]:
        """The lowest layers of a chain, up to the first layer that is in no stored image. Returns a name for `release`, the
        number of layers, and the snapshot of the highest layer; ("", 0, "") if there is none. The layers are kept until
        `release` has been called as many times as this method."""
        layers = self.artifacts.prefix(diff_ids)
        if not layers:
            return "", 0, ""
        name, key = f"layers:{layers[-1].chain_id}", self._image_store.layers.key(layers[-1].chain_id)
        lease = self._image_store.leases.add()
        lease.chains.update(layer.chain_id for layer in layers)
        lease.blobs.update(blob for layer in layers for blob in layer.blobs)
        await self._image_store.barrier()
        if name in self._bases:
            self._image_store.leases.drop(lease)
            self._bases[name].users += 1
            return name, len(layers), key
        if self.artifacts.prefix(diff_ids) != layers:  # an image was removed before its layers were added to the lease
            self._image_store.leases.drop(lease)
            return await self.prefix(diff_ids)
        self._bases[name] = _Base(key, lease)
        self._snapshots.use(key)
        try:
            await self._snapshots.set_base(key, layers)
        except BaseException:
            self._drop(name)
            raise
        return name, len(layers), key

    async def unpack_layer(self, artifact: str, parent: str, blob: LayerBlob) -> str:
        """Make a committed snapshot on top of `parent` from the blob of a layer. The blob belongs to the artifact. Returns
        the key of the snapshot."""
        key = await self.prepare(parent)
        try:
            await self.artifacts.unpack(artifact, key, blob)
            return await self.commit(key)
        except BaseException:
            with trio.move_on_after(_CLOSING, shield=True):
                await self.remove(key)
            raise

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
            await self._snapshots.reap()  # the base may have been released earlier
        elif (row := self._snapshots.rows.get(key)) is None or row.domain == self.scope.domain:
            await self._snapshots.remove(key)

    def _check(self, key: str) -> None:
        row = self._snapshots.rows.get(key)
        known = row is not None and (not self.scope.is_restricted or row.domain == self.scope.domain)
        if not known and key not in self.active and key not in self._snapshots.bases:
            raise NotFound(f"snapshot {key} does not exist")

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        self._check(key)
        readonly = readonly or key not in self.active
        # `volatile` prevents the kernel from syncing the file system when the mount ends, because the commit syncs the
        # snapshot
        return await self._storage.mounts(key, readonly=readonly, volatile=not readonly)

    async def usage(self, key: str) -> Usage:
        self._check(key)
        return await self._storage.usage(key)

    def snapshots(self) -> Sequence[str]:
        """The committed snapshots of the builder's domain that the builder has not removed."""
        rows = self._snapshots.rows.items()
        return [key for key, row in rows if not row.released and row.domain == self.scope.domain]

    def shared(self) -> Sequence[str]:
        """The keys in `snapshots` whose snapshots are layers of images."""
        store = self._image_store
        used = {built.snapshot for chain, built in store.layers.built.items() if store.catalog.layer(chain) is not None}
        return [key for key in self.snapshots() if key in used]

    async def pack(self, key: str) -> tuple[str, int]:
        return await self._building.maker.pack(key)

    async def unpack(self, archive: int, directory: int, owner: tuple[int, int] | None = None) -> None:
        """Unpack a tar, compressed or not, into a directory. Whiteouts are treated as ordinary files. `owner`: (uid, gid)
        of all files, instead of the archive's."""
        await unpack_files(self._building.engine.zygote, archive, directory, owner)

    async def copy_files(self, connection: int) -> None:
        """Run the helper of a large copy (`orlop_sdk.filecopies`) in a process, until the connection ends."""
        await copy_files(self._building.engine.zygote, connection)

    # --- steps ------------------------------------------------------------------------------------------------------

    async def run(self, request: StepRequest, outputs: tuple[int, ...]) -> int:
        """Run a step on an active snapshot. If the step's root is read-only, the snapshot may also be a committed
        snapshot."""
        self.scope.check_step(request.host)
        async with self._on_own_root(request) as own:
            return await self._building.steps.run(own, outputs)

    async def serve(self, name: str, request: StepRequest, streams: Streams, client: int) -> int:
        """Like `run`, but the client of the process is the socket `client`, and the step can have further processes (see the
        module `interactive`). The caller closes `client`."""
        self.scope.check_step(request.host)
        async with self._on_own_root(request) as own:
            return await self.interactive.run(name, own, streams, client)

    @asynccontextmanager
    async def _on_own_root(self, request: StepRequest) -> AsyncIterator[StepRequest]:
        """The request, whose root is an active snapshot."""
        if request.root in self.active:
            yield request
            return
        self._check(request.root)
        if not request.host.readonly_rootfs:
            raise Conflict(f"cannot run a step on snapshot {request.root}: it is committed")
        own = await self.prepare(request.root)  # the runtime creates missing mount points in this snapshot
        try:
            yield replace(request, root=own)
        finally:
            with trio.move_on_after(_CLOSING, shield=True):
                await self.remove(own)
