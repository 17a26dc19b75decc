"""The image service of the engine.

Reads (`resolve`, `get`, `names`, `summaries`, ...) use published values: no lock, no driver. Changes are serialized by the
image store's lock and acknowledged after their commit. Pull, push, load and import run in the engine's nursery and report
through a `Progress`; closing it early cancels them.

Modules that only such operations need are imported by them: a start of the daemon needs none (see `preload`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_engine.config import Config
from orlop_engine.counters import Counters
from orlop_engine.pace import Pace
from orlop_engine.processes.zygote import Zygote
from orlop_engine.types import rfc3339
from orlop_engine.types.images import (
    DeletedItem,
    HistoryItem,
    ImageInspect,
    ImageSummary,
    ManifestSummary,
    PruneReport,
    SearchResult,
)
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_sdk import InvalidParameter, Storage

from . import documents
from .content import ContentStore
from .image_store import ImageStore
from .layers import Layers, Unpack
from .policy import UNRESTRICTED, ImagePolicy
from .progress import Progress, Record, Report
from .records import Image
from .references import Reference, parse, push_reference

if TYPE_CHECKING:
    from .archive_receive import Decompress
    from .archive_save import ImageArchive, SaveRequest
    from .attestations import Attestation
    from .committed import CommitRequest, Committer
    from .destinations import Refuse
    from .imports import Importer, ImportRequest
    from .inspection import DistributionInspect
    from .listing import Filters, Listed
    from .platforms import Platform
    from .pull import PullRequest
    from .registry_auth import Credentials
    from .registry_hosts import Timeouts
    from .removal import Users
    from .remover import Remover
    from .transfers import PushRequest, Transfers

__all__ = ["SEVERAL_PLATFORMS", "Images"]

Version = tuple[int, int]
_NEWEST: Version = (9, 99)
SEVERAL_PLATFORMS: Version = (1, 47)
"""From this API version on, clients know that one name may mean images of several platforms."""
_encode = msgspec.json.encode


def _nobody() -> Users:
    return {}


class Images:
    """The image service. The engine sets `users`: by image, the containers that were created from it."""

    def __init__(
        self,
        root: str,
        store: Store,
        events: EventBus,
        storage: Storage,
        zygote: Zygote,
        config: Config,
        nursery: trio.Nursery,
        *,
        unpack: Unpack | None = None,
        decompress: Decompress | None = None,
        timeouts: Timeouts | None = None,
        certificates: tuple[str, ...] | None = None,
        retry_wait: float = 5.0,
    ) -> None:
        self.users: Callable[[], Users] = _nobody
        self.counters = Counters()
        self._config = config
        self._events, self._storage, self._nursery = events, storage, nursery
        self._content = ContentStore(root)
        self._layers = Layers(storage, self._content, zygote, unpack, nursery)
        self._image_store = ImageStore(store, self._content, self._layers)
        self._zygote, self._decompress = zygote, decompress
        self._timeouts, self._retry_wait, self._own_certificates = timeouts, retry_wait, certificates
        self._depth = storage.capabilities.max_depth - 1  # minus the init layer of its containers

    @cached_property
    def _remover(self) -> Remover:
        from .remover import Remover

        return Remover(self._image_store, self._events, lambda: self.users())

    @cached_property
    def _certificates(self) -> tuple[str, ...]:
        from .registry_tls import CERTS_D

        return CERTS_D if self._own_certificates is None else self._own_certificates

    @cached_property
    def _transfers(self) -> Transfers:
        from .registry_hosts import Timeouts
        from .transfers import Transfers

        return Transfers(
            self._image_store,
            self._nursery,
            self._config,
            self._transferred,
            self.counters,
            self._depth,
            timeouts=self._timeouts or Timeouts(),
            certificates=self._certificates,
            retry_wait=self._retry_wait,
            expand=self._expand,
        )

    async def _expand(self, stream: AsyncIterable[bytes], target: int) -> None:
        """Decompress a stream into a file, in a sandbox."""
        from orlop_engine.unpacking import decompress

        await (self._decompress or decompress)(self._zygote, stream, target, progress=None)

    @cached_property
    def _importer(self) -> Importer:
        from .imports import Importer

        return Importer(self._image_store)

    @cached_property
    def _committer(self) -> Committer:
        from .committed import Committer

        return Committer(self._image_store, self._depth)

    async def load(self) -> None:
        """At boot: read the rows, quarantine bad ones, collect garbage."""
        await self._image_store.load()

    def reconfigure(self, config: Config) -> None:
        """Apply a new configuration to operations that begin from now on."""
        self._config = config
        if "_transfers" in vars(self):
            self._transfers.reconfigure(config)

    # --- reads ------------------------------------------------------------------------------------------------------

    def resolve(self, reference: str, platform: Platform | None = None, *, newest: bool = False) -> Image:
        """An image by ID, name, name@digest or unique ID prefix. `NotFound("No such image: x:latest")`. A name of several
        platforms means the image of `platform`, else the one for this host, or with `newest` the one that was added last."""
        return self._image_store.catalog.resolve(reference, platform, newest=newest)

    def all_platforms(self, reference: str) -> list[Image]:
        """All images that a name means; `NotFound` if there is none."""
        self.resolve(reference)
        return self._image_store.catalog.all_platforms(reference)

    @property
    def changes(self) -> int:
        """A counter that changes whenever a name may refer to another image, or to none."""
        return self._image_store.catalog.changes

    def get(self, image_id: str) -> Image | None:
        return self._image_store.catalog.images.get(image_id)

    def all(self) -> list[Image]:
        return list(self._image_store.catalog.images.values())

    @property
    def count(self) -> int:
        return len(self._image_store.catalog.images)

    def pushed_names(self, name: str, tag: str) -> list[Reference]:
        """The names that a push of `name` and `tag` sends now."""
        reference = push_reference(name, tag)
        names = self._image_store.catalog.tags(reference)
        return [found for found in names if found == reference] if reference.tag else names

    def names(self, image_id: str) -> list[str]:
        """The image's references in familiar form, tags and digests, sorted."""
        return [name.familiar for name in self._image_store.catalog.names(image_id)]

    async def listed(
        self,
        filters: Filters,
        *,
        everything: bool,
        shared_size: bool = False,
        manifests: bool = False,
        version: Version = _NEWEST,
    ) -> bytes:
        """`GET /images/json`, encoded. `Containers` is counted for clients that know it (1.51), `SharedSize` and `Manifests`
        on demand."""
        from . import listing, views

        newest = version < SEVERAL_PLATFORMS
        chosen = await listing.choose(self._image_store.catalog, filters, everything=everything, newest=newest)
        counts = self.users() if version >= (1, 51) else None
        pace, pieces = Pace(), []
        for item in chosen:
            found = self._summary(views.nameless(item, version), version, shared_size, counts)
            if manifests:
                found = msgspec.structs.replace(found, manifests=await self._manifests(item.image))
            pieces.append(_encode(found))
            await pace()
        return b"[" + b",".join(pieces) + b"]"

    async def usage(self, version: Version) -> tuple[list[ImageSummary], int]:
        """`Images` and `LayersSize` of `GET /system/df`."""
        from .image_usage import usage

        return await usage(self._image_store, self.users(), version)

    def _summary(self, item: Listed, version: Version, shared_size: bool, counts: Users | None) -> ImageSummary:
        from . import views

        shared = self._image_store.catalog.shared_size(item.image) if shared_size else -1
        return views.summary(item, version, shared, -1 if counts is None else len(counts.get(item.image.id, ())))

    async def _manifests(self, image: Image) -> list[ManifestSummary]:
        from .image_manifests import summaries

        return await summaries(self._image_store.catalog, self._content, image, self.users())

    async def inspect(
        self, name: str, version: Version = _NEWEST, platform: Platform | None = None, *, manifests: bool = False
    ) -> ImageInspect:
        from . import listing, views

        image = self.resolve(name, platform, newest=version < SEVERAL_PLATFORMS)
        data = await self._storage.describe(image.chain_id) if image.chain_id else {}
        names = await listing.names_of(self._image_store.catalog, image) if version < SEVERAL_PLATFORMS else None
        show = partial(views.inspect, image, self._config.effective_storage_driver, data, version, names)
        found = await trio.to_thread.run_sync(show) if len(image.raw) > documents.LARGE else show()
        return msgspec.structs.replace(found, manifests=await self._manifests(image)) if manifests else found

    def history(self, name: str, platform: Platform | None = None, *, version: Version = _NEWEST) -> list[HistoryItem]:
        from . import views

        image = self.resolve(name, platform, newest=version < SEVERAL_PLATFORMS)
        return views.history(image, self._image_store.catalog)

    async def attestations(
        self, name: str, platform: Platform | None, types: Collection[str], *, statements: bool
    ) -> list[Attestation]:
        """The attestations about the image of a name for a platform, or for this host."""
        from .attestations import attestations

        image = self.resolve(name, platform)
        return await trio.to_thread.run_sync(partial(attestations, self._content, image, types, statements=statements))

    # --- creation ---------------------------------------------------------------------------------------------------

    def _event(self, action: str, actor: str, name: str, image: Image | None = None) -> None:
        labels = (image.config.labels if image else None) or {}
        self._events.publish("image", action, actor, {**labels, "name": name})

    def _transferred(self, action: str, reference: Reference, image: Image | None) -> None:
        self._event(action, reference.familiar, reference.familiar_name, image)

    def pull(self, request: PullRequest) -> Progress:
        """Start a pull. Read the `Progress` to its end, or close it to cancel."""
        return self._transfers.pull(request)

    def push(self, request: PushRequest) -> Progress:
        """Start a push. Read the `Progress` to its end, or close it to cancel."""
        return self._transfers.push(request)

    async def inspect_distribution(
        self, name: str, credentials: Credentials, refuse: Refuse | None = None
    ) -> DistributionInspect:
        """What a registry has under a name: `GET /distribution/{name}/json`."""
        return await self._transfers.inspect(name, credentials, refuse)

    def load_archive(
        self,
        body: AsyncIterable[bytes],
        platform: Platform | None = None,
        *,
        quiet: bool = True,
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Progress:
        """Load the images of a `docker save` archive or an OCI layout."""

        async def run(report: Report) -> None:
            from .archive_load import Loader  # tarfile and decompressors take two megabytes and are rarely needed

            pace = Pace(shielded=True)
            loader = Loader(self._image_store, self._depth, self._zygote, policy, self._decompress)
            for image, _ in await loader.load(body, platform, quiet, report):
                self._event("load", image.id, image.id, image)
                await pace()

        return Progress(self._nursery, run)

    async def save(self, request: SaveRequest) -> ImageArchive:
        """An archive of images, to be read and closed. Errors of the request are raised before its first byte."""
        from .archive_save import open_archive

        return await open_archive(self._image_store, request, lambda image: self._event("save", image.id, image.id, image))

    async def import_image(self, request: ImportRequest, body: AsyncIterable[bytes]) -> Progress:
        """Create an image from a tar: `body`, or the content of the source's URL. Raises for an invalid change or URL."""
        config = await trio.to_thread.run_sync(self._importer.config, request.changes)
        if request.source != "-":
            from .urls import check_url

            check_url(request.source)

        async def run(report: Report) -> None:
            async with AsyncExitStack() as stack:
                source = body
                if request.source != "-":
                    from .destinations import Destinations
                    from .fetch import fetch

                    allowed = Destinations(request.refuse) if request.refuse else None
                    fetching = fetch(request.source, self._config.proxies, self._certificates, allowed, report)
                    source = await stack.enter_async_context(fetching)
                elif isinstance(body, AsyncGenerator):
                    await stack.enter_async_context(aclosing(body))
                image = await self._importer.make(request, config, source)
            if request.name:
                self._event("tag", image.id, request.name.familiar, image)
            self._event("import", image.id, image.id, image)
            report(Record(status=image.id))

        return Progress(self._nursery, run)

    async def commit(self, request: CommitRequest, diff: AsyncIterable[bytes]) -> Image:
        """Create an image from a container's image and a tar of what the container changed."""
        image = await self._committer.make(request, diff)
        if request.name:
            self._event("tag", image.id, request.name.familiar, image)
        return image

    async def search(self, term: str, limit: int, filters: Filters, refuse: Refuse | None = None) -> list[SearchResult]:
        """Search the index of a registry (Docker Hub's, unless the term names another) for repositories."""
        return await self._transfers.search(term, limit, filters, refuse)

    async def tag(self, name: str, repository: str, tag: str, policy: ImagePolicy = UNRESTRICTED) -> None:
        """Add a name to an image; another image may lose it."""
        reference = parse(repository)
        if reference.digest:
            raise InvalidParameter("refusing to create a tag with a digest reference")
        reference = reference.with_tag(tag) if tag else reference.with_default_tag()
        if reference.familiar_name == "sha256":
            raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
        async with self._image_store.lock:
            catalog = self._image_store.catalog
            image, source = catalog.resolve(name), catalog.reference(name)
            like = catalog.meaning(source) if source else None
            await self._image_store.point(reference, image.id, like, rfc3339(time.time_ns()), policy)
        self._event("tag", image.id, reference.familiar, image)

    # --- removal ----------------------------------------------------------------------------------------------------

    async def remove(
        self,
        name: str,
        *,
        force: bool = False,
        prune: bool = True,
        platforms: Sequence[Platform] = (),
        policy: ImagePolicy = UNRESTRICTED,
    ) -> list[DeletedItem]:
        """`DELETE /images/{name}`: names, the image if it has no others, its layers. `Conflict` with Docker's messages. With
        `platforms`, the name loses the images of these platforms only."""
        return await self._remover.remove(name, force=force, prune=prune, platforms=platforms, policy=policy)

    async def prune(
        self, filters: Filters, policy: ImagePolicy = UNRESTRICTED, *, version: Version = _NEWEST
    ) -> PruneReport:
        """Remove unused images, and content of interrupted pulls. `SpaceReclaimed` counts what `LayersSize` of `GET
        /system/df` counts for this API version."""
        return await self._remover.prune(filters, policy, version)

    async def collect(self) -> None:
        """Remove layers that nothing needs; call this when a container of a removed image is removed."""
        await self._image_store.collect()
