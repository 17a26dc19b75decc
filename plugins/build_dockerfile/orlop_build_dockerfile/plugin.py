"""The service `build`. The other modules of the package are imported when a client first builds an image."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

import trio

from orlop_kernel.kinds import Context, Service
from orlop_sdk import Register, hookimpl

from .directories import domains, root

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Mapping, Sequence

    from orlop_build_dockerfile.contracts import CacheRecord, Pruned
    from orlop_engine.restrictions import Restrictions
    from orlop_kernel.config import Config, Problem
    from orlop_kernel.http.messages import RawStream

    from .daemon.supervisor import Supervisor

__all__ = ["BuildPlugin", "BuildService"]


@hookimpl
def orlop_service(register: Register) -> None:
    register("build", BuildPlugin)


class BuildPlugin:
    """Implements ServicePlugin."""

    requires = ("engine",)

    def problems(self, config: Config) -> tuple[Problem, ...]:
        """There are none, because the keys check the configuration."""
        return ()

    def processes(self, config: Config) -> nullcontext[None]:
        """There are none, because the builder process starts on demand, and `shutdown` ends it."""
        return nullcontext()

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        """See ServicePlugin."""
        yield BuildService(context)


class BuildService(Service):
    """The builder, for front ends. The clients of each domain (`Restrictions.builds`) have a separate process and cache. The
    domain of all clients without restrictions is ""."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._supervisors: dict[str, Supervisor] = {}

    def _of(self, restrictions: Restrictions) -> Supervisor:
        found = self._of_domain(restrictions.builds.domain if restrictions.builds else "")
        found.scope.restrictions = restrictions
        return found

    def _of_domain(self, domain: str) -> Supervisor:
        if domain not in self._supervisors:
            from .daemon.supervisor import Supervisor

            self._supervisors[domain] = Supervisor(self._context, domain)
        return self._supervisors[domain]

    def _all(self) -> list[Supervisor]:
        """The supervisors of all domains that have a cache. A domain whose listener no longer exists gets no restrictions,
        because only its cache is used."""
        for domain in ("", *domains(self._context.config)):
            self._of_domain(domain)
        return list(self._supervisors.values())

    async def serve(
        self, kind: str, headers: Mapping[str, str], peer: str, stream: RawStream, restrictions: Restrictions
    ) -> None:
        """Serve a client's connection after the upgrade ("grpc" or "session"), until it ends."""
        await self._of(restrictions).serve(kind, headers, peer, stream)

    async def build(
        self,
        headers: Mapping[str, str],
        query: Mapping[str, Sequence[str]],
        peer: str,
        body: AsyncGenerator[bytes, None],
        restrictions: Restrictions,
    ) -> AsyncIterator[bytes]:
        """The classic endpoint, to which a client sends the context as body. Returns the body of the answer, once the answer
        has begun."""
        return await self._of(restrictions).build(headers, query, peer, body)

    async def usage(self) -> Sequence[CacheRecord]:
        """The records of the build cache, of all domains."""
        return [record for each in self._all() for record in await each.usage()]

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
        """Remove unused records of the client's domain, or of all domains for a client without restrictions. Limits are in
        bytes for each domain; 0 means no limit."""
        from .contracts import Pruned

        ids, size = list[str](), 0
        for each in [self._of(restrictions)] if restrictions.builds else self._all():
            pruned = await each.prune(filters, everything=everything, reserved=reserved, maximum=maximum, free=free)
            ids += pruned.ids
            size += pruned.size
        return Pruned(ids, size)

    async def cancel(self, build: str, restrictions: Restrictions) -> None:
        """End a build. It is no error if there is no build with this id."""
        await self._of(restrictions).cancel(build)

    def is_running(self, domain: str) -> bool:
        """Whether a builder process of the domain runs."""
        return domain in self._supervisors and self._supervisors[domain].is_running

    async def without_builder(self, domain: str, work: Callable[[], None]) -> None:
        """Do blocking work on the domain's directories. Raises `Conflict` while a builder process uses them."""
        await self._of_domain(domain).without_process(work)

    def serving(self) -> None:
        """See Service: remove leftovers of builds that a crash or a power cut has ended."""
        config = self._context.config
        for domain in ("", *domains(config)):
            if os.path.isdir(root(config, domain)):
                self._context.nursery.start_soon(self._of_domain(domain).tidy)

    def stop_limit(self) -> float:
        """See Service: the time that `Supervisor.close` may take."""
        return 25.0 if any(each.is_running for each in self._supervisors.values()) else 0.0

    async def shutdown(self) -> None:
        """See Service."""
        async with trio.open_nursery() as nursery:
            for each in self._supervisors.values():
                nursery.start_soon(each.close)
