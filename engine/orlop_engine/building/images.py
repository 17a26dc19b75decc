"""Images for builds: the base images that a build starts from, and the images that a build makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec
import trio

from orlop_engine.images import documents, outgoing, platforms
from orlop_engine.images.image_store import ImageStore
from orlop_engine.images.layers import Built
from orlop_engine.images.leases import Lease
from orlop_engine.images.progress import Record
from orlop_engine.images.pull import PullRequest
from orlop_engine.images.records import Image, ImageRecord, Layer
from orlop_engine.images.references import image_id, parse
from orlop_engine.images.registry_auth import ANONYMOUS, Credentials
from orlop_engine.images.service import Images
from orlop_engine.types.images import ImageDocument
from orlop_sdk import InvalidParameter, NotFound, OrlopError

from .packing import Packing
from .scope import Scope
from .snapshots import Snapshots

__all__ = ["BaseImage", "BaseImages", "ImageMaker", "LayerBlob", "NewImage", "Wanted"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The image that a build asks for. `pull`: ask the registry for its current image. `platform` is "" for the host's
    platform."""

    name: str
    platform: str = ""
    pull: bool = False
    credentials: Credentials = ANONYMOUS

    @property
    def digest(self) -> str:
        """The digest in the name; "" if there is none."""
        return "" if image_id(self.name) else parse(self.name).digest


@dataclass(frozen=True, slots=True)
class BaseImage:
    """`digest` is the digest of the manifest; for an image that was built or imported on this host, it is the digest of the
    configuration. `snapshot` is the storage key of the image's top layer, "" if the image has no layers or was only
    resolved. `image` is None if the image was only resolved at a registry."""

    name: str
    digest: str
    config: bytes
    snapshot: str = ""
    image: Image | None = None


@dataclass(frozen=True, slots=True)
class LayerBlob:
    """A layer as a blob. `compression` is "gzip", "zstd", or "" for a plain tar."""

    digest: str
    size: int
    compression: str
    diff_id: str


@dataclass(frozen=True, slots=True)
class NewImage:
    """An image to be made from a configuration and the snapshots of its layers, lowest first. `blobs`: the layers in the
    image's manifest, if it has a manifest. If a blob and its snapshot have different diffIDs, the blob is unpacked.
    `manifests` are digests of blobs: the image's index, if it has an index, and the image's manifest. `attachments` are the
    digests of attestations and of their content."""

    config: bytes
    keys: Sequence[str]
    blobs: Sequence[LayerBlob] = ()
    manifests: Sequence[str] = ()
    attachments: Sequence[str] = ()


