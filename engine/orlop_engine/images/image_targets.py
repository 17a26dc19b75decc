"""The target of an image: the descriptor of the manifest, or of the index, that a registry has under the image's name. An
index (Docker's "manifest list") lists the manifests of images, one for each platform.

An image that was built or imported on this host has no target until it is pushed. The media type and size of a stored
manifest never change, so they are read only once.
"""

from __future__ import annotations

from collections.abc import Iterable

import trio

from orlop_sdk import OrlopError

from . import manifests
from .catalog import Catalog
from .content import ContentStore
from .documents import MAX_MANIFEST
from .manifests import Descriptor
from .records import Image

__all__ = ["ImageTargets"]

_MOST = 10_000  # maximum number of cached descriptors; each takes about 300 bytes


class ImageTargets:
    def __init__(self, catalog: Catalog, content: ContentStore) -> None:
        self._catalog, self._content = catalog, content
        self._known: dict[str, Descriptor | None] = {}

    async def load(self, images: Iterable[Image], *, whole: bool = True) -> None:
        """Read the descriptors of these images, so that the method `of` can return them."""
        wanted: set[str] = set()
        for image in images:
            index = self._index(image) if whole else ""
            wanted.update((index,) if index else image.record.manifests)
        unknown = wanted - self._known.keys()
        if unknown:
            if len(self._known) > _MOST:
                self._known.clear()
            self._known.update(await trio.to_thread.run_sync(self._read, unknown))

    def of(self, image: Image, *, whole: bool = True) -> Descriptor | None:
        """The descriptor of an image. If `whole` is true, this is the descriptor of the index that was pulled, loaded, built
        or pushed under a name of the image. If `whole` is false, or if there is no such index, it is the descriptor of the
        image's manifest. None if the image has neither an index nor a manifest."""
        if whole and (index := self._index(image)):
            return self._known.get(index)
        found = (self._known.get(digest) for digest in reversed(image.record.manifests))
        return next((one for one in found if one and one.media_type in manifests.IMAGE_MANIFESTS), None)

    def _index(self, image: Image) -> str:
        own = image.record.manifests
        for name in image.names if own else ():
            target = self._catalog.targets.get(name)
            if target is not None and target.index in own and self._catalog.references.get(name) == image.id:
                return target.index
        return ""

    def _read(self, digests: Iterable[str]) -> dict[str, Descriptor | None]:
        return {digest: self._descriptor(digest) for digest in digests}

    def _descriptor(self, digest: str) -> Descriptor | None:
        try:
            data = self._content.read(digest, MAX_MANIFEST)
        except OrlopError:
            return None
        found = manifests.parse_kept(data)
        return Descriptor(digest, len(data), found.media_type) if found else None
