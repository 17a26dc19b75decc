"""`GET` and `POST /orlop/check`, used by `orlop system check`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.kinds import Context
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import Unavailable

if TYPE_CHECKING:
    from .online import Checker
    from .report import Report

__all__ = ["routes"]


class _Routes:
    def __init__(self, context: Context) -> None:
        self._context = context

    @cached_property
    def checker(self) -> Checker:
        from .online import Checker  # imported here, because it is rarely used

        return Checker(self._context)

    async def check(self, call: Call) -> Answer:
        return _json(await self.checker.check(deep=call.flag("deep"), facts=call.flag("facts")))

    async def repair(self, call: Call) -> Answer:
        """Check and repair. The repair runs to completion in the daemon's nursery even if the client disconnects."""
        forget, deep = call.args("forget"), call.flag("deep")
        outcome: list[Report | Exception] = []
        ended = trio.Event()

        async def work() -> None:
            try:
                outcome.append(await self.checker.repair(deep=deep, forget=forget))
            except Exception as error:
                outcome.append(error)
            finally:
                ended.set()

        self._context.nursery.start_soon(work)
        await ended.wait()
        found = outcome[0] if outcome else Unavailable("the daemon is shutting down")
        if isinstance(found, Exception):
            raise found
        return _json(found)


def _json(value: Report) -> Response:
    return Response(200, msgspec.json.encode(value) + b"\n", (("Content-Type", "application/json"),))


def routes(context: Context) -> list[Route]:
    own = _Routes(context)
    return [
        Route("GET", "/orlop/check", own.check),
        Route("POST", "/orlop/check", own.repair),
    ]
