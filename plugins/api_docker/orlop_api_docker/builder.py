"""The Protocol by which the routes of builds use a builder: the service `build`, if daemon.json names it."""

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
        """The classic endpoint: the request's body is the context. Returns the body of the answer once the answer has begun.
        An error before that is answered with its own status."""
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
        """Remove records that are not in use and that the caller may use. Limits are bytes, 0 for none."""
        ...

    async def cancel(self, build: str, restrictions: Restrictions) -> None:
        """End a build of the caller's domain. No error if there is none with this id."""
        ...
