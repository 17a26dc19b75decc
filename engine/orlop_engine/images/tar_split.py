"""Rebuilds, byte for byte, the tar of a layer if only its unpacked files are stored. If this engine built the layer, the tar
is made from the layer's snapshot. If the layer was adopted, the tar is made from its files and a tar-split file.

dockerd keeps no tars of layers. In `tar-split.json.gz`, dockerd keeps all parts of a tar except the contents of its files
(github.com/vbatts/tar-split, tar/storage). Each line is a JSON object. It contains a piece of the tar, or names a file whose
content must be inserted. When a layer of a dockerd is adopted, two links are added to the content store. They are removed
together with the layer:

    tar-split/<chain>.json.gz      the tar-split file
    tar-split/<chain>              the directory with the layer's files

Names and sizes come from the author of the image and are not trusted. So files are opened only inside the layer's directory,
and the caller compares the digest of the result with the diffID.
"""

from __future__ import annotations

import binascii
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, closing, suppress

import msgspec
import trio

from orlop_sdk import DriverError, linux

from .content import ContentStore, DigestMismatch, Ingest
from .records import Layer

__all__ = ["is_known", "open_tar", "pack", "paths_of", "pieces", "remove", "spooled"]

_PIECE = 1 << 20
_LINE = 64 << 20
_FILE, _SEGMENT = 1, 2


def paths_of(chain_id: str) -> tuple[str, str]:
    """The paths of a layer's tar-split file and of the link to its files, relative to the content store."""
    name = os.path.join("tar-split", chain_id.removeprefix("sha256:"))
    return f"{name}.json.gz", name


def is_known(content: ContentStore, layer: Layer) -> bool:
    """Whether the tar of a layer, which has no blob, can be rebuilt. This is possible if the layer was built by this engine,
    or if there is a tar-split file."""
    return bool(layer.snapshot) or os.path.exists(os.path.join(content.root, paths_of(layer.chain_id)[0]))


def remove(content: ContentStore, chain_id: str) -> None:
    """Remove the two links of a layer, if they exist."""
    for path in paths_of(chain_id):
        with suppress(FileNotFoundError, NotADirectoryError):
            os.unlink(os.path.join(content.root, path))


async def pack(content: ContentStore, layer: Layer, hold: Callable[[str], Awaitable[None]]) -> Layer:
    """Rebuild the tar of a layer, and store it as a blob. Returns the layer with this blob. `hold` is called with the blob's
    digest before the blob is published. Raises `DriverError` if the files have changed since they were unpacked."""
    ingest = await content.ingest(layer.diff_id, apart=True)  # several images with this layer may be saved at the same time
    try:
        await _copy(content, layer, ingest)
        await ingest.commit(hold)
    except DigestMismatch as error:
        raise DriverError(
            f"cannot pack layer {layer.diff_id}: its files have changed since the layer was unpacked"
        ) from error
    finally:
        ingest.abandon()
    return msgspec.structs.replace(layer, blob=layer.diff_id, blob_size=ingest.offset)


async def _copy(content: ContentStore, layer: Layer, ingest: Ingest) -> None:
    if layer.snapshot:
        async with content.packed(layer.snapshot) as tar:
            async for piece in tar:
                await ingest.write(piece)
        return
    split, files = (os.path.join(content.root, path) for path in paths_of(layer.chain_id))
    async with pieces(split, files) as found:
        async for piece in found:
            await ingest.write(piece)


async def open_tar(content: ContentStore, layer: Layer) -> int:
    """A file descriptor of the layer's tar, in an unnamed temporary file. The caller closes the descriptor, and compares the
    digest of the tar with the diffID."""
    if layer.snapshot:
        return await spooled(content, content.packed(layer.snapshot))
    split, files = (os.path.join(content.root, path) for path in paths_of(layer.chain_id))

    def copy() -> int:
        fd = content.spool()
        try:
            with closing(_tar(split, files)) as tar, os.fdopen(fd, "wb", closefd=False) as file:
                file.writelines(_batches(tar))
            os.lseek(fd, 0, os.SEEK_SET)
            return fd
        except BaseException:
            os.close(fd)
            raise

    try:
        return await trio.to_thread.run_sync(copy)
    except (OSError, EOFError, ValueError) as error:
        raise DriverError(f"cannot pack the files in {files} as a layer: {error}") from error


async def spooled(content: ContentStore, source: AbstractAsyncContextManager[AsyncIterator[bytes]]) -> int:
    """A file descriptor of an unnamed temporary file with the content of a stream. The descriptor's position is the
    beginning of the file. The caller closes the descriptor."""
    fd = content.spool()
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            async with source as tar:
                async for piece in tar:
                    await trio.to_thread.run_sync(file.write, piece)
        os.lseek(fd, 0, os.SEEK_SET)
        return fd
    except BaseException:
        os.close(fd)
        raise


class _Entry(msgspec.Struct):
    type: int
    name: str = ""
    name_raw: bytes = b""
    size: int = 0
    payload: str | None = None


_entry = msgspec.json.Decoder(_Entry).decode


def _tar(path: str, directory: str) -> Generator[bytes, None, None]:
    """The tar of an adopted layer, in pieces. Blocking. Raises OSError, ValueError."""
    import gzip  # imported here, because every start of the daemon imports this module

    try:
        opened = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as error:
        raise ValueError("the file that describes its tar is missing. Pull the image again") from error
    with os.fdopen(opened, "rb") as file, gzip.GzipFile(fileobj=file) as lines:
        root = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            while line := lines.readline(_LINE):
                entry = _entry(line)
                if entry.type == _SEGMENT:
                    yield binascii.a2b_base64(entry.payload or "", strict_mode=True)
                elif entry.type == _FILE and entry.size > 0:
                    yield from _content(root, entry.name_raw or os.fsencode(entry.name), entry.size)
        finally:
            os.close(root)


def _content(root: int, name: bytes, size: int) -> Iterator[bytes]:
    """The first `size` bytes of a file. If the file has fewer bytes, the tar becomes too short and has the wrong digest."""
    with os.fdopen(linux.open_in_root(root, name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
        while size > 0 and (piece := file.read(min(_PIECE, size))):
            size -= len(piece)
            yield piece


@asynccontextmanager
async def pieces(path: str, directory: str) -> AsyncIterator[AsyncIterator[bytes]]:
    """The tar of an adopted layer, read on a thread. `path` is the tar-split file, `directory` contains the layer's files.
    Raises `DriverError` if one of these files cannot be read."""
    with closing(_tar(path, directory)) as tar, closing(_batches(tar)) as batches:

        async def read() -> AsyncIterator[bytes]:
            while piece := await trio.to_thread.run_sync(_next, batches):
                yield piece

        try:
            yield read()
        except (OSError, EOFError, ValueError) as error:
            raise DriverError(f"cannot pack the files in {directory} as a layer: {error}") from error


def _batches(found: Iterator[bytes]) -> Generator[bytes, None, None]:
    """Join small pieces, because most pieces of a tar are headers, and each call on a thread costs 50 us."""
    waiting, size = [], 0
    for piece in found:
        waiting.append(piece)
        size += len(piece)
        if size >= _PIECE:
            yield b"".join(waiting)
            waiting, size = [], 0
    if waiting:
        yield b"".join(waiting)


def _next(batches: Iterator[bytes]) -> bytes:
    return next(batches, b"")
