"""Operations of the image service that use registries: pull, push, inspection and search. This module also holds the limits
that these operations share.

The HTTP client and the compressors are imported, on a thread, by the first operation that needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING

import trio

from orlop_engine.config import Config
from orlop_engine.counters import Counters

from .connector import Access, Connector, load_http
from .download import Downloads
from .image_store import ImageStore
from .listing import Filters
from .policy import UNRESTRICTED, ImagePolicy
from .progress import Progress, Report
from .pull import Puller, PullRequest, Resolved
from .records import Image
from .references import Reference
from .registry_auth import ANONYMOUS, Credentials
from .registry_hosts import Timeouts
from .upload import Uploads

if TYPE_CHECKING:
    from .compression import Expand, LayerCompression
    from .destinations import Refuse
    from .inspection import Distribution
    from .leases import Lease
    from .manifests import Descriptor
    from .platforms import Platform
    from .push_documents import Document
    from .search import SearchResult

__all__ = ["PushRequest", "Transfers"]


@dataclass(frozen=True, slots=True)
class PushRequest:
    """A reference without a tag means all tags of the repository. `platform`: push only the image for this platform. Without
    `platform`, all images of the name are pushed if possible, otherwise the image for this host. `refuse`: see the module
    `destinations`."""

    reference: Reference
    credentials: Credentials = ANONYMOUS
    policy: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None
    platform: Platform | None = None


class Transfers:
    """`tell(action, name, image)` publishes an event. `expand`: see `LayerCompression`."""

    def __init__(
        self,
        image_store: ImageStore,
        nursery: trio.Nursery,
        config: Config,
        tell: Callable[[str, Reference, Image | None], None],
        counters: Counters,
        max_depth: int,
        *,
        expand: Expand,
        timeouts: Timeouts,
        certificates: tuple[str, ...],
        retry_wait: float,
    ) -> None:
        self._image_store, self._nursery, self._config = image_store, nursery, config
        self._tell, self._counters, self._certificates = tell, counters, certificates
        content = image_store.content
        self._connector = Connector(lambda: self._config, timeouts, certificates)
        slots, attempts = config.max_concurrent_downloads, config.max_download_attempts
        self._downloads = Downloads(content, nursery, slots, attempts, retry_wait)
        self._uploads = Uploads(config.max_concurrent_uploads, config.max_upload_attempts, retry_wait)
        self._compression: LayerCompression | None = None
        self._expand = expand
        self._puller = Puller(image_store, self._downloads, self._connector, self._pulled, max_depth)

    def reconfigure(self, config: Config) -> None:
        """Use a new configuration. Mirrors, insecure registries, compression and limits take effect with the next
        operation."""
        self._config = config
        self._downloads.reconfigure(config.max_concurrent_downloads, config.max_download_attempts)
        self._uploads.reconfigure(config.max_concurrent_uploads, config.max_upload_attempts)

    def _pulled(self, reference: Reference, image: Image | None) -> None:
        self._tell("pull", reference, image or self._default_tag(reference))

    def _default_tag(self, reference: Reference) -> Image | None:
        """The image whose labels are added to an event about all tags of a repository, as in dockerd."""
        catalog = self._image_store.catalog
        return catalog.images.get(catalog.references.get(reference.with_default_tag(), ""))

    def pull(self, request: PullRequest) -> Progress:
        async def run(report: Report) -> None:
            with self._counters.timed("image", "pull"):
                await self._puller.pull(request, report)

        return Progress(self._nursery, run)

    async def compression(self) -> LayerCompression:
        """The `LayerCompression` that all operations share, so that a layer is compressed only once."""
        await trio.to_thread.run_sync(import_module, f"{__package__}.push")
        from .compression import LayerCompression

        if self._compression is None:
            self._compression = LayerCompression(
                self._image_store,
                self._nursery,
                lambda: "zstd" if self._config.image_compression == "zstd" else "gzip",
                self._expand,
            )
        return self._compression

    def push(self, request: PushRequest) -> Progress:
        async def run(report: Report) -> None:
            with self._counters.timed("image", "push"):
                compression = await self.compression()
                from .push import Pusher

                await Pusher(self._image_store, self._uploads, compression, self._connector).push(request, report)
            self._tell("push", request.reference, self._default_tag(request.reference))

        return Progress(self._nursery, run)

    async def push_documents(
        self,
        request: PushRequest,
        found: Sequence[Document],
        shown: Mapping[str, str],
        report: Report,
        *,
        by_digest: bool = False,
    ) -> None:
        """Push manifests and the blobs that they refer to. See `push_documents`."""
        with self._counters.timed("image", "push"):
            await self.compression()
            from .push import translate
            from .push_documents import push_documents
            from .push_target import PushTarget
            from .registry_errors import RegistryError
            from .registry_push import PushRegistry
            from .registry_rules import check_push

            check_push(self._config.registry_rules, request.reference)
            access = Access(request.reference, request.credentials, request.refuse)
            try:
                async with self._connector.target(PushRegistry, access) as registry:
                    target = PushTarget(self._image_store, self._uploads, registry, request, request.reference, report)
                    await push_documents(target, found, shown, by_digest=by_digest)
            except RegistryError as error:
                raise translate(error) from error

    async def fetch_manifest(self, request: PullRequest) -> tuple[str, bytes]:
        """The media type and the bytes of the manifest or index that a reference refers to at its registry."""
        return await self._puller.manifest(request)

    async def fetch_blobs(self, request: PullRequest, blobs: Sequence[Descriptor], lease: Lease, report: Report) -> None:
        """Download blobs of a repository, and add them to the lease."""
        await self._puller.blobs(request, blobs, lease, report)

    async def pull_to(self, request: PullRequest, report: Report) -> None:
        """Pull in the calling task."""
        with self._counters.timed("image", "pull"):
            await self._puller.pull(request, report)

    async def resolve(self, request: PullRequest) -> Resolved:
        """The image that a reference refers to at its registry."""
        return await self._puller.resolve(request)

    async def inspect(self, name: str, credentials: Credentials, refuse: Refuse | None) -> Distribution:
        """The manifest or index that a registry has under a name."""
        from .inspection import inspect

        return await inspect(self._connector, name, credentials, refuse)

    async def search(self, term: str, limit: int, filters: Filters, refuse: Refuse | None) -> list[SearchResult]:
        await load_http()
        from .search import search

        return await search(term, limit, filters, self._config, self._certificates, refuse)
