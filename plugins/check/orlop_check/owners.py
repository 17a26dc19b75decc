"""Calls the checks of all selected plugins, one after the other, with the same snapshot of the database."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio

from orlop_kernel import assembly
from orlop_kernel.config import Config
from orlop_kernel.failures import as_orlop_error
from orlop_kernel.kinds import Check, Services
from orlop_kernel.store import Examined, database_path, examine
from orlop_sdk.findings import ERROR, Finding

from . import bundle, database

if TYPE_CHECKING:
    from orlop_sdk.findings import Remedy

__all__ = ["Owned", "Owners"]


class Owned(NamedTuple):
    """A finding and the name of the check that returned it; "" for a finding about the database."""

    owner: str
    finding: Finding

    @property
    def identity(self) -> tuple[str, tuple[str, str, str]]:
        return self.owner, self.finding.identity


class Owners:
    """The open checks, by the names of their plugins."""

    def __init__(self, data_root: str, checks: Mapping[str, Check]) -> None:
        self._path, self._checks = database_path(data_root), checks

    @classmethod
    @asynccontextmanager
    async def opened(cls, config: Config, services: Services) -> AsyncIterator[Owners]:
        """`services` is empty when no daemon is running."""
        async with AsyncExitStack() as stack:
            plugins = assembly.check_plugins(config)
            checks = {}
            for name, plugin in plugins.items():
                checks[name] = await stack.enter_async_context(plugin.open(config, services))
                assembly.check_protocol(checks[name], Check, f'check plugin "{name}"')
            yield cls(config.data_root, checks)

    async def _database(self) -> Examined:
        return await trio.to_thread.run_sync(examine, self._path)

    async def examine(self, *, deep: bool) -> list[Owned]:
        """All findings. The failure of a check is a finding, too. Raises `Unavailable` if there is no database."""
        rows = await self._database()
        found = [Owned("", finding) for finding in database.compare(rows)]
        for name, check in self._checks.items():
            try:
                found += [Owned(name, finding) for finding in await check.examine(rows, deep=deep)]
            except Exception as error:
                text = str(as_orlop_error(error, "cannot examine it"))
                found.append(Owned(name, Finding(severity=ERROR, area="check", object=f"check {name}", text=text)))
        return found

    def in_progress(self, found: Owned) -> bool:
        """Whether an operation in progress may explain the finding."""
        return bool(found.owner) and self._checks[found.owner].in_progress(found.finding)

    async def repair(self, found: Iterable[Owned]) -> list[str]:
        """Execute every remedy once, even if other remedies fail. Returns a line about each remedy and its result."""
        done: list[str] = []
        taken: set[tuple[str, Remedy]] = set()
        for owner, finding in found:
            if finding.remedy is None or (owner, finding.remedy) in taken:
                continue
            taken.add((owner, finding.remedy))
            what = f"{finding.object}: {finding.repair}"
            try:
                if await self._checks[owner].repair(finding):
                    done.append(f"{what}: done")
            except Exception as error:
                done.append(f"{what}: failed: {as_orlop_error(error, 'cannot repair')}")
        return done

    async def facts(self, *, serving: bool) -> dict[str, str]:
        """The daemon's part of a debug bundle."""
        rows = await self._database()
        found = await trio.to_thread.run_sync(lambda: bundle.host(rows, serving=serving))
        for name, check in self._checks.items():
            try:
                found |= await check.facts(rows)
            except Exception as error:
                found[f"check-{name}.txt"] = f"cannot be read: {as_orlop_error(error, 'cannot collect it')}\n"
        return found | bundle.tasks() if serving else found
