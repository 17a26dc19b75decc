"""Pipes between a client and a writer. The writer is the daemon, which has the blobs, or a thread that packs files.

A writer blocks in the kernel until the pipe is read, and must end when the client has disconnected. So the reader must be
closed first: `async with pipe() as (reader, writer), nursery() as tasks, reader:`, with the writing task in the nursery.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import AsyncIterator

import trio

__all__ = ["PipeReader", "PipeWriter", "pipe"]

_CHUNK, _SIZE = 1 << 20, 1 << 20


class PipeWriter:
    """The writing end, which is passed to the daemon. Close it when the daemon has finished."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def fileno(self) -> int:
        return self._fd

    async def send(self, data: bytes) -> None:
        """Write data for the reader of the pipe. The data is written on a thread, because the pipe blocks."""

        def write() -> None:
            view = memoryview(data)
            while view:
                view = view[os.write(self._fd, view) :]

        await trio.to_thread.run_sync(write, abandon_on_cancel=True)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class PipeReader:
    """The reading end. It is an async context manager, which closes the end."""

    def __init__(self, stream: trio.lowlevel.FdStream) -> None:
        self._stream = stream

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(self, *_: object) -> None:
        await self._stream.aclose()

    def fileno(self) -> int:
        return self._stream.fileno()

    async def chunks(self) -> AsyncIterator[bytes]:
        while data := await self._stream.receive_some(_CHUNK):
            yield bytes(data)


@contextlib.asynccontextmanager
async def pipe() -> AsyncIterator[tuple[PipeReader, PipeWriter]]:
    read, write = os.pipe2(os.O_CLOEXEC)
    with contextlib.suppress(OSError):
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, _SIZE)
    writer = PipeWriter(write)
    async with trio.lowlevel.FdStream(read) as stream:
        try:
            yield PipeReader(stream), writer
        finally:
            writer.close()
