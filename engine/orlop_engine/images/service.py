"""The image service of the engine.

Reads (`resolve`, `get`, `names`, `listed`, ...) use published values; they take no lock and call no driver. Changes are
serialized by the image store's lock and acknowledged after their commit. Pull, push, load and import run in the engine's
nursery and report through a `Progress`. Closing the `Progress` before its end cancels the operation.

Modules that only these operations need are imported when an operation runs, so that they do not delay the daemon's start
(see `preload`).
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Collection, Iterable, Sequence
from contextlib import AsyncExitStack, aclosing
from functools import cached_property, partial
from typing import TYPE_CHECKING

import trio

from orlop_engine.config import Config
from orlop_engine.counters import Counters
from orlop_engine.pace import Pace
from orlop_engine.processes.zygote import Zygote
from orlop_engine.types import rfc3339
from orlop_kernel.events import EventBus
from orlop_kernel.store import Store
from orlop_sdk import InvalidParameter, Storage

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
    from .details import HistoryStep, ImageDetails, ListedImage, ManifestDetails, Pruned, RemovedItem
    from .image_targets import ImageTargets
    from .imports import Importer, ImportRequest
    from .inspection import Distribution
    from .listing import Filters
    from .manifests import Descriptor
    from .platforms import Platform
    from .pull import PullRequest, Resolved
    from .registry_auth import Credentials
    from .registry_hosts import Timeouts
    from .removal import Users
    from .remover import Remover
    from .search import SearchResult
    from .transfers import PushRequest, Transfers

__all__ = ["Images"]


def _nobody() -> Users:
    return {}


class Images:
    """The image service. The engine sets `users`, which returns a map from each image's ID to the containers that were
    created from the image."""

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
        self._depth = storage.capabilities.max_depth - 1  # one level is for the init layer of the image's containers

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
        """At the daemon's start: read the rows, quarantine damaged rows, collect garbage."""
        await self._image_store.load()

    def reconfigure(self, config: Config) -> None:
        """Apply a new configuration to operations that begin from now on."""
        self._config = config
        if "_transfers" in vars(self):
            self._transfers.reconfigure(config)

    @property
    def image_store(self) -> ImageStore:
        """The image store, for other packages of the engine that make images."""
        return self._image_store

    # --- reads ------------------------------------------------------------------------------------------------------

    def resolve(self, reference: str, platform: Platform | None = None, *, newest: bool = False) -> Image:
        """An image by ID, name, name@digest or unique ID prefix. Raises `NotFound("No such image: x:latest")`. If a name
        refers to images for several platforms, this method returns the image for `platform`. Without `platform`, it returns
        the image for this host, or, if `newest` is true, the image that was added last."""
        return self._image_store.catalog.resolve(reference, platform, newest=newest)

    def all_platforms(self, reference: str) -> list[Image]:
        """All images that a name refers to. Raises `NotFound` if there is none."""
        self.resolve(reference)
        return self._image_store.catalog.all_platforms(reference)

    @property
    def changes(self) -> int:
        """A counter that changes whenever a name may have been removed or may have moved to another image."""
        return self._image_store.catalog.changes

    def get(self, image_id: str) -> Image | None:
        return self._image_store.catalog.images.get(image_id)

    def all(self) -> list[Image]:
        return list(self._image_store.catalog.images.values())

    @property
    def count(self) -> int:
        return len(self._image_store.catalog.images)

    def pushed_names(self, name: str, tag: str) -> list[Reference]:
        """The names that a push request with the parameters `name` and `tag` pushes."""
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
        newest: bool = False,
        users: bool = False,
        shared_size: bool = False,
        manifests: bool = False,
        targets: bool = False,
        origins: bool = False,
    ) -> list[ListedImage]:
        """The images of a list: see `listing.choose`. The flags `users`, `shared_size`, `manifests` and `targets` request
        optional values. If `origins` is true, the values of `manifests` include the repositories that an image was pulled
        from or pushed to."""
        from . import listing
        from .details import ListedImage

        catalog, counts = self._image_store.catalog, self.users() if users else None
        pace, found = Pace(), []
        chosen = await listing.choose(catalog, filters, everything=everything, newest=newest)
        if targets:
            await self._targets.load(item.image for item in chosen)
        for image, tags, digests in chosen:
            shared = catalog.shared_size(image) if shared_size else None
            containers = None if counts is None else len(counts.get(image.id, ()))
            shown = await self._manifests(image, origins) if manifests else None
            target = self._targets.of(image) if targets else None
            found.append(ListedImage(image, tags, digests, image.size, shared, containers, shown, target))
            await pace()
        return found

    async def usage(self, *, blobs: bool = True) -> tuple[list[ListedImage], int]:
        """The disk usage of each image, and of all images together. `blobs`: see the module `image_usage`."""
        from .image_usage import usage

        return await usage(self._image_store, self.users(), blobs=blobs)

    @cached_property
    def _targets(self) -> ImageTargets:
        from .image_targets import ImageTargets

        return ImageTargets(self._image_store.catalog, self._content)

    async def manifest(self, image: Image) -> Descriptor | None:
        """The image's newest stored manifest; None if the image was built or imported on this host and not pushed yet."""
        if not image.record.manifests:
            return None
        await self._targets.load([image], whole=False)
        return self._targets.of(image, whole=False)

    async def _manifests(self, image: Image, origins: bool) -> list[ManifestDetails]:
        from .image_manifests import manifests_of, no_origins

        repositories = self._image_store.repositories.of if origins else no_origins
        return await manifests_of(self._image_store.catalog, self._content, image, self.users(), repositories)

    async def inspect(
        self,
        name: str,
        platform: Platform | None = None,
        *,
        newest: bool = False,
        manifests: bool = False,
        targets: bool = False,
        origins: bool = False,
    ) -> ImageDetails:
        """One image: see `resolve`. If `newest` is true, the result is for a client of an old API version. In such a version
        a name refers to only one image, so the result includes only the names that are shown with this image. `manifests`,
        `targets` and `origins`: see `listed`."""
        from . import listing
        from .details import ImageDetails

        image = self.resolve(name, platform, newest=newest)
        storage = await self._storage.describe(image.snapshot) if image.snapshot else {}
        tags, digests = image.repo_tags, image.repo_digests
        if newest:
            tags, digests = await listing.names_of(self._image_store.catalog, image)
        shown = await self._manifests(image, origins) if manifests else None
        target = None
        if targets:
            await self._targets.load([image], whole=platform is None)
            target = self._targets.of(image, whole=platform is None)
        repositories = self._image_store.repositories.of(image.id) if origins else ()
        driver = self._config.effective_storage_driver
        return ImageDetails(image, tags, digests, driver, storage, shown, target, repositories)

    def history(self, name: str, platform: Platform | None = None, *, newest: bool = False) -> list[HistoryStep]:
        """The steps that made an image, newest first."""
        from .details import history

        return history(self.resolve(name, platform, newest=newest), self._image_store.catalog)

    async def attestations(
        self, name: str, platform: Platform | None, types: Collection[str], *, statements: bool
    ) -> list[Attestation]:
        """The attestations about the image that a name refers to for `platform`, or for this host."""
        from .attestations import attestations

        image = self.resolve(name, platform)
        return await trio.to_thread.run_sync(partial(attestations, self._content, image, types, statements=statements))

    # --- creation ---------------------------------------------------------------------------------------------------

    def _event(self, action: str, actor: str, name: str, image: Image | None = None) -> None:
        labels = (image.config.labels if image else None) or {}
        self._events.publish("image", action, actor, {**labels, "name": name})

    def announce_tags(self, image: Image, names: Iterable[Reference]) -> None:
        """Publish an event `tag` for each name that an image got when it was created."""
        for name in names:
            self._event("tag", image.id, name.familiar, image)

    def _transferred(self, action: str, reference: Reference, image: Image | None) -> None:
        self._event(action, reference.familiar, reference.familiar_name, image)

    def pull(self, request: PullRequest) -> Progress:
        """Start a pull. Read the `Progress` to its end, or close it to cancel."""
        return self._transfers.pull(request)

    async def pull_to(self, request: PullRequest, report: Report) -> None:
        """Pull in the calling task. If the task is cancelled, the pull is cancelled too."""
        await self._transfers.pull_to(request, report)

    async def resolve_at_registry(self, request: PullRequest) -> Resolved:
        """Ask the registry for the image that a reference refers to: the digest of its manifest, and its configuration.
        Downloads no layers."""
        return await self._transfers.resolve(request)

    def push(self, request: PushRequest) -> Progress:
        """Start a push. Read the `Progress` to its end, or close it to cancel."""
        return self._transfers.push(request)

    @property
    def transfers(self) -> Transfers:
        """The individual steps of pulls and pushes, for a builder."""
        return self._transfers

    async def inspect_distribution(self, name: str, credentials: Credentials, refuse: Refuse | None = None) -> Distribution:
        """The manifest or index that a registry has under a name."""
        return await self._transfers.inspect(name, credentials, refuse)

    def load_archive(
        self,
        body: AsyncIterable[bytes],
        platforms: Sequence[Platform] = (),
        *,
        quiet: bool = True,
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Progress:
        """Load all images of a `docker save` archive or an OCI layout, or only the images for the given platforms."""

        async def run(report: Report) -> None:
            # Imported here, because tarfile and decompressors take two megabytes of memory and are rarely needed
            from .archive_load import Loader

            pace = Pace(shielded=True)
            loader = Loader(self._image_store, self._depth, self._zygote, policy, self._decompress)
            for image, _ in await loader.load(body, platforms, quiet, report):
                self._event("load", image.id, image.id, image)
                await pace()

        return Progress(self._nursery, run)

    async def save(self, request: SaveRequest) -> ImageArchive:
        """An archive of images, which the caller reads and closes. Errors of the request are raised before the first byte is
        read."""
        from .archive_save import open_archive

        return await open_archive(self._image_store, request, lambda image: self._event("save", image.id, image.id, image))

    async def import_image(self, request: ImportRequest, body: AsyncIterable[bytes]) -> Progress:
        """Create an image from a tar. The tar is `body` or, if the request's source is a URL, the content of this URL.
        Raises for an invalid Dockerfile instruction or URL."""
        config = await trio.to_thread.run_sync(self._importer.config, request.changes)
        if request.source != "-":
            from .urls import check_url

            check_url(request.source)

        async def run(report: Report) -> None:
            async with AsyncExitStack() as stack:
                source = body
                if request.source != "-":
                    from .connector import load_http

                    await load_http()
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
        """Create an image from a container's image and a tar of the container's changes."""
        image = await self._committer.make(request, diff)
        if request.name:
            self._event("tag", image.id, request.name.familiar, image)
        return image

    async def search(self, term: str, limit: int, filters: Filters, refuse: Refuse | None = None) -> list[SearchResult]:
        """Search a registry for repositories. The registry is Docker Hub, unless the term contains another registry."""
        return await self._transfers.search(term, limit, filters, refuse)

    async def tag(self, name: str, repository: str, tag: str, policy: ImagePolicy = UNRESTRICTED) -> None:
        """Add a name to an image. If another image has the name, the name is removed from that image."""
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
    ) -> list[RemovedItem]:
        """Remove names. If the image has no other names, also remove the image and its layers. Raises `Conflict` with
        Docker's messages. With `platforms`, the name is only removed from its images for these platforms."""
        return await self._remover.remove(name, force=force, prune=prune, platforms=platforms, policy=policy)

    async def prune(self, filters: Filters, policy: ImagePolicy = UNRESTRICTED, *, blobs: bool = True) -> Pruned:
        """Remove unused images, and content of interrupted pulls. With `blobs`, the freed space includes blobs, as in
        `usage`."""
        return await self._remover.prune(filters, policy, blobs=blobs)

    async def collect(self) -> None:
        """Remove unneeded layers. Call this method after the removal of a container if its image was removed earlier."""
        await self._image_store.collect()
