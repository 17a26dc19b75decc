"""Push: compress layers if necessary, upload the blobs that the registry does not have, and then the manifest. At the
end, record which repository has the blobs.

A repeated push needs only one request, as in go-containerregistry: the request asks the registry whether the tag already
refers to the same manifest. A registry accepts a manifest only after it has all blobs of the manifest.

An index (Docker's "manifest list") lists the manifests of images, one for each platform. If a name was pulled, loaded or
built as an index, and everything that the index lists is stored on this host, the index is pushed with all its images. If
content is missing, only one image is pushed, and the answer says so (daemon/containerd/image_push.go).

A crash leaves a consistent state: a compressed layer replaces the plain layer in one commit, and the digest becomes a name
of the image only after the registry has the manifest. Messages are the same as Docker's
(daemon/internal/distribution/push_v2.go).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import trio
from msgspec.structs import replace

from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound, OrlopError, Unauthorized

from . import documents, outgoing, platforms
from .compression import LayerCompression
from .connector import Access, Connector
from .image_store import CLEANUP_SECONDS, ImageStore
from .leases import Lease
from .manifests import Descriptor
from .outgoing import Outgoing
from .outgoing_index import OutgoingIndex, describe_index, make_index
from .policy import check_names
from .progress import Record, Report, message, state
from .push_index import push_index, push_layers
from .push_target import PushTarget, progress_id
from .records import Image, Layer
from .references import Reference
from .registry_errors import NO_CREDENTIALS, RegistryError
from .registry_push import PushRegistry
from .registry_rules import check_push
from .tasks import run_all
from .upload import Uploads

if TYPE_CHECKING:
    from .transfers import PushRequest

__all__ = ["Pusher", "translate"]


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
            raise translate(error) from error

    def _choose(self, request: PushRequest) -> list[Reference]:
        """The names to push."""
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
    """Pushes one name. A lease protects the content during the push."""

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
        target = PushTarget(self._image_store, self._uploads, self._registry, self._request, name, self._report)
        try:
            with self._image_store.leases.hold() as lease:
                images = await self._held(name, lease)
                index = await self._index(name, images)
                if index is not None and index.complete:
                    if await target.has(index.descriptor, index.data):
                        target.report_present(layer for image in index.images for layer in image.image.layers)
                        self._done(name, index.descriptor)
                        return
                    await push_layers(target, index)
                    await self._push_index(target, index)
                elif index is not None and index.covered and index.others and len(images) > 1:
                    await self._push_index(target, await self._made(target, images, lease))
                else:
                    found = await self._image(target, self._choose(name, images), lease)
                    if index is not None:
                        self._report(_aux(manifestPushedInsteadOfIndex=True, **_both(index.descriptor, found.descriptor)))
        finally:
            if self._compressed:
                with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                    await self._image_store.collect()

    async def _held(self, name: Reference, lease: Lease) -> list[Image]:
        """Those images of this name which the client may use. `lease` protects their content until the push has ended. The
        first image of the result is the image to push if only one image can be pushed."""
        catalog, request = self._image_store.catalog, self._request
        while True:
            if name not in catalog.references:
                raise NotFound(f"tag does not exist: {name.familiar}")
            image = catalog.resolve(str(name), request.platform)
            if not request.policy.may_use(image):
                raise request.policy.denied(f"pushing image {name.familiar}")
            others = [] if request.platform else [catalog.images[id] for id in catalog.members(name) if id != image.id]
            images = [image, *filter(request.policy.may_use, others)]
            lease.blobs.update(*(image.blobs for image in images))
            await self._image_store.barrier()
            if all(catalog.images.get(image.id) is image for image in images):
                return images

    async def _index(self, name: Reference, images: Sequence[Image]) -> OutgoingIndex | None:
        """The index that was pulled, loaded or built under this name. None if there is none, or if the client asked for one
        platform."""
        target = self._image_store.catalog.targets.get(name)
        if target is None or not target.index or self._request.platform:
            return None
        return await trio.to_thread.run_sync(describe_index, self._image_store.content, target.index, images)

    def _choose(self, name: Reference, images: Sequence[Image]) -> Image:
        """The image to push if no index is pushed."""
        if len(images) > 1 and images[0].platform not in platforms.acceptable(platforms.host()):
            raise Conflict(
                f"cannot push {name.familiar}: multiple matching manifests found but no specific platform requested: "
                f"this host does not store all images of its index, and those it stores ({_platforms(images)}) "
                "are for other platforms"
            )
        return images[0]

    async def _push_index(self, target: PushTarget, index: OutgoingIndex) -> None:
        await push_index(target, index)
        self._done(target.name, index.descriptor)

    async def _made(self, target: PushTarget, images: Sequence[Image], lease: Lease) -> OutgoingIndex:
        """Upload the layers of all images as they are stored on this host, and make a new index of the images."""
        made = []
        for image in sorted(images, key=lambda image: image.id):
            found = await outgoing.describe_oci(self._image_store.content, await self._layers(target, image, lease))
            await self._keep(found.manifest, lease)
            made.append(found)
        index = make_index(made)
        await self._keep(index.data, lease)
        return index

    async def _keep(self, data: bytes, lease: Lease) -> None:
        await self._image_store.hold(lease, blob=documents.digest(data))
        await self._image_store.content.put(data)

    async def _image(self, target: PushTarget, image: Image, lease: Lease) -> Outgoing:
        kept = await trio.to_thread.run_sync(outgoing.received, self._image_store.content, image)
        if kept is not None and await target.has(kept.descriptor, kept.manifest):
            target.report_present(image.layers)
            self._done(target.name, kept.descriptor)
            return kept
        found = await outgoing.describe(self._image_store.content, await self._layers(target, image, lease))
        await self._finish(target, found, lease)
        return found

    async def _layers(self, target: PushTarget, image: Image, lease: Lease) -> Image:
        """Upload all layers, the top layer first, as Docker does. Returns the image with its layers as they were pushed.
        Layers with the same content have the same blob."""
        for layer in reversed(image.layers):
            self._report(state(progress_id(layer), "Preparing"))
        pushed: dict[str, Layer] = {}

        async def one(layer: Layer) -> None:
            pushed[layer.diff_id] = await self._layer(target, layer, lease)

        distinct = {layer.diff_id: layer for layer in image.layers}
        await run_all(partial(one, layer) for layer in reversed(distinct.values()))
        layers = []
        for layer in image.layers:
            sent = pushed[layer.diff_id]
            layers.append(replace(layer, blob=sent.blob, media_type=sent.media_type, blob_size=sent.blob_size))
        return Image(replace(image.record, layers=tuple(layers)), image.document, image.raw, image.names)

    async def _layer(self, target: PushTarget, layer: Layer, lease: Lease) -> Layer:
        async with self._uploads.slot(progress_id(layer), self._report):
            sent = await self._compression.compressed(layer, lease, self._report)
            self._compressed = self._compressed or sent.blob != layer.blob
            await target.layer(sent)
        return sent

    async def _finish(self, target: PushTarget, found: Outgoing, lease: Lease) -> None:
        """Push the configuration and the manifest. Then record, for later pushes, the manifest's digest and the fact that
        the repository has the blobs."""
        store, by_digest = self._image_store, target.name.with_digest(found.digest)
        check_names(self._request.policy, store.catalog, [by_digest], found.image.id)
        await target.blob(found.config)
        await target.manifest(target.name.tag, found.media_type, found.manifest)
        await self._keep(found.manifest, lease)
        await store.add_manifest(found.image.id, found.digest, by_digest, self._request.policy)
        await target.remember((found.config, *found.layers))
        self._done(target.name, found.descriptor)

    def _done(self, name: Reference, pushed: Descriptor) -> None:
        self._report(message(f"{name.tag}: digest: {pushed.digest} size: {pushed.size}"))
        self._report(_aux(Tag=name.tag, Digest=pushed.digest, Size=pushed.size))


def _platforms(images: Sequence[Image]) -> str:
    return ", ".join(sorted(str(image.platform) for image in images))


def _both(index: Descriptor, manifest: Descriptor) -> dict[str, Any]:
    """The fields of a progress record which says that one image was pushed instead of the index (moby's `auxprogress`)."""
    shown = [{"mediaType": one.media_type, "digest": one.digest, "size": one.size} for one in (index, manifest)]
    return {"originalIndex": shown[0], "selectedManifest": shown[1]}


def _aux(**fields: Any) -> Record:
    """The progress record from which client programs learn what was pushed."""
    return replace(state("", ""), status=None, aux=fields)


def translate(error: RegistryError) -> OrlopError:
    """The error that the client of a push gets."""
    if error.code == "UNAUTHORIZED":
        return Unauthorized(NO_CREDENTIALS if str(error).endswith(NO_CREDENTIALS) else str(error))
    return DriverError(str(error))
