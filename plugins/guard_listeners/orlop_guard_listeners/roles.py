"""The table of access rules. It contains for each route the necessary role, the way in which a label scope finds the objects
of a call, and the route's access to the host.

Every route of the API is listed (a test compares). An unlisted route needs role full and a listener without labels.
"""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import NamedTuple

__all__ = ["ROLE_LEVEL", "ROUTES", "UNKNOWN", "Host", "Level", "Rule", "Scope"]


class Level(IntEnum):
    """The rights that a route needs. A role includes all lower levels. Below CHANGE, answers contain no environments or
    other secrets (`redact`)."""

    READ = 1
    """See objects and their state, and read logs, but not files of containers or images."""
    CHANGE = 2
    """Create, run and remove objects, and read their files, but not put code or files into existing containers."""
    FULL = 3
    """All operations. Clients can become root on the machine, unless the listener has labels."""


class Scope(Enum):
    """How a listener with labels checks a route (`label_scope.LabelScope`)."""

    OPEN = "no check: the route concerns no object"
    ABSENT = "no check: Orlop has no objects of this type"
    FILTER = "the labels are added to the filters of the request"
    CONTAINER = "the container in the path must have the labels"
    EXEC = "the container of the exec must have the labels"
    NETWORK = "the network in the path must have the labels"
    VOLUME = "the volume in the path must have the labels"
    IMAGE = "the image in the path must have the labels"
    READ_IMAGE = "the image in the path must have the labels, except with `shared-images`"
    IMAGES = "the labels are added to the filters of the request, except with `shared-images`"
    SAVE = "every requested image must have the labels, except with `shared-images`"
    PULL = "refused, except with `shared-images`"
    PUSH = "every pushed image must have the labels, except with `shared-images`"
    CREATE = "the container gets the labels; every object that the body names must have them"
    EXEC_CREATE = "the container in the path must have the labels; a privileged exec is refused"
    CONNECT = "the network in the path and the container in the body must have the labels"
    DISCONNECT = "the container in the body and the network in the path must have the labels"
    NEW_NETWORK = "the network gets the labels"
    NEW_VOLUME = "the volume gets the labels"
    BUILD = "the rules of [Builds](#builds) apply"
    CLOSED = "refused: labels cannot restrict this route"


class Host(Enum):
    """What a route may reveal or change on the host. `FILES` is enforced by `Guard._check`. A route with `BODY` needs a
    branch in `Guard._host_requests`. All other values only describe the route, for docs/access.md."""

    NOTHING = "no access"
    FACTS = "shows names and figures, but not the content of files"
    NETWORK = "the daemon connects only to public addresses and to configured registries"
    OUTPUT = "shows the output of the container"
    PROCESSES = "shows the container's processes; only common options of `ps` are accepted"
    ROOT = "reads the container's root file system, but not its mounts"
    FILES = "refused for `no-exec` if files of the host are mounted in the container"
    BODY = "refused if the body requests access to the host"
    AS_MADE = "no additional access: the container runs as it was created"
    INSIDE = "the client gets the access that the container has"
    BUILD = "refused if a step requests access to the host, or if a URL leads to an address that is not public"
    ANYTHING = "the route may show or change any part of the host"


class Rule(NamedTuple):
    level: Level
    scope: Scope
    host: Host


UNKNOWN = Rule(Level.FULL, Scope.CLOSED, Host.ANYTHING)
"""The rule for routes that are not listed."""

ROLE_LEVEL = {"read-only": Level.READ, "no-exec": Level.CHANGE, "full": Level.FULL}

_R, _C, _F = Level
_S, _H = Scope, Host

