"""`POST /images/create?fromSrc=`: an image of one layer, from a tar that the client or a web server sends."""

from __future__ import annotations

import time
from collections.abc import AsyncIterable, Sequence
from dataclasses import dataclass

import trio

from orlop_kernel.types import rfc3339
from orlop_kernel.types.images import History, ImageConfig, ImageDocument, RootFS

from . import changes, documents, platforms
from .platforms import Platform
from .records import Image, ImageRecord, Layer
from .references import Reference
from .stock import Stock

__all__ = ["ImportRequest", "Importer"]

_CLEANUP_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class ImportRequest:
    """`source` is what the comment names: "-" or a URL. Without a name the image is untagged."""

    source: str
    name: Reference | None = None
    comment: str = ""
    changes: tuple[str, ...] = ()
    platform: Platform | None = None


class Importer:
    """Makes images of single tars."""

    def __init__(self, stock: Stock) -> None:
        self._stock = stock

    def config(self, changes_: Sequence[str]) -> ImageConfig:
        """The configuration that these instructions make; raises before anything is received."""
        return changes.apply(ImageConfig(), changes_)

    async def make(self, request: ImportRequest, config: ImageConfig, body: AsyncIterable[bytes]) -> Image:
        """Store and unpack the tar, then acknowledge the image."""
        try:
            with self._stock.leases.hold() as lease:
                ingest = await self._stock.content.ingest(None)
                try:
                    async for piece in body:
                        await ingest.write(piece)
                    size = ingest.offset
                    blob = await ingest.commit(lease.blobs.add)
                finally:
                    ingest.abandon()
                diff_id, built = await self._stock.layers.make_first(blob, lease.chains.add)
                layer = Layer(blob, "", size, diff_id, diff_id, built.size)
                document = self._document(request, config, diff_id)
                raw = documents.encode(document)
                record = ImageRecord(documents.digest(raw), (layer,))
                lease.blobs.add(record.id)
                await self._stock.content.put(raw)
                return await self._stock.add(record, document, raw, [request.name] if request.name else [])
        except BaseException:
            with trio.move_on_after(_CLEANUP_SECONDS, shield=True):
                await self._stock.collect()
            raise

    def _document(self, request: ImportRequest, config: ImageConfig, diff_id: str) -> ImageDocument:
        here = request.platform or platforms.host()
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
