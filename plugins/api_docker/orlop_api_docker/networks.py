"""Routes of networks."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from msgspec import UNSET

from orlop_engine.types.containers import EndpointSettings
from orlop_engine.types.networks import ConnectRequest, CreateRequest, DisconnectRequest
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import NotFound

from . import older_versions
from .responses import empty, json_response
from .wire.networks import CreateResponse, NetworkView, PruneResponse, network_status, network_view

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.networks = engine.networks

    async def list(self, call: Call) -> Answer:
        from orlop_engine.networks import filters  # imported here, because the daemon's start does not need it

        accept = filters.listed(call.filters())
        found = [record for record, in_use in self.networks.records() if accept(record, in_use)]
        if call.version < (1, 28):  # in older versions, the list also contains the containers of each network, like inspect
            return json_response([self._view(record.id) for record in found])
        members = () if call.version < (1, 52) else None  # `Containers` is {} before 1.52, and absent since then
        return json_response([network_view(record, members) for record in found])

    async def inspect(self, call: Call) -> Answer:
        scope = call.arg("scope")
        if scope not in ("", "local"):  # all networks are local
            raise NotFound(f"network {call.params['id']} not found")
        view = self._view(call.params["id"])
        if call.version >= (1, 52):
            view.status = network_status(self.networks.usage(call.params["id"]))
        return json_response(view)

    def _view(self, name: str) -> NetworkView:
        """A network with its containers."""
        return network_view(self.networks.resolve(name), self.networks.members(name))

    async def create(self, call: Call) -> Answer:
        request = await call.json(CreateRequest)
        if call.version < (1, 48):
            request.enable_ipv4 = UNSET
        record = await self.engine.run(self.networks.create, request)
        return json_response(CreateResponse(id=record.id), 201)

    async def remove(self, call: Call) -> Answer:
        await self.engine.run(self.networks.remove, call.params["id"])
        return empty(204)

    async def prune(self, call: Call) -> Answer:
        from orlop_engine.networks import filters

        accept = filters.prunable(call.filters(), time.time())
        removed = await self.engine.run(self.networks.prune, accept)
        return json_response(PruneResponse(networks_deleted=[*removed] or None))

    async def connect(self, call: Call) -> Answer:
        request = await call.json(ConnectRequest)
        container = self.engine.containers.get(request.container)
        settings = request.endpoint_config or EndpointSettings()
        await container.boot_start_tried()
        older_versions.settle_connect(settings, call.version)
        await self.engine.run(self.engine.containers.connect, container, call.params["id"], settings)
        return Response(200)

    async def disconnect(self, call: Call) -> Answer:
        request = await call.json(DisconnectRequest)
        container = self.engine.containers.get(request.container)
        await container.boot_start_tried()
        await self.engine.run(self.engine.containers.disconnect, container, call.params["id"])
        return Response(200)


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("GET", "/networks", own.list),
        Route("GET", "/networks/", own.list),
        Route("POST", "/networks/create", own.create),
        Route("POST", "/networks/prune", own.prune, since=(1, 25)),
        Route("GET", "/networks/{id}", own.inspect),
        Route("DELETE", "/networks/{id}", own.remove),
        Route("POST", "/networks/{id}/connect", own.connect),
        Route("POST", "/networks/{id}/disconnect", own.disconnect),
    ]
