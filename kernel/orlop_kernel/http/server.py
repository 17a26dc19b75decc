"""Serves all connections: accepting, idle timeout, and a shutdown that lets running requests finish.

A server owns its listeners and connections. One task checks the idle time of all connections, because a timer for each
connection would cost more per request than the parser.
"""

from __future__ import annotations

import errno
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import trio

from orlop_kernel.http.admission import Admission, Lease, Refused, peer_key
from orlop_kernel.http.connection import Connection, OnError, default_on_error
from orlop_kernel.http.encode import plain_error
from orlop_kernel.http.identify import identify
from orlop_kernel.http.messages import Handler, Limits, Peer

__all__ = ["Server", "serve_connection"]

log = logging.getLogger("orlop.http")

Identify = Callable[[trio.abc.Stream], Awaitable[Peer]]

_EXHAUSTED = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS})
# Errors of accept for a connection that was lost while it waited (accept(2), "Error handling")
_LOST = frozenset(
    {
        errno.ECONNABORTED,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETDOWN,
        errno.ENETUNREACH,
        errno.ENONET,
        errno.ENOPROTOOPT,
        errno.EOPNOTSUPP,
        errno.EPERM,
        errno.EPROTO,
    }
)
_PAUSE = 0.1  # seconds: when accept fails for lack of descriptors or memory, it is tried again after this pause
_REFUSALS = 32  # limit of refused connections that wait until their client closes; each uses a descriptor
_REFUSAL_TIME = 2.0
_RETRY_AFTER = (("Retry-After", "1"),)


class Server:
    """`handler` answers requests. `on_error` turns its exceptions into answers. `identify` identifies the peer (and does the
    TLS handshake); to refuse the peer, it raises OSError or trio.BrokenResourceError."""

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
        self._admission = Admission(self._limits)
        self._connections: set[Connection] = set()
        self._lingering: deque[trio.CancelScope] = deque()
        self._accepting = trio.CancelScope()
        self._draining = False
        self._changed = trio.lowlevel.ParkingLot()

    @property
    def connections(self) -> int:
        """The number of open connections."""
        return len(self._connections)

    async def serve(
        self,
        listeners: Sequence[trio.abc.Listener[trio.abc.Stream]],
        *,
        task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
    ) -> None:
        """Accept on `listeners` and close them at the end. Returns when `drain` has ended the last connection. Cancelling
        this call ends all connections immediately. Calls `task_status.started` when the server accepts connections."""
        async with trio.open_nursery() as connections:
            connections.start_soon(self._watch_idle)
            with self._accepting:
                async with trio.open_nursery() as accepting:
                    for listener in listeners:
                        accepting.start_soon(self._accept, listener, connections)
                    task_status.started()
            while self._connections:
                await self._changed.park()
            connections.cancel_scope.cancel()

    async def _accept(self, listener: trio.abc.Listener[trio.abc.Stream], connections: trio.Nursery) -> None:
        """Accept connections. trio.serve_listeners is not used: it logs ten tracebacks a second while accept fails."""
        async with listener:
            while True:
                try:
                    stream = await listener.accept()
                except OSError as error:
                    if error.errno in _EXHAUSTED:
                        log.error("cannot accept a connection: %s", error.strerror, exc_info=error)
                        await trio.sleep(_PAUSE)
                    elif error.errno not in _LOST:
                        raise
                else:
                    self._admit(stream, connections)

    def _admit(self, stream: trio.abc.Stream, connections: trio.Nursery) -> None:
        try:
            lease = self._admission.admit(*peer_key(stream))
        except Refused as reason:
            connections.start_soon(self._refuse, stream, str(reason))
        except OSError:
            connections.start_soon(trio.aclose_forcefully, stream)  # the client has disconnected
        else:
            connections.start_soon(self._serve, stream, lease)

    async def _refuse(self, stream: trio.abc.Stream, reason: str) -> None:
        """Send the reason, then wait briefly for the client to close. If the server closed first, a client that is still
        writing its request could get a socket error instead of the answer."""
        log.warning("connection refused: %s", reason, extra={"throttle": "connection refused"})
        try:
            with trio.move_on_after(_PAUSE):
                await stream.send_all(plain_error(503, reason, _RETRY_AFTER))
                if isinstance(stream, trio.abc.HalfCloseableStream):
                    await stream.send_eof()
            if not self._draining:
                await self._linger(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await trio.aclose_forcefully(stream)

    async def _linger(self, stream: trio.abc.Stream) -> None:
        """Read until the client closes. When too many connections linger, the oldest of them is closed."""
        if len(self._lingering) >= _REFUSALS:
            self._lingering.popleft().cancel()
        with trio.move_on_after(_REFUSAL_TIME) as scope:
            self._lingering.append(scope)
            try:
                while await stream.receive_some(4096):
                    pass
            finally:
                if scope in self._lingering:
                    self._lingering.remove(scope)

    async def _serve(self, stream: trio.abc.Stream, lease: Lease) -> None:
        peer = None
        try:
            lease.wait()
            with lease.scope:
                peer = await self._identify(stream)
            if peer is not None:
                await self._serve_peer(stream, peer, lease)
        except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as error:
            log.debug("connection refused: %s", error)
        finally:
            lease.release()
            await trio.aclose_forcefully(stream)

    async def serve_peer(self, stream: trio.abc.Stream, peer: Peer) -> None:
        """Serve one connection whose peer is known."""
        await self._serve_peer(stream, peer, self._admission.admit(""))

    async def _serve_peer(self, stream: trio.abc.Stream, peer: Peer, lease: Lease) -> None:
        connection = Connection(stream, self._handler, peer, self._limits, self._on_error, lease)
        self._connections.add(connection)
        if self._draining:
            connection.finish()
        try:
            await connection.run()
        finally:
            lease.release()
            self._connections.discard(connection)
            self._changed.unpark_all()

    async def drain(self, grace: float) -> None:
        """Stop accepting, close idle connections, give running requests `grace` seconds, then cancel them. Returns when all
        connections have ended."""
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
        """Close connections that are idle too long. Connections expire in the order in which they became idle, so the next
        check is due when the oldest expires."""
        allowed = self._limits.idle_timeout
        while allowed:
            now = oldest = trio.current_time()
            for lease, since in self._admission.waiting():
                if since + allowed <= now:
                    lease.end()
                    oldest = now - allowed  # the next connection of this peer may be due as well
                else:
                    oldest = min(oldest, since)
            await trio.sleep_until(oldest + allowed)


async def serve_connection(
    stream: trio.abc.Stream,
    handler: Handler,
    peer: Peer,
    limits: Limits | None = None,
    *,
    on_error: OnError = default_on_error,
) -> None:
    """Serve a single connection until it closes, without a `Server`."""
    server = Server(handler, limits, on_error=on_error)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server._watch_idle)
        await server.serve_peer(stream, peer)
        nursery.cancel_scope.cancel()
