"""The check beside a running daemon, whose operations are in progress: a container may be starting or half removed.

The check is repeated with growing pauses until there are no findings or the pauses are used up. Findings about a container
that is being changed are not reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import trio

from orlop_engine.containers.container import Container
from orlop_kernel.store import DropQuarantined
from orlop_sdk import InvalidParameter

from . import bundle
from .compare import compare
from .findings import INFO, Finding, Remedy, report
from .gather import gather
from .repair import Repairs

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["Checker"]

_PAUSES = (0.1, 0.3, 0.6, 1.2)  # a link may remain for a second, the record of an exit for less


class Checker:
    """Runs one check or repair at a time: two repairs must not overlap."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = trio.Lock()
        self._damaged: frozenset[str] = frozenset()

    async def check(self, *, deep: bool = False, facts: bool = False) -> dict[str, Any]:
        """The answer of `GET /orlop/check`; `facts` adds the daemon's part of a debug bundle."""
        async with self._turn:
            answer = report(await self._steady(deep))
            if facts:
                engine = self._engine
                seen = await gather(engine.config, engine.drivers, engine.storage_name, serving=True)
                answer["facts"] = await bundle.collect(engine.config, engine.drivers, seen)
            return answer

    async def repair(self, *, deep: bool = False, forget: Collection[str] = ()) -> dict[str, Any]:
        """Check, repair, check again. Also drops the quarantined rows that `forget` names ("table/key")."""
        quarantined = {f"{table}/{key}": (table, key) for table, key, _ in self._engine.store.quarantined()}
        if unknown := [name for name in forget if name not in quarantined]:
            raise InvalidParameter(f"cannot drop row {unknown[0]}: it is not quarantined")
        async with self._turn:
            done = [await self._forget(*quarantined[name]) for name in forget]
            found = await self._steady(deep)
            done += await self._repairs().carry_out(found)
            return report(await self._recheck(found), done)

    # --- checking ---------------------------------------------------------------------------------------------------------

    async def _steady(self, deep: bool) -> list[Finding]:
        engine = self._engine
        await engine.networks.wait_restored()  # before that, the host still has the last daemon's state
        facts = await gather(engine.config, engine.drivers, engine.storage_name, serving=True, deep=deep)
        found = compare(facts)
        self._damaged = frozenset(digest for digest, blob in facts.blobs.items() if not blob.sound)
        for pause in _PAUSES:
            if all(finding.severity == INFO for finding in found):
                break
            await trio.sleep(pause)
            found = await self._recheck(found)
        return [finding for finding in found if not self._in_progress(finding)]

    async def _recheck(self, found: Iterable[Finding]) -> list[Finding]:
        """The findings that still hold. Blobs are not hashed again: damaged ones count as damaged while they exist."""
        engine, before = self._engine, {finding.identity for finding in found}
        facts = await gather(engine.config, engine.drivers, engine.storage_name, serving=True)
        facts.blobs = {key: replace(blob, sound=key not in self._damaged) for key, blob in facts.blobs.items()}
        return [finding for finding in compare(facts) if finding.identity in before]

    def _in_progress(self, finding: Finding) -> bool:
        """Whether an operation in progress may explain the finding."""
        containers, about = self._engine.containers, finding.container
        if not about:
            return False
        if self._engine.networks.in_flight(about):
            return True
        if about in containers.pending_removal or any(key.startswith(about) for key in containers.pending_removal):
            return True
        if finding.remedy is not None and finding.remedy.step == "kill":
            pid = int(finding.remedy.subject.partition(" ")[0])
            return any(item.run and item.run.monitor and item.run.monitor.pid == pid for item in containers.index.values())
        item = containers.index.get(about) or containers.by_run_name(about)
        if item is not None:
            return self._changing(item)
        return any(
            key.startswith(about) for key in containers.names.values() if key not in containers.index
        )  # the container is being created

    def _changing(self, item: Container) -> bool:
        run = item.run
        decided = run is None or run.settled.is_set() or (run.monitor is not None and run.monitor.silent)
        between = run is not None and not (decided and item.record.state.running)
        return item.lock.locked() or between or item.record.removing or item.id in self._engine.containers.prepared_sandboxes

    # --- repairing ----------------------------------------------------------------------------------------------------

    def _repairs(self) -> Repairs:
        engine = self._engine
        repairs = Repairs(engine.config, engine.drivers, engine.storage_name)
        repairs.steps |= {
            "adopt-volumes": self._adopt_volumes,
            "collect": self._collect,
            "discard-container": self._discard_container,
            "repair-network": self._repair_network,
            "release-network": self._release_network,
        }
        return repairs

    async def _adopt_volumes(self, remedy: Remedy) -> None:
        await self._engine.volumes.adopt()

    async def _collect(self, remedy: Remedy) -> None:
        await self._engine.images.collect()

    async def _discard_container(self, remedy: Remedy) -> None:
        await self._engine.containers.discard_files(remedy.subject)

    async def _repair_network(self, remedy: Remedy) -> None:
        """Repair an endpoint under its container's lock, so that the container neither exits nor changes its networks
        meanwhile."""
        driver: Any = await self._engine.drivers.network(remedy.subject)
        ident = remedy.drift.id if remedy.drift else ""
        item = self._with_endpoint(ident)
        if item is None:
            await driver.repair(remedy.drift)
            return
        async with item.lock, item.network_lock:
            if self._with_endpoint(ident) is item:
                await driver.repair(remedy.drift)

    def _with_endpoint(self, ident: str) -> Container | None:
        """The running container that has this endpoint; None when there is none."""
        for item in self._engine.containers.index.values():
            sandbox = item.record.sandbox
            if sandbox is not None and any(attached.endpoint.id == ident for attached in sandbox.endpoints):
                return item
        return None

    async def _release_network(self, remedy: Remedy) -> None:
        containers = self._engine.containers
        item = containers.index.get(remedy.subject)
        if item is None:
            return
        async with item.lock:
            if not item.record.state.running and item.run is None:
                await containers.release_network(item)
                await containers.save(item)

    async def _forget(self, table: str, key: str) -> str:
        await self._engine.store.commit([DropQuarantined(table, key)])
        return f"quarantined row {table}/{key}: dropped"
