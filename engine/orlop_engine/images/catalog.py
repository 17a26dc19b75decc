"""The images and their names, with Docker's look-up rules (daemon/images/image.go). Sans-IO.

The cost of a change does not depend on the number of images: names, children and layers have indexes.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator
from typing import TypeVar

from orlop_engine.types.images import ImageDocument
from orlop_sdk import InvalidParameter, NotFound

from .names import Names
from .records import Image, ImageRecord, Layer
from .references import Reference, image_id, parse

__all__ = ["Catalog"]

T = TypeVar("T")


def _drop(index: dict[str, dict[str, T]], key: str, id: str) -> None:
    entries = index.get(key, {})
    entries.pop(id, None)
    if not entries:
        index.pop(key, None)


class Catalog:
    """Images by ID, references by their full form. A reference has a tag or a digest, never both."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.references: dict[Reference, str] = {}
        self.owners: dict[Reference, str] = {}
        """The owners of names that restricted clients have given (see `policy`)."""
        self._ids: list[str] = []
        self._children: dict[str, dict[str, None]] = {}
        self._layers: dict[str, dict[str, Layer]] = {}
        """By chain ID, then by the ID of the image that has the layer."""
        self.changes = 0
        """Incremented when a name may refer to another image, or to none."""

    def put(self, record: ImageRecord, document: ImageDocument, raw: bytes) -> Image:
        """Add an image, or replace its record."""
        self.changes += 1
        known = self.images.get(record.id)
        if known is None:
            insort(self._ids, record.id)
        else:
            self._unlink(known)
        image = self.images[record.id] = Image(record, document, raw, known.names if known else Names())
        for layer in image.layers:
            self._layers.setdefault(layer.chain_id, {})[image.id] = layer
        if image.parent:
            self._children.setdefault(image.parent, {})[image.id] = None
        return image

    def remove(self, id: str) -> None:
        """Remove an image that has no references."""
        self.changes += 1
        self._unlink(self.images.pop(id))
        del self._ids[bisect_left(self._ids, id)]

    def _unlink(self, image: Image) -> None:
        for chain_id in image.chain_ids:
            _drop(self._layers, chain_id, image.id)
        if image.parent:
            _drop(self._children, image.parent, image.id)

    def point(self, reference: Reference, id: str, owner: str = "") -> None:
        """Make a reference name this image, instead of the image that has it now."""
        self.changes += 1
        self.owners.pop(reference, None)
        if owner:
            self.owners[reference] = owner
        before = self.references.get(reference)
        if before is not None and before != id:
            self.images[before].names.discard(reference)
        self.references[reference] = id
        self.images[id].names.add(reference)

    def drop(self, reference: Reference) -> None:
        self.changes += 1
        self.owners.pop(reference, None)
        id = self.references.pop(reference, None)
        if id is not None:
            self.images[id].names.discard(reference)

    def tags(self, repository: Reference) -> list[Reference]:
        """The references with a tag that have the repository of this one, sorted."""
        wanted = (repository.domain, repository.path)
        return sorted(name for name in self.references if name.tag and (name.domain, name.path) == wanted)

    def names(self, id: str) -> list[Reference]:
        """All references of an image, sorted by their text."""
        image = self.images.get(id)
        return list(image.names) if image else []

    def children(self, id: str) -> Iterator[str]:
        """IDs of the images that have this one as parent."""
        return iter(self._children.get(id, ()))

    def has_children(self, id: str) -> bool:
        return id in self._children

    def layer(self, chain_id: str) -> Layer | None:
        """The layer, if some image has it."""
        holders = self._layers.get(chain_id)
        return next(iter(holders.values())) if holders else None

    def holders(self, chain_id: str) -> list[Image]:
        """The images that have the layer."""
        return [self.images[id] for id in self._layers.get(chain_id, ())]

    def chains(self) -> list[str]:
        """The chain IDs of all images' layers, without duplicates."""
        return list(self._layers)

    def shared_size(self, image: Image) -> int:
        """Bytes of the image's layers that other images have as well."""
        return sum(layer.size for layer in image.layers if len(self._layers[layer.chain_id]) > 1)

    def by_prefix(self, text: str) -> Image | None:
        """The image with this ID prefix, if there is exactly one."""
        prefix = "sha256:" + text.removeprefix("sha256:")
        if prefix == "sha256:":
            return None
        at = bisect_left(self._ids, prefix)
        found = self._ids[at : at + 2]
        if not found or not found[0].startswith(prefix) or (len(found) == 2 and found[1].startswith(prefix)):
            return None
        return self.images[found[0]]

    def find(self, text: str) -> Image | None:
        """An image by ID, reference or unique ID prefix, in this order. `InvalidParameter` if the text can be none of them.
        An image by ID, reference or unique ID prefix, in this order. `InvalidParameter` if the text can be none of them."""
        whole = image_id(text)
        if whole is not None:
            return self.images.get(whole)
        try:
            reference = parse(text)
        except InvalidParameter:
            image = self.by_prefix(text) if text.startswith("sha256:") else None
            if image is None:
                raise
            return image
        if reference.digest:
            reference = reference.with_digest(reference.digest)
        id = self.references.get(reference.with_default_tag())
        return self.images[id] if id is not None else self.by_prefix(text)

    def resolve(self, text: str) -> Image:
        image = self.find(text)
        if image is None:
            name = text if image_id(text) else parse(text).with_default_tag().familiar
            raise NotFound(f"No such image: {image_id(text) or name}")
        return image
