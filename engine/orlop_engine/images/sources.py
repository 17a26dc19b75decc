"""The endpoints that one pull uses: mirrors in order, then the registry.

Each request goes to the first endpoint that may answer it (`capabilities`) and has not failed during this pull. A mirror
that did not answer is recorded in `Outages`, and other pulls skip it for some time. The last endpoint is always tried. Only
endpoints with the capability `resolve` are asked for the digest of a name. Content is fetched by digest, so any mirror may
provide it.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

import trio

from orlop_sdk import DriverError, OrlopError

from .endpoints import Capability, Endpoint, Outages
from .registry_errors import RegistryError

if TYPE_CHECKING:
    from .registry import Registry

__all__ = ["Connect", "Sources"]

log = logging.getLogger("orlop.images")

T = TypeVar("T")
Connect = Callable[[Endpoint], AbstractAsyncContextManager["Registry"]]


class Sources:
    """The endpoints of one pull. `connect` opens an endpoint when it is first needed. Use the methods only inside a `with`
    block of `borrowed`."""

    def __init__(self, endpoints: Sequence[Endpoint], connect: Connect, outages: Outages) -> None:
        self._endpoints, self._connect, self._outages = endpoints, connect, outages
        self._failed: set[Endpoint] = set()
        self._open: dict[Endpoint, Registry] = {}
        self._stack = AsyncExitStack()
        self._lock = trio.Lock()
        self._users = 0
        self._closed = False
        self._served: dict[str, Endpoint] = {}
        """Digest of a blob -> the endpoint that sent its bytes."""

    @asynccontextmanager
    async def borrowed(self) -> AsyncIterator[None]:
        """Keep the connections open while the `with` block runs. Several pulls may share a download. The download must
        continue even if the pull that started the download ends. The connections are closed when the last block ends."""
        if self._closed:
            raise RegistryError("cannot use the registry: its connections were closed", retry=True)
        self._users += 1
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._closed = True
                await self._stack.aclose()

    async def manifest(self, reference: str) -> tuple[str, bytes]:
        """Media type and bytes of a manifest or index, by tag or digest."""
        return await self._ask(_needed(reference), lambda registry: registry.manifest(reference))

    async def tags(self) -> list[str]:
        return await self._ask("resolve", lambda registry: registry.tags())

    @asynccontextmanager
    async def blob(self, digest: str, offset: int = 0) -> AsyncIterator[tuple[int, AsyncIterator[bytes]]]:
        """A blob from `offset` on, or from the start. Returns (offset of the first byte, pieces). After a failure, the
        next call may ask another endpoint, because all endpoints have the same bytes for a digest."""

        async def open_blob(registry: Registry) -> tuple[AsyncExitStack, tuple[int, AsyncIterator[bytes]], Endpoint]:
            async with AsyncExitStack() as stack:
                found = await stack.enter_async_context(registry.blob(digest, offset))
                return stack.pop_all(), found, registry.endpoint
            raise AssertionError("unreachable")

        stack, found, endpoint = await self._ask("pull", open_blob)
        self._served[digest] = endpoint
        try:
            async with stack:
                yield found
        except RegistryError as error:
            self._fail(endpoint, error)
            raise

    def reject(self, digest: str) -> bool:
        """Called when a blob's content does not match its digest. Returns whether another endpoint can be asked for the
        blob."""
        endpoint = self._served.get(digest)
        if endpoint is None or endpoint == self._candidates("pull")[-1]:
            return False
        self._fail(endpoint, DriverError(f"it sent wrong content for {digest}"))
        return True

    def _candidates(self, capability: Capability) -> list[Endpoint]:
        return [endpoint for endpoint in self._endpoints if capability in endpoint.capabilities]

    def _usable(self, capability: Capability) -> Iterator[Endpoint]:
        candidates = self._candidates(capability)
        for endpoint in candidates:
            last = endpoint is candidates[-1]
            if last or (endpoint not in self._failed and not (endpoint.mirror and self._outages.has(endpoint))):
                yield endpoint

    async def _ask(self, capability: Capability, request: Callable[[Registry], Awaitable[T]]) -> T:
        """The result of the first endpoint where the request succeeds. Skips mirrors that fail. Uses plain HTTP only for
        insecure registries, and only if the server did not answer over TLS."""
        error: OrlopError = DriverError(
            f"no registry to {capability} from: no host in hosts.toml has the capability {capability}"
        )
        for endpoint in self._usable(capability):
            try:
                result = await request(await self._registry(endpoint))
            except DriverError as failure:
                error = failure
                answered = not isinstance(failure, RegistryError) or failure.answered
                if answered and not endpoint.mirror:
                    raise
                self._fail(endpoint, failure)
                continue
            self._outages.clear(endpoint)
            return result
        raise error

    def _fail(self, endpoint: Endpoint, error: DriverError) -> None:
        """Skip an endpoint for the rest of this pull, unless it is the last endpoint. If it is a mirror that did not answer,
        other pulls skip it too."""
        if endpoint.mirror and endpoint not in self._failed:
            log.warning("cannot use mirror %s: %s", endpoint.url, error)
        if endpoint.mirror and isinstance(error, RegistryError) and (not error.answered or error.status >= 500):
            self._outages.record(endpoint)
        self._failed.add(endpoint)

    async def _registry(self, endpoint: Endpoint) -> Registry:
        async with self._lock:
            if endpoint not in self._open:
                self._open[endpoint] = await self._stack.enter_async_context(self._connect(endpoint))
            return self._open[endpoint]


def _needed(reference: str) -> Capability:
    return "pull" if ":" in reference else "resolve"
