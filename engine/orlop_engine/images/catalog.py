"""The images and their names, with Docker's look-up rules (daemon/images/image.go). This module does no I/O.

An index (Docker's "manifest list") is a document that lists the manifests of images, one for each platform. A name that was
pulled, loaded or built as an index can refer to several images.

The catalog uses dictionaries to find images by name, by parent and by layer, so the cost of a change does not depend on the
number of images.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, TypeVar

from orlop_engine.types.images import ImageDocument
from orlop_sdk import InvalidParameter, NotFound

from .names import Names
from .records import Image, ImageRecord, Layer, NameRecord
from .references import Reference, image_id, parse

if TYPE_CHECKING:
    from .platforms import Platform
    from .policy import ImagePolicy

__all__ = ["Catalog"]

T = TypeVar("T")


def _drop(index: dict[str, dict[str, T]], key: str, id: str) -> None:
    entries = index.get(key, {})
    entries.pop(id, None)
    if not entries:
        index.pop(key, None)


class Catalog:
    """All images and references: images are found by ID, references by their full form. A reference has a tag or a digest,
    never both. A reference refers to one image, or to several images for different platforms."""

    def __init__(self) -> None:
        self.images: dict[str, Image] = {}
        self.references: dict[Reference, str] = {}
        """The image that each name refers to if the client asks for no platform: the best image for this host."""
        self.targets: dict[Reference, NameRecord] = {}
        """Contains only the names that refer to several images, or that have an index. The owner of a name is in `owners`,
        not here."""
        self.owners: dict[Reference, str] = {}
        """The owners of names that restricted clients have assigned (see `policy`)."""
        self._ids: list[str] = []
        self._children: dict[str, dict[str, None]] = {}
        self._several: dict[str, int] = {}
        """Image ID -> the number of the image's names that also refer to other images."""
        self._layers: dict[str, dict[str, Layer]] = {}
        """Layers by chain ID and by the ID of the image that has the layer."""
        self.changes = 0
        """A counter, incremented when a name may have been removed or may have moved to another image."""

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

    def point(self, reference: Reference, *images: str, owner: str = "", index: str = "") -> None:
        """Make a reference refer to exactly these images, which are for different platforms. After this, the method `newest`
        returns the first of them."""
        if reference in self.references:
            self.drop(reference)
        self.changes += 1
        if owner:
            self.owners[reference] = owner
        if index or len(images) > 1:
            # Store `self.images[id].id`, not `id`, so that the record and the image share one string object
            self.targets[reference] = NameRecord(tuple(self.images[id].id for id in images), index)
        for id in images:
            self.images[id].names.add(reference)
        if len(images) > 1:
            for id in images:
                self._several[id] = self._several.get(id, 0) + 1
        self.references[reference] = images[0] if len(images) == 1 else self._for_host(images)

    def drop(self, reference: Reference) -> None:
        self.changes += 1
        self.owners.pop(reference, None)
        images = self.members(reference)
        for id in images:
            self.images[id].names.discard(reference)
            if len(images) > 1:
                self._several[id] -= 1
                if not self._several[id]:
                    del self._several[id]
        self.references.pop(reference, None)
        self.targets.pop(reference, None)

    def members(self, reference: Reference) -> tuple[str, ...]:
        """The images for all platforms that a name refers to; () if the name does not exist."""
        if (target := self.targets.get(reference)) is not None:
            return target.images
        id = self.references.get(reference)
        return (id,) if id is not None else ()

    def meaning(self, reference: Reference) -> NameRecord | None:
        """The images, index and owner of a name; None if there is no such name."""
        if reference not in self.references:
            return None
        target = self.targets.get(reference) or NameRecord((self.references[reference],))
        return NameRecord(target.images, target.index, self.owners.get(reference, ""))

    def newest(self, reference: Reference) -> str:
        """In old API versions, a name refers to only one image. Returns this image: for a tag, the image that was added
        last; for a digest, the image that was added first."""
        return self.members(reference)[0]

    def shares_names(self, id: str) -> bool:
        """Whether a name of the image also refers to images for other platforms."""
        return id in self._several

    def _for_host(self, images: Sequence[str]) -> str:
        """The best image for this host; the newest if no image is for this host."""
        from .platforms import acceptable_here  # imported here, because the daemon's start rarely needs it

        wanted = acceptable_here()

        def place(id: str) -> int:
            platform = self.images[id].platform
            return wanted.index(platform) if platform in wanted else len(wanted)

        return min(images, key=place)

    def tags(self, repository: Reference) -> list[Reference]:
        """The references with a tag in this repository, sorted."""
        wanted = (repository.domain, repository.path)
        return sorted(name for name in self.references if name.tag and (name.domain, name.path) == wanted)

    def names(self, id: str) -> list[Reference]:
        """All references of an image, sorted by their text."""
        image = self.images.get(id)
        return list(image.names) if image else []

    def children(self, id: str) -> Iterator[str]:
        """IDs of the images whose parent is this image."""
        return iter(self._children.get(id, ()))

    def has_children(self, id: str) -> bool:
        return id in self._children

    def layer(self, chain_id: str) -> Layer | None:
        """The layer, if some image has it."""
        holders = self._layers.get(chain_id)
        return next(iter(holders.values())) if holders else None

    def layers(self, chain_id: str, policy: ImagePolicy) -> Iterator[Layer]:
        """The `Layer` objects with this chain ID, one for each image that the client may use. They may have different
        blobs."""
        for id, layer in self._layers.get(chain_id, {}).items():
            if policy.may_use(self.images[id]):
                yield layer

    def holders(self, chain_id: str) -> list[Image]:
        """The images that have the layer."""
        return [self.images[id] for id in self._layers.get(chain_id, ())]

    def is_shared(self, chain_id: str, own: Collection[str]) -> bool:
        """Whether images other than those in `own` have the layer."""
        holders = self._layers.get(chain_id, {})
        return len(holders) > sum(id in holders for id in own)

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

    def find(self, text: str, *, newest: bool = False) -> Image | None:
        """An image by ID, reference or unique ID prefix, in this order. Raises `InvalidParameter` if the text has none of
        these forms. `newest`: use the image that the method `newest` returns."""
        reference = self.reference(text)
        if reference is not None:
            return self.images[self.newest(reference) if newest else self.references[reference]]
        return self.images.get(whole) if (whole := image_id(text)) is not None else self.by_prefix(text)

    def reference(self, text: str) -> Reference | None:
        """The existing reference that the text refers to; None if the text is an ID, or no such reference exists."""
        if image_id(text) is not None:
            return None
        try:
            reference = parse(text)
        except InvalidParameter:
            if text.startswith("sha256:") and self.by_prefix(text) is not None:
                return None
            raise
        if reference.digest:
            reference = reference.with_digest(reference.digest)
        reference = reference.with_default_tag()
        return reference if reference in self.references else None

    def resolve(self, text: str, platform: Platform | None = None, *, newest: bool = False) -> Image:
        """Like `find`, but raises `NotFound` if there is no image. With a platform: the image for exactly this platform."""
        image = self.find(text, newest=newest)
        if image is None:
            name = text if image_id(text) else parse(text).with_default_tag().familiar
            raise NotFound(f"No such image: {image_id(text) or name}")
        if platform is None:
            return image
        from .platforms import rank

        if rank(platform, image.platform) == 0:
            return image
        for other in self.all_platforms(text):
            if rank(platform, other.platform) == 0:
                return other
        raise NotFound(
            f"image with reference {text} was found but does not provide the specified platform ({platform}): "
            f"actual: {', '.join(sorted(str(other.platform) for other in self.all_platforms(text)))}"
        )

    def all_platforms(self, text: str) -> list[Image]:
        """All images that the text refers to. A name may refer to several images for different platforms."""
        reference = self.reference(text)
        if reference is not None:
            return [self.images[id] for id in self.members(reference)]
        image = self.find(text)
        return [image] if image else []