class BaseImages:
    """Finds and pulls images."""

    def __init__(self, images: Images) -> None:
        self._images = images

    async def resolve(self, wanted: Wanted, scope: Scope) -> BaseImage:
        """Find an image, without fetching its layers. Asks the registry if the image is not stored, or with `pull`."""
        if not wanted.pull or wanted.digest:
            image = await self._here(wanted)
            if image is not None:
                scope.check_image(image, wanted.name)
                return await self._of(wanted, image)
        scope.check_pull()
        request = scope.restricted(self._request(wanted))
        found = await self._images.resolve_at_registry(request)
        return BaseImage(str(request.reference), found.digest, found.config)

    async def fetch(self, wanted: Wanted, report: Callable[[Record], None], scope: Scope) -> BaseImage:
        """Make sure that an image and its layers are stored. They may be removed again before the caller has added them to a
        lease, so the caller must then check that they still exist."""
        image = await self._here(wanted) if not wanted.pull or wanted.digest else None
        if image is None:
            scope.check_pull()
            await self._images.pull_to(scope.restricted(self._request(wanted)), report)
            image = await self._here(wanted)
        if image is None:
            raise NotFound(f"No such image: {wanted.name}")
        scope.check_image(image, wanted.name)
        return await self._of(wanted, image)

    def _request(self, wanted: Wanted) -> PullRequest:
        platform = platforms.parse(wanted.platform) if wanted.platform else None
        if image_id(wanted.name):
            raise NotFound(f"No such image: {wanted.name}")  # a registry cannot be asked for an image ID
        reference = parse(wanted.name).with_default_tag()
        if reference.digest:
            reference = reference.with_digest(reference.digest)
        return PullRequest(reference, platform, wanted.credentials)

    async def _here(self, wanted: Wanted) -> Image | None:
        """The image for exactly the wanted platform, if it is stored."""
        platform = platforms.parse(wanted.platform) if wanted.platform else None
        names = [wanted.name]
        if wanted.digest:
            # If the digest comes from `resolve`, it is the digest of a manifest or, for an image without a manifest, of its
            # configuration
            reference = parse(wanted.name)
            names += [wanted.digest, *([str(reference.with_tag(reference.tag))] if reference.tag else [])]
        for name in names:
            try:
                image = self._images.resolve(name, platform)
            except NotFound:
                continue
            if platform is not None and platforms.rank(platform, image.platform) is None:
                continue
            if not wanted.digest or name == wanted.name or wanted.digest in (image.id, await self._digest(image)):
                return image
        return None

    async def _digest(self, image: Image) -> str:
        content = self._images.image_store.content
        return await trio.to_thread.run_sync(outgoing.manifest_digest, content, image) or image.id

    async def _of(self, wanted: Wanted, image: Image) -> BaseImage:
        name = image.id if image_id(wanted.name) else str(parse(wanted.name).with_default_tag())
        return BaseImage(name, await self._digest(image), image.raw, image.snapshot, image)


