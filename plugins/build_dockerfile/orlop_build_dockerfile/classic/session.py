"""The client of a classic build: it has sent its context, and answers nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Credentials, LocalDirectory, Transferred, Vertex

__all__ = ["RequestSession"]

_PIECE = 256 << 10


class RequestSession:
    """Implements `contracts.Session`. The context can be read once: its vertex is shared by all who need it."""

    shared_key = ""

    def __init__(self, id: str, body: trio.abc.ReceiveStream, credentials: Mapping[str, Credentials]) -> None:
        self.id = id
        self._body, self._credentials, self._taken = body, credentials, False

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
        while piece := await self._body.receive_some(_PIECE):
            yield bytes(piece)

    async def send_directory(self, exporter: str, directory: int) -> None:
        raise BuildFailed("the client cannot receive files")

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        raise BuildFailed("the client cannot receive files")
