"""Pull an image: get the manifest, get the configuration and the layers in parallel, verify them, unpack the layers in
order, and write the rows in one commit.

A crash at any point leaves a consistent state. Blobs, partial blobs and committed layers are kept. The next pull of the same
reference uses them. The image exists only once its row is committed. If a client disconnects, its pull is cancelled, except
for layers that another pull waits for. Messages are the same as Docker's (daemon/internal/distribution/pull_v2.go).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import trio

from orlop_engine.types.images import ImageDocument
from orlop_sdk import DriverError, Forbidden, InvalidParameter, NotFound, OrlopError

from . import attestation_pull, documents, manifests, platforms
from .connector import Access, Connector
from .download import Downloads, short
from .image_store import CLEANUP_SECONDS, ImageStore
from .leases import Lease
from .manifests import Descriptor, Index, Manifest
from .meanings import IndexSource
from .platforms import Platform
from .policy import UNRESTRICTED, ImagePolicy, check_names
from .progress import Report, amount, message, state
from .records import Image, ImageRecord, Layer
from .references import Reference
from .registry_auth import ANONYMOUS, Credentials
from .registry_errors import RegistryError, translate
from .registry_rules import check_pull
from .sources import Sources
from .tasks import run_all

if TYPE_CHECKING:
    from .destinations import Refuse

__all__ = ["PullRequest", "Puller", "Resolved"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class PullRequest:
    """A reference without tag and digest means all tags of the repository. `refuse` is set for a client whose destinations
    are restricted (see the module `destinations`)."""

    reference: Reference
    platform: Platform | None = None
    credentials: Credentials = ANONYMOUS
    policy: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None


class Resolved(NamedTuple):
    """An image at a registry: the digest of its manifest for one platform, and its configuration."""

    digest: str
    config: bytes


class _Pulled(NamedTuple):
    """The result of a pull. `newer` is true if the name did not refer to this image before."""

    image: Image
    newer: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """An image to pull, as its manifest and configuration describe it."""

    reference: Reference
    manifest: Manifest
    kept: tuple[bytes, ...]
    document: ImageDocument
    raw: bytes
    chain_ids: tuple[str, ...]
    policy: ImagePolicy
    index: IndexSource | None
    attestations: Sequence[Descriptor]

    @property
    def diff_ids(self) -> list[str]:
        assert self.document.rootfs is not None
        return self.document.rootfs.diff_ids


def _quiet(_: object) -> None:
    """Ignores progress reports. Used for the download of the configuration, which is not shown to the client."""


class Puller:
    """Pulls images. After each successful pull, `pulled` is called with the requested reference and the pulled image.
    Instead of the image, it gets None if all tags of a repository were pulled."""

    def __init__(
        self,
        image_store: ImageStore,
        downloads: Downloads,
        connector: Connector,
        pulled: Callable[[Reference, Image | None], None],
        max_depth: int,
    ) -> None:
        self._image_store, self._downloads = image_store, downloads
        self._connector, self._pulled = connector, pulled
        self._max_depth = max_depth

    async def pull(self, request: PullRequest, report: Report) -> None:
        """Pull an image, or all tags of a repository."""
        reference = request.reference
        if reference.familiar_name == "scratch":
            raise Forbidden("'scratch' is a reserved name")
        check_pull(self._connector.config.registry_rules, reference)
        sources = await self._connector.sources(Access(reference, request.credentials, request.refuse))
        repeat = self._downloads.repeat
        try:
            async with sources.borrowed():
                if reference.is_name_only:
                    newer = [await self._tag(sources, request, tag, report) for tag in await repeat(sources.tags)]
                    image = None
                else:
                    first = await repeat(partial(sources.manifest, reference.digest or reference.tag))
                    found = await self._image(sources, request, reference, first, report)
                    newer, image = [found.newer], found.image
        except RegistryError as error:
            raise translate(error, reference) from error
        verdict = "Downloaded newer image for" if any(newer) else "Image is up to date for"
        report(message(f"Status: {verdict} {reference.familiar}"))
        self._pulled(reference, image)

    async def resolve(self, request: PullRequest) -> Resolved:
        """Ask the registry for the image to which a reference refers now. Downloads no layers, and stores nothing."""
        reference = request.reference.with_default_tag()
        check_pull(self._connector.config.registry_rules, reference)
        sources = await self._connector.sources(Access(reference, request.credentials, request.refuse))
        try:
            async with sources.borrowed():
                first = await self._downloads.repeat(partial(sources.manifest, reference.digest or reference.tag))
                async with self._image_store.lease_for_new_image() as lease:
                    plan = await self._plan(sources, request, reference, first, lease)
        except RegistryError as error:
            raise translate(error, reference) from error
        return Resolved(documents.digest(plan.kept[-1]), plan.raw)

    async def manifest(self, request: PullRequest) -> tuple[str, bytes]:
        """See `Transfers.fetch_manifest`."""
        reference = request.reference.with_default_tag()
        check_pull(self._connector.config.registry_rules, reference)
        sources = await self._connector.sources(Access(reference, request.credentials, request.refuse))
        try:
            async with sources.borrowed():
                return await self._downloads.repeat(partial(sources.manifest, reference.digest or reference.tag))
        except RegistryError as error:
            raise translate(error, reference) from error

    async def blobs(self, request: PullRequest, blobs: Sequence[Descriptor], lease: Lease, report: Report) -> None:
        """See `Transfers.fetch_blobs`."""
        check_pull(self._connector.config.registry_rules, request.reference)
        lease.blobs.update(blob.digest for blob in blobs)
        await self._image_store.barrier()
        content, owner = self._image_store.content, request.policy.owner
        missing = [blob for blob in blobs if owner or not content.has(blob.digest)]  # for `owner`, see `Downloads.fetch`
        content.space.check(f"pull {request.reference.familiar}", stored=sum(blob.size for blob in missing))
        sources = await self._connector.sources(Access(request.reference, request.credentials, request.refuse))
        try:
            async with sources.borrowed():
                await run_all(partial(self._downloads.fetch, sources, blob, report, owner=owner) for blob in missing)
        except RegistryError as error:
            raise translate(error, request.reference) from error

    async def _tag(self, sources: Sources, request: PullRequest, tag: str, report: Report) -> bool:
        reference = request.reference.with_tag(tag)
        first = await self._downloads.repeat(partial(sources.manifest, tag))
        return (await self._image(sources, request, reference, first, report)).newer

    async def _image(
        self, sources: Sources, request: PullRequest, reference: Reference, first: tuple[str, bytes], report: Report
    ) -> _Pulled:
        report(message(f"Pulling from {reference.path}", reference.tag or str(reference)))
        name = str(reference)
        try:
            with self._image_store.leases.hold() as lease:
                plan = await self._plan(sources, request, reference, first, lease)
                return await self._fetch(sources, plan, name, lease, report)
        except BaseException as error:
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                # After a broken connection or a disconnect of the client, the content is valid, so it is kept and the next
                # pull resumes. After any other error, the content is invalid or the disk is full, so the content is removed.
                if isinstance(error, OrlopError) and not (isinstance(error, RegistryError) and error.retry):
                    await self._image_store.give_up([name])
                await self._image_store.collect()
            raise

    async def _plan(
        self, sources: Sources, request: PullRequest, reference: Reference, first: tuple[str, bytes], lease: Lease
    ) -> _Plan:
        """Choose the platform, fetch the configuration, and check that the configuration matches the platform and this
        host."""
        kept = [first[1]]
        found = manifests.parse(*first)
        index, about = None, list[Descriptor]()
        if isinstance(found, Index):
            index = IndexSource.of(documents.digest(first[1]), found)
            entry = manifests.choose(found, request.platform or platforms.host())
            about = attestation_pull.attestations_of(found, entry.digest)
            media_type, data = await self._downloads.repeat(partial(sources.manifest, entry.digest))
            kept.append(data)
            found = manifests.parse(media_type, data)
            if isinstance(found, Index):
                raise DriverError(f"cannot read manifest: manifest list {entry.digest} is inside another manifest list")
        lease.blobs.add(found.config.digest)
        await self._image_store.barrier()
        known = self._image_store.catalog.images.get(found.config.digest)
        readable = known is not None and request.policy.may_use(known)
        owner = "" if readable else request.policy.owner
        await self._downloads.fetch(sources, found.config, _quiet, owner=owner)
        raw = self._image_store.content.read(found.config.digest, documents.MAX_MANIFEST)
        document = await documents.read(raw, layers=len(found.layers))
        self._check(document, request, reference)
        assert document.rootfs is not None
        chain_ids = tuple(documents.chain_ids(document.rootfs.diff_ids))
        if len(chain_ids) > self._max_depth:
            raise DriverError(f"cannot pull {reference.familiar}: max depth exceeded: {len(chain_ids)} layers")
        return _Plan(reference, found, tuple(kept), document, raw, chain_ids, request.policy, index, about)

    def _check(self, document: ImageDocument, request: PullRequest, reference: Reference) -> None:
        if document.os.lower() not in ("linux", ""):
            raise InvalidParameter(
                f'image operating system "{document.os}" cannot be used on this platform: operating system is not supported'
            )
        actual = Platform(document.os, document.architecture, document.variant)
        if request.platform is not None and platforms.rank(request.platform, actual) is None:
            raise NotFound(
                f"image with reference {reference.familiar} was found but does not match the specified platform: "
                f"wanted {request.platform}, actual: {actual}"
            )

    async def _fetch(self, sources: Sources, plan: _Plan, name: str, lease: Lease, report: Report) -> _Pulled:
        digests = [documents.digest(data) for data in plan.kept]
        by_digest = plan.reference.with_digest(digests[0])
        names = [by_digest, plan.reference] if plan.reference.tag else [by_digest]
        # Checked before the layers are fetched
        check_names(plan.policy, self._image_store.catalog, names, plan.manifest.config.digest)
        lease.blobs.update(digests, (layer.digest for layer in plan.manifest.layers))
        lease.chains.update(plan.chain_ids)
        await self._image_store.barrier()
        image = self._image_store.catalog.images.get(plan.manifest.config.digest)
        # If the image exists, its layers exist too, and are not reported to the client, as in Docker
        attached = _Attached(self._image_store, self._downloads, sources, plan, lease)
        usable = image is not None and plan.policy.may_use(image)
        if image is not None and usable and self._image_store.complete(image.layers):
            layers: Sequence[Layer] = image.layers
            await attached.fetch()
        else:
            known = self._present(plan, lease)
            await trio.to_thread.run_sync(self._check_space, plan, known)
            await self._image_store.begin(name, lease)
            layers = await _LayerPull(self._image_store, self._downloads, sources, plan, known, report).run(attached.fetch)
        for data in plan.kept:
            await self._image_store.content.put(data)
        record = ImageRecord(plan.manifest.config.digest, tuple(layers), tuple(digests), attachments=attached.digests)
        newer = record.id not in self._image_store.catalog.members(names[-1])
        image = await self._image_store.add(
            record, plan.document, plan.raw, names, index=plan.index, resumed=name, policy=plan.policy
        )
        parts = (plan.manifest.config, *plan.manifest.layers)
        await self._image_store.repositories.add(plan.reference, (part.digest for part in parts))
        report(message(f"Digest: {digests[0]}"))
        return _Pulled(image, newer)

    def _check_space(self, plan: _Plan, known: dict[str, Layer]) -> None:
        """Raise if the blobs and the unpacked layers cannot fit on the disk. Runs on a thread."""
        content, chains = self._image_store.content, list(zip(plan.chain_ids, plan.manifest.layers, strict=True))
        if plan.policy is UNRESTRICTED:
            missing = {part.digest: part.size for part in plan.manifest.layers if not content.has(part.digest)}
            stored = sum(max(0, size - content.partial_size(digest)) for digest, size in missing.items())
        else:
            stored = sum({part.digest: part.size for chain_id, part in chains if chain_id not in known}.values())
        unpacked = sum(part.size for chain_id, part in chains if chain_id not in self._image_store.layers.built)
        content.space.check(f"pull {plan.reference.familiar}", stored=stored, unpacked=unpacked)

    def _present(self, plan: _Plan, lease: Lease) -> dict[str, Layer]:
        """Layers that need no download. These layers are unpacked already. Except for adopted layers, they also have a blob
        for a later push or save. For a restricted client, these are only layers of images that the client may use. The
        reason: a manifest may contain any digest and diffID, so it does not prove that the registry has the layer."""
        store, result = self._image_store, dict[str, Layer]()
        for chain_id, diff_id, part in zip(plan.chain_ids, plan.diff_ids, plan.manifest.layers, strict=True):
            built = store.layers.built.get(chain_id)
            if built is None:
                continue
            known = list(store.catalog.layers(chain_id, plan.policy))
            # An interrupted pull may have unpacked the layer
            unpacked_here = plan.policy is UNRESTRICTED and built.blob == part.digest
            if store.content.has(part.digest) and (unpacked_here or any(layer.blob == part.digest for layer in known)):
                result[chain_id] = Layer(part.digest, part.media_type, part.size, diff_id, chain_id, built.size)
            elif (layer := next((layer for layer in known if store.complete([layer])), None)) is not None:
                result[chain_id] = layer
                lease.blobs.update(layer.blobs)
        return result


class _Attached:
    """The attestations about an image. After `fetch` has returned, `digests` contains the digests of their blobs."""

    def __init__(self, image_store: ImageStore, downloads: Downloads, sources: Sources, plan: _Plan, lease: Lease) -> None:
        self._image_store, self._downloads, self._sources = image_store, downloads, sources
        self._wanted, self._lease = plan.attestations, lease
        self._owner = plan.policy.owner
        self.digests: tuple[str, ...] = ()

    async def fetch(self) -> None:
        self.digests = await attestation_pull.fetch(
            self._image_store, self._downloads, self._sources, self._wanted, self._lease, owner=self._owner
        )


class _LayerPull:
    """Pulls the layers of one image. All layers are downloaded in parallel, and each layer is unpacked after its download.
    If the storage driver cannot unpack layers independently, a layer is unpacked only after the layer below it."""

    def __init__(
        self,
        image_store: ImageStore,
        downloads: Downloads,
        sources: Sources,
        plan: _Plan,
        known: dict[str, Layer],
        report: Report,
    ) -> None:
        self._image_store, self._downloads, self._sources = image_store, downloads, sources
        self._plan, self._known, self._report = plan, known, report
        self._ready: dict[str, trio.Event] = {}
        self._failures: list[Exception] = []

    async def run(self, beside: Callable[[], Awaitable[None]]) -> Sequence[Layer]:
        """Pull the layers. Returns them lowest first. The function `beside` runs at the same time, and must not raise an
        error."""
        plan = self._plan
        async with trio.open_nursery() as nursery:
            nursery.start_soon(beside)
            for chain_id, part in zip(plan.chain_ids, plan.manifest.layers, strict=True):
                if chain_id in self._known:
                    self._report(state(short(part.digest), "Already exists"))
                elif part.digest not in self._ready:
                    self._report(state(short(part.digest), "Pulling fs layer"))
                    self._ready[part.digest] = trio.Event()
                    nursery.start_soon(self._try, self._download, part, nursery.cancel_scope)
            if self._image_store.layers.independent:
                for number in range(len(plan.chain_ids)):
                    nursery.start_soon(self._try, self._unpack, number, nursery.cancel_scope)
            else:
                nursery.start_soon(self._try, self._unpack_in_order, len(plan.chain_ids), nursery.cancel_scope)
        if self._failures:
            raise self._failures[0]
        return [self._known[chain_id] for chain_id in plan.chain_ids]

    async def _try(self, work: Callable[[T], Awaitable[None]], argument: T, scope: trio.CancelScope) -> None:
        """Run a task. The first error of any task cancels the other tasks, and is raised as a single error, not in an
        exception group."""
        try:
            await work(argument)
        except Exception as error:
            self._failures.append(error)
            scope.cancel()

    async def _download(self, part: Descriptor) -> None:
        await self._downloads.fetch(self._sources, part, self._report, owner=self._plan.policy.owner)
        self._ready[part.digest].set()

    async def _unpack_in_order(self, count: int) -> None:
        for number in range(count):
            await self._unpack(number)

    async def _unpack(self, number: int) -> None:
        plan = self._plan
        chain_id, diff_id, part = plan.chain_ids[number], plan.diff_ids[number], plan.manifest.layers[number]
        if chain_id in self._known:
            return
        await self._ready[part.digest].wait()
        id, parent = short(part.digest), plan.chain_ids[number - 1] if number else ""

        def progress(report: Report, done: int) -> None:
            report(amount(id, "Extracting", done, part.size))

        built = await self._image_store.layers.build(chain_id, parent, part.digest, diff_id, self._report, progress)
        self._report(state(id, "Pull complete"))
        self._known[chain_id] = Layer(part.digest, part.media_type, part.size, diff_id, chain_id, built.size)
