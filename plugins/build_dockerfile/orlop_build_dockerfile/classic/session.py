"""The client of a classic build, which has sent its context and answers no other requests."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Credentials, LocalDirectory, Transferred, Vertex
from orlop_build_dockerfile.dockerfile.archives import HEAD, begins_archive

__all__ = ["RequestSession"]

_PIECE = 256 << 10


class RequestSession:
    """Implements `contracts.Session`. The context can be read once: all steps that need it share its vertex."""

    shared_key = ""

    def __init__(self, id: str, body: trio.abc.ReceiveStream, credentials: Mapping[str, Credentials]) -> None:
        self.id = id
        self._body, self._credentials, self._taken = body, credentials, False
        self._head = b""

    async def check_archive(self) -> None:
        """Read the beginning of the body. Raises `BuildFailed` unless an archive with some file begins there."""
        while len(self._head) < HEAD and (piece := await self._body.receive_some(_PIECE)):
            self._head += bytes(piece)
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

    @asynccontextmanager
    async def upload(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if self._taken:
            raise BuildFailed("the context can be read only once")
        self._taken = True
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
