"""Limits the number of connections of a server, and the number of connections of one peer.

A peer is a user of this machine, or a remote address. If a peer opens too many connections, the server closes one of them:
the one that has waited longest for a request. If none of them waits, the new connection is refused. So a client with many
idle connections, or with requests that it never completes, harms only itself.
"""

from __future__ import annotations

import ipaddress
import socket
from collections import OrderedDict
from collections.abc import Iterator

import trio

from orlop_kernel.http.messages import Limits
from orlop_sdk import linux

__all__ = ["Admission", "Lease", "Refused", "peer_key"]


class Refused(Exception):
    """The connection exceeds a limit; the text is for the peer and for the log."""


class _Peer:
    __slots__ = ("buffered", "key", "open", "waiting")

    def __init__(self, key: str) -> None:
        self.key = key
        self.open = 0
        self.buffered = 0
        # Not a dict, because finding its first key is slow after many removals
        self.waiting: OrderedDict[Lease, float] = OrderedDict()


class Lease:
    """The slot of one connection. Cancelling `scope` ends the connection."""

    __slots__ = ("_admission", "_peer", "scope")

    def __init__(self, admission: Admission, peer: _Peer) -> None:
        self._admission = admission
        self._peer: _Peer | None = peer
        self.scope = trio.CancelScope()

    def wait(self) -> None:
        """The connection begins to wait for a request, and may be closed to free its slot."""
        if self._peer is not None:
            self._peer.waiting.setdefault(self, trio.current_time())

    def work(self) -> None:
        """A whole request has arrived: from now on, the connection must not be closed to free its slot."""
        if self._peer is not None:
            self._peer.waiting.pop(self, None)

    @property
    def waits(self) -> bool:
        """Whether the connection waits for a request."""
        return self._peer is not None and self in self._peer.waiting

    def buffer(self, size: int) -> bool:
        """Count `size` bytes of a body that is buffered until it is complete; a negative `size` subtracts bytes. If the
        total of the peer would exceed its limit, counts nothing and returns false."""
        peer = self._peer
        if peer is None:
            return size <= 0
        most = self._admission.limits.buffered_by_peer
        if most and size > 0 and peer.buffered + size > most:
            return False
        peer.buffered += size
        return True

    def end(self) -> None:
        """Cancel the connection, and free its slot immediately."""
        self.release()
        self.scope.cancel()

    def release(self) -> None:
        """Free the slot; may be called twice."""
        peer, self._peer = self._peer, None
        if peer is not None:
            peer.waiting.pop(self, None)
            self._admission.released(peer)


class Admission:
    """Counts the connections of one server."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._peers: dict[str, _Peer] = {}
        self._open = 0

    def admit(self, key: str, descriptor: int = 0) -> Lease:
        """A slot for a new connection of this peer. `descriptor` is the connection's descriptor: it shows how many files the
        daemon has open, because the kernel assigns the lowest free number. Raises `Refused`."""
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = _Peer(key)
        reason = self._excess(peer, descriptor)
        if reason and not self._evict_waiting(peer):
            if not peer.open:
                del self._peers[key]
            raise Refused(reason)
        peer.open += 1
        self._open += 1
        return Lease(self, peer)

    def _excess(self, peer: _Peer, descriptor: int) -> str:
        limits = self.limits
        if limits.connections_by_peer and peer.open >= limits.connections_by_peer:
            return f"{peer.key or 'the client'} has {peer.open} connections open, which is the limit for a client"
        if limits.connections and self._open >= limits.connections:
            return f"{self._open} connections are open on this listener, which is the limit"
        if limits.descriptors and descriptor >= limits.descriptors:
            return f"the daemon has {descriptor} files open, and reserves the rest for its own work"
        return ""

    def _evict_waiting(self, peer: _Peer) -> bool:
        """Close a waiting connection of this peer. If the peer has none and is below its limit, close a waiting connection
        of the peer with the most connections. Returns false when no connection was closed."""
        victim: _Peer | None = peer
        if not peer.waiting:
            if self.limits.connections_by_peer and peer.open >= self.limits.connections_by_peer:
                return False
            others = (other for other in self._peers.values() if other.waiting)
            victim = max(others, key=lambda other: other.open, default=None)
        if victim is None:
            return False
        next(iter(victim.waiting)).end()
        return True

    def released(self, peer: _Peer) -> None:
        """Called when a lease has ended."""
        peer.open -= 1
        self._open -= 1
        if not peer.open:
            self._peers.pop(peer.key, None)

    def waiting(self) -> Iterator[tuple[Lease, float]]:
        """For each peer, the connection that has waited longest, and the time at which its wait began."""
        for peer in list(self._peers.values()):
            for lease, since in peer.waiting.items():
                yield lease, since
                break


def peer_key(stream: trio.abc.Stream) -> tuple[str, int]:
    """The key by which the stream's peer is counted, and the stream's descriptor. IPv6 addresses are counted by /64, because
    a host can use any address of its /64. Raises OSError when the stream is already closed."""
    inner = stream.transport_stream if isinstance(stream, trio.SSLStream) else stream
    if not isinstance(inner, trio.SocketStream):
        return "", 0
    sock = inner.socket
    if sock.family == socket.AF_UNIX:
        return f"user {linux.peer_credentials(sock)[1]}", sock.fileno()  # type: ignore[arg-type]
    address = ipaddress.ip_address(sock.getpeername()[0].partition("%")[0])
    if isinstance(address, ipaddress.IPv6Address):
        address = address.ipv4_mapped or ipaddress.ip_address(int(address) >> 64 << 64)
    return f"address {address}", sock.fileno()