_ABSENT = (
    *(
        "GET /swarm",
        "GET /swarm/unlockkey",
        "POST /swarm/unlock",
        "POST /swarm/update",
        "POST /swarm/leave",
        "POST /swarm/init",
        "POST /swarm/join",
    ),
    *("GET /nodes", "GET /nodes/{id}", "POST /nodes/{id}/update", "DELETE /nodes/{id}"),
    *(
        "GET /services",
        "POST /services/create",
        "GET /services/{id}",
        "GET /services/{id}/logs",
        "POST /services/{id}/update",
        "DELETE /services/{id}",
    ),
    *("GET /tasks", "GET /tasks/{id}", "GET /tasks/{id}/logs"),
    *("GET /secrets", "POST /secrets/create", "GET /secrets/{id}", "POST /secrets/{id}/update", "DELETE /secrets/{id}"),
    *("GET /configs", "POST /configs/create", "GET /configs/{id}", "POST /configs/{id}/update", "DELETE /configs/{id}"),
    *(
        "GET /plugins",
        "GET /plugins/{name}/json",
        "DELETE /plugins/{name}",
        "POST /plugins/{name}/enable",
        "POST /plugins/{name}/disable",
        "POST /plugins/{name}/push",
        "POST /plugins/{name}/set",
        "POST /plugins/{name}/upgrade",
        "GET /plugins/privileges",
        "POST /plugins/pull",
        "POST /plugins/create",
    ),
)
"""Routes of swarm mode and of Docker's managed plugins, which do nothing."""

