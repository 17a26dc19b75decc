"""Routes of builds. The builder implements BuildKit's protocol, so `/grpc` and `/session` pass the connection to the
builder.

Without a builder, these routes answer like unknown paths. `/build/prune` succeeds without an effect, because `docker system
prune` calls it.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from orlop_kernel.http.messages import Answer, Hijack, Peer
from orlop_kernel.routing.call import Call, parse_integer
from orlop_kernel.routing.router import Route
from orlop_sdk import InvalidParameter, NotFound

from .responses import empty, json_response, stream_head
from .restricted import restrictions

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

    from .builder import Builder

__all__ = ["routes"]

_FILTERS = frozenset({"until", "unused-for", "id", "parent", "type", "description", "inuse", "shared", "private"})


class _Routes:
    def __init__(self, engine: Engine, builder: Builder | None) -> None:
        self._engine, self._builder = engine, builder

    @property
    def builder(self) -> Builder:
        if self._builder is None:
            raise NotFound("page not found")
        return self._builder

    async def grpc(self, call: Call) -> Answer:
        return self._upgrade("grpc", call)

    async def session(self, call: Call) -> Answer:
        return self._upgrade("session", call)

    def _upgrade(self, kind: str, call: Call) -> Answer:
        """After the upgrade, the client speaks HTTP/2 with prior knowledge, without the settings header of RFC 7540, section
        3.2."""
        builder, request = self.builder, call.request
        protocol = request.headers.get("upgrade", "")
        if not protocol:
            raise InvalidParameter("no upgrade proto in request")
        if protocol != "h2c":
            raise InvalidParameter(f"protocol {protocol[:100]} not supported")
        head = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"
        serve = partial(builder.serve, kind, request.headers, _shown(request.peer), restrictions=restrictions(call))
        return Hijack(head, serve)

    async def build(self, call: Call) -> Answer:
        request = call.request
        answer = await self.builder.build(
            request.headers, request.query, _shown(request.peer), call.pieces(), restrictions(call)
        )
        return stream_head(answer)

    async def prune(self, call: Call) -> Answer:
        # As in dockerd, other filters have no effect: `docker system prune` also sends the filters of images
        filters = {name: values for name, values in call.filters().items() if name in _FILTERS}
        if self._builder is None:
            return json_response({"CachesDeleted": None, "SpaceReclaimed": 0})
        pruned = await self._builder.prune(
            filters,
            restrictions(call),
            everything=call.flag("all"),
            reserved=_bytes(call, "reserved-space") or _bytes(call, "keep-storage"),
            maximum=_bytes(call, "max-used-space"),
            free=_bytes(call, "min-free-space"),
        )
        self._engine.events.publish("builder", "prune", "", {"reclaimed": str(pruned.size)})
        return json_response({"CachesDeleted": list(pruned.ids) or None, "SpaceReclaimed": pruned.size})

    async def cancel(self, call: Call) -> Answer:
        if not call.arg("id"):
            raise InvalidParameter("build ID not provided")
        await self.builder.cancel(call.arg("id"), restrictions(call))
        return empty(200)


def _bytes(call: Call, name: str) -> int:
    text = call.arg(name)
    return parse_integer(text) if text else 0


def _shown(peer: Peer) -> str:
    return f"uid {peer.uid}" if peer.transport == "unix" else peer.common_name or peer.address


def routes(engine: Engine, builder: Builder | None = None) -> list[Route]:
    own = _Routes(engine, builder)
    return [
        Route("POST", "/grpc", own.grpc),
        Route("POST", "/session", own.session),
        Route("POST", "/build", own.build),
        Route("POST", "/build/prune", own.prune, (1, 31)),
        Route("POST", "/build/cancel", own.cancel, (1, 31)),
    ]
