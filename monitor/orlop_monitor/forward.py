"""Userland proxy for published ports, like docker-proxy: relays the traffic that nftables does not forward (loopback, IPv6).

The daemon binds the sockets and passes them to the monitor, which owns them. So ports work while no daemon runs, and are
freed when the monitor exits. No function blocks. An error of one connection ends only that connection. Buffers are bounded:
while one side does not read, no data is read from the other side. Some descriptors are reserved for the daemon's requests,
even if many clients connect.

Connections to the container are opened from the host's network namespace, which is the monitor's own.
"""

from __future__ import annotations

import os
import resource
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from orlop_monitor.loop import BACK_OFF, EXHAUSTED, Loop, Timer
from orlop_monitor.protocol import Forward

__all__ = ["Forwarder"]

_CHUNK = 64 << 10
_BATCH = 64  # connections or datagrams that one callback handles, so that other callbacks are not delayed
_RESERVE = 4 * _BATCH  # descriptors that are not used for clients
_UDP_IDLE = 90.0  # seconds without a datagram after which a client's socket is closed, as in docker-proxy
_UDP_FLOWS = 1024
_IP_PKTINFO, _IPV6_RECVPKTINFO, _IPV6_PKTINFO = 8, 49, 50
_RESET = struct.pack("ii", 1, 0)


