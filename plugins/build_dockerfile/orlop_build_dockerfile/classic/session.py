"""The client of a classic build. This client has sent its context, and answers no other requests."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Credentials, LocalDirectory, Streamed, Transferred, Vertex
from orlop_build_dockerfile.dockerfile.archives import HEAD, begins_archive, begins_plain_archive

__all__ = ["RequestSession"]

_PIECE = 256 << 10
_LONG = 1 << 20


class RequestSession:
    """Implements `contracts.Session`. The context can be read only once. This suffices, because all steps that need the
    context share its vertex."""

    shared_key = ""
    upload_owner: tuple[int, int] | None = (0, 0)  # as in dockerd's classic builder, whose COPY makes all files root's

    def __init__(self, id: str, body: trio.abc.ReceiveStream, credentials: Mapping[str, Credentials]) -> None:
        self.id = id
        self._body, self._credentials, self._taken = body, credentials, False
        self._head = b""

    async def _read_head(self, size: int) -> None:
        while len(self._head) < size and (piece := await self._body.receive_some(_PIECE)):
            self._head += bytes(piece)

    async def check_archive(self) -> None:
        """Read the beginning of the body. Raises `BuildFailed` if the body is not an archive with at least one file."""
        await self._read_head(HEAD)
        if not self._head.strip(b"\0"):
            raise BuildFailed("failed to read dockerfile: open Dockerfile: no such file or directory")
        if not begins_archive(self._head):
            raise BuildFailed("the body of the request is not a tar archive", code=3)

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        raise BuildFailed(f"the client has no directory {wanted.name}: it sent its context as a tar", code=5)

    async def secret(self, id: str) -> bytes | None:
        return None

    async def credentials(self, host: str) -> Credentials | None:
        return self._credentials.get(host)

    async def has_ssh_agent(self, id: str) -> bool:
        return False

    async def ssh_agent(self, id: str, connection: int) -> None:
        raise BuildFailed("the client has no SSH agent", code=5)

    async def stream(self) -> Streamed | None:
        if self._taken or not begins_plain_archive(self._head) or not isinstance(self._body, trio.SocketStream):
            return None
        await self._read_head(_LONG)
        return _Streamed(self, self._head, self._body) if len(self._head) >= _LONG else None

    def take(self) -> None:
        """Called before the body is read, because the body can be read only once."""
        if self._taken:
            raise BuildFailed("the context can be read only once")
        self._taken = True

    @asynccontextmanager
    async def upload(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        self.take()
        yield self._pieces()

    async def _pieces(self) -> AsyncIterator[bytes]:
        head, self._head = self._head, b""
        if head:
            yield head
        while piece := await self._body.receive_some(_PIECE):
            yield bytes(piece)

    async def send_directory(self, exporter: str, directory: int, *, below: str = "", time: int | None = None) -> None:
        raise BuildFailed("the client cannot receive files")

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        raise BuildFailed("the client cannot receive files")

    async def has_content(self, store: str, digest: str) -> bool:
        return False

    async def write_content(self, store: str, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        raise BuildFailed("the client cannot receive files")

    @asynccontextmanager
    async def read_content(self, store: str, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        raise BuildFailed("the client has no content store", code=5)
        yield self._pieces()


class _Streamed:
    """Implements `contracts.Streamed`."""

    def __init__(self, session: RequestSession, head: bytes, body: trio.SocketStream) -> None:
        self._session, self.head, self._body = session, head, body

    async def pour(self, pipe: int) -> None:
        async with trio.lowlevel.FdStream(pipe) as sink:
            self._session.take()
            await sink.send_all(self.head)
            source = self._body.socket.fileno()
            while True:
                await trio.lowlevel.wait_readable(source)
                await trio.lowlevel.wait_writable(pipe)
                try:
                    if not os.splice(source, pipe, _LONG, flags=os.SPLICE_F_NONBLOCK):
                        return
                except BlockingIOError:
                    continue

    async def skip(self) -> None:
        with suppress(trio.BrokenResourceError):
            while await self._body.receive_some(_PIECE):
                pass
