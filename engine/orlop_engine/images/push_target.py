"""The repository at a registry to which a push sends layers, other blobs, and manifests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING

from . import outgoing
from .content import DamagedBlob
from .image_store import ImageStore
from .manifests import Descriptor
from .policy import UNRESTRICTED
from .progress import Report, state
from .records import Layer
from .references import Reference
from .upload import BlobUpload, Uploads

if TYPE_CHECKING:
    from .registry_push import PushRegistry
    from .transfers import PushRequest

__all__ = ["PushTarget", "progress_id"]


def progress_id(layer: Layer) -> str:
    """A layer's id in the progress records of a push. It is made from the digest of the uncompressed tar; in the records of
    a pull, it is made from the blob's digest."""
    return layer.diff_id.removeprefix("sha256:")[:12]


class PushTarget:
    """`name` is the name of the image that is pushed."""

    def __init__(
        self,
        image_store: ImageStore,
        uploads: Uploads,
        registry: PushRegistry,
        request: PushRequest,
        name: Reference,
        report: Report,
    ) -> None:
        self.name, self.request, self.report = name, request, report
        self.image_store, self.uploads = image_store, uploads
        self._registry = registry

    async def layer(self, layer: Layer) -> None:
        """Upload a layer's blob, and report the progress. The caller holds one of the slots of `uploads`."""
        opened = partial(outgoing.open_layer, self.image_store.content, layer)
        blob = BlobUpload(layer.blob, layer.blob_size, progress_id(layer), opened, self._mounts(layer.blob))
        try:
            await self.uploads.upload(self._registry, blob, self.report)
        except DamagedBlob:
            await self.image_store.quarantine(layer.blob)
            raise

    async def blob(self, blob: Descriptor, id: str = "") -> None:
        """Upload a blob of the content store that is not a layer. If `id` is not "", the progress is reported under this
        id."""
        opened = partial(self._open, blob)
        upload = BlobUpload(blob.digest, blob.size, id, opened, self._mounts(blob.digest))
        await self.uploads.upload(self._registry, upload, self.report)

    async def has(self, manifest: Descriptor, data: bytes) -> bool:
        """Whether the tag at the registry already refers to this manifest or index. If so, the registry also has all blobs
        that the manifest or index refers to. The registry is asked only if the image has a name with this digest. Without
        such a name, the image was neither pushed to this repository nor pulled from it before."""
        if self.name.with_digest(manifest.digest) not in self.image_store.catalog.references:
            return False
        return await self._registry.has_manifest(self.name.tag, manifest.media_type, data)

    def report_present(self, layers: Iterable[Layer]) -> None:
        """Report that the registry has the layers of an image already, the top layer first."""
        ids = [progress_id(layer) for layer in layers][::-1]
        for text, shown in (("Preparing", ids), ("Layer already exists", list(dict.fromkeys(ids)))):
            for id in shown:
                self.report(state(id, text))

    async def manifest(self, reference: str, media_type: str, data: bytes) -> None:
        """Store a manifest or index at the registry, under a tag or its digest, and check that the registry returns it."""
        await self.uploads.repeat(partial(self._registry.put_manifest, reference, media_type, data))
        await self.uploads.repeat(partial(self._registry.check_manifest, media_type, data))

    async def remember(self, parts: Iterable[Descriptor]) -> None:
        """Record that the repository has these blobs, so that later pushes can mount the blobs from this repository."""
        await self.image_store.repositories.add(self.name, (part.digest for part in parts))

    def _mounts(self, digest: str) -> Sequence[str]:
        """Repositories from which the registry may mount the blob. The result is empty for a restricted client, because
        otherwise this client learns which repositories other clients use."""
        if self.request.policy is not UNRESTRICTED:
            return ()
        return self.image_store.repositories.candidates(digest, self.name)

    @asynccontextmanager
    async def _open(self, blob: Descriptor) -> AsyncIterator[int]:
        fd = self.image_store.content.open(blob.digest)
        try:
            yield fd
        finally:
            os.close(fd)
