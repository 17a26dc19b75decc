"""`GET` and `POST /orlop/check`, used by `orlop system check`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

import msgspec

from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

    from .online import Checker

__all__ = ["routes"]


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def checker(self) -> Checker:
        from .online import Checker  # imported here because it is rarely used

        return Checker(self.engine)

    async def check(self, call: Call) -> Answer:
        return _json(await self.checker.check(deep=call.flag("deep"), facts=call.flag("facts")))

    async def repair(self, call: Call) -> Answer:
        """Runs to completion even if the client disconnects."""
        forget, deep = call.args("forget"), call.flag("deep")

        async def work() -> object:
            return await self.checker.repair(deep=deep, forget=forget)

        return _json(await self.engine.run(work))


def _json(value: object) -> Response:
    return Response(200, msgspec.json.encode(value) + b"\n", (("Content-Type", "application/json"),))


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("GET", "/orlop/check", own.check),
        Route("POST", "/orlop/check", own.repair),
    ]
