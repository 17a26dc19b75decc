"""Which images there are and what they are called: the look-up rules of Docker (daemon/images/image.go). Sans-IO.

Values are frozen and replaced, so that readers need no lock.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import replace

from orlop_kernel.spi import InvalidParameter, NotFound
from orlop_kernel.types.images import ImageDocument

from .records import Image, ImageRecord, Layer
from .references import Reference, image_id, parse

__all__ = ["Catalog"]


class Catalog:
    """Images by ID, references by their full form. A reference has a tag or a digest, never both."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.references: dict[Reference, str] = {}
        self._ids: list[str] = []
        self.changes = 0
        """Counts what may have given a name another meaning."""

    def put(self, record: ImageRecord, document: ImageDocument, raw: bytes) -> Image:
        """Add an image, or replace its record."""
        self.changes += 1
        if record.id not in self.images:
            insort(self._ids, record.id)
        self.images[record.id] = Image(record, document, raw)
        self._rename(record.id)
        return self.images[record.id]

    def remove(self, id: str) -> None:
        """Forget an image that has no references any more."""
        self.changes += 1
        del self.images[id]
        self._ids.remove(id)

    def point(self, reference: Reference, id: str) -> None:
        """Let a reference name this image; another image may lose it."""
        self.changes += 1
        before = self.references.get(reference)
        self.references[reference] = id
        for changed in {before, id} - {None}:
            self._rename(str(changed))

    def drop(self, reference: Reference) -> None:
        self.changes += 1
        id = self.references.pop(reference, None)
        if id is not None:
            self._rename(id)

    def names(self, id: str) -> list[Reference]:
        """All references of an image, in the order of their text."""
        return sorted((reference for reference, target in self.references.items() if target == id), key=str)

    def children(self, id: str) -> list[str]:
        return [image.id for image in self.images.values() if image.parent == id]

    def layers(self) -> dict[str, Layer]:
        """Every layer that an image has, by chain ID."""
        return {layer.chain_id: layer for image in self.images.values() for layer in image.layers}

    def _rename(self, id: str) -> None:
        image = self.images.get(id)
        if image is not None:
            names = self.names(id)
            self.images[id] = replace(
                image,
                repo_tags=tuple(name.familiar for name in names if name.tag),
                repo_digests=tuple(name.familiar for name in names if name.digest),
            )

    def by_prefix(self, text: str) -> Image | None:
        """The one image whose ID begins so."""
        prefix = "sha256:" + text.removeprefix("sha256:")
        if prefix == "sha256:":
            return None
        at = bisect_left(self._ids, prefix)
        found = self._ids[at : at + 2]
        if not found or not found[0].startswith(prefix) or (len(found) == 2 and found[1].startswith(prefix)):
            return None
        return self.images[found[0]]

    def find(self, text: str) -> Image | None:
        """An image by ID, reference or unique ID prefix, in this order. `InvalidParameter` for what can be none of them."""
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
