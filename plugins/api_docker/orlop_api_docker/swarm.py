"""Routes of Docker's swarm mode, which Orlop does not have. They answer like a dockerd outside a swarm, because the cleanup
code of SDKs lists services and secrets, and continues after a 503 but not after a 404.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import NotImplementedHere

from .responses import error_response

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["NOT_A_MANAGER", "routes"]

NOT_A_MANAGER = (
    'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and try '
    "again."
)

_MANAGER_ONLY = (
    ("GET", "/swarm"),
    ("GET", "/swarm/unlockkey"),
    ("POST", "/swarm/unlock"),
    ("POST", "/swarm/update"),
    ("GET", "/nodes"),
    ("GET", "/nodes/{id}"),
    ("POST", "/nodes/{id}/update"),
    ("DELETE", "/nodes/{id}"),
    ("GET", "/services"),
    ("POST", "/services/create"),
    ("GET", "/services/{id}"),
    ("GET", "/services/{id}/logs"),
    ("POST", "/services/{id}/update"),
    ("DELETE", "/services/{id}"),
    ("GET", "/tasks"),
    ("GET", "/tasks/{id}"),
    ("GET", "/tasks/{id}/logs"),
    *(
        (method, f"/{kind}{path}")
        for kind in ("secrets", "configs")
        for method, path in (
            ("GET", ""),
            ("POST", "/create"),
            ("GET", "/{id}"),
            ("POST", "/{id}/update"),
            ("DELETE", "/{id}"),
        )
    ),
)


async def _manager_only(call: Call) -> Answer:
    return error_response(503, NOT_A_MANAGER)  # returned, because a raised error is logged


async def _leave(call: Call) -> Answer:
    return error_response(503, "This node is not part of a swarm")


async def _join(call: Call) -> Answer:
    raise NotImplementedHere("cannot initialise or join a swarm: Orlop has no swarm mode")


def routes(engine: Engine) -> list[Route]:
    return [
        *(Route(method, path, _manager_only) for method, path in _MANAGER_ONLY),
        Route("POST", "/swarm/leave", _leave),
        Route("POST", "/swarm/init", _join),
        Route("POST", "/swarm/join", _join),
    ]
