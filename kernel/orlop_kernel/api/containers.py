"""Routes of containers: decode, call the engine, encode."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from orlop_kernel.engine import logs, top
from orlop_kernel.engine.containers import attach, update
from orlop_kernel.engine.containers.container import Container
from orlop_kernel.engine.containers.launch import log_info
from orlop_kernel.engine.futures import Once
from orlop_kernel.http.messages import Answer, Hijack, RawStream, Response, Streaming
from orlop_kernel.monitor.protocol import Attach
from orlop_kernel.spi import Conflict, InvalidParameter, OrlopError
from orlop_kernel.types.containers import (
    CreateRequest,
    CreateResponse,
    UpdateRequest,
    UpdateResponse,
    WaitError,
    WaitResponse,
)

from .call import Call
from .responses import hijack_head, json_bytes, json_response, stream_type
from .router import Route

if TYPE_CHECKING:
    from orlop_kernel.engine.engine import Engine

__all__ = ["routes"]

NO_CONTENT = Response(204)
_JSON_STREAM = (("Content-Type", "application/json"),)
_CONDITIONS = ("", "not-running", "next-exit", "removed")


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.room = engine.containers

    def _of(self, call: Call) -> Container:
        return self.room.get(call.params["id"])

    async def create(self, call: Call) -> Answer:
        request = await call.json(CreateRequest)
        if call.version < (1, 44) and request.networking_config:
            endpoints = request.networking_config.endpoints_config or {}
            if len(endpoints) > 1:
                raise InvalidParameter("Container cannot be created with multiple network endpoints")
        made = await self.engine.run(self.room.create, call.arg("name"), call.arg("platform"), request, call.stamp)
        return json_response(CreateResponse(id=made.container.id, warnings=made.warnings), 201)

    async def list(self, call: Call) -> Answer:
        limit = call.integer("limit", 0)
        chosen = self.room.summaries(everything=call.flag("all"), limit=limit, filters=call.filters(), version=call.version)
        return json_bytes(chosen)

    async def inspect(self, call: Call) -> Answer:
        return json_bytes(await self.room.inspect(self._of(call), call.flag("size")))

    async def start(self, call: Call) -> Answer:
        await self.engine.run(self.room.start, self._of(call))
        return NO_CONTENT

    def _timing(self, call: Call) -> tuple[str, int | None]:
        signal = call.arg("signal") if call.version >= (1, 42) else ""
        return signal, call.integer("t", 0) if call.arg("t") else None

    async def stop(self, call: Call) -> Answer:
        await self.engine.run(self.room.stop, self._of(call), *self._timing(call))
        return NO_CONTENT

    async def restart(self, call: Call) -> Answer:
        await self.engine.run(self.room.restart, self._of(call), *self._timing(call))
        return NO_CONTENT

    async def kill(self, call: Call) -> Answer:
        container = self._of(call)
        try:
            await self.engine.run(self.room.kill, container, call.arg("signal"))
        except (Conflict, InvalidParameter) as error:
            raise type(error)(f"cannot kill container: {call.params['id']}: {error}") from error
        return NO_CONTENT

    async def pause(self, call: Call) -> Answer:
        await self.engine.run(self.room.pause, self._of(call))
        return NO_CONTENT

    async def unpause(self, call: Call) -> Answer:
        await self.engine.run(self.room.unpause, self._of(call))
        return NO_CONTENT

    async def rename(self, call: Call) -> Answer:
        await self.engine.run(self.room.rename_to, self._of(call), call.arg("name"))
        return NO_CONTENT

    async def remove(self, call: Call) -> Answer:
        if call.flag("link"):
            raise InvalidParameter("legacy container links are not kept: remove the container itself")
        await self.engine.run(self.room.remove, self._of(call), call.flag("force"), call.flag("v"))
        return NO_CONTENT

    async def prune(self, call: Call) -> Answer:
        gone, space = await self.engine.run(self.room.prune, call.filters())
        return json_response({"ContainersDeleted": gone or None, "SpaceReclaimed": space})

    async def resize(self, call: Call) -> Answer:
        container = self._of(call)
        rows, columns = call.integer("h", -1), call.integer("w", -1)
        if rows < 0 or columns < 0:
            raise InvalidParameter("invalid resize: both h and w are needed, as numbers")
        if not container.record.state.running or container.run is None or container.run.monitor is None:
            raise Conflict(f"container {container.id} is not running")
        await container.run.monitor.resize(rows, columns)
        return Response(200)

    async def stats(self, call: Call) -> Answer:
        container, one_shot = self._of(call), call.flag("one-shot")
        if call.flag("stream", True):
            if one_shot:
                raise InvalidParameter("cannot have stream=true and one-shot=true")
            return Streaming(200, self.engine.stats.stream(container), _JSON_STREAM)
        return json_bytes(await self.engine.stats.once(container, twice=not one_shot))

    async def update(self, call: Call) -> Answer:
        request = await call.json(UpdateRequest)
        return json_response(
            UpdateResponse(warnings=await self.engine.run(update.update, self.room, self._of(call), request))
        )

    async def top(self, call: Call) -> Answer:
        container = self._of(call)
        return json_response(await top.processes(self.room, container, call.arg("ps_args") or "-ef"))

    async def wait(self, call: Call) -> Answer:
        condition = call.arg("condition")
        if condition not in _CONDITIONS:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        container = self._of(call)
        pending = self.room.waiting(container, condition)
        return Streaming(200, self._waited(pending), (("Content-Type", "application/json"),))

    async def _waited(self, pending: Once[int]) -> AsyncIterator[bytes]:
        answer = WaitResponse(status_code=0, error=UNSET)
        try:
            answer.status_code = await pending.get()
        except OrlopError as error:
            answer.error = WaitError(message=str(error))
        yield msgspec.json.encode(answer) + b"\n"

    async def logs(self, call: Call) -> Answer:
        container = self._of(call)
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not (stdout or stderr):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        if container.record.removing or container.record.state.dead:
            raise Conflict("can not get logs from container which is dead or marked for removal")
        terminal = container.record.config.tty
        run = container.run
        living = container.record.state.running and run is not None
        request = logs.LogsRequest(
            stdout=stdout,
            stderr=stderr,
            since_ns=logs.parse_time(call.arg("since")),
            until_ns=logs.parse_time(call.arg("until")),
            tail=logs.parse_tail(call.arg("tail")),
            follow=call.flag("follow") and living,
            timestamps=call.flag("timestamps"),
            details=call.flag("details"),
            multiplexed=not terminal,
        )
        config = container.record.host_config.log_config
        driver = self.engine.drivers.log(config.type)
        ended = run.finished if living and run is not None else None
        pieces = await logs.read_logs(driver, log_info(self.room, container), config.config or {}, request, ended).open()
        return Streaming(200, pieces, (("Content-Type", stream_type(call.version, terminal)),))

    async def attach(self, call: Call) -> Answer:
        container = self._of(call)
        keys = attach.parse_detach_keys(call.arg("detachKeys"))
        request = Attach(stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr"))
        state = container.record.state
        if state.paused:
            raise Conflict(f"container {container.id} is paused, unpause the container before attach")
        if state.restarting:
            raise Conflict(f"container {container.id} is restarting, wait until the container is running")
        terminal = container.record.config.tty
        replay, stream = call.flag("logs"), call.flag("stream")

        async def run(client: RawStream) -> None:
            if replay:
                await self._replay(container, client, request, terminal)
            if stream:
                await attach.attach(self.room, container, client, request, keys)
            else:
                await client.send_eof()

        return Hijack(hijack_head(call, terminal), run)

    async def _replay(self, container: Container, client: RawStream, request: Attach, terminal: bool) -> None:
        config = container.record.host_config.log_config
        wanted = logs.LogsRequest(stdout=request.stdout, stderr=request.stderr, multiplexed=not terminal)
        driver = self.engine.drivers.log(config.type)
        async for piece in logs.read_logs(driver, log_info(self.room, container), config.config or {}, wanted, None):
            await client.send_all(piece)


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("POST", "/containers/create", own.create),
        Route("GET", "/containers/json", own.list),
        Route("POST", "/containers/prune", own.prune, (1, 25)),
        Route("GET", "/containers/{id}/json", own.inspect),
        Route("GET", "/containers/{id}/stats", own.stats),
        Route("GET", "/containers/{id}/top", own.top),
        Route("GET", "/containers/{id}/logs", own.logs),
        Route("POST", "/containers/{id}/start", own.start),
        Route("POST", "/containers/{id}/stop", own.stop),
        Route("POST", "/containers/{id}/restart", own.restart),
        Route("POST", "/containers/{id}/kill", own.kill),
        Route("POST", "/containers/{id}/pause", own.pause),
        Route("POST", "/containers/{id}/unpause", own.unpause),
        Route("POST", "/containers/{id}/rename", own.rename),
        Route("POST", "/containers/{id}/resize", own.resize),
        Route("POST", "/containers/{id}/update", own.update),
        Route("POST", "/containers/{id}/wait", own.wait),
        Route("POST", "/containers/{id}/attach", own.attach),
        Route("DELETE", "/containers/{id}", own.remove),
    ]
