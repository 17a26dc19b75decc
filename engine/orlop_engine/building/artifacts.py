"""Artifacts of builds: blobs, manifests and archives that are fetched from registries, pushed or saved, but are not images
in the image store.

A builder chooses the names of its artifacts. Each artifact has a lease, which protects its blobs until the builder drops the
artifact or the workspace is closed. The builder makes the manifests; this package stores, pushes and packs them.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import trio

from orlop_engine.images import documents
from orlop_engine.images.content import DigestMismatch
from orlop_engine.images.image_store import CLEANUP_SECONDS
from orlop_engine.images.leases import Lease
from orlop_engine.images.manifests import Descriptor
from orlop_engine.images.outgoing import compression_of
from orlop_engine.images.policy import UNRESTRICTED, check_names
from orlop_engine.images.progress import Record
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import Layer
from orlop_engine.images.references import Reference, parse
from orlop_engine.images.registry_auth import Credentials
from orlop_engine.images.tar_split import spooled
from orlop_sdk import InvalidParameter, NotFound

from .images import LayerBlob
from .scope import Scope

if TYPE_CHECKING:
    from orlop_engine.images.compression import LayerCompression, Recipe

    from .service import Building

__all__ = ["Archive", "Artifacts", "LayerForm", "Manifest"]

_PIECE = 1 << 20
_MAX_BLOB = 16 << 20


@dataclass(frozen=True, slots=True)
class LayerForm:
    """The form of exported layers. `kind` is "gzip", "zstd", "uncompressed", or "" for the configured compression; `level`
    is -1 for the default level. If a layer has a blob already, this blob is used, unless `force` is set. `latest` (seconds
    since 1970): in layers that were built by this engine, file times after `latest` are replaced by `latest`."""

    kind: str = ""
    level: int = -1
    force: bool = False
    latest: int | None = None


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest or an index, which is a blob of the artifact. `blobs` are the blobs that the manifest refers to, without
    other manifests. In the manifest of an image, the first blob is the configuration."""

    descriptor: Descriptor
    blobs: tuple[Descriptor, ...] = ()


@dataclass(frozen=True, slots=True)
class Archive:
    """An archive of `root`: see `archive_layout.layout_parts`."""

    root: Descriptor
    blobs: tuple[Descriptor, ...]
    names: tuple[str, ...]
    annotations: Mapping[str, str]
    docker: tuple[str, tuple[str, ...]] | None


