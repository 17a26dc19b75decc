"""Receives an image archive. A thread reads the tar while it arrives. If the archive is compressed, a sandboxed worker
first decompresses it into an unnamed file, so that the daemon runs no decompressor on a client's data.
"""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Awaitable, Callable, Iterator
from contextlib import aclosing
from functools import partial
from typing import Any, Protocol

import trio

from orlop_monitor.unpack.errors import CUT_OFF, UnpackError
from orlop_monitor.unpack.stream import sniff
from orlop_sdk import InvalidParameter

from .archive_file import Archive
from .content import ContentStore
from .image_store import CLEANUP_SECONDS

__all__ = ["Decompress", "receive"]

_BATCH = 1 << 20
_AHEAD = 2  # number of batches that may wait for the thread
_MAGIC = 8


class Decompress(Protocol):
    """`engine.unpacking.decompress`: a sandboxed child decompresses a stream into a file."""

    def __call__(
        self, zygote: Any, source: AsyncIterable[bytes], target: int, *, progress: Callable[[int], None] | None
    ) -> Awaitable[None]: ...


async def receive(content: ContentStore, zygote: Any, body: AsyncIterable[bytes], decompress: Decompress) -> Archive:
    """Read the archive that a client sends, compressed or not. Raises `InvalidParameter` if the body is not an archive. The
    body is always read to its end, because a client that is still sending might not read the answer."""
    async with aclosing(_batches(body)) as batches:
        first = await anext(batches, b"")
        if not sniff(first[:_MAGIC]):
            return await _read_ahead(content, batches, first)
        fd = content.spool()
        try:
            await decompress(zygote, _joined(first, batches), fd, progress=partial(_check_space, content))
            return await _read(content, _File(fd))
        finally:
            os.close(fd)


def _check_space(content: ContentStore, _: int) -> None:
    content.space.check("decompress the archive", stored=1)


async def _read_ahead(content: ContentStore, batches: AsyncIterable[bytes], first: bytes) -> Archive:
    """Receive the next pieces while a thread hashes and writes the previous pieces."""
    found: Archive | None = None
    failure: Exception | None = None
    sender, receiver = trio.open_memory_channel[bytes | Exception](_AHEAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_pump, batches, sender)
        try:
            found = await _read(content, _Stream(receiver, first))
        except Exception as error:
            failure = error  # stored, because a nursery wraps exceptions in a group
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    assert found is not None
    return found


async def _pump(batches: AsyncIterable[bytes], channel: trio.MemorySendChannel[bytes | Exception]) -> None:
    async with channel:
        try:
            async for batch in batches:
                await channel.send(batch)
        except Exception as error:
            await channel.send(error)  # the reader raises the error; for example, the client has disconnected


async def _read(content: ContentStore, source: _Stream | _File) -> Archive:
    archive = Archive(content)
    try:
        try:
            await trio.to_thread.run_sync(archive.fill, source)
        except UnpackError as error:
            raise InvalidParameter(f"cannot read the archive: {error}") from error
        finally:
            await source.drain()
    except BaseException:
        with trio.move_on_after(CLEANUP_SECONDS, shield=True):
            await trio.to_thread.run_sync(archive.close)
        raise
    return archive


async def _batches(body: AsyncIterable[bytes]) -> AsyncGenerator[bytes, None]:
    """The body in pieces of about a MiB: smaller pieces would cost too much, because each piece is passed to another
    thread."""
    pending: list[bytes] = []
    waiting = 0
    async for piece in body:
        pending.append(piece)
        waiting += len(piece)
        if waiting >= _BATCH:
            yield b"".join(pending)
            pending, waiting = [], 0
    if pending:
        yield b"".join(pending)


async def _joined(first: bytes, rest: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for piece in rest:
        yield piece


class _Stream:
    """The body as a `Source`. The reading thread asks the event loop for more data, and waits."""

    def __init__(self, channel: trio.MemoryReceiveChannel[bytes | Exception], first: bytes) -> None:
        self._channel = channel
        self._chunk, self._at = memoryview(first), 0

    async def _more(self) -> bytes:
        """The next piece; b"" at the end."""
        try:
            found = await self._channel.receive()
        except trio.EndOfChannel:
            return b""
        if isinstance(found, Exception):
            raise found
        return found

    def _piece(self, most: int) -> memoryview:
        if self._at == len(self._chunk):
            self._chunk, self._at = memoryview(trio.from_thread.run(self._more)), 0
        piece = self._chunk[self._at : self._at + most]
        self._at += len(piece)
        return piece

    def read(self, size: int) -> bytes:
        at, chunk = self._at, self._chunk
        if at + size <= len(chunk):
            self._at = at + size
            return bytes(chunk[at : self._at])
        parts = []
        while size and (piece := self._piece(size)):
            parts.append(piece)
            size -= len(piece)
        return b"".join(parts)

    def pieces(self, size: int) -> Iterator[memoryview]:
        while size:
            piece = self._piece(size)
            if not piece:
                raise UnpackError(CUT_OFF)
            size -= len(piece)
            yield piece

    def skip(self, size: int) -> None:
        for _ in self.pieces(size):
            pass

    async def drain(self) -> None:
        while await self._more():
            pass


class _File:
    """A decompressed archive as a `Source`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._size = os.fstat(fd).st_size
        self._at = 0

    def read(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self._at)
        self._at += len(data)
        return data

    def pieces(self, size: int) -> Iterator[bytes]:
        while size:
            data = self.read(min(size, _BATCH))
            if not data:
                raise UnpackError(CUT_OFF)
            size -= len(data)
            yield data

    def skip(self, size: int) -> None:
        self._at += size
        if self._at > self._size:
            raise UnpackError(CUT_OFF)

    async def drain(self) -> None:
        await trio.lowlevel.checkpoint()