ROUTES: dict[str, Rule] = {
    "GET /_ping": Rule(_R, _S.OPEN, _H.NOTHING),
    "HEAD /_ping": Rule(_R, _S.OPEN, _H.NOTHING),
    "GET /version": Rule(_R, _S.OPEN, _H.FACTS),
    "GET /info": Rule(_R, _S.OPEN, _H.FACTS),
    "GET /events": Rule(_R, _S.FILTER, _H.NOTHING),
    "GET /system/df": Rule(_R, _S.CLOSED, _H.FACTS),
    "POST /auth": Rule(_C, _S.OPEN, _H.NETWORK),
    "GET /containers/json": Rule(_R, _S.FILTER, _H.FACTS),
    "GET /containers/{id}/json": Rule(_R, _S.CONTAINER, _H.FACTS),
    "GET /containers/{id}/logs": Rule(_R, _S.CONTAINER, _H.OUTPUT),
    "GET /containers/{id}/stats": Rule(_R, _S.CONTAINER, _H.FACTS),
    "GET /containers/{id}/top": Rule(_R, _S.CONTAINER, _H.PROCESSES),
    "POST /containers/{id}/wait": Rule(_R, _S.CONTAINER, _H.NOTHING),
    "GET /containers/{id}/changes": Rule(_C, _S.CONTAINER, _H.ROOT),
    "GET /containers/{id}/export": Rule(_C, _S.CONTAINER, _H.ROOT),
    "GET /containers/{id}/archive": Rule(_C, _S.CONTAINER, _H.FILES),
    "HEAD /containers/{id}/archive": Rule(_C, _S.CONTAINER, _H.FILES),
    "PUT /containers/{id}/archive": Rule(_F, _S.CONTAINER, _H.INSIDE),
    "POST /containers/create": Rule(_C, _S.CREATE, _H.BODY),
    "POST /orlop/containers/plan": Rule(_C, _S.CREATE, _H.BODY),
    "POST /containers/prune": Rule(_C, _S.FILTER, _H.NOTHING),
    "POST /containers/{id}/start": Rule(_C, _S.CONTAINER, _H.AS_MADE),
    "POST /containers/{id}/stop": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/restart": Rule(_C, _S.CONTAINER, _H.AS_MADE),
    "POST /containers/{id}/kill": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/pause": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/unpause": Rule(_C, _S.CONTAINER, _H.AS_MADE),
    "POST /containers/{id}/rename": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/resize": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/update": Rule(_C, _S.CONTAINER, _H.BODY),
    "POST /containers/{id}/attach": Rule(_C, _S.CONTAINER, _H.OUTPUT),
    # Before API 1.42, standard input is always attached
    "GET /containers/{id}/attach/ws": Rule(_F, _S.CONTAINER, _H.INSIDE),
    "GET /containers/{id}/checkpoints": Rule(_F, _S.CLOSED, _H.ANYTHING),  # checkpoints may be in any directory of the host
    "POST /containers/{id}/checkpoints": Rule(_F, _S.CLOSED, _H.ANYTHING),
    "DELETE /containers/{id}/checkpoints/{checkpoint}": Rule(_F, _S.CLOSED, _H.ANYTHING),
    "DELETE /containers/{id}": Rule(_C, _S.CONTAINER, _H.NOTHING),
    "POST /containers/{id}/exec": Rule(_F, _S.EXEC_CREATE, _H.INSIDE),
    "POST /exec/{id}/start": Rule(_F, _S.EXEC, _H.INSIDE),
    "POST /exec/{id}/resize": Rule(_F, _S.EXEC, _H.NOTHING),
    "GET /exec/{id}/json": Rule(_R, _S.EXEC, _H.NOTHING),
    "POST /commit": Rule(_C, _S.CLOSED, _H.ROOT),
    "GET /images/json": Rule(_R, _S.IMAGES, _H.NOTHING),
    "GET /images/{name}/json": Rule(_R, _S.READ_IMAGE, _H.NOTHING),
    "GET /images/{name}/history": Rule(_R, _S.READ_IMAGE, _H.NOTHING),
    "GET /images/{name}/attestations": Rule(_R, _S.READ_IMAGE, _H.NOTHING),
    "GET /images/search": Rule(_C, _S.OPEN, _H.NETWORK),
    "POST /images/create": Rule(_C, _S.PULL, _H.NETWORK),
    "POST /images/load": Rule(_C, _S.CLOSED, _H.NOTHING),
    "GET /images/get": Rule(_C, _S.SAVE, _H.NOTHING),
    "GET /images/{name}/get": Rule(_C, _S.SAVE, _H.NOTHING),
    "POST /images/prune": Rule(_C, _S.FILTER, _H.NOTHING),
    "POST /images/{name}/push": Rule(_C, _S.PUSH, _H.NETWORK),
    "POST /images/{name}/tag": Rule(_C, _S.CLOSED, _H.NOTHING),
    "DELETE /images/{name}": Rule(_C, _S.IMAGE, _H.NOTHING),
    "GET /distribution/{name}/json": Rule(_C, _S.OPEN, _H.NETWORK),
    "POST /build/prune": Rule(_C, _S.BUILD, _H.NOTHING),
    "POST /build": Rule(_C, _S.BUILD, _H.BUILD),
    "POST /grpc": Rule(_C, _S.BUILD, _H.BUILD),
    "POST /session": Rule(_C, _S.BUILD, _H.NOTHING),
    "POST /build/cancel": Rule(_C, _S.BUILD, _H.NOTHING),
    "GET /networks": Rule(_R, _S.FILTER, _H.FACTS),
    "GET /networks/": Rule(_R, _S.FILTER, _H.FACTS),
    "GET /networks/{id}": Rule(_R, _S.NETWORK, _H.FACTS),
    "POST /networks/create": Rule(_C, _S.NEW_NETWORK, _H.BODY),
    "POST /networks/prune": Rule(_C, _S.FILTER, _H.NOTHING),
    "POST /networks/{id}/connect": Rule(_C, _S.CONNECT, _H.NOTHING),
    "POST /networks/{id}/disconnect": Rule(_C, _S.DISCONNECT, _H.NOTHING),
    "DELETE /networks/{id}": Rule(_C, _S.NETWORK, _H.NOTHING),
    "GET /volumes": Rule(_R, _S.FILTER, _H.FACTS),
    "GET /volumes/{name}": Rule(_R, _S.VOLUME, _H.FACTS),
    "POST /volumes/create": Rule(_C, _S.NEW_VOLUME, _H.BODY),
    "POST /volumes/prune": Rule(_C, _S.FILTER, _H.NOTHING),
    "PUT /volumes/{name}": Rule(_C, _S.VOLUME, _H.NOTHING),
    "DELETE /volumes/{name}": Rule(_C, _S.VOLUME, _H.NOTHING),
    **{route: Rule(_R if route.startswith("GET") else _C, _S.ABSENT, _H.NOTHING) for route in _ABSENT},
    "GET /orlop/config": UNKNOWN,
    "GET /orlop/check": UNKNOWN,
    "POST /orlop/check": UNKNOWN,
    "GET /debug/tasks": UNKNOWN,
    "GET /debug/vars": UNKNOWN,
    "GET /debug/locks": UNKNOWN,
    "GET /debug/pprof/": UNKNOWN,
    "GET /debug/pprof/{name}": UNKNOWN,
}
