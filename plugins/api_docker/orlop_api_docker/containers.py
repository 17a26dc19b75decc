"""Routes of containers: decode, call the engine, encode.

Modules of the engine that the daemon's start does not need are imported by the requests that need them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from orlop_engine.containers import attach
from orlop_engine.containers.container import Container
from orlop_engine.futures import Future
from orlop_engine.terminals import rows_and_columns
from orlop_engine.types.containers import CreateRequest, UpdateRequest
from orlop_kernel.http.messages import Answer, Hijack, RawStream, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_monitor.protocol import Attach
from orlop_sdk import Conflict, DriverError, InvalidParameter, NotFound, OrlopError

from . import container_mac, older_versions
from .container_views import ContainerViews
from .responses import hijack_head, json_bytes, json_response, stream_type
from .restricted import restrictions
from .versions import SEVERAL_PLATFORMS
from .wire.container_requests import CheckpointCreate, CreateResponse, UpdateResponse, WaitError, WaitResponse

if TYPE_CHECKING:
    from orlop_engine.containers.service import Containers
    from orlop_engine.engine import Engine
    from orlop_engine.logs import LogStream

    from .wire.stats import StatsLines


__all__ = ["routes"]

NO_CONTENT = Response(204)
_JSON_STREAM = (("Content-Type", "application/json"),)
_NO_BODY = 7  # bytes; Docker accepts a body of this size
_CONDITIONS = ("", "not-running", "next-exit", "removed")


async def _refuse_body(call: Call) -> None:
    """Refuse a request with a body. Older Docker versions accepted a HostConfig as body. Old clients send "{}" or "null" if
    they have none, so these bodies are accepted."""
    size = 0
    async for piece in call.request.body:
        size += len(piece)
        if size > _NO_BODY:
            raise InvalidParameter(
                "starting container with non-empty request body was deprecated since API v1.22 and removed in v1.24"
            )


class _Routes:
    def __init__(self, engine: Engine, views: ContainerViews) -> None:
        self.engine, self.views = engine, views

    @cached_property
    def stats_lines(self) -> StatsLines:
        from .wire.stats import StatsLines

        return StatsLines()

    @property
    def containers(self) -> Containers:
        return self.engine.containers

    def _of(self, call: Call) -> Container:
        return self.containers.get(call.params["id"])

    def _settle(self, call: Call, request: CreateRequest) -> list[str]:
        """Apply the rules of the client's API version to the body of a create. Returns warnings."""
        from orlop_engine.spec.host import facts

        older_versions.settle_create(request, call.version, facts().cgroup_version)
        return [*container_mac.settle(request, call.version), *older_versions.create_warnings(request, call.version)]

    async def plan(self, call: Call) -> Answer:
        """What a create with this body, and a start, would make. This route is not part of Docker's API."""
        request = await call.json(CreateRequest, required=True)
        warnings = self._settle(call, request)
        planned = await self.containers.plan(
            call.arg("name"),
            call.arg("platform") if call.version >= (1, 41) else "",
            request,
            restrictions(call).check_volume,
            images=restrictions(call).images,
            flat_readonly=older_versions.flat_read_only(call.version),
            newest=call.version < SEVERAL_PLATFORMS,
        )
        planned.warnings += warnings
        return json_response(planned)

    async def create(self, call: Call) -> Answer:
        request = await call.json(CreateRequest, required=True)
        warnings = self._settle(call, request)
        create = partial(
            self.containers.create,
            call.arg("name"),
            call.arg("platform") if call.version >= (1, 41) else "",
            request,
            restrictions(call).labels,
            restrictions(call).check_volume,
            images=restrictions(call).images,
            flat_readonly=older_versions.flat_read_only(call.version),
            newest=call.version < SEVERAL_PLATFORMS,
        )
        made = await self.engine.run(create)
        return json_response(CreateResponse(id=made.container.id, warnings=[*made.warnings, *warnings]), 201)

    async def list(self, call: Call) -> Answer:
        limit = call.integer("limit", 0)
        return json_bytes(
            await self.views.listed(
                everything=call.flag("all"),
                limit=limit,
                filters=call.filters(),
                size=call.flag("size"),
                health=call.version >= (1, 52),
                manifests=call.version >= (1, 48),
            )
        )

    async def inspect(self, call: Call) -> Answer:
        return json_bytes(await self.views.inspect(self._of(call), call.version, size=call.flag("size")))

    async def start(self, call: Call) -> Answer:
        await _refuse_body(call)
        start = partial(self.containers.start, self._of(call), call.arg("checkpoint"), call.arg("checkpoint-dir"))
        return await self._started(call, start)

    async def _started(self, call: Call, start: Callable[[], Awaitable[None]]) -> Answer:
        """If a host port is in use, the error names the container or the process that uses the port."""
        try:
            await self.engine.run(start)
        except DriverError as error:
            holder = "" if restrictions(call).hide_host else await self.containers.port_holder(error)
            if holder:
                raise DriverError(f"{error} ({holder})") from error
            raise
        return NO_CONTENT

    async def create_checkpoint(self, call: Call) -> Answer:
        request = await call.json(CheckpointCreate)
        checkpoint = partial(self.containers.checkpoint, end=request.exit)
        await self.engine.run(checkpoint, self._of(call), request.checkpoint_id, request.checkpoint_dir)
        return Response(201)

    async def list_checkpoints(self, call: Call) -> Answer:
        found = self.containers.checkpoints(self._of(call), call.arg("dir"))
        return json_response([{"Name": name} for name in found])

    async def delete_checkpoint(self, call: Call) -> Answer:
        await self.engine.run(self.containers.remove_checkpoint, self._of(call), call.params["checkpoint"], call.arg("dir"))
        return NO_CONTENT

    def _timing(self, call: Call) -> tuple[str, int | None]:
        signal = call.arg("signal") if call.version >= (1, 42) else ""
        return signal, call.integer("t", 0) if call.arg("t") else None

    async def stop(self, call: Call) -> Answer:
        await self.engine.run(self.containers.stop, self._of(call), *self._timing(call))
        return NO_CONTENT

    async def restart(self, call: Call) -> Answer:
        return await self._started(call, partial(self.containers.restart, self._of(call), *self._timing(call)))

    async def kill(self, call: Call) -> Answer:
        try:
            await self.engine.run(self.containers.kill, self._of(call), call.arg("signal"))
        except (Conflict, InvalidParameter, NotFound) as error:
            raise type(error)(f"cannot kill container: {call.params['id']}: {error}") from error
        return NO_CONTENT

    async def pause(self, call: Call) -> Answer:
        await self.engine.run(self.containers.pause, self._of(call))
        return NO_CONTENT

    async def unpause(self, call: Call) -> Answer:
        await self.engine.run(self.containers.unpause, self._of(call))
        return NO_CONTENT

    async def rename(self, call: Call) -> Answer:
        await self.engine.run(self.containers.rename, self._of(call), call.arg("name"))
        return NO_CONTENT

    async def remove(self, call: Call) -> Answer:
        if call.flag("link"):
            self._of(call)
            await self.engine.run(self.containers.remove_link, call.params["id"])
            return NO_CONTENT
        await self.engine.run(self.containers.remove, self._of(call), call.flag("force"), call.flag("v"))
        return NO_CONTENT

    async def prune(self, call: Call) -> Answer:
        gone, space = await self.engine.run(self.containers.prune, call.filters())
        return json_response({"ContainersDeleted": gone or None, "SpaceReclaimed": space})

    async def resize(self, call: Call) -> Answer:
        rows, columns = call.terminal_size()
        container = self._of(call)
        if not container.record.state.running or container.run is None or container.run.monitor is None:
            raise Conflict(f"container {container.id} is not running")
        if container.record.config.tty:
            await container.run.monitor.resize(*rows_and_columns((rows, columns)))
        self.containers.events.publish(container, "resize", height=str(rows), width=str(columns))
        return Response(200)

    async def stats(self, call: Call) -> Answer:
        from .wire.stats import encode_stats

        container, one_shot = self._of(call), call.flag("one-shot") and call.version >= (1, 41)
        if call.flag("stream", True):
            if one_shot:
                raise InvalidParameter("cannot have stream=true and one-shot=true")
            return Streaming(200, self.stats_lines.of(self.engine.stats.stream(container)), _JSON_STREAM)
        return json_bytes(encode_stats(await self.engine.stats.once(container, twice=not one_shot)))

    async def update(self, call: Call) -> Answer:
        request = await call.json(UpdateRequest)
        older_versions.settle_update(request, call.version)
        warnings = await self.engine.run(self.containers.update, self._of(call), request)
        return json_response(UpdateResponse(warnings=warnings or None))

    async def top(self, call: Call) -> Answer:
        from .wire.containers import top

        container = self._of(call)
        await container.boot_start_tried()
        apart = restrictions(call).hide_host
        listed = await self.containers.processes(container, call.arg("ps_args") or "-ef", apart=apart)
        self.containers.events.publish(container, "top")
        return json_response(top(listed))

    async def wait(self, call: Call) -> Answer:
        condition = call.arg("condition") if call.version >= (1, 30) else ""
        if condition not in _CONDITIONS:
            raise InvalidParameter(f'invalid condition: "{condition}"')
        container = self._of(call)
        pending = self.containers.waiting(container, condition)
        return Streaming(200, self._waited(pending), (("Content-Type", "application/json"),))

    async def _waited(self, pending: Future[int]) -> AsyncIterator[bytes]:
        answer = WaitResponse(status_code=0, error=UNSET)
        try:
            answer.status_code = await pending.get()
        except OrlopError as error:
            answer.error = WaitError(message=str(error))
        yield msgspec.json.encode(answer) + b"\n"

    async def logs(self, call: Call) -> Answer:
        from orlop_engine import logs

        container = self._of(call)
        stdout, stderr = call.flag("stdout"), call.flag("stderr")
        if not (stdout or stderr):
            raise InvalidParameter("Bad parameters: you must choose at least one stream")
        if container.record.removing or container.record.state.dead:
            raise Conflict("can not get logs from container which is dead or marked for removal")
        terminal = container.record.config.tty
        living = container.record.state.running and container.run is not None
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
        pieces = await (await self.containers.logs(container, request, living=living)).open()
        return Streaming(200, pieces, (("Content-Type", stream_type(call.version, terminal)),))

    async def attach(self, call: Call) -> Answer:
        container = self._of(call)
        framed = not container.record.config.tty
        request = Attach(stdin=call.flag("stdin"), stdout=call.flag("stdout"), stderr=call.flag("stderr"), framed=framed)
        return Hijack(hijack_head(call, not framed), await self._attachment(call, container, request))

    async def attach_websocket(self, call: Call) -> Answer:
        """Attach through a WebSocket. Standard output and standard error are one stream without frames. Before API 1.42,
        clients cannot choose streams. Before 1.28, messages are text."""
        from orlop_api_docker import websocket  # imported here because few clients use it

        container = self._of(call)
        wanted = {name: call.flag(name) or call.version < (1, 42) for name in ("stdin", "stdout", "stderr")}
        try:
            head = websocket.handshake(call.request)
        except websocket.HandshakeError as error:
            return json_response({"message": str(error)}, error.status, error.headers)
        attached = await self._attachment(call, container, Attach(**wanted, framed=False))

        async def run(client: RawStream) -> None:
            stream = websocket.WebSocketStream(client, binary=call.version >= (1, 28))
            await attached(stream)
            await stream.send_eof()

        return Hijack(head, run)

    async def _attachment(self, call: Call, container: Container, request: Attach) -> Callable[[RawStream], Awaitable[None]]:
        """The function that serves the client after the head of the answer is sent. Raises errors that must be answered
        before the head."""
        keys = attach.parse_detach_keys(call.arg("detachKeys"))
        await container.boot_start_tried()
        attach.check(container)
        replay, stream = call.flag("logs"), call.flag("stream")
        if replay:
            # Open the log before the head is sent, so that an unreadable log is an error answer and not a broken stream.
            # Close it again at once: if the head cannot be sent, `run` is never called, and could not close it.
            await (await (await self._replay(container, request)).open()).aclose()

        async def run(client: RawStream) -> None:
            if replay:
                async with await self._replay(container, request) as pieces:
                    async for piece in pieces:
                        await client.send_all(piece)
            if stream:
                await self.containers.attach(container, client, request, keys)
            else:
                await client.send_eof()

        return run

    async def _replay(self, container: Container, request: Attach) -> LogStream:
        from orlop_engine import logs

        wanted = logs.LogsRequest(stdout=request.stdout, stderr=request.stderr, multiplexed=bool(request.framed))
        return await self.containers.logs(container, wanted, living=False)


def routes(engine: Engine, views: ContainerViews | None = None) -> list[Route]:
    own = _Routes(engine, views or ContainerViews(engine))
    return [
        Route("POST", "/containers/create", own.create),
        Route("POST", "/orlop/containers/plan", own.plan),
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
        Route("GET", "/containers/{id}/attach/ws", own.attach_websocket),
        Route("GET", "/containers/{id}/checkpoints", own.list_checkpoints, (1, 25)),
        Route("POST", "/containers/{id}/checkpoints", own.create_checkpoint, (1, 25)),
        Route("DELETE", "/containers/{id}/checkpoints/{checkpoint}", own.delete_checkpoint, (1, 25)),
        Route("DELETE", "/containers/{id}", own.remove),
    ]