class Artifacts:
    """The artifacts of one workspace."""

    def __init__(self, building: Building, scope: Scope) -> None:
        self._building, self._scope = building, scope
        self._store = building.engine.images.image_store
        self._leases: dict[str, Lease] = {}

    def _lease(self, artifact: str) -> Lease:
        lease = self._leases.get(artifact)
        if lease is None:
            lease = self._leases[artifact] = self._store.leases.add()
        return lease

    def _check(self, artifact: str, blobs: Sequence[str]) -> None:
        held = self._lease(artifact).blobs
        for blob in blobs:
            if blob not in held:
                raise NotFound(f"blob {blob} is not part of the artifact")

    async def drop(self, artifact: str) -> None:
        """Release the artifact's lease. It is no error if there is no such artifact."""
        lease = self._leases.pop(artifact, None)
        if lease is not None:
            self._store.leases.drop(lease)
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self._store.collect()

    async def aclose(self) -> None:
        for artifact in list(self._leases):
            await self.drop(artifact)

    # --- blobs ------------------------------------------------------------------------------------------------------

    async def put(self, artifact: str, data: bytes) -> str:
        if len(data) > _MAX_BLOB:
            raise InvalidParameter(f"cannot store a document of {len(data)} bytes")
        digest = documents.digest(data)
        await self._store.hold(self._lease(artifact), blob=digest)
        await self._store.content.put(data)
        return digest

    async def receive(self, artifact: str, digest: str, source: int) -> None:
        """Store the bytes from a pipe as a blob with this digest. Raises if the bytes have another digest. The bytes are
        required even if the blob exists already. Otherwise a client could get content although it knows only the digest."""

        async def check(found: str) -> None:
            if found != digest:
                raise DigestMismatch(digest, found, resumed=False)
            await self._store.hold(self._lease(artifact), blob=digest)

        ingest = await self._store.content.ingest(None)
        try:
            async with trio.lowlevel.FdStream(os.dup(source)) as stream:
                async for piece in stream:
                    await ingest.write(bytes(piece))
            await ingest.commit(check)
        finally:
            ingest.abandon()

    async def read(self, artifact: str, digest: str, target: int) -> None:
        """Write a blob to a pipe."""
        self._check(artifact, [digest])
        fd = self._store.content.open(digest)
        try:
            async with trio.lowlevel.FdStream(os.dup(target)) as stream:
                while piece := await trio.to_thread.run_sync(os.read, fd, _PIECE):
                    await stream.send_all(piece)
        finally:
            os.close(fd)

    async def layers(
        self, artifact: str, keys: Sequence[str], form: LayerForm, report: Callable[[Record], None]
    ) -> list[LayerBlob]:
        """Store the layers of a chain of snapshots, lowest first. The first snapshot may belong to an image."""
        lease = self._lease(artifact)
        found = await self._building.maker.layers(keys)
        chain_ids = documents.chain_ids([layer.diff_id for layer in found])
        own = [key for key in keys if key in self._building.snapshots.rows]
        compression = await self._building.engine.images.transfers.compression()
        result = []
        for number, (layer, chain_id) in enumerate(zip(found, chain_ids, strict=True)):
            key = own[number - len(found)] if number >= len(found) - len(own) else ""
            layer = await self._named(layer, chain_id, lease)
            stored = await self._stored(compression, layer, key, form, lease, report)
            kind = await compression_of(self._store.content, stored)
            result.append(LayerBlob(stored.blob, stored.blob_size, kind, stored.diff_id))
        return result

    async def _named(self, layer: Layer, chain_id: str, lease: Lease) -> Layer:
        """The layer with its chain ID. If an image has a blob of this layer, the returned layer has this blob."""
        await self._store.hold(lease, chain_id=chain_id)
        known = self._store.catalog.layer(chain_id)
        if not layer.blob and known is not None and known.blob:
            await self._store.hold(lease, blob=known.blob)
            if self._store.content.has(known.blob):
                return known
        lease.blobs.update(layer.blobs)
        return Layer(layer.blob, layer.media_type, layer.blob_size, layer.diff_id, chain_id, layer.size, layer.snapshot)

    async def _stored(
        self,
        compression: LayerCompression,
        layer: Layer,
        key: str,
        form: LayerForm,
        lease: Lease,
        report: Callable[[Record], None],
    ) -> Layer:
        if key and form.latest is not None:
            packing = self._building.packing
            diff_id, size = await packing.measure(key, form.latest)
            if diff_id != layer.diff_id:
                clamped = Layer("", "", 0, diff_id, "", size)
                opened = partial(self._spooled, key, form.latest)
                return await compression.converted(clamped, _recipe(form), lease, report, opened)
        if not form.kind or (not form.force and not key and layer.blob):
            return await compression.compressed(layer, lease, report)
        return await compression.converted(layer, _recipe(form), lease, report)

    @asynccontextmanager
    async def _spooled(self, key: str, latest: int) -> AsyncIterator[int]:
        fd = await spooled(self._store.content, self._building.packing.tar(key, latest))
        try:
            yield fd
        finally:
            os.close(fd)

    # --- registries and archives ------------------------------------------------------------------------------------

    async def push(
        self,
        artifact: str,
        name: str,
        manifests: Sequence[Manifest],
        shown: Mapping[str, str],
        credentials: Credentials,
        report: Callable[[Record], None],
        *,
        by_digest: bool,
    ) -> None:
        """Push manifests, the root last, under a name. `shown`: see `push_documents`."""
        from orlop_engine.images.push_documents import Document
        from orlop_engine.images.transfers import PushRequest

        content = self._store.content
        found = []
        for manifest in manifests:
            self._check(artifact, [manifest.descriptor.digest, *(blob.digest for blob in manifest.blobs)])
            data = await trio.to_thread.run_sync(content.read, manifest.descriptor.digest, _MAX_BLOB)
            found.append(Document(manifest.descriptor.media_type, data, manifest.blobs))
        restrictions = self._scope.restrictions
        request = PushRequest(_tag(name), credentials, restrictions.images, restrictions.refuse)
        image = manifests[-1].blobs[0].digest if manifests[-1].blobs else manifests[-1].descriptor.digest
        check_names(restrictions.images, self._store.catalog, [request.reference], image)
        transfers = self._building.engine.images.transfers
        await transfers.push_documents(request, found, shown, report, by_digest=by_digest)
        await self._remember(request.reference, manifests)

    async def _remember(self, reference: Reference, pushed: Sequence[Manifest]) -> None:
        """If the pushed images are in the image store, add a name with the pushed digest to them."""
        root, images = pushed[-1].descriptor.digest, self._store.catalog.images
        builds = self._scope.restrictions.builds
        policy = builds.pulls if builds is not None else UNRESTRICTED
        manifests = {
            manifest.blobs[0].digest: manifest.descriptor.digest
            for manifest in pushed
            if manifest.blobs and manifest.blobs[0].digest in images
        }
        if len(pushed) > 1:
            await self._store.add_index(reference.with_digest(root), root, manifests, policy)
        for id, digest in manifests.items() if len(pushed) == 1 else ():
            await self._store.add_manifest(id, digest, reference.with_digest(root), policy)

    async def save(self, artifact: str, archive: Archive, target: int) -> None:
        """Write an archive to a pipe."""
        from orlop_engine.images.archive_layout import layout_parts
        from orlop_engine.images.archive_save import open_archive_of_parts

        self._check(artifact, [archive.root.digest, *(blob.digest for blob in archive.blobs)])
        names = [_tag(name) for name in archive.names]
        parts = layout_parts(archive.root, archive.blobs, names, archive.annotations, archive.docker)
        async with (
            aclosing(open_archive_of_parts(self._store, parts)) as saved,
            trio.lowlevel.FdStream(os.dup(target)) as stream,
        ):
            async for piece in saved:
                await stream.send_all(piece)

    async def fetch_manifest(self, name: str, credentials: Credentials) -> tuple[str, bytes]:
        """The media type and the bytes of the manifest or index that a name refers to at its registry."""
        request = self._scope.restricted(PullRequest(parse(name).with_default_tag(), None, credentials))
        return await self._building.engine.images.transfers.fetch_manifest(request)

    async def fetch(
        self,
        artifact: str,
        name: str,
        blobs: Sequence[Descriptor],
        credentials: Credentials,
        report: Callable[[Record], None],
    ) -> None:
        """Download blobs of a repository."""
        request = self._scope.restricted(PullRequest(parse(name).with_default_tag(), None, credentials))
        transfers = self._building.engine.images.transfers
        await transfers.fetch_blobs(request, blobs, self._lease(artifact), report)

    async def unpack(self, artifact: str, key: str, blob: LayerBlob) -> None:
        """Unpack a layer into an active snapshot of the workspace."""
        self._check(artifact, [blob.digest])
        await self._store.layers.write_blob(key, blob.digest, blob.diff_id)

    def prefix(self, diff_ids: Sequence[str]) -> tuple[Layer, ...]:
        """The lowest layers of a chain, up to the first layer that is in no image that the client may use."""
        builds, found = self._scope.restrictions.builds, list[Layer]()
        policy = builds.pulls if builds is not None else UNRESTRICTED
        for chain_id in documents.chain_ids(diff_ids):
            layer = next(self._store.catalog.layers(chain_id, policy), None)
            if layer is None or chain_id not in self._store.layers.built:
                break
            found.append(layer)
        return tuple(found)


def _recipe(form: LayerForm) -> Recipe:
    from orlop_engine.images.compression import Recipe

    return Recipe(form.kind or "gzip", form.level)  # type: ignore[arg-type]  # the builder has checked it


def _tag(name: str) -> Reference:
    reference = parse(name).with_default_tag()
    if reference.digest:
        raise InvalidParameter(f"cannot push {name}: it has a digest")
    return reference
