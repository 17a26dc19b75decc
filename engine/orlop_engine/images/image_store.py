"""The image store: rows, blobs and layers of images, and garbage collection of layers and blobs that nothing references.

For a new image, the blobs are made durable first, then the layers are committed, then one commit writes the rows of the
image and of all its names. So a row never refers to missing content, and a crash can only leave content without a row. A
starting daemon removes all content that no image, container or interrupted pull needs. If the content of an image is missing
(because of a damaged disk), the image is quarantined, and the daemon starts without it.

Rows of the table `images`: `sha256:<hex>` (ImageRecord), `ref:<full reference>` (NameRecord: the images that a name refers
to), `resume:<full reference>` (ResumeRecord). An index (Docker's "manifest list") is a blob that lists the manifests of
images, one for each platform.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterable, AsyncIterator, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager

import msgspec
import trio

from orlop_engine.pace import Pace
from orlop_engine.types.images import ImageDocument
from orlop_kernel.store import UNREADABLE, Delete, Put, Store
from orlop_sdk import DriverError, InvalidParameter, OrlopError

from . import documents
from .blob_repositories import BlobRepositories
from .catalog import Catalog
from .content import ContentStore, DamagedBlob
from .layers import Built, Layers
from .leases import Lease, Leases
from .meanings import IndexSource, with_image, without_images
from .policy import UNRESTRICTED, ImagePolicy, check_names, owner_of_image, owner_of_name
from .records import Image, ImageRecord, Layer, NameRecord, ResumeRecord, decode_name, encode_name, platform_of
from .references import Reference, parse
from .tar_split import is_known, pack

__all__ = ["CLEANUP_SECONDS", "Collected", "ImageStore"]

log = logging.getLogger("orlop.images")

_TABLE = "images"
_REF, _RESUME = "ref:", "resume:"
_COMMIT_SECONDS = 30.0
CLEANUP_SECONDS = 60.0  # time limit of the cleanup after an operation that failed or was cancelled

_record = msgspec.json.Decoder(ImageRecord)
_resume = msgspec.json.Decoder(ResumeRecord)
_encode = msgspec.json.encode


def _name_row(name: Reference, meaning: NameRecord) -> Put:
    return Put(_TABLE, f"{_REF}{name}", encode_name(meaning))


class Collected(msgspec.Struct, frozen=True):
    """The content that a garbage collection has removed. `layers` contains the chain ID and the size of each removed layer,
    upper layers before lower layers. `blob_bytes` is the total size of the removed blobs."""

    layers: tuple[tuple[str, int], ...] = ()
    blob_bytes: int = 0


class ImageStore:
    """`lock` serializes changes of rows and names; readers use `catalog` without the lock."""

    def __init__(self, store: Store, content: ContentStore, layers: Layers) -> None:
        self.store, self.content, self.layers = store, content, layers
        self.catalog = Catalog()
        self.leases = Leases()
        self.repositories = BlobRepositories(store, content)
        self.lock = trio.Lock()
        self._kept: frozenset[str] | set[str] = frozenset()
        """If rows of images may be missing, this set contains all layers and blobs that the daemon found when it started.
        They must be kept."""

    # --- start of the daemon ----------------------------------------------------------------------------------------

    async def load(self) -> None:
        """Read the rows, quarantine damaged rows, and collect garbage."""
        await trio.to_thread.run_sync(self.content.prepare)
        await self.repositories.load()
        stored = set(await self.layers.sweep())
        names: list[tuple[str, bytes]] = []
        unusable: list[tuple[str, str]] = []
        pace = Pace()
        for key, value in self.store.load(_TABLE):
            await pace()
            if key.startswith(_REF):
                names.append((key, value))
                continue
            try:
                self._load_row(key, value, stored)
            except (*UNREADABLE, OrlopError, OSError) as error:
                unusable.append((key, str(error)))
        for key, value in names:
            await pace()
            try:
                self._load_name(key, value)
            except (*UNREADABLE, OrlopError) as error:
                unusable.append((key, str(error)))
        await self.store.quarantine_all(_TABLE, unusable)
        await self.layers.found(stored - self.layers.built.keys())
        if self._rows_are_missing():
            log.warning("rows of images may be missing: unreferenced layers and blobs are kept")
            self._kept = await trio.to_thread.run_sync(lambda: stored.union(self.content.digests()))
        try:
            await self.collect()
        except (OrlopError, OSError) as error:
            log.warning("cannot collect unreferenced layers and blobs yet: %s", error)

    def _rows_are_missing(self) -> bool:
        """Whether rows of images may be missing. If so, content without a reference is kept, because it may be the last
        copy of an image."""
        return self.store.lost_rows() or any(
            table == _TABLE and not key.startswith((_REF, _RESUME)) for table, key, _ in self.store.quarantined()
        )

    def _load_row(self, key: str, value: bytes, stored: set[str]) -> None:
        if key.startswith(_RESUME):
            self.leases.resumable[key.removeprefix(_RESUME)] = _resume.decode(value)
            return
        record = _record.decode(value)
        if record.id != key:
            raise OrlopError(f"row contains another id: {record.id[:80]!r}")
        try:
            raw = self.content.read(record.id, documents.MAX_MANIFEST)
        except DamagedBlob:
            self.content.remove(record.id)  # so that the next pull does not use the damaged blob
            raise
        document = documents.parse(raw, layers=len(record.layers))
        missing = [layer.key for layer in record.layers if layer.key not in stored]
        if missing:
            raise OrlopError(f"cannot use image {key}: its layer {missing[0]} is not in storage")
        self.catalog.put(record, document, raw)
        parent = ""
        for layer in record.layers:
            self.layers.built[layer.chain_id] = Built(layer.diff_id, parent, layer.size, layer.snapshot, layer.blob)
            parent = layer.chain_id

    def _load_name(self, key: str, value: bytes) -> None:
        found = decode_name(value)
        reference = parse(key.removeprefix(_REF))
        images = self.catalog.images
        known = found.images if found.images[0] in images else ()
        if len(found.images) > 1:
            known = tuple(id for id in found.images if id in images)
        if not known:
            raise OrlopError(f"reference to missing image {found.images[0][:80]}")
        self.catalog.point(reference, *known, owner=found.owner, index=found.index)

    # --- changes ----------------------------------------------------------------------------------------------------

    async def _commit(self, operations: Sequence[Put | Delete]) -> None:
        """Commit, shielded from cancellation, because the caller must know whether the commit has succeeded before it
        changes the catalog."""
        with trio.fail_after(_COMMIT_SECONDS, shield=True):
            await self.store.commit(operations)

    @asynccontextmanager
    async def lease_for_new_image(self) -> AsyncIterator[Lease]:
        """A lease for an image that is being created. If the creation fails, the stored content is removed."""
        try:
            with self.leases.hold() as lease:
                yield lease
        except BaseException:
            with trio.move_on_after(CLEANUP_SECONDS, shield=True):
                await self.collect()
            raise

    def complete(self, layers: Iterable[Layer]) -> bool:
        """Whether all layers can be saved and pushed. For each layer, the content store must have the layer's blob, or it
        must be possible to rebuild the tar from the layer's files."""
        return all(self.content.has(layer.blob) if layer.blob else is_known(self.content, layer) for layer in layers)

    async def with_blobs(self, image: Image, lease: Lease) -> Image:
        """Give each layer of the image a blob, and return the image. If a layer has no blob, its tar is made again from its
        unpacked files and stored as a blob, and the image's row is updated. This method adds the blobs to the lease."""
        lease.blobs.update(blob for layer in image.layers for blob in layer.blobs)
        if all(layer.blob for layer in image.layers):
            return image

        async def hold(blob: str) -> None:
            await self.hold(lease, blob=blob)

        layers = [layer if layer.blob else await pack(self.content, layer, hold) for layer in image.layers]
        return await self.add(msgspec.structs.replace(image.record, layers=tuple(layers)), image.document, image.raw, ())

    async def quarantine(self, blob: str) -> None:
        """Move a damaged blob to the quarantine. The next pull or load of an image with this blob stores the blob
        again."""
        log.error("blob %s is damaged and quarantined: pull or load its images again", blob)
        await trio.to_thread.run_sync(self.content.quarantine, blob)

    async def receive(self, pieces: AsyncIterable[bytes], lease: Lease) -> tuple[str, int]:
        """Store a stream as a blob. Returns its digest and its size."""
        ingest = await self.content.ingest(None)
        try:
            async for piece in pieces:
                await ingest.write(piece)
            return await ingest.commit(lambda digest: self.hold(lease, blob=digest)), ingest.offset
        finally:
            ingest.abandon()

    async def make(
        self,
        document: ImageDocument,
        layers: Sequence[Layer],
        name: Reference | None,
        lease: Lease,
        parent: str = "",
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Image:
        """Write the configuration of an image that this engine creates, and commit the image. Raises `InvalidParameter` if
        the document is too large to be read by the next daemon."""
        raw = documents.encode(document)
        try:
            await documents.read(raw)
        except DriverError as error:
            raise InvalidParameter(f"cannot make the image: {error}") from error
        return await self.make_of(raw, document, layers, [name] if name else [], lease, parent, policy)

    async def make_of(
        self,
        raw: bytes,
        document: ImageDocument,
        layers: Sequence[Layer],
        names: Sequence[Reference],
        lease: Lease,
        parent: str = "",
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Image:
        """Like `make`, but the caller has already encoded the configuration: `raw` is the encoded form of `document`."""
        record = ImageRecord(documents.digest(raw), tuple(layers), parent=parent)
        await self.hold(lease, blob=record.id)
        await self.content.put(raw)
        return await self.add(record, document, raw, names, policy=policy)

    async def add(
        self,
        record: ImageRecord,
        document: ImageDocument,
        raw: bytes,
        names: Iterable[Reference],
        *,
        index: IndexSource | None = None,
        resumed: str = "",
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Image:
        """Add an image, and make `names` refer to the image. One commit writes all rows. The caller's lease contains the
        image's blobs and layers. If the image exists already, the new manifests are added to its record. `index` is the
        index that was pulled or loaded. If a name already refers to images for other platforms, it keeps those of them that
        `index` lists. `resumed` is the name of an interrupted pull, which is complete now."""
        async with self.lock:
            record = self._joined(record, policy)
            names = list(names)
            check_names(policy, self.catalog, names, record.id)
            platform = platform_of(document)
            meanings = []
            for name in names:
                owner = owner_of_name(policy, self.catalog, name, record.id)
                meanings.append(with_image(self.catalog, name, record.id, platform, index, owner))
            operations: list[Put | Delete] = [Put(_TABLE, record.id, _encode(record))]
            operations += map(_name_row, names, meanings)
            if resumed:
                operations.append(Delete(_TABLE, _RESUME + resumed))
            if resumed or not self._is_stored(record, names, meanings):
                await self._commit(operations)
            self.leases.resumable.pop(resumed, None)
            self.catalog.put(record, document, raw)
            pace = Pace(shielded=True)
            for name, meaning in zip(names, meanings, strict=True):
                self._point(name, meaning)
                await pace()
            return self.catalog.images[record.id]

    def _is_stored(self, record: ImageRecord, names: Sequence[Reference], meanings: Sequence[NameRecord]) -> bool:
        """Whether the rows of an image and of its names have these values already. This is so after a build in which nothing
        has changed."""
        known = self.catalog.images.get(record.id)
        same = all(self.catalog.meaning(name) == meaning for name, meaning in zip(names, meanings, strict=True))
        return known is not None and known.record == record and same

    def _joined(self, record: ImageRecord, policy: ImagePolicy) -> ImageRecord:
        """The record to store for an added image. If the image exists already, its record is extended by the new record."""
        known = self.catalog.images.get(record.id)
        if known is not None:
            layers = known.record.layers
            if not self.complete(layers):
                layers = record.layers  # the content of the old layers is missing
            # The new record may have blobs for layers that have no blob in the old record
            elif len(layers) == len(record.layers):
                layers = tuple(old if old.blob else new for old, new in zip(layers, record.layers, strict=True))
            record = msgspec.structs.replace(
                known.record,
                layers=layers,
                manifests=tuple(dict.fromkeys((*known.record.manifests, *record.manifests))),
                attachments=tuple(dict.fromkeys((*known.record.attachments, *record.attachments))),
                parent=known.parent or record.parent,
            )
        return msgspec.structs.replace(record, owner=owner_of_image(policy, known))

    async def add_together(
        self,
        images: Sequence[tuple[ImageRecord, ImageDocument, bytes]],
        names: Sequence[Reference],
        index: str,
        policy: ImagePolicy = UNRESTRICTED,
    ) -> list[Image]:
        """Add several images for different platforms, and make `names` refer to all of them. One commit writes all rows.
        `index` is the digest of an index that this engine has made and that lists these images. For a client that asks for
        no platform, the names refer to the last image. The caller's lease contains the content."""
        async with self.lock:
            joined = [(self._joined(record, policy), document, raw) for record, document, raw in images]
            ids = tuple(dict.fromkeys(record.id for record, _, _ in reversed(joined)))
            check_names(policy, self.catalog, names, ids[0])
            meanings = [NameRecord(ids, index, owner_of_name(policy, self.catalog, name, ids[0])) for name in names]
            await self._commit(
                [*(Put(_TABLE, record.id, _encode(record)) for record, _, _ in joined), *map(_name_row, names, meanings)]
            )
            for record, document, raw in joined:
                self.catalog.put(record, document, raw)
            for name, meaning in zip(names, meanings, strict=True):
                self._point(name, meaning)
            return [self.catalog.images[record.id] for record, _, _ in joined]

    async def add_index(self, name: Reference, index: str, manifests: Mapping[str, str], policy: ImagePolicy) -> None:
        """Add a pushed index to the images that it lists. `manifests` maps the ID of each image to the digest of its
        manifest. `name`, the reference with the digest of the index, then refers to all these images. Images that were
        removed meanwhile are skipped. The caller's lease contains the index and the manifests."""
        async with self.lock:
            images = [self.catalog.images[id] for id in manifests if id in self.catalog.images]
            if not images:
                return
            check_names(policy, self.catalog, [name], images[0].id)
            owner = owner_of_name(policy, self.catalog, name, images[0].id)
            meaning = NameRecord(tuple(image.id for image in images), index, owner)
            changed = []
            for image in images:
                kept = dict.fromkeys((*image.record.manifests, index, manifests[image.id]))
                changed.append((image, msgspec.structs.replace(image.record, manifests=tuple(kept))))
            if all(image.record == record for image, record in changed) and self.catalog.meaning(name) == meaning:
                return
            await self._commit(
                [*(Put(_TABLE, record.id, _encode(record)) for _, record in changed), _name_row(name, meaning)]
            )
            for image, record in changed:
                self.catalog.put(record, image.document, image.raw)
            self._point(name, meaning)

    async def add_manifest(self, id: str, manifest: str, name: Reference, policy: ImagePolicy) -> None:
        """Add a pushed manifest to the image that it describes. `name`, the reference with the manifest's digest, then
        refers to this image. Does nothing if the image was removed meanwhile. The caller's lease contains the manifest."""
        async with self.lock:
            image = self.catalog.images.get(id)
            if image is None or (manifest in image.record.manifests and self.catalog.references.get(name) == id):
                return
            check_names(policy, self.catalog, [name], id)
            owner = owner_of_name(policy, self.catalog, name, id)
            kept = dict.fromkeys((*image.record.manifests, manifest))
            record = msgspec.structs.replace(image.record, manifests=tuple(kept))
            meaning = NameRecord((id,), owner=owner)
            await self._commit([Put(_TABLE, id, _encode(record)), _name_row(name, meaning)])
            self.catalog.put(record, image.document, image.raw)
            self._point(name, meaning)

    async def replace_layer(self, layer: Layer) -> None:
        """Replace the blob of a layer in the rows of all images that have the layer, in one commit. Other fields of the rows
        do not change. In particular, each image keeps its own `snapshot`, because an image that was built here may have
        another snapshot of the same layer. The caller's lease contains the new blob. The old blob is removed when it has no
        reference."""
        blob = {"blob": layer.blob, "media_type": layer.media_type, "blob_size": layer.blob_size}
        async with self.lock:
            changed, pace = [], Pace()
            for image in self.catalog.holders(layer.chain_id):
                layers = tuple(
                    msgspec.structs.replace(one, **blob) if one.chain_id == layer.chain_id else one for one in image.layers
                )
                changed.append((image, msgspec.structs.replace(image.record, layers=layers)))
                await pace()
            await self._commit([Put(_TABLE, record.id, _encode(record)) for _, record in changed])
            for image, record in changed:
                self.catalog.put(record, image.document, image.raw)

    def _point(self, name: Reference, meaning: NameRecord) -> None:
        self.catalog.point(name, *meaning.images, owner=meaning.owner, index=meaning.index)

    async def point(
        self, name: Reference, id: str, like: NameRecord | None, tagged: str, policy: ImagePolicy = UNRESTRICTED
    ) -> None:
        """Add a name to an image, or to all images that another name (`like`) refers to. The caller holds `lock`."""
        check_names(policy, self.catalog, [name], id)
        image, owner = self.catalog.images[id], owner_of_name(policy, self.catalog, name, id)
        meaning = NameRecord(like.images, like.index, owner) if like else NameRecord((id,), owner=owner)
        record = msgspec.structs.replace(image.record, tagged=tagged)
        await self._commit([Put(_TABLE, id, _encode(record)), _name_row(name, meaning)])
        self.catalog.put(record, image.document, image.raw)
        self._point(name, meaning)

    async def forget(self, names: Mapping[Reference, Collection[str]], ids: Sequence[str]) -> list[Reference]:
        """Remove `names` from images, and remove the images `ids`, in one commit. Returns the names that no image has any
        more. The caller holds `lock`."""
        pace = Pace(shielded=True)  # after the commit, the catalog must change too, even if the caller is cancelled
        operations: list[Put | Delete] = []
        left: list[tuple[Reference, NameRecord | None]] = []
        for name, gone in names.items():
            meaning = without_images(self.catalog, name, gone)
            left.append((name, meaning))
            operations.append(_name_row(name, meaning) if meaning else Delete(_TABLE, f"{_REF}{name}"))
            await pace()
        operations += [Delete(_TABLE, id) for id in ids]
        await self._commit(operations)
        for name, meaning in reversed(left):  # in reverse order, so that a removal moves no other entries (see `Names`)
            if meaning:
                self._point(name, meaning)
            else:
                self.catalog.drop(name)
            await pace()
        for id in ids:
            self.catalog.remove(id)
            await pace()
        return [name for name, meaning in left if meaning is None]

    async def begin(self, name: str, lease: Lease) -> None:
        """Record the content that a pull is about to fetch, so that the next pull can resume."""
        record, lease.resumed = lease.record(), name
        await self._commit([Put(_TABLE, _RESUME + name, _encode(record))])
        self.leases.resumable[name] = record

    async def give_up(self, names: Iterable[str]) -> None:
        """Delete the records of interrupted pulls, so that the next collection removes their content."""
        names = list(names)
        if names:
            await self._commit([Delete(_TABLE, _RESUME + name) for name in names])
            for name in names:
                self.leases.resumable.pop(name, None)

    # --- garbage collection ---------------------------------------------------------------------------------------------

    async def collect(self) -> Collected:
        """Remove every layer and blob that no image, lease, interrupted pull or container needs."""
        await self.give_up(self.leases.expired())
        async with self.layers.guard:
            gone = await self.layers.remove(await self._unneeded_layers())
            while await self.layers.after_removal():
                gone += await self.layers.remove(await self._unneeded_layers())
            # List the blobs before reading the leases. Blobs that are published later are not in the list, and blobs that
            # were published earlier have been added to a lease already
            found = await trio.to_thread.run_sync(self.content.digests)
            keep = await self._needed_blobs()
            removed, total = await trio.to_thread.run_sync(self._remove_blobs, found, keep)
            await self.repositories.forget(removed)
            return Collected(tuple(gone), total)

    async def _unneeded_layers(self) -> list[str]:
        pace, held, result = Pace(), self.leases.chains() | self._kept, []
        for chain_id in list(self.layers.built):
            if chain_id not in held and self.catalog.layer(chain_id) is None:
                result.append(chain_id)
            await pace()
        return result

    async def _needed_blobs(self) -> set[str]:
        pace, keep = Pace(), self.leases.blobs() | self._kept
        for image in list(self.catalog.images.values()):
            keep.update(image.blobs)
            await pace()
        return keep

    def _remove_blobs(self, found: Iterable[str], keep: set[str]) -> tuple[list[str], int]:
        """Returns the digests of the removed blobs, and the number of freed bytes."""
        total = self.content.remove_partials(digest for digest in self.content.partials() if digest not in keep)
        removed = [digest for digest in found if digest not in keep]
        for digest in removed:
            total += self.content.size(digest)
            self.content.remove(digest)
        return removed, total

    async def hold(self, lease: Lease, *, blob: str = "", chain_id: str = "") -> None:
        """Add to a lease the content that the caller is about to store. If the content exists already, a running collection
        may remove it, so this method waits until that collection has finished."""
        lease.blobs.update(filter(None, (blob,)))
        lease.chains.update(filter(None, (chain_id,)))
        await self.barrier()

    async def barrier(self) -> None:
        """Wait until no garbage collection runs. A running collection may have read the leases before their latest change.
        When this method returns, content that was in a lease before the call is protected."""
        async with self.layers.guard:
            return
