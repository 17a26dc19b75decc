"""Implements `contracts.Solver`."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.cache.collect import Collector, Limits
from orlop_build_dockerfile.cache.strays import sweep
from orlop_build_dockerfile.contracts import Backend, Build, CacheRecord, Settings
from orlop_build_dockerfile.export import KINDS

from .capabilities import CAPABILITIES
from .core import Core
from .job import SolverJob

__all__ = ["LLBSolver", "open_solver"]

_CLOSING = 60.0


class LLBSolver:
    """Implements `contracts.Solver`. `open_solver` makes it."""

    capabilities: Mapping[str, str] = CAPABILITIES
    exports: Sequence[str] = KINDS

    def __init__(self, core: Core, nursery: trio.Nursery) -> None:
        self.core, self._nursery = core, nursery
        self.collector = Collector(core.records, core.settings)

    @asynccontextmanager
    async def open(self, build: Build) -> AsyncIterator[SolverJob]:
        job = SolverJob(self.core, build, self._nursery)
        try:
            yield job
        finally:
            with trio.move_on_after(_CLOSING, shield=True):
                await job.close()
            self.core.records.flush_soon(self._nursery)
            self.collector.wake()

    async def usage(self, filters: Sequence[str]) -> Sequence[CacheRecord]:
        return await self.collector.usage(filters)

    def prune(
        self,
        filters: Sequence[str],
        *,
        all: bool,
        keep_seconds: float,
        keep_bytes: int,
        reserved: int = 0,
        free: int = 0,
    ) -> AsyncGenerator[CacheRecord, None]:
        return self.collector.prune(
            Limits(
                filters=filters,
                everything=all,
                keep_seconds=keep_seconds,
                reserved=reserved,
                maximum=keep_bytes,
                free=free,
            )
        )


@asynccontextmanager
async def open_solver(backend: Backend, settings: Settings) -> AsyncIterator[LLBSolver]:
    """A solver, with its cache read and compared with the backend's snapshots. `settings.root` must exist. The calling
    process must have its own mount namespace."""
    umask = os.umask(0)  # the modes of files in images are set explicitly
    async with trio.open_nursery() as nursery:
        core = Core(backend, settings, nursery)
        await trio.to_thread.run_sync(_tidy, core)
        await core.records.open()
        solver = LLBSolver(core, nursery)
        if settings.collect:
            nursery.start_soon(solver.collector.run)
        try:
            yield solver
        finally:
            nursery.cancel_scope.cancel()
            with trio.move_on_after(_CLOSING, shield=True):
                await core.records.close()
            os.umask(umask)


def _tidy(core: Core) -> None:
    """Remove leftovers of a killed builder: mount points, secrets of steps, directories without a record."""
    sweep(core.directory, os.path.dirname(core.runtime))
    os.makedirs(core.runtime, 0o700, exist_ok=True)
