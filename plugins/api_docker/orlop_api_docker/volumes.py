"""Routes of volumes."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from msgspec import UNSET
from msgspec.structs import replace

from orlop_engine.types.volumes import VolumeCreateRequest
from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import Unavailable

from .responses import empty, json_response
from .restricted import restrictions
from .swarm import NOT_A_MANAGER
from .wire.volumes import VolumeListResponse, VolumePruneResponse, volume_view

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.volumes = engine.volumes

    async def list(self, call: Call) -> Answer:
        found = self.volumes.list(call.filters())
        return json_response(VolumeListResponse(volumes=[volume_view(record) for record in found]))

    async def inspect(self, call: Call) -> Answer:
        record = self.volumes.get(call.params["name"])
        mountpoint, status = await self.volumes.status(record)
        view = volume_view(record)
        return json_response(replace(view, mountpoint=mountpoint, status=dict(status) or UNSET))

    async def create(self, call: Call) -> Answer:
        wanted = await call.json(VolumeCreateRequest)
        if wanted.cluster_volume_spec is not None:
            raise Unavailable(NOT_A_MANAGER)
        record = await self.engine.run(self.volumes.create, wanted.name, wanted.driver, wanted.driver_opts, wanted.labels)
        if check := restrictions(call).check_volume:
            check(record, False)
        return json_response(volume_view(record), 201)

    async def remove(self, call: Call) -> Answer:
        async def remove() -> None:
            await self.volumes.remove(call.params["name"], force=call.flag("force"))

        await self.engine.run(remove)
        return empty(204)

    async def prune(self, call: Call) -> Answer:
        prune = partial(self.volumes.prune, call.filters(), named=call.version < (1, 42))
        deleted, reclaimed = await self.engine.run(prune)
        return json_response(VolumePruneResponse(volumes_deleted=[*deleted], space_reclaimed=reclaimed))

    async def update(self, call: Call) -> Answer:
        raise Unavailable("volume update only valid for cluster volumes, but swarm is unavailable")


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("GET", "/volumes", own.list),
        Route("POST", "/volumes/create", own.create),
        Route("POST", "/volumes/prune", own.prune, since=(1, 25)),
        Route("GET", "/volumes/{name}", own.inspect),
        Route("DELETE", "/volumes/{name}", own.remove),
        Route("PUT", "/volumes/{name}", own.update, since=(1, 42)),
    ]
