"""Routes of Docker's managed plugins. Orlop cannot install such plugins, because its drivers are Python packages, which `GET
/info` lists."""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import InvalidParameter, NotFound, NotImplementedHere

from .responses import json_response

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]

_FILTERS = frozenset({"capability", "enabled"})

_OF_ONE = (
    ("GET", "/plugins/{name}/json"),
    ("DELETE", "/plugins/{name}"),
    ("POST", "/plugins/{name}/enable"),
    ("POST", "/plugins/{name}/disable"),
    ("POST", "/plugins/{name}/push"),
    ("POST", "/plugins/{name}/set"),
    ("POST", "/plugins/{name}/upgrade"),
)
_INSTALLING = (("GET", "/plugins/privileges"), ("POST", "/plugins/pull"), ("POST", "/plugins/create"))


async def _list(call: Call) -> Answer:
    for name in call.filters().keys() - _FILTERS:
        raise InvalidParameter(f"invalid filter '{name}'")
    return json_response([])


async def _of_one(call: Call) -> Answer:
    raise NotFound(f'plugin "{call.params["name"]}" not found')


async def _install(call: Call) -> Answer:
    raise NotImplementedHere(
        "cannot install a plugin: Orlop does not run Docker's managed plugins; its drivers are Python packages"
    )


def routes(engine: Engine) -> list[Route]:
    return [
        Route("GET", "/plugins", _list),
        *(Route(method, path, _of_one) for method, path in _OF_ONE),
        *(Route(method, path, _install) for method, path in _INSTALLING),
    ]
