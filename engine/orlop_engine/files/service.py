"""Operations on the files of containers, for front ends."""

from __future__ import annotations

from collections.abc import AsyncIterable, Sequence

from orlop_engine.containers.container import Container
from orlop_engine.containers.ports import Ports
from orlop_engine.images.policy import UNRESTRICTED, ImagePolicy
from orlop_engine.images.records import Image
from orlop_engine.images.references import Reference
from orlop_engine.types.containers import ContainerConfig
from orlop_monitor.unpack.request import Found

from . import archive, commit
from .archive import TarStream
from .commit import Committer

__all__ = ["Files"]


class Files:
    def __init__(self, ports: Ports, images: Committer) -> None:
        self._ports, self._images = ports, images

    async def look(self, container: Container, path: str) -> Found:
        return await archive.look(self._ports, container, path)

    async def pack(self, container: Container, path: str) -> tuple[Found, TarStream]:
        return await archive.pack(self._ports, container, path)

    async def place(
        self, container: Container, path: str, source: AsyncIterable[bytes], *, keep_kind: bool, own: bool
    ) -> None:
        await archive.place(self._ports, container, path, source, keep_kind=keep_kind, own=own)

    async def export(self, container: Container) -> TarStream:
        return await commit.export(self._ports, container)

    async def commit(
        self,
        container: Container,
        name: Reference | None,
        *,
        config: ContainerConfig | None,
        instructions_: Sequence[str],
        comment: str,
        author: str,
        pause: bool,
        policy: ImagePolicy = UNRESTRICTED,
    ) -> Image:
        return await commit.commit(
            self._ports,
            self._images,
            container,
            name,
            config=config,
            instructions_=instructions_,
            comment=comment,
            author=author,
            pause=pause,
            policy=policy,
        )
