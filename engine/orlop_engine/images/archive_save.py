"""`GET /images/get`: images as one archive, streamed from the content store without a temporary copy. An index (Docker's
"manifest list") lists the manifests of images, one for each platform.

All errors of the request (unknown names, platforms, missing permissions) are raised before the first byte is sent. A lease
protects the blobs from removals and prunes until the archive is closed. Each layer is hashed while it is sent. If the
content is damaged, the stream is aborted before the layer's end, and the blob is moved to the quarantine.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

import trio

from orlop_engine.pace import Pace
from orlop_sdk import DriverError, NotFound

from . import outgoing
from .archive_layout import LayerContent, Saved, SavedImage, SavedIndex, parts
from .catalog import Catalog
from .content import ContentStore, DamagedBlob
from .image_store import CLEANUP_SECONDS, ImageStore
from .leases import Lease
from .outgoing_index import describe_index, make_index
from .platforms import Platform
from .policy import UNRESTRICTED, ImagePolicy
from .records import Image
from .references import Reference, image_id, parse

__all__ = ["ImageArchive", "SaveRequest", "open_archive", "open_archive_of_parts"]

_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class SaveRequest:
    """`names` are the names as the client wrote them. Each name must have an image for each of `platforms`. If `platforms`
    has one item, only the image for this platform is saved. If it is empty, a name that refers to several images is saved
    with all of these images and with their index."""

    names: tuple[str, ...]
    platforms: tuple[Platform, ...] = ()
    policy: ImagePolicy = UNRESTRICTED


@dataclass(slots=True)
class _Selected:
    """`images` are images for different platforms. `index` is the digest of the index that is saved with these images, ""
    for none. The first image is for engines in which a name refers to only one image."""

    images: list[Image]
    index: str
    tags: list[Reference] = field(default_factory=list)


async def _select(catalog: Catalog, names: Iterable[str], request: SaveRequest) -> list[_Selected]:
    """The images and their tags, in the order in which the request first names them (rules: moby's tarexport `parseNames`).
    A name without a tag selects all tags of the repository. An ID selects the image and no tag. Raises `NotFound` with
    Docker's messages."""
    found: dict[tuple[str, ...], _Selected] = {}

    def add(image: Image, name: Reference | None = None) -> None:
        index, images = _several(catalog, image, name, request)
        selected = found.setdefault((index, *(image.id for image in images)), _Selected(images, index))
        if name is not None and name.tag and name not in selected.tags:
            selected.tags.append(name)

    for name in names:
        if image_id(name) or name.startswith("sha256:"):
            add(_by_id(catalog, name))
            continue
        reference = parse(name)
        if not reference.is_name_only:
            if reference.digest:
                reference = reference.with_digest(reference.digest)
            id = catalog.references.get(reference)
            if id is None:
                raise NotFound("reference does not exist")
            add(catalog.images[id], reference)
            continue
        tags = await _tags(catalog, reference)
        for tag in tags:
            add(catalog.images[catalog.references[tag]], tag)
        if not tags:
            add(_by_id(catalog, name))
    return list(found.values())


def _several(catalog: Catalog, image: Image, name: Reference | None, request: SaveRequest) -> tuple[str, list[Image]]:
    """The digest of the name's index ("" for none), and the images to save for the name."""
    if request.platforms:
        text = str(name) if name is not None else image.id
        chosen = [catalog.resolve(text, platform) for platform in request.platforms]
        images = sorted({one.id: one for one in chosen}.values(), key=lambda one: one.id != image.id)
    else:
        others = [catalog.images[id] for id in (catalog.members(name) if name is not None else ()) if id != image.id]
        images = [image, *filter(request.policy.may_use, others)]
    target = catalog.targets.get(name) if name is not None and len(request.platforms) != 1 else None
    return target.index if target is not None else "", images


def _by_id(catalog: Catalog, text: str) -> Image:
    whole = image_id(text)
    image = catalog.images.get(whole) if whole else catalog.by_prefix(text)
    if image is None:
        raise NotFound(f"No such image: {text}")
    return image


async def _tags(catalog: Catalog, repository: Reference) -> list[Reference]:
    """The references of a repository, sorted. The last step, which contains no `await`, omits references that were removed
    during the search."""
    pace, found = Pace(), []
    for reference in list(catalog.references):
        if reference.path == repository.path and reference.domain == repository.domain:
            found.append(reference)
        await pace()
    return sorted(reference for reference in found if reference in catalog.references)


def _check(selected: Sequence[_Selected], request: SaveRequest) -> None:
    for each in selected:
        name = each.tags[0].familiar if each.tags else each.images[0].id
        if not all(map(request.policy.may_use, each.images)):
            raise request.policy.denied(f"saving image {name}")


async def open_archive(image_store: ImageStore, request: SaveRequest, saved: Callable[[Image], None]) -> ImageArchive:
    """Choose the images and add them to a lease. The callback `saved` is called for each image once the image has been sent
    completely. The caller closes the archive."""
    selected = await _select(image_store.catalog, request.names, request)
    _check(selected, request)
    return await _opened(image_store, selected, saved)


def open_archive_of_parts(image_store: ImageStore, parts: Iterator[bytes | LayerContent]) -> ImageArchive:
    """An archive of `parts`. The caller's lease must contain their blobs until the archive is closed."""
    return ImageArchive(image_store, [], parts, AsyncExitStack(), lambda _: None)


async def _opened(image_store: ImageStore, selected: Sequence[_Selected], saved: Callable[[Image], None]) -> ImageArchive:
    async with AsyncExitStack() as resources:
        lease = resources.enter_context(image_store.leases.hold())
        await _hold(image_store, [image for each in selected for image in each.images], lease)
        for each in selected:
            each.images = [await image_store.with_blobs(image, lease) for image in each.images]
        images = [await _described(image_store.content, each) for each in selected]
        all_of = list({one.image.id: one.image for saved in images for one in saved.images}.values())
        return ImageArchive(image_store, all_of, parts(images), resources.pop_all(), saved)


async def _described(content: ContentStore, selected: _Selected) -> Saved:
    """The image or index to write. An index is written as it was received, byte for byte. If the stored blobs of an image
    differ from the blobs in the manifest that the index lists, a new index is made."""
    images, index = selected.images, None
    if selected.index:
        index = await trio.to_thread.run_sync(describe_index, content, selected.index, images)
        if index is None or len(index.images) < len(images):
            index = make_index([await outgoing.describe_oci(content, image) for image in images]) if images[1:] else None
    if index is None:
        return SavedImage(await outgoing.describe_oci(content, images[0]), tuple(selected.tags))
    shown = next(one for one in index.images if one.image.id == images[0].id)
    return SavedIndex(shown, index, tuple(selected.tags))


async def _hold(image_store: ImageStore, images: Sequence[Image], lease: Lease) -> None:
    for image in images:
        lease.blobs.update(image.blobs)
        lease.chains.update(image.chain_ids)
    await image_store.barrier()
    for image in images:
        for blob in (blob for layer in image.layers for blob in layer.blobs):
            if not image_store.content.has(blob):
                raise DriverError(
                    f"cannot save image {image.id}: layer {blob} is not in the content store; pull or load it again"
                )


class ImageArchive:
    """An archive that can be iterated over once: it yields the archive's bytes in pieces of at most a MiB. `aclose` releases
    the images. It may be called at any time, and more than once.

    This class is not an async generator, because closing a generator that was never started runs none of the generator's
    code."""

    def __init__(
        self,
        image_store: ImageStore,
        images: Sequence[Image],
        parts: Iterator[bytes | LayerContent],
        resources: AsyncExitStack,
        saved: Callable[[Image], None],
    ) -> None:
        self._image_store = image_store
        self._images, self._parts = images, parts
        self._resources = resources
        self._saved = saved
        self._layer: _LayerReader | None = None
        self._open = True

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while self._open:
            if self._layer is not None:
                if piece := await self._layer.read():
                    return piece
                self._layer = None
            part = next(self._parts, None)
            if part is None:
                await self._finish()
            elif isinstance(part, LayerContent):
                self._layer = await _LayerReader.open(self._image_store, part)
            elif part:
                return part
        raise StopAsyncIteration

    async def _finish(self) -> None:
        for image in self._images:
            self._saved(image)
        await self.aclose()

    async def aclose(self) -> None:
        if not self._open:
            return
        self._open = False
        with trio.move_on_after(CLEANUP_SECONDS, shield=True):
            layer, self._layer = self._layer, None
            try:
                if layer is not None:
                    await layer.aclose()
            finally:
                await self._resources.aclose()
            if any(self._image_store.catalog.images.get(image.id) is None for image in self._images):
                # If an image was removed while it was being sent, only the lease kept its content; remove the content now
                await self._image_store.collect()


class _LayerReader:
    """Reads a layer and checks its digest. The last piece is returned only if the digest of the whole layer is right."""

    def __init__(self, image_store: ImageStore, content: LayerContent, resources: AsyncExitStack, fd: int) -> None:
        self._image_store, self._content = image_store, content
        self._resources, self._fd = resources, fd
        self._left = content.size
        self._hash = hashlib.sha256()

    @classmethod
    async def open(cls, image_store: ImageStore, content: LayerContent) -> _LayerReader:
        async with AsyncExitStack() as resources:
            fd = await resources.enter_async_context(outgoing.open_layer(image_store.content, content.layer))
            return cls(image_store, content, resources.pop_all(), fd)

    async def read(self) -> bytes:
        """The next piece. At the end, close the layer and return b"". Raises `DamagedBlob` if the content is wrong."""
        if not self._left:
            await self.aclose()
            return b""
        piece = await trio.to_thread.run_sync(self._next)
        if not piece:
            await self.aclose()
            await self._damaged()
        return piece

    def _next(self) -> bytes:
        """Runs on a thread. Returns b"" if the layer is too short, too long or has the wrong digest."""
        wanted, found = min(self._left, _PIECE), []
        while wanted and (data := os.read(self._fd, wanted)):
            found.append(data)
            wanted -= len(data)
        piece = found[0] if len(found) == 1 else b"".join(found)
        self._hash.update(piece)
        self._left -= len(piece)
        if wanted or (not self._left and not self._is_right()):
            return b""
        return piece

    def _is_right(self) -> bool:
        digest = f"sha256:{self._hash.hexdigest()}"
        return digest == self._content.layer.blob and not os.read(self._fd, 1)

    async def _damaged(self) -> None:
        blob = self._content.layer.blob
        await self._image_store.quarantine(blob)
        raise DamagedBlob(f"cannot read blob {blob}: its content is damaged")

    async def aclose(self) -> None:
        await self._resources.aclose()