class ImageMaker:
    """Makes images from a builder's snapshots."""

    def __init__(self, image_store: ImageStore, snapshots: Snapshots, packing: Packing, max_depth: int) -> None:
        self._image_store, self._snapshots, self._packing = image_store, snapshots, packing
        self._max_depth = max_depth

    async def pack(self, key: str) -> tuple[str, int]:
        """The diffID of a snapshot, and the length of its tar."""
        row = self._snapshots.rows.get(key)
        if row is None:
            raise NotFound(f"snapshot {key} does not exist")
        if row.diff_id:
            return row.diff_id, row.tar_size
        with self._snapshots.using(key):
            diff_id, size = await self._packing.measure(key)
            await self._snapshots.packed(key, diff_id, size)
        return diff_id, size

    async def make(self, made: Sequence[NewImage], names: Sequence[str], scope: Scope, index: str = "") -> list[Image]:
        """Make an image, or all images of an index. A name may have the digest of the index or of the image's manifest.
        Raises `InvalidParameter` if the parts of an image do not match. The caller's lease contains the blobs."""
        references = [parse(name).with_default_tag() for name in names]
        digests = {index} if index else set(made[0].manifests)
        for reference in references:
            if reference.digest and reference.digest not in digests:
                raise InvalidParameter("refusing to create a tag with a digest reference")
        store, policy = self._image_store, scope.restrictions.images
        async with store.lease_for_new_image() as lease:
            ready = [await self._prepared(new, scope, lease) for new in made]
            for key in {key for new in made for key in new.keys}:
                await self._snapshots.settle(key)
            if index:
                return await store.add_together(ready, references, index, policy)
            ((record, document, config),) = ready
            return [await store.add(record, document, config, references, policy=policy)]

    async def _prepared(self, new: NewImage, scope: Scope, lease: Lease) -> tuple[ImageRecord, ImageDocument, bytes]:
        """Store the content of an image. The image has no row yet."""
        store, config = self._image_store, scope.labelled(new.config)
        found = await self.layers(new.keys)
        try:
            document = await documents.read(config, layers=len(new.blobs or found))
        except OrlopError as error:
            raise InvalidParameter(f"cannot make the image: {error}") from error
        diff_ids = [layer.diff_id for layer in new.blobs or found]
        if document.rootfs is None or document.rootfs.diff_ids != diff_ids:
            raise InvalidParameter("cannot make the image: its configuration lists layers that the image does not have")
        if len(diff_ids) > self._max_depth:
            raise InvalidParameter(f"max depth exceeded: an image has {self._max_depth} layers at most")
        chain_ids = documents.chain_ids(diff_ids)
        lease.chains.update(chain_ids)
        lease.blobs.update(blob for layer in found for blob in layer.blobs)
        lease.blobs.update((*(blob.digest for blob in new.blobs), *new.manifests, *new.attachments))
        await store.barrier()
        layers = await self._with_blobs(found, new.blobs, chain_ids) if new.blobs else self._known(found, chain_ids)
        record = ImageRecord(
            documents.digest(config), tuple(layers), tuple(new.manifests), attachments=tuple(new.attachments)
        )
        await store.hold(lease, blob=record.id)
        await store.content.put(config)
        return record, document, config

    async def _with_blobs(self, found: Sequence[Layer], blobs: Sequence[LayerBlob], chain_ids: Sequence[str]) -> list[Layer]:
        """The layers with these blobs. The first blob that does not match its snapshot, and all blobs above it, are
        unpacked."""
        pairs = list(zip(found, blobs, strict=True))
        same = next((at for at, (layer, blob) in enumerate(pairs) if layer.diff_id != blob.diff_id), len(pairs))
        given = [
            msgspec.structs.replace(layer, blob=blob.digest, media_type="", blob_size=blob.size)
            for layer, blob in pairs[:same]
        ]
        layers = self._known(given, chain_ids[:same])
        for number in range(same, len(pairs)):
            blob, parent = blobs[number], chain_ids[number - 1] if number else ""
            built = await self._image_store.layers.build(
                chain_ids[number], parent, blob.digest, blob.diff_id, _quiet, lambda report, done: None
            )
            layers.append(Layer(blob.digest, "", blob.size, blob.diff_id, chain_ids[number], built.size, built.snapshot))
        return layers

    async def layers(self, keys: Sequence[str]) -> list[Layer]:
        """The layers, lowest first. Only the layers of a base image have chain IDs; the chain IDs of other layers are not
        set yet."""
        found: list[Layer] = []
        for number, key in enumerate(keys):
            base = self._snapshots.bases.get(key)
            if number == 0 and base is not None:
                found += base.layers
                continue
            row = self._snapshots.rows.get(key)
            if row is None:
                raise NotFound(f"snapshot {key} does not exist")
            diff_id, _ = await self.pack(key)
            size = await self._image_store.layers.measure(key)
            found.append(Layer("", "", 0, diff_id, "", size, key))
        return found

    def _known(self, found: Sequence[Layer], chain_ids: Sequence[str]) -> list[Layer]:
        """The layers with their chain IDs. If an image has the layer already, that image's snapshot and blob are used."""
        built, result, parent = self._image_store.layers.built, list[Layer](), ""
        for layer, chain_id in zip(found, chain_ids, strict=True):
            existing, known = built.get(chain_id), self._image_store.catalog.layer(chain_id)
            if existing is not None and known is not None:
                blob = known if known.blob else layer
                layer = msgspec.structs.replace(known, blob=blob.blob, media_type=blob.media_type, blob_size=blob.blob_size)
            elif existing is None or (not existing.snapshot and not layer.blob):  # otherwise the layer cannot be packed
                built[chain_id] = Built(layer.diff_id, parent, layer.size, layer.snapshot, layer.blob)
                layer = msgspec.structs.replace(layer, chain_id=chain_id)
            else:
                layer = msgspec.structs.replace(layer, chain_id=chain_id, snapshot=existing.snapshot)
            result.append(layer)
            parent = chain_id
        return result


def _quiet(_: object) -> None:
    """Report nothing, because unpacking is not shown to the client."""
