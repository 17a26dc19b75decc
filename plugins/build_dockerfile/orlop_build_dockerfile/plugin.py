"""The service `build`. The rest of the package is imported when a client first builds something."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from typing import TYPE_CHECKING

from orlop_kernel.kinds import Context, Service
from orlop_sdk import Register, hookimpl

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Mapping, Sequence

    from orlop_build_dockerfile.contracts import CacheRecord, Pruned
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
        """None: what the configuration says is checked with its keys."""
        return ()

    def processes(self, config: Config) -> nullcontext[None]:
        """The builder process starts on demand, and is ended by `shutdown`."""
        return nullcontext()

    @asynccontextmanager
    async def open(self, context: Context) -> AsyncIterator[Service]:
        """See ServicePlugin."""
        yield BuildService(context)


class BuildService(Service):
    """The builder, as front ends use it."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._supervisor: Supervisor | None = None

    @property
    def supervisor(self) -> Supervisor:
        if self._supervisor is None:
            from .daemon.supervisor import Supervisor

            self._supervisor = Supervisor(self._context)
        return self._supervisor

    async def serve(self, kind: str, headers: Mapping[str, str], peer: str, stream: RawStream) -> None:
        """Serve a client's connection after the upgrade ("grpc" or "session"), until it ends."""
        await self.supervisor.serve(kind, headers, peer, stream)

    async def build(
        self, headers: Mapping[str, str], query: Mapping[str, Sequence[str]], peer: str, body: AsyncGenerator[bytes, None]
    ) -> AsyncIterator[bytes]:
        """The classic endpoint: the request's body is the context. Returns the body of the answer, once it has begun."""
        return await self.supervisor.build(headers, query, peer, body)

    async def usage(self) -> Sequence[CacheRecord]:
        """The records of the build cache."""
        return await self.supervisor.usage()

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, everything: bool, reserved: int, maximum: int, free: int
    ) -> Pruned:
        """Remove what is not in use. Limits are bytes, 0 for none."""
        return await self.supervisor.prune(filters, everything=everything, reserved=reserved, maximum=maximum, free=free)

    async def cancel(self, build: str) -> None:
        """End a build. No error if there is none with this id."""
        await self.supervisor.cancel(build)

    async def shutdown(self) -> None:
        """See Service."""
        if self._supervisor is not None:
            await self._supervisor.close()
