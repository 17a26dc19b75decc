"""`GET /orlop/config`: the running daemon's configuration, with the origin of each value. This route is not part of Docker's
API."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route

from .responses import json_response

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]


def routes(engine: Engine) -> list[Route]:
    async def config(call: Call) -> Answer:
        from orlop_kernel.config import show  # imported here, because the daemon's start does not need it

        return json_response(show.document(engine.loaded, engine.needs_restart))

    return [Route("GET", "/orlop/config", config)]
