"""The Protocol through which the routes of builds use a builder. The builder is the service `build`, if daemon.json selects
this service."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from typing import Protocol

from orlop_engine.restrictions import Restrictions
from orlop_kernel.http.messages import RawStream

__all__ = ["Builder", "CacheRecord", "Pruned"]


class CacheRecord(Protocol):
    """A record of the build cache. Times are seconds since 1970, 0 for never."""

    @property
    def id(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def parents(self) -> Sequence[str]: ...
    @property
    def in_use(self) -> bool: ...
    @property
    def shared(self) -> bool: ...
    @property
    def size(self) -> int: ...
    @property
    def created(self) -> float: ...
    @property
    def last_used(self) -> float: ...
    @property
    def uses(self) -> int: ...


class Pruned(Protocol):
    @property
    def ids(self) -> Sequence[str]: ...
    @property
    def size(self) -> int: ...


class Builder(Protocol):
    async def serve(
        self, kind: str, headers: Mapping[str, str], peer: str, stream: RawStream, restrictions: Restrictions
    ) -> None:
        """Serve a client's connection after the upgrade, until it ends. `kind` is "grpc" or "session"."""
        ...

    async def build(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, Sequence[str]],
        peer: str,
        body: AsyncGenerator[bytes, None],
        restrictions: Restrictions,
    ) -> AsyncIterator[bytes]:
        """The classic endpoint, to which a client sends the context as body. Returns the body of the answer once the answer
        has begun. An error before the beginning is answered with its HTTP status."""
        ...

    async def usage(self) -> Sequence[CacheRecord]:
        """The records of the build cache, of all callers."""
        ...

    async def prune(
        self,
        filters: Mapping[str, Sequence[str]],
        restrictions: Restrictions,
        *,
        everything: bool,
        reserved: int,
        maximum: int,
        free: int,
    ) -> Pruned:
        """Remove unused records that the caller may use. Limits are in bytes; 0 means no limit."""
        ...

    async def cancel(self, build: str, restrictions: Restrictions) -> None:
        """End a build of the caller's domain. It is no error if there is no build with this id."""
        ...
