"""Implements `contracts.Builder`: the calls of the daemon to the builder process."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager

import trio

from orlop_build_dockerfile.classic import ClassicEndpoint
from orlop_build_dockerfile.contracts import (
    Authorization,
    Backend,
    BuildFailed,
    CacheRecord,
    Challenge,
    Client,
    Pruned,
    Settings,
    Solver,
)
from orlop_build_dockerfile.control.builds import Builds
from orlop_build_dockerfile.control.service import Control, client_session
from orlop_build_dockerfile.grpc import Connection
from orlop_build_dockerfile.history.store import History
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.session import Sessions
from orlop_build_dockerfile.solver import open_solver
from orlop_sdk import InvalidParameter, Unauthorized

__all__ = ["DockerfileBuilder", "open_builder"]


class DockerfileBuilder:
    def __init__(self, solver: Solver, settings: Settings, history: History, nursery: trio.Nursery) -> None:
        self._solver = solver
        self._sessions = Sessions()
        self._connections: set[Connection] = set()
        self._requests = 0
        """The number of requests `POST /build` that are not answered yet."""
        self._answered = trio.lowlevel.ParkingLot()
        self._builds = Builds(self._sessions, nursery)
        self._classic = ClassicEndpoint(solver, self._sessions, self._builds)
        self._control = Control(solver, settings, self._sessions, self._builds, history, nursery)

    async def serve(self, client: Client, connection: trio.SocketStream) -> None:
        if client.kind == "grpc":
            served = Connection(connection, handlers=self._control.handlers)
            self._connections.add(served)
            try:
                await served.run(client.early)
            finally:
                self._connections.discard(served)
            return
        if client.kind == "build":
            self._requests += 1
            try:
                await self._classic.serve(client, connection)
            finally:
                self._requests -= 1
                self._answered.unpark_all()
            return
        try:
            session = client_session(client.headers, Connection(connection, client=True))
            await self._sessions.run(session, client.early)
        except BuildFailed as error:
            raise InvalidParameter(error.message) from error

    async def usage(self) -> Sequence[CacheRecord]:
        return await self._solver.usage(())

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, everything: bool, reserved: int, maximum: int, free: int
    ) -> Pruned:
        keep_seconds = _keep_seconds([*filters.get("until", ()), *filters.get("unused-for", ())])
        removed = self._solver.prune(
            [",".join(_conditions(filters))],
            all=everything,
            keep_seconds=keep_seconds,
            keep_bytes=maximum,
            reserved=reserved,
            free=free,
        )
        ids, size = [], 0
        try:
            async with aclosing(removed):
                async for record in removed:
                    ids.append(record.id)
                    size += record.size
        except BuildFailed as error:
            raise InvalidParameter(error.message) from error
        return Pruned(ids, size)

    async def authorize(self, session: str, host: str, challenge: Challenge) -> Authorization:
        try:
            return await (await self._sessions.get(session)).authorize(host, challenge)
        except BuildFailed as error:
            raise Unauthorized(error.message) from error

    async def drain(self, reason: str) -> None:
        self._builds.close(reason)
        async with nursery() as draining:
            for connection in self._connections:
                draining.start_soon(connection.drain, reason)
        while self._requests:
            await self._answered.park()

    async def cancel(self, build: str) -> None:
        self._builds.cancel(build)


def _keep_seconds(until: Sequence[str]) -> float:
    if not until:
        return 0
    if len(until) > 1:
        raise InvalidParameter("filters expect only one value")
    # Imported here, because it loads a part of the engine that no build needs
    from orlop_engine.images.listing import moment

    now = time.time()
    return max(0.0, now - moment(until[0], now))


def _conditions(filters: Mapping[str, Sequence[str]]) -> list[str]:
    """Filters of the Docker API in the form of BuildKit's protocol."""
    found = []
    for name in ("id", "parent", "type", "description", "inuse", "shared", "private"):
        values = filters.get(name)
        if values is None:
            continue
        if len(values) > 1:
            raise InvalidParameter("filters expect only one value")
        found.append(name + ("~=" if name == "id" else "==") + values[0] if values else name)
    return found


@asynccontextmanager
async def open_builder(settings: Settings, backend: Backend) -> AsyncIterator[DockerfileBuilder]:
    """The builder, until the end of the block. At the end, no build is running."""
    history = History(os.path.join(settings.root, "history"), settings.history_age, settings.history_entries)
    await history.open()
    async with open_solver(backend, settings) as solver, trio.open_nursery() as nursery:
        yield DockerfileBuilder(solver, settings, history, nursery)
        nursery.cancel_scope.cancel()
