"""The part of the check for a running engine. It decides whether an operation in progress explains a finding. Repairs are
made by the engine, or while the container's lock is held."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_engine.containers import connections, removal
from orlop_engine.containers.container import Container
from orlop_sdk.findings import Finding, Remedy

from .repair import Repairs

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["LiveRepairs", "in_progress"]


def in_progress(engine: Engine, finding: Finding) -> bool:
    """Whether an operation in progress may explain the finding."""
    index, ident = engine.index, finding.id
    if not ident:
        return False
    if engine.networks.in_flight(ident):
        return True
    if ident in index.pending_removal or any(key.startswith(ident) for key in index.pending_removal):
        return True
    if finding.remedy is not None and finding.remedy.step == "kill":
        pid = int(finding.remedy.subject.partition(" ")[0])
        items = [*index, *(engine.building.steps.running.values() if "building" in vars(engine) else ())]
        return any(item.run and item.run.monitor and item.run.monitor.pid == pid for item in items)
    if "building" in vars(engine) and _building(engine, ident):
        return True
    item = index.by_id.get(ident) or index.by_run_name(ident)
    if item is not None:
        return _changing(engine, item)
    return any(key.startswith(ident) for key in index.names.values() if key not in index)  # the container is being created


def _building(engine: Engine, about: str) -> bool:
    """Whether a build explains the finding. This is so if the finding is about a snapshot that a builder is using or that is
    being made durable, or about a running step."""
    building = engine.building
    if building.is_active(about) or building.snapshots.is_unsynced(about):
        return True
    return any(key.startswith(about) for key in building.steps.running)


def _changing(engine: Engine, item: Container) -> bool:
    run = item.run
    decided = run is None or run.settled.is_set() or (run.monitor is not None and run.monitor.silent)
    between = run is not None and not (decided and item.record.state.running)
    return item.lock.locked() or between or item.record.removing or item.id in engine.ports.prepared_sandboxes


class LiveRepairs(Repairs):
    """All repair steps, for a running engine."""

    def __init__(self, engine: Engine) -> None:
        super().__init__(engine.config, engine.drivers, engine.storage_name)
        self._engine = engine
        self.steps |= {
            "adopt-volumes": self._adopt_volumes,
            "collect": self._collect,
            "discard-container": self._discard_files,
            "repair-build": self._repair_build,
            "repair-network": self._repair_endpoint,
            "release-network": self._release_network,
        }

    async def _adopt_volumes(self, remedy: Remedy) -> None:
        await self._engine.volumes.adopt()

    async def _collect(self, remedy: Remedy) -> None:
        await self._engine.images.collect()

    async def _discard_files(self, remedy: Remedy) -> None:
        await removal.discard_files(self._engine.ports, remedy.subject)

    async def _repair_build(self, remedy: Remedy) -> None:
        await self._engine.building.repair(remedy.subject)

    async def _repair_endpoint(self, remedy: Remedy) -> None:
        """Repair an endpoint under its container's lock, so that the container neither exits nor changes its networks
        meanwhile."""
        ident = remedy.drift.id if remedy.drift else ""
        item = self._with_endpoint(ident)
        if item is None:
            await self._repair_network(remedy)
            return
        async with item.lock, item.network_lock:
            if self._with_endpoint(ident) is item:
                await self._repair_network(remedy)

    def _with_endpoint(self, ident: str) -> Container | None:
        """The running container that has this endpoint; None when there is none."""
        for item in self._engine.index:
            sandbox = item.record.sandbox
            if sandbox is not None and any(attached.endpoint.id == ident for attached in sandbox.endpoints):
                return item
        return None

    async def _release_network(self, remedy: Remedy) -> None:
        ports = self._engine.ports
        item = ports.index.by_id.get(remedy.subject)
        if item is None:
            return
        async with item.lock:
            if not item.record.state.running and item.run is None:
                await connections.release(ports, item)
                await ports.rows.save(item)
