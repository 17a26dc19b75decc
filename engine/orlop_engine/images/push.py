"""Push: compress layers that need it, upload what the registry lacks, then the manifest; last, remember what was learnt.

Changes nothing that a crash could leave half-way: a compressed layer replaces the plain one in a commit of its own, and the
image gains its digest when the registry has the manifest. Messages are Docker's (daemon/internal/distribution/push_v2.go).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from msgspec.structs import replace

from orlop_sdk import DriverError, InvalidParameter, NotFound, OrlopError, Unauthorized

from . import outgoing
from .compression import LayerCompression
from .connector import Access, Connector
from .image_store import CLEANUP_SECONDS, ImageStore
from .leases import Lease
from .manifests import Descriptor
from .outgoing import Outgoing
from .policy import UNRESTRICTED, check_names
from .progress import Record, Report, message, state
from .records import Image, Layer
from .references import Reference
from .registry_errors import NO_CREDENTIALS, RegistryError
from .registry_push import PushRegistry
from .registry_rules import check_push
from .upload import BlobUpload, Uploads

if TYPE_CHECKING:
    from .transfers import PushRequest

__all__ = ["Pusher"]


class Pusher:
    def __init__(
        self, image_store: ImageStore, uploads: Uploads, compression: LayerCompression, connector: Connector
    ) -> None:
        self._image_store, self._uploads = image_store, uploads
        self._compression, self._connector = compression, connector

    async def push(self, request: PushRequest, report: Report) -> None:
        """Push an image, or all tags of a repository."""
        reference = request.reference
        check_push(self._connector.config.registry_rules, reference)
        report(message(f"The push refers to repository [{reference.name}]"))
        chosen = self._choose(request)
        access = Access(reference, request.credentials, request.refuse)
        try:
            async with self._connector.target(PushRegistry, access) as registry:
                for name in chosen:
                    await _ImagePush(self._image_store, self._uploads, self._compression, registry, request, report).run(
                        name
                    )
        except RegistryError as error:
            raise _translate(error) from error

    def _choose(self, request: PushRequest) -> list[Reference]:
        """The names to push. The client must be allowed to read each image."""
        reference, catalog = request.reference, self._image_store.catalog
        if reference.digest:
            raise InvalidParameter("cannot push a digest reference")
        names = catalog.tags(reference)
        if not names:
            raise NotFound(f"An image does not exist locally with the tag: {reference.familiar_name}")
        if reference.tag:
            if reference not in names:
                raise NotFound(f"tag does not exist: {reference.familiar}")
            names = [reference]
        return names


class _ImagePush:
    """The push of one image under one name. `_lease` holds its content."""

    def __init__(
        self,
        image_store: ImageStore,
        uploads: Uploads,
        compression: LayerCompression,
        registry: PushRegistry,
        request: PushRequest,
        report: Report,
    ) -> None:
        self._image_store, self._uploads, self._compression = image_store, uploads, compression
        self._registry, self._request, self._report = registry, request, report
        self._compressed = False

    async def run(self, name: Reference) -> None:
        try:
            with self._image_store.leases.hold() as lease:
                image = await self._held(name, lease)
                for layer in reversed(image.layers):
                    self._report(state(_id(layer), "Preparing"))
                found = await outgoing.describe(self._image_store.content, await self._layers(name, image, lease))
                await self._finish(name, found, lease)
        finally:
            if self._compressed:
                with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                    await self._image_store.collect()

    async def _held(self, name: Reference, lease: Lease) -> Image:
        """The image, whose content stays until the push has ended."""
        catalog = self._image_store.catalog
        while True:
            if name not in catalog.references:
                raise NotFound(f"tag does not exist: {name.familiar}")
            image = catalog.resolve(str(name), self._request.platform)
            if not self._request.policy.may_use(image):
                raise self._request.policy.denied(f"pushing image {name.familiar}")
            lease.blobs.update(
                (image.id, *image.record.manifests, *(blob for layer in image.layers for blob in layer.blobs))
            )
            await self._image_store.barrier()
            if catalog.images.get(image.id) is image:
                return image

    async def _layers(self, name: Reference, image: Image, lease: Lease) -> Image:
        """Bring all layers to the registry, from the top, as Docker does. Returns the image with its layers as pushed: equal
        layers have one blob."""
        pushed: dict[str, Layer] = {}

        async def one(layer: Layer) -> None:
            pushed[layer.diff_id] = await self._layer(name, layer, lease)

        distinct = {layer.diff_id: layer for layer in image.layers}
        await _all(partial(one, layer) for layer in reversed(distinct.values()))
        layers = []
        for layer in image.layers:
            sent = pushed[layer.diff_id]
            layers.append(replace(layer, blob=sent.blob, media_type=sent.media_type, blob_size=sent.blob_size))
        return Image(replace(image.record, layers=tuple(layers)), image.document, image.raw, image.names)

    async def _layer(self, name: Reference, layer: Layer, lease: Lease) -> Layer:
        id = _id(layer)
        async with self._uploads.slot(id, self._report):
            sent = await self._compression.compressed(layer, lease, self._report)
            self._compressed = self._compressed or sent.blob != layer.blob
            opened = partial(outgoing.open_layer, self._image_store.content, sent)
            await self._uploads.upload(
                self._registry,
                BlobUpload(sent.blob, sent.blob_size, id, opened, self._mounts(sent.blob, name)),
                self._report,
            )
        return sent

    async def _finish(self, name: Reference, found: Outgoing, lease: Lease) -> None:
        """Push configuration and manifest, and keep what the next push needs."""
        store, by_digest = self._image_store, name.with_digest(found.digest)
        check_names(self._request.policy, store.catalog, [by_digest], found.image.id)
        opened, mounts = partial(self._open, found.config), self._mounts(found.config.digest, name)
        config = BlobUpload(found.config.digest, found.config.size, "", opened, mounts)
        await self._uploads.upload(self._registry, config, self._report)
        await self._uploads.repeat(partial(self._registry.put_manifest, name.tag, found.media_type, found.manifest))
        await self._uploads.repeat(partial(self._registry.check_manifest, found.media_type, found.manifest))
        await store.hold(lease, blob=found.digest)
        await store.content.put(found.manifest)
        await store.add_manifest(found.image.id, found.digest, by_digest, self._request.policy)
        await store.repositories.add(name, (part.digest for part in (found.config, *found.layers)))
        self._report(message(f"{name.tag}: digest: {found.digest} size: {len(found.manifest)}"))
        self._report(_aux(Tag=name.tag, Digest=found.digest, Size=len(found.manifest)))

    def _mounts(self, digest: str, name: Reference) -> Sequence[str]:
        """Repositories from which the registry may mount the blob. Empty for a restricted client, which
        would learn what others use."""
        if self._request.policy is not UNRESTRICTED:
            return ()
        return self._image_store.repositories.candidates(digest, name)

    @asynccontextmanager
    async def _open(self, blob: Descriptor) -> AsyncIterator[int]:
        fd = self._image_store.content.open(blob.digest)
        try:
            yield fd
        finally:
            os.close(fd)


def _id(layer: Layer) -> str:
    """A layer's id in the progress records of a push: of the uncompressed tar, unlike those of a pull."""
    return layer.diff_id.removeprefix("sha256:")[:12]


def _aux(**fields: Any) -> Record:
    """The record that tells programs what was pushed."""
    return replace(state("", ""), status=None, aux=fields)


async def _all(tasks: Iterable[Callable[[], Awaitable[None]]]) -> None:
    """Run all tasks at once; the first error cancels the others, and is raised alone: a nursery would wrap it in a group."""
    failures: list[OrlopError] = []

    async def run(task: Callable[[], Awaitable[None]], scope: trio.CancelScope) -> None:
        try:
            await task()
        except OrlopError as error:
            failures.append(error)
            scope.cancel()

    async with trio.open_nursery() as nursery:
        for task in tasks:
            nursery.start_soon(run, task, nursery.cancel_scope)
    if failures:
        raise failures[0]


def _translate(error: RegistryError) -> OrlopError:
    """The error that the client of a push gets."""
    if error.code == "UNAUTHORIZED":
        return Unauthorized(NO_CREDENTIALS if str(error).endswith(NO_CREDENTIALS) else str(error))
    return DriverError(str(error))
