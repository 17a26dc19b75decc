"""Registers the engine's check, and combines its parts: gather, compare, repair."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orlop_kernel.config as kernel
from orlop_engine.config import Config
from orlop_engine.drivers import Drivers
from orlop_engine.engine import Engine
from orlop_engine.service import EngineService
from orlop_kernel.kinds import Services
from orlop_kernel.store import Examined
from orlop_sdk import Register, hookimpl
from orlop_sdk.findings import Finding

from . import debug, live
from .compare import compare
from .facts import Facts
from .gather import gather
from .repair import Repairs

__all__ = ["EngineCheck", "EngineCheckPlugin"]


@hookimpl
def orlop_check(register: Register) -> None:
    register("engine", EngineCheckPlugin)


class EngineCheckPlugin:
    """Implements CheckPlugin."""

    @asynccontextmanager
    async def open(self, config: kernel.Config, services: Services) -> AsyncIterator[EngineCheck]:
        """See CheckPlugin. Uses the drivers of the running engine; without a running engine, loads its own drivers and
        closes them."""
        service = services.get("engine")
        if isinstance(service, EngineService):
            yield EngineCheck(service.engine.config, service.engine.drivers, service.engine)
            return
        own = Config.of(config)
        drivers = Drivers(own)
        try:
            yield EngineCheck(own, drivers, None)
        finally:
            await drivers.close()


class EngineCheck:
    """Implements Check. `engine` is None when no daemon is running."""

    def __init__(self, config: Config, drivers: Drivers, engine: Engine | None) -> None:
        self._config, self._drivers, self._engine = config, drivers, engine
        self._storage_name = engine.storage_name if engine else config.effective_storage_driver
        self._damaged: frozenset[str] = frozenset()

    async def _gather(self, database: Examined, deep: bool) -> Facts:
        serving = self._engine is not None
        return await gather(self._config, self._drivers, self._storage_name, database, serving=serving, deep=deep)

    async def examine(self, database: Examined, *, deep: bool) -> list[Finding]:
        """See Check. With `deep`, blobs are hashed. A damaged blob is then also reported by later checks without `deep`, as
        long as it exists."""
        if self._engine is not None:
            await self._engine.networks.wait_restored()  # until then, the host has the state of the previous daemon
        facts = await self._gather(database, deep)
        if deep:
            self._damaged = frozenset(digest for digest, blob in facts.blobs.items() if not blob.sound)
        damaged = self._damaged
        facts.blobs = {key: replace(blob, sound=blob.sound and key not in damaged) for key, blob in facts.blobs.items()}
        return compare(facts)

    def in_progress(self, finding: Finding) -> bool:
        """See Check."""
        return self._engine is not None and live.in_progress(self._engine, finding)

    async def repair(self, finding: Finding) -> bool:
        """See Check."""
        if finding.remedy is None:
            return False
        engine = self._engine
        repairs = live.LiveRepairs(engine) if engine else Repairs(self._config, self._drivers, self._storage_name)
        return await repairs.carry_out(finding.remedy)

    async def facts(self, database: Examined) -> dict[str, str]:
        """See Check."""
        return await debug.collect(self._config, self._drivers, await self._gather(database, deep=False))
