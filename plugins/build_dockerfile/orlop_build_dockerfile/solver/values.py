"""The results of vertices: file systems with keys. Results with equal keys are interchangeable.

A value is computed as late as possible. For example, the layers of an image are not pulled if every step on top of it is in
the cache.
"""

from __future__ import annotations

import abc
import contextlib
import hashlib
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Protocol

from orlop_build_dockerfile.cache.content import Selection
from orlop_build_dockerfile.cache.records import Record
from orlop_build_dockerfile.contracts import Base, BuildFailed
from orlop_build_dockerfile.dockerfile.references import parse_reference

__all__ = ["Empty", "Image", "Kept", "Made", "Value", "join_key", "registry_of"]

Digests = list[tuple[str, str]]


def join_key(*parts: str | bytes) -> str:
    digest = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogateescape") if isinstance(part, str) else part
        digest.update(len(data).to_bytes(8, "big") + data)
    return digest.hexdigest()


def registry_of(name: str) -> str:
    """The registry of an image's name, in the form that clients use for credentials; "" if the name is invalid."""
    try:
        return parse_reference(name).domain
    except ValueError:
        return ""


class Reader(Protocol):
    """The interface by which values are read (`core.Core`)."""

    def read(self, snapshot: str) -> contextlib.AbstractAsyncContextManager[int]: ...

    async def digests(self, snapshot: str, wanted: Selection) -> Digests: ...


class Value(Protocol):
    by_content: bool
    """Whether the key is known without reading all of the content."""

    async def key(self) -> str: ...

    async def snapshot(self) -> str:
        """The committed snapshot; "" for an empty file system. If the snapshot does not exist yet, this method makes it."""
        ...

    async def digests(self, wanted: Selection) -> Digests:
        """Returns (name, digest) of the selected files."""
        ...

    def view(self) -> contextlib.AbstractAsyncContextManager[int]:
        """A file descriptor of the root, for reading."""
        ...


class _Snapshot(abc.ABC):
    by_content = False

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    @abc.abstractmethod
    async def snapshot(self) -> str: ...

    async def digests(self, wanted: Selection) -> Digests:
        return await self._reader.digests(await self.snapshot(), wanted)

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[int]:
        async with self._reader.read(await self.snapshot()) as fd:
            yield fd


class Empty(_Snapshot):
    async def key(self) -> str:
        return "scratch"

    async def snapshot(self) -> str:
        return ""


class Kept(_Snapshot):
    """A snapshot that a failed command has left."""

    def __init__(self, reader: Reader, snapshot: str) -> None:
        super().__init__(reader)
        self._key = snapshot

    async def key(self) -> str:
        return f"kept:{self._key}"

    async def snapshot(self) -> str:
        return self._key


class Made(_Snapshot):
    """The output of a step. The build has a lease for the record."""

    def __init__(self, reader: Reader, record: Record, output: int) -> None:
        super().__init__(reader)
        self.record, self._output = record, output

    async def key(self) -> str:
        return f"{self.record.id}:{self._output}"

    async def snapshot(self) -> str:
        if self._output not in self.record.snapshots:
            raise BuildFailed(f"the step has no output {self._output}")
        return self.record.snapshots[self._output]


class Image(_Snapshot):
    """An image whose layers are pulled by `pull` when they are needed. `base` contains the values that are known without the
    layers."""

    def __init__(self, reader: Reader, base: Base, platform: str, pull: Callable[[], Awaitable[Base]]) -> None:
        super().__init__(reader)
        self.base, self._platform, self._pull = base, platform, pull
        self.is_fetched = False

    async def key(self) -> str:
        return join_key("image", self.base.digest, self._platform)

    async def snapshot(self) -> str:
        return (await self.fetched()).snapshot

    async def fetched(self) -> Base:
        found = await self._pull()
        self.is_fetched = True
        return found
