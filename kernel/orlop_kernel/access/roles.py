"""Which role may call which route, and how a label scope finds the objects that a call is about. Data, no code.

A route that is not here is for role full on a listener without labels: a new one has to be thought about first.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

__all__ = ["ROLE_LEVEL", "ROUTES", "UNKNOWN", "Level", "Rule", "Scope"]


class Level(IntEnum):
    """What a route lets its caller do. Each role may do all up to one of them."""

    READ = 1
    """See that things are there and how they are; read logs. No files out of containers and images."""
    CHANGE = 2
    """Make, run and remove things; read files out of them. No code or file into what is there already."""
    FULL = 3
    """Everything. Root on the machine, unless the listener has labels."""


class Scope(Enum):
    """How a listener with labels judges a route (`scope.Judge`)."""

    OPEN = "about nothing of anybody's"
    FILTER = "lists or prunes by filters: the labels are added to them"
    CONTAINER = "the container of the path"
    EXEC = "the container of the exec of the path"
    NETWORK = "the network of the path"
    VOLUME = "the volume of the path"
    IMAGE = "the image of the path"
    READ_IMAGE = "the image of the path; any, if images are shared"
    IMAGES = "lists by filters: the labels are added to them, unless images are shared"
    PULL = "only if images are shared"
    CREATE = "a container in the making, and all that it names"
    EXEC_CREATE = "the container of the path; the exec may not be privileged"
    CONNECT = "the network of the path, and the container of the body"
    DISCONNECT = "the same"
    NEW_NETWORK = "a network in the making"
    NEW_VOLUME = "a volume in the making"
    CLOSED = "about everybody's things: refused"


class Rule(NamedTuple):
    level: Level
    scope: Scope


UNKNOWN = Rule(Level.FULL, Scope.CLOSED)

ROLE_LEVEL = {"read-only": Level.READ, "no-exec": Level.CHANGE, "full": Level.FULL}

_R, _C, _F = Level
_S = Scope

ROUTES: dict[str, Rule] = {
    "GET /_ping": Rule(_R, _S.OPEN),
    "HEAD /_ping": Rule(_R, _S.OPEN),
    "GET /version": Rule(_R, _S.OPEN),
    "GET /info": Rule(_R, _S.OPEN),
    "GET /events": Rule(_R, _S.FILTER),
    "GET /system/df": Rule(_R, _S.CLOSED),
    "POST /auth": Rule(_C, _S.OPEN),
    "GET /containers/json": Rule(_R, _S.FILTER),
    "GET /containers/{id}/json": Rule(_R, _S.CONTAINER),
    "GET /containers/{id}/logs": Rule(_R, _S.CONTAINER),
    "GET /containers/{id}/stats": Rule(_R, _S.CONTAINER),
    "GET /containers/{id}/top": Rule(_R, _S.CONTAINER),
    "POST /containers/{id}/wait": Rule(_R, _S.CONTAINER),
    "GET /containers/{id}/changes": Rule(_C, _S.CONTAINER),
    "GET /containers/{id}/export": Rule(_C, _S.CONTAINER),
    "GET /containers/{id}/archive": Rule(_C, _S.CONTAINER),
    "HEAD /containers/{id}/archive": Rule(_C, _S.CONTAINER),
    "PUT /containers/{id}/archive": Rule(_F, _S.CONTAINER),
    "POST /containers/create": Rule(_C, _S.CREATE),
    "POST /containers/prune": Rule(_C, _S.FILTER),
    "POST /containers/{id}/start": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/stop": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/restart": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/kill": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/pause": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/unpause": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/rename": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/resize": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/update": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/attach": Rule(_C, _S.CONTAINER),
    "GET /containers/{id}/attach/ws": Rule(_F, _S.CONTAINER),  # has no way to leave stdin out before 1.42
    "GET /containers/{id}/checkpoints": Rule(_F, _S.CLOSED),  # in any directory of the host
    "POST /containers/{id}/checkpoints": Rule(_F, _S.CLOSED),
    "DELETE /containers/{id}/checkpoints/{checkpoint}": Rule(_F, _S.CLOSED),
    "DELETE /containers/{id}": Rule(_C, _S.CONTAINER),
    "POST /containers/{id}/exec": Rule(_F, _S.EXEC_CREATE),
    "POST /exec/{id}/start": Rule(_F, _S.EXEC),
    "POST /exec/{id}/resize": Rule(_F, _S.EXEC),
    "GET /exec/{id}/json": Rule(_R, _S.EXEC),
    "POST /commit": Rule(_C, _S.CLOSED),
    "GET /images/json": Rule(_R, _S.IMAGES),
    "GET /images/{name}/json": Rule(_R, _S.READ_IMAGE),
    "GET /images/{name}/history": Rule(_R, _S.READ_IMAGE),
    "GET /images/search": Rule(_C, _S.OPEN),
    "POST /images/create": Rule(_C, _S.PULL),
    "POST /images/load": Rule(_C, _S.CLOSED),
    "POST /images/prune": Rule(_C, _S.FILTER),
    "POST /images/{name}/tag": Rule(_C, _S.CLOSED),
    "DELETE /images/{name}": Rule(_C, _S.IMAGE),
    "POST /build/prune": Rule(_C, _S.OPEN),  # of a builder that is not there: `docker system prune` asks for it last
    "GET /networks": Rule(_R, _S.FILTER),
    "GET /networks/": Rule(_R, _S.FILTER),
    "GET /networks/{id}": Rule(_R, _S.NETWORK),
    "POST /networks/create": Rule(_C, _S.NEW_NETWORK),
    "POST /networks/prune": Rule(_C, _S.FILTER),
    "POST /networks/{id}/connect": Rule(_C, _S.CONNECT),
    "POST /networks/{id}/disconnect": Rule(_C, _S.DISCONNECT),
    "DELETE /networks/{id}": Rule(_C, _S.NETWORK),
    "GET /volumes": Rule(_R, _S.FILTER),
    "GET /volumes/{name}": Rule(_R, _S.VOLUME),
    "POST /volumes/create": Rule(_C, _S.NEW_VOLUME),
    "POST /volumes/prune": Rule(_C, _S.FILTER),
    "PUT /volumes/{name}": Rule(_C, _S.VOLUME),
    "DELETE /volumes/{name}": Rule(_C, _S.VOLUME),
}
