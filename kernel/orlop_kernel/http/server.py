"""All connections of a daemon: accepting, idle time, and a shutdown that lets running requests finish.

A server owns its listeners and connections. One task watches idle time for all of them: a timer for each connection would
cost every request more than its parsing.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import trio

from orlop_kernel.http.connection import Connection, OnError, default_on_error
from orlop_kernel.http.identify import identify
from orlop_kernel.http.messages import Handler, Limits, Peer

__all__ = ["Server", "serve_connection"]

log = logging.getLogger("orlop.http")

Identify = Callable[[trio.abc.Stream], Awaitable[Peer]]


class Server:
    """`handler` answers; `on_error` turns what it raises into an answer; `identify` says who is at the other end, and
    raises OSError or trio.BrokenResourceError to refuse (it does the TLS handshake too)."""

    def __init__(
        self,
        handler: Handler,
        limits: Limits | None = None,
        *,
        on_error: OnError = default_on_error,
        identify: Identify = identify,
    ) -> None:
        self._handler = handler
        self._limits = limits or Limits()
        self._on_error = on_error
        self._identify = identify
        self._connections: set[Connection] = set()
        self._accepting = trio.CancelScope()
        self._draining = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._connections)

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept on `listeners`, and close them in the end. Returns when `drain` has ended the last connection; cancelling
        it ends everything at once. Started when it accepts."""
        async with trio.open_nursery() as connections:
            connections.start_soon(self._watch_idle)
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    # It waits out EMFILE and the like by itself
                    await accepting.start(
                        partial(trio.serve_listeners, self.serve_stream, list(listeners), handler_nursery=connections)
                    )
                    task_status.started()
            while self._connections:
                await self._changed.park()
            connections.cancel_scope.cancel()

    async def serve_stream(self, stream: trio.abc.Stream) -> None:
        """Serve one accepted connection to its end, whatever happens on it."""
        try:
            peer = await self._identify(stream)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("connection refused: %s", error)
            await trio.aclose_forcefully(stream)
            return
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        await self.serve_peer(stream, peer)

    async def serve_peer(self, stream: trio.abc.Stream, peer: Peer) -> None:
        """Serve one connection whose other end is known."""
        connection = Connection(stream, self._handler, peer, self._limits, self._on_error)
        self._connections.add(connection)
        if self._draining:
            connection.finish()
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._changed.unpark_all()

    async def drain(self, grace: float) -> None:
        """Stop accepting, close idle connections, give running requests `grace` seconds, then cancel them. Returns when
        none is left."""
        self._draining = True
        self._accepting.cancel()
        for connection in list(self._connections):
            connection.finish()
        with trio.move_on_after(grace):
            await self._empty()
        for connection in list(self._connections):
            connection.scope.cancel()
        await self._empty()

    async def _empty(self) -> None:
        while self._connections:
            await self._changed.park()

    async def _watch_idle(self) -> None:
        """Close what has been idle too long. Whoever becomes idle later also expires later, so the next look is at the
        oldest one's end."""
        allowed = self._limits.idle_timeout
        while True:
            now = trio.current_time()
            oldest = now
            for connection in self._connections:
                if connection.idle_since + allowed <= now:
                    connection.scope.cancel()
                else:
                    oldest = min(oldest, connection.idle_since)
            await trio.sleep_until(oldest + allowed if allowed else math.inf)


async def serve_connection(
    stream: trio.abc.Stream,
    handler: Handler,
    peer: Peer,
    limits: Limits | None = None,
    *,
    on_error: OnError = default_on_error,
) -> None:
    """Serve a single connection to its end, without a server around it."""
    server = Server(handler, limits, on_error=on_error)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._watch_idle)
        await server.serve_peer(stream, peer)
        nursery.cancel_scope.cancel()
