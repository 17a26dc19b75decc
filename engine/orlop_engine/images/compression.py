"""Compresses a layer that is stored as a plain tar, before its first push. A layer is compressed only once, as a stream, and
on threads.

Registries and clients expect compressed layers. The compressed blob replaces the plain blob in every image that has the
layer. Later pushes therefore use the compressed blob, even after a restart. For crash safety, the blob is made durable
before a row refers to it, and blobs without a reference are removed. The same tar always results in the same blob.

One thread reads and hashes the tar, because a layer that is damaged on disk must not be pushed. Other threads compress. Only
one layer is compressed at a time, because one layer keeps all processors busy. Each thread needs memory for only a few
blocks.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from typing import IO, Literal, Protocol, cast

import trio
import zstandard
from isal import igzip_threaded
from msgspec.structs import replace

from orlop_sdk import DriverError

from .content import DamagedBlob, Ingest
from .image_store import ImageStore
from .leases import Lease
from .outgoing import compression_of, open_layer
from .progress import Report, amount
from .records import Layer
from .shared import SharedWork

__all__ = ["PLAIN", "Compression", "Expand", "LayerCompression", "Recipe"]

Compression = Literal["gzip", "zstd"]
Expand = Callable[[AsyncIterable[bytes], int], Awaitable[None]]

PLAIN = "uncompressed"
_PUSHABLE = ("gzip", "zstd")
_GZIP_LEVEL = 1  # isal has levels 0 to 3; levels 2 and 3 are a third slower than level 1 and save 2 %
_ZSTD_LEVEL = 3  # the default level of zstd
_BLOCK = 256 << 10
_THREADS = min(4, os.cpu_count() or 1)
_REPORT_EVERY = 0.1  # seconds between two progress reports


@dataclass(frozen=True, slots=True)
class Recipe:
    """How to compress a layer: `kind` is the format (`PLAIN`: not compressed). `level` is 0 to 9 for gzip and 0 to 22 for
    zstd; -1 means the default level."""

    kind: Compression | Literal["uncompressed"]
    level: int = -1


class _Sink(Protocol):
    def write(self, data: bytes, /) -> int: ...


class _Output:
    """A file object for compressors that writes into an ingest."""

    def __init__(self, ingest: Ingest) -> None:
        self._ingest = ingest

    def write(self, data: bytes) -> int:
        self._ingest.store(bytes(data))
        return len(data)

    def flush(self) -> None:
        """Nothing is buffered here."""


@contextmanager
def _compressor(recipe: Recipe, output: _Output) -> Iterator[_Sink]:
    if recipe.kind == PLAIN:
        yield output
    elif recipe.kind == "gzip":
        raw = cast(IO[bytes], output)
        level = _GZIP_LEVEL if recipe.level < 0 else min(3, -(-recipe.level // 3))  # maps zlib's ten levels to isal's four
        options = {"compresslevel": level, "threads": _THREADS, "block_size": _BLOCK}
        with igzip_threaded.open(raw, "wb", **options) as writer:  # type: ignore[no-untyped-call]
            yield cast(_Sink, writer)
    else:
        # Compress on one thread, because with several threads zstd takes 40 MB of memory
        compressor = zstandard.ZstdCompressor(level=_ZSTD_LEVEL if recipe.level < 0 else recipe.level)
        with compressor.stream_writer(cast(IO[bytes], output), closefd=False) as frames:
            yield frames


def _blocks(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """The stream in pieces of exactly `_BLOCK` bytes (the last one may be shorter). Each piece becomes a block of the
    compressed stream, so that the compressed bytes do not depend on how much each read returned."""
    pending = b""
    for piece in pieces:
        data = pending + piece if pending else piece
        whole = len(data) - len(data) % _BLOCK
        for at in range(0, whole, _BLOCK):
            yield data[at : at + _BLOCK]
        pending = data[whole:]
    if pending:
        yield pending


class LayerCompression:
    """The callback `kind` returns the configured compression. A layer is compressed only once, even if several pushes wait
    for it. The callback `expand` decompresses a stream into a file, in a sandbox."""

    def __init__(
        self, image_store: ImageStore, nursery: trio.Nursery, kind: Callable[[], Compression], expand: Expand
    ) -> None:
        self._image_store, self._kind, self._expand = image_store, kind, expand
        self._shared: SharedWork[Layer] = SharedWork(nursery)
        self._limiter = trio.CapacityLimiter(1)

    async def compressed(self, layer: Layer, lease: Lease, report: Report) -> Layer:
        """Return the layer with a blob that a registry accepts. If the layer's current blob is not compressed, the returned
        layer has another blob: the compressed blob of another image that has this layer, or else a new compressed blob. This
        method adds that blob to the lease."""
        if layer.blob and await compression_of(self._image_store.content, layer) in _PUSHABLE:
            return layer
        while True:
            done = await self._shared.run(layer.chain_id, partial(self._make, layer), report)
            await self._image_store.hold(lease, blob=done.blob)
            if self._image_store.content.has(done.blob):  # if not, the blob was removed before this lease protected it
                return done

    async def converted(
        self,
        layer: Layer,
        recipe: Recipe,
        lease: Lease,
        report: Report,
        opened: Callable[[], AbstractAsyncContextManager[int]] | None = None,
    ) -> Layer:
        """The layer with a blob that is compressed according to the recipe. This method adds the blob to the lease. The
        blobs of existing images stay unchanged. The callback `opened` opens the layer's tar if the layer is not in the image
        store."""
        if layer.blob and recipe.level < 0:
            kind = await compression_of(self._image_store.content, layer)
            if (kind or PLAIN) == recipe.kind:
                return layer
        return await self._convert(layer, recipe, lease, report, opened)

    async def _make(self, layer: Layer, report: Report) -> Layer:
        store = self._image_store
        known = store.catalog.layer(layer.chain_id)
        if (
            known is not None
            and known.blob not in ("", layer.blob)
            and await compression_of(store.content, known) in _PUSHABLE
        ):
            return known
        with store.leases.hold() as lease:
            done = await self._convert(layer, Recipe(self._kind()), lease, report)
            await store.replace_layer(done)
            return done

    async def _convert(
        self,
        layer: Layer,
        recipe: Recipe,
        lease: Lease,
        report: Report,
        opened: Callable[[], AbstractAsyncContextManager[int]] | None = None,
    ) -> Layer:
        store = self._image_store
        # Protect the layer's files, because the tar of a layer without a blob is made from them
        lease.chains.update(filter(None, (layer.chain_id,)))
        await store.hold(lease, blob=layer.blob)
        ingest = await store.content.ingest(None)
        try:
            async with opened() if opened else self._open_plain(layer) as fd:
                await trio.to_thread.run_sync(self._copy, fd, layer, recipe, ingest, report, limiter=self._limiter)
            size = ingest.offset
            digest = await ingest.commit(lambda digest: store.hold(lease, blob=digest))
        except DamagedBlob:
            if layer.blob:
                await store.quarantine(layer.blob)
            raise
        except OSError as error:
            raise DriverError(f"cannot compress layer {layer.diff_id}: {error.strerror or error}") from error
        finally:
            ingest.abandon()
        return replace(layer, blob=digest, media_type="", blob_size=size)

    @asynccontextmanager
    async def _open_plain(self, layer: Layer) -> AsyncIterator[int]:
        """Open the layer's tar. A compressed blob (an archive may contain one) is decompressed first."""
        content = self._image_store.content
        async with open_layer(content, layer) as fd:
            if not await compression_of(content, layer):
                yield fd
                return
            spool = content.spool()
            try:
                async with aclosing(_read(fd)) as pieces:
                    await self._expand(pieces, spool)
                os.lseek(spool, 0, os.SEEK_SET)
                yield spool
            finally:
                os.close(spool)

    def _copy(self, fd: int, layer: Layer, recipe: Recipe, ingest: Ingest, report: Report) -> None:
        """Read, compress and write the layer. Runs on a thread."""
        id, found, done = layer.diff_id.removeprefix("sha256:")[:12], hashlib.sha256(), 0
        reported = time.monotonic()
        with _compressor(recipe, _Output(ingest)) as sink:
            for block in _blocks(iter(partial(os.read, fd, _BLOCK), b"")):
                trio.from_thread.check_cancelled()
                found.update(block)
                sink.write(block)
                done += len(block)
                if time.monotonic() >= reported + _REPORT_EVERY:
                    reported = time.monotonic()
                    trio.from_thread.run_sync(report, amount(id, "Compressing", done, max(done, layer.size)))
        if f"sha256:{found.hexdigest()}" != layer.diff_id:
            raise DamagedBlob(
                f"cannot compress layer {layer.diff_id}: its content is damaged; load or build the image again"
            )


async def _read(fd: int) -> AsyncGenerator[bytes, None]:
    while piece := await trio.to_thread.run_sync(os.read, fd, _BLOCK):
        yield piece
