"""`POST /images/create?fromSrc=`: make an image with one layer from a tar that the client or a web server sends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from orlop_engine.types import rfc3339
from orlop_engine.types.images import History, ImageConfig, ImageDocument, RootFS

from . import changes, platforms
from .image_store import ImageStore
from .platforms import Platform
from .policy import UNRESTRICTED, ImagePolicy, check_names
from .records import Image, Layer
from .references import Reference

if TYPE_CHECKING:
    from .destinations import Refuse

__all__ = ["ImportRequest", "Importer"]


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """`source` is "-" or a URL, and is shown in the image's comment. Without a name the image is untagged."""

    source: str
    name: Reference | None = None
    comment: str = ""
    changes: tuple[str, ...] = ()
    platform: Platform | None = None
    policy: ImagePolicy = UNRESTRICTED
    refuse: Refuse | None = None


class Importer:
    """Creates images with one layer, each from one tar."""

    def __init__(self, image_store: ImageStore) -> None:
        self._image_store = image_store

    def config(self, changes_: Sequence[str]) -> ImageConfig:
        """The image configuration that results from the Dockerfile instructions `changes_`. Raises for invalid instructions
        before any content is received."""
        return changes.apply(ImageConfig(), changes_)

    async def make(self, request: ImportRequest, config: ImageConfig, body: AsyncIterable[bytes]) -> Image:
        """Store and unpack the tar, then commit the image."""
        image_store = self._image_store
        check_names(request.policy, image_store.catalog, [request.name] if request.name else [], "")
        async with image_store.lease_for_new_image() as lease:
            blob, size = await image_store.receive(body, lease)
            diff_id, built = await image_store.layers.make_first(
                blob, lambda chain_id: image_store.hold(lease, chain_id=chain_id)
            )
            layer = Layer(blob, "", size, diff_id, diff_id, built.size)
            document = self._document(request, config, diff_id)
            return await image_store.make(document, [layer], request.name, lease, policy=request.policy)

    def _document(self, request: ImportRequest, config: ImageConfig, diff_id: str) -> ImageDocument:
        here = request.platform or platforms.default()
        comment = request.comment or f"Imported from {request.source}"
        now = rfc3339(time.time_ns())
        return ImageDocument(
            architecture=here.architecture,
            comment=comment,
            config=config,
            created=now,
            history=[History(created=now, comment=comment)],
            os=here.os,
            rootfs=RootFS("layers", [diff_id]),
            variant=here.variant,
        )
