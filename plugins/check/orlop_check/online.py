"""The check in a running daemon. Operations may be in progress, so an object may be incomplete.

The check is repeated with growing pauses until there are no findings or the pauses are used up. Findings that an operation
in progress explains are not reported.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import trio

from orlop_kernel.kinds import Context
from orlop_kernel.store import DropQuarantined
from orlop_sdk import InvalidParameter
from orlop_sdk.findings import INFO, Finding

from .owners import Owned, Owners
from .report import Report, report

__all__ = ["Checker"]

# seconds; after an exit, a network link may remain for a second, and a monitor's record for less
_PAUSES = (0.1, 0.3, 0.6, 1.2)


class Checker:
    """Runs one check or repair at a time, because two repairs must not overlap."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._turn = trio.Lock()

    async def check(self, *, deep: bool = False, facts: bool = False) -> Report:
        """`facts` adds the daemon's part of a debug bundle."""
        async with self._turn, Owners.opened(self._context.config, self._context.services) as owners:
            found = await _steady(owners, deep)
            return report(_findings(found), facts=await owners.facts(serving=True) if facts else None)

    async def repair(self, *, deep: bool = False, forget: Collection[str] = ()) -> Report:
        """Check, repair, and check again. Also deletes the quarantined rows in `forget` ("table/key")."""
        store = self._context.store
        quarantined = {f"{table}/{key}": (table, key) for table, key, _ in store.quarantined()}
        if unknown := [name for name in forget if name not in quarantined]:
            raise InvalidParameter(f"cannot drop row {unknown[0]}: it is not quarantined")
        async with self._turn, Owners.opened(self._context.config, self._context.services) as owners:
            done = []
            for table, key in (quarantined[name] for name in forget):
                await store.commit([DropQuarantined(table, key)])
                done.append(f"quarantined row {table}/{key}: dropped")
            found = await _steady(owners, deep)
            done += await owners.repair(found)
            return report(_findings(await _recheck(owners, found)), done)


async def _steady(owners: Owners, deep: bool) -> list[Owned]:
    found = await owners.examine(deep=deep)
    for pause in _PAUSES:
        if all(finding.severity == INFO for _, finding in found):
            break
        await trio.sleep(pause)
        found = await _recheck(owners, found)
    return [each for each in found if not owners.in_progress(each)]


async def _recheck(owners: Owners, found: Iterable[Owned]) -> list[Owned]:
    """Check again. Returns the findings that are still found."""
    before = {each.identity for each in found}
    return [each for each in await owners.examine(deep=False) if each.identity in before]


def _findings(found: Iterable[Owned]) -> list[Finding]:
    return [finding for _, finding in found]
