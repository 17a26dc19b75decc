"""Routes of execs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trio import SocketStream

from orlop_engine.containers.exec_state import ExecState
from orlop_engine.types.containers import ExecConfig
from orlop_kernel.http.messages import Answer, Hijack, RawStream, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import OrlopError

from . import older_versions
from .responses import hijack_head, json_response, stdout_frame
from .wire.container_requests import ExecStart

if TYPE_CHECKING:
    from orlop_engine.engine import Engine

__all__ = ["routes"]


class _Routes:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.execs = engine.execs

    async def create(self, call: Call) -> Answer:
        container = self.engine.containers.get(call.params["id"])
        config = await call.json(ExecConfig)
        await container.boot_start_tried()
        older_versions.settle_exec(config, call.version)
        return json_response({"Id": self.execs.create(container, config)}, 201)

    async def inspect(self, call: Call) -> Answer:
        from .wire.execs import exec_view

        state = self.execs.get(call.params["id"])
        return json_response(exec_view(state, can_remove=self.execs.is_expiring(state)))

    async def resize(self, call: Call) -> Answer:
        await self.execs.resize(call.params["id"], *call.terminal_size())
        return Response(200)

    async def start(self, call: Call) -> Answer:
        exec_id = call.params["id"]
        request = await call.json(ExecStart)
        self.execs.check_startable(exec_id)
        size = request.console_size if call.version >= (1, 42) else None
        if request.detach:
            await self.engine.run(self._detached, exec_id, size)
            return Response(200)

        async def run(client: RawStream) -> None:
            try:
                started, stream = await self.engine.run(self._attached, exec_id, size, not request.tty)
            except OrlopError as error:
                # The head has been sent, so the runtime's error is sent as the exec's output. The exit code is also set.
                text = f"{error}\r\n".encode()
                await client.send_all(text if request.tty else stdout_frame(text))
                await client.send_eof()
                return
            if stream is not None:
                await self.execs.attach(started, client, stream)

        # Docker multiplexes according to `Tty` of the start request, not of the exec.
        return Hijack(hijack_head(call, request.tty, with_api_headers=True), run)

    async def _detached(self, exec_id: str, size: list[int] | None) -> None:
        await self.execs.start(exec_id, detach=True, console_size=size)

    async def _attached(self, exec_id: str, size: list[int] | None, framed: bool) -> tuple[ExecState, SocketStream | None]:
        return await self.execs.start(exec_id, detach=False, console_size=size, framed=framed)


def routes(engine: Engine) -> list[Route]:
    own = _Routes(engine)
    return [
        Route("POST", "/containers/{id}/exec", own.create),
        Route("POST", "/exec/{id}/start", own.start),
        Route("POST", "/exec/{id}/resize", own.resize),
        Route("GET", "/exec/{id}/json", own.inspect),
    ]
