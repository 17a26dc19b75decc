"""Routes of our own, beside Docker's: `orlop system check`."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING

from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route

from .responses import json_response

if TYPE_CHECKING:
    from orlop_check.online import Checker
    from orlop_engine.engine import Engine

__all__ = ["routes"]


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine

    @cached_property
    def checker(self) -> Checker:
        from orlop_check.online import Checker  # a room of its own, that few daemons ever enter

        return Checker(self.engine)

    async def check(self, call: Call) -> Answer:
        return json_response(await self.checker.check(deep=call.flag("deep"), facts=call.flag("facts")))

    async def repair(self, call: Call) -> Answer:
        """To its end, whatever becomes of the client."""
        forget, deep = call.args("forget"), call.flag("deep")

        async def work() -> object:
            return await self.checker.repair(deep=deep, forget=forget)

        return json_response(await self.engine.run(work))


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("GET", "/orlop/check", own.check),
        Route("POST", "/orlop/check", own.repair),
    ]