class Forwarder:
    """Serves any number of listeners on one loop."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._listeners: list[_TcpListener | _UdpListener] = []

    def serve(self, sockets: Sequence[socket.socket], forwards: Sequence[Forward]) -> None:
        """Serve additional listeners. Takes ownership of the sockets."""
        for sock, forward in zip(sockets, forwards, strict=True):
            sock.setblocking(False)
            kind = _UdpListener if forward.protocol == "udp" else _TcpListener
            self._listeners.append(kind(self._loop, sock, (forward.address, forward.port)))

    def retarget(self, moved: Mapping[str, str]) -> None:
        """Change the target of listeners. `moved` maps old addresses to new addresses; "" as the new address closes the
        listeners. Existing connections stay open as long as the old address exists."""
        for listener in list(self._listeners):
            address = moved.get(listener.target[0])
            if address:
                listener.target = (address, listener.target[1])
            elif address is not None:
                listener.close()
                self._listeners.remove(listener)

    def close(self) -> None:
        """Close all listeners and connections."""
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()


def _crowded(fd: int) -> bool:
    """Whether only the `_RESERVE` descriptors are free. The number of a new descriptor, which is the lowest free number,
    shows how many are in use."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    try:
        lowest_free = os.dup(fd)
    except OSError:
        return True
    os.close(lowest_free)
    return lowest_free >= limit - min(_RESERVE, limit // 4)


def _family(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def _close(loop: Loop, sock: socket.socket, *, reset: bool = False) -> None:
    if sock.fileno() < 0:
        return
    loop.forget(sock.fileno())
    if reset:
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        except OSError:
            pass  # if this fails, the connection is closed without a reset
    sock.close()


# --- TCP ------------------------------------------------------------------------------------------------------------


class _TcpListener:
    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._sock, self.target = loop, sock, target
        self._relays: set[_Relay] = set()
        self._resume: Timer | None = None
        self._listen()

    def _listen(self) -> None:
        self._resume = None
        self._loop.on_readable(self._sock.fileno(), self._accept)

    def _accept(self) -> None:
        if _crowded(self._sock.fileno()):
            self._pause()
            return
        for _ in range(_BATCH):
            try:
                client, _ = self._sock.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in EXHAUSTED:
                    self._pause()
                    return
                continue  # the connection was lost before it was accepted; accept(2) lists a dozen such errors
            try:
                upstream = socket.socket(_family(self.target[0]), socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
            except OSError:
                _close(self._loop, client, reset=True)
                self._pause()
                return
            self._relays.add(_Relay(self._loop, client, upstream, self.target, self._relays.discard))

    def _pause(self) -> None:
        """Called when no descriptor is free: stop watching the listener for a moment. The listener stays readable, so the
        loop would never wait."""
        self._loop.on_readable(self._sock.fileno(), None)
        self._resume = self._loop.call_later(BACK_OFF, self._listen)

    def close(self) -> None:
        if self._resume:
            self._resume.cancel()
        _close(self._loop, self._sock)
        for relay in list(self._relays):
            relay.abort()


class _Relay:
    """A client's connection and the connection to the container."""

    def __init__(
        self,
        loop: Loop,
        client: socket.socket,
        upstream: socket.socket,
        target: tuple[str, int],
        done: Callable[[_Relay], None],
    ) -> None:
        self._loop, self._client, self._upstream, self._done = loop, client, upstream, done
        self._open = 2
        self._ended = False
        for sock in (client, upstream):
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            upstream.connect(target)
        except BlockingIOError:
            pass
        except OSError:
            # Abort after the constructor, when the owner has a reference to this object.
            loop.call_soon(self.abort)
            return
        loop.on_writable(upstream.fileno(), self._connected)

    def _connected(self) -> None:
        if self._upstream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.abort()
            return
        try:
            self._upstream.getpeername()
        except OSError:
            return  # the event belongs to a closed descriptor that had the same number
        self._loop.on_writable(self._upstream.fileno(), None)
        _Pipe(self._loop, self._client, self._upstream, self._finished, self.abort).start()
        _Pipe(self._loop, self._upstream, self._client, self._finished, self.abort).start()

    def _finished(self) -> None:
        self._open -= 1
        if not self._open:
            self._end(reset=False)

    def abort(self) -> None:
        """Reset both connections, so that the client and the container see the failure."""
        self._end(reset=True)

    def _end(self, *, reset: bool) -> None:
        if not self._ended:
            self._ended = True
            _close(self._loop, self._client, reset=reset)
            _close(self._loop, self._upstream, reset=reset)
            self._done(self)


class _Pipe:
    """Copies one direction of a connection. Keeps at most one chunk that the sink did not accept."""

    _buffer = bytearray(_CHUNK)  # all pipes share this buffer, which is filled and emptied within one callback

    def __init__(
        self,
        loop: Loop,
        source: socket.socket,
        sink: socket.socket,
        finished: Callable[[], None],
        broken: Callable[[], None],
    ) -> None:
        self._loop, self._source, self._sink = loop, source, sink
        self._finished, self._broken = finished, broken
        self._rest = memoryview(b"")

    def start(self) -> None:
        if self._source.fileno() >= 0:
            self._loop.on_readable(self._source.fileno(), self._read)

    def _read(self) -> None:
        try:
            count = self._source.recv_into(self._buffer)
        except BlockingIOError:
            return
        except OSError:
            self._broken()
            return
        if not count:
            self._loop.on_readable(self._source.fileno(), None)
            self._shut()
            return
        try:
            sent = self._sink.send(memoryview(self._buffer)[:count])
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broken()
            return
        if sent < count:
            self._rest = memoryview(bytes(self._buffer[sent:count]))
            self._loop.on_readable(self._source.fileno(), None)
            self._loop.on_writable(self._sink.fileno(), self._write)

    def _write(self) -> None:
        try:
            self._rest = self._rest[self._sink.send(self._rest) :]
        except BlockingIOError:
            return
        except OSError:
            self._broken()
            return
        if not self._rest:
            self._loop.on_writable(self._sink.fileno(), None)
            self._loop.on_readable(self._source.fileno(), self._read)

    def _shut(self) -> None:
        """Shut down writing to the sink after the source's EOF. The other direction stays open."""
        try:
            self._sink.shutdown(socket.SHUT_WR)
        except OSError:
            self._broken()
            return
        self._finished()


# --- UDP ------------------------------------------------------------------------------------------------------------


class _Flow:
    """A client, the local address to which it sends, and the socket to the container."""

    __slots__ = ("ancillary", "client", "deadline", "target", "upstream")

    def __init__(
        self, client: Any, ancillary: list[tuple[int, int, bytes]], upstream: socket.socket, target: tuple[str, int]
    ) -> None:
        self.client, self.ancillary, self.upstream, self.target = client, ancillary, upstream, target
        self.deadline = 0.0


class _UdpListener:
    """Relays datagrams. Each client has its own socket to the container, so that each answer can be sent to the right
    client. An idle socket is closed."""

    def __init__(self, loop: Loop, sock: socket.socket, target: tuple[str, int]) -> None:
        self._loop, self._sock, self.target = loop, sock, target
        self._flows: dict[Any, _Flow] = {}
        self._sweep: Timer | None = None
        self._v6 = sock.family == socket.AF_INET6
        level, option = (socket.IPPROTO_IPV6, _IPV6_RECVPKTINFO) if self._v6 else (socket.IPPROTO_IP, _IP_PKTINFO)
        sock.setsockopt(level, option, 1)
        loop.on_readable(sock.fileno(), self._read)

    def _read(self) -> None:
        for _ in range(_BATCH):
            try:
                data, ancillary, _, client = self._sock.recvmsg(_CHUNK, 64)
            except BlockingIOError:
                return
            except OSError:
                continue  # the call reported an ICMP error of an earlier answer, and cleared the error
            flow = self._flow(client, self._reply_from(ancillary))
            if flow is None:
                continue
            flow.deadline = time.monotonic() + _UDP_IDLE
            try:
                flow.upstream.send(data)
            except OSError:
                continue  # datagrams may be lost

    def _reply_from(self, ancillary: Sequence[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
        """The ancillary data that sets the source address of an answer: the address to which the client sends. Without this
        data, the kernel chooses the source address by the route."""
        for level, kind, data in ancillary:
            if level == socket.IPPROTO_IP and kind == _IP_PKTINFO:
                return [(level, kind, bytes(4) + data[4:8] + bytes(4))]
            if level == socket.IPPROTO_IPV6 and kind == _IPV6_PKTINFO:
                return [(level, kind, bytes(data[:20]))]
        return []

    def _flow(self, client: Any, ancillary: list[tuple[int, int, bytes]]) -> _Flow | None:
        key = (client, ancillary[0][2] if ancillary else b"")
        flow = self._flows.get(key)
        if flow is not None:
            if flow.target == self.target:
                return flow
            self._drop(key)
        crowded = _crowded(self._sock.fileno())
        if crowded and not self._flows:
            return None
        if crowded or len(self._flows) >= _UDP_FLOWS:
            self._drop(min(self._flows, key=lambda known: self._flows[known].deadline))
        try:
            upstream = socket.socket(_family(self.target[0]), socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            upstream.setblocking(False)
        except OSError:
            return None
        try:
            upstream.connect(self.target)
        except OSError:
            upstream.close()
            return None
        flow = self._flows[key] = _Flow(client, ancillary, upstream, self.target)
        self._loop.on_readable(upstream.fileno(), lambda: self._answer(flow))
        if self._sweep is None:
            self._sweep = self._loop.call_later(_UDP_IDLE, self._expire)
        return flow

    def _answer(self, flow: _Flow) -> None:
        for _ in range(_BATCH):
            try:
                data = flow.upstream.recv(_CHUNK)
            except BlockingIOError:
                return
            except OSError:
                return  # an ICMP error: no process in the container listens on the port yet
            flow.deadline = time.monotonic() + _UDP_IDLE
            try:
                self._sock.sendmsg([data], flow.ancillary, 0, flow.client)
            except OSError:
                continue

    def _expire(self) -> None:
        now = time.monotonic()
        for key in [key for key, flow in self._flows.items() if flow.deadline <= now]:
            self._drop(key)
        self._sweep = self._loop.call_later(_UDP_IDLE, self._expire) if self._flows else None

    def _drop(self, key: Any) -> None:
        _close(self._loop, self._flows.pop(key).upstream)

    def close(self) -> None:
        if self._sweep:
            self._sweep.cancel()
        _close(self._loop, self._sock)
        for key in list(self._flows):
            self._drop(key)
