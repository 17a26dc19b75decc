"""The name server's sockets at 127.0.0.11 in the container's namespace (UDP and TCP), and forwarding to upstream servers.

The sockets have random ports. A few stateless nftables rules in the container's namespace redirect port 53 of 127.0.0.11 to
these ports, so that the container can run its own name server on port 53. If `nft` is not installed, the sockets use port
53.

The number, the duration and the size of pending queries are limited. A slow upstream server does not delay other queries.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import sys
from collections.abc import Callable
from contextlib import nullcontext, suppress

from orlop_monitor import commands
from orlop_monitor.loop import BACK_OFF, EXHAUSTED, Loop, Timer
from orlop_sdk import linux
from orlop_sdk.common import Command

from . import wire
from .names import Tables

__all__ = ["ADDRESS", "NameServer"]

ADDRESS = "127.0.0.11"
_PORT = 53
_MOST = 1024
_CONNECTIONS = 256
_SECONDS = 4.0  # seconds to wait for the answer of one upstream server
_SERVERS = 3
_IDLE = 10.0
_BATCH = 64
_DATAGRAM = 65535
_PATH = (("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"), ("LC_ALL", "C"))
_RULES = """table ip orlop_dns {{
  chain out {{
    type filter hook output priority -300
    ip daddr {address} udp dport 53 udp dport set {udp}
    ip daddr {address} tcp dport 53 tcp dport set {tcp}
    ip saddr {address} udp sport {udp} udp sport set 53
    ip saddr {address} tcp sport {tcp} tcp sport set 53
  }}
}}
"""


class NameServer:
    """Calls `on_ready` once: when the server can answer queries, or when its start has failed and the error is logged."""

    def __init__(self, loop: Loop, netns: int, tables: Tables, on_ready: Callable[[], None]) -> None:
        self._loop, self._netns, self._tables, self._on_ready = loop, netns, tables, on_ready
        self._udp, self._tcp = self._bind(0)
        self._asking: set[_Asking] = set()
        self._connections: set[_Connection] = set()
        self._closed = False
        self._pause: Timer | None = None
        self._listen()
        self._redirect()

    # --- sockets ----------------------------------------------------------------------------------------------------

    def _bind(self, port: int) -> tuple[socket.socket, socket.socket]:
        with linux.in_network_namespace(self._netns):
            udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            tcp = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        try:
            udp.bind((ADDRESS, port))
            tcp.bind((ADDRESS, port))
            tcp.listen(_BATCH)
        except OSError:
            udp.close()
            tcp.close()
            raise
        return udp, tcp

    def _listen(self) -> None:
        self._loop.on_readable(self._udp.fileno(), self._datagrams)
        self._listen_for_connections()

    def _listen_for_connections(self) -> None:
        self._pause = None
        self._loop.on_readable(self._tcp.fileno(), self._accept)

    def _redirect(self) -> None:
        rules = _RULES.format(address=ADDRESS, udp=self._udp.getsockname()[1], tcp=self._tcp.getsockname()[1])
        command = Command(("nft", "-f", "-"), _PATH, stdin=rules.encode(), timeout=10)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        try:
            with linux.in_network_namespace(self._netns):
                commands.run(self._loop, command, (null, null, null), self._redirected)
        except OSError as error:
            print(f"nft: {error.strerror}", file=sys.stderr)
            self._redirected(127, False)
        finally:
            os.close(null)

    def _redirected(self, status: int, timed_out: bool) -> None:
        if self._closed:
            return
        if status:
            print(f"the name server listens on port 53, because nft ended with {status}", file=sys.stderr)
            try:
                udp, tcp = self._bind(_PORT)
            except OSError as error:
                print(f"the name server does not run: {error}", file=sys.stderr)
            else:
                self._forget_sockets()
                self._udp, self._tcp = udp, tcp
                self._listen()
        self._on_ready()

    def _forget_sockets(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        for sock in (self._udp, self._tcp):
            self._loop.forget(sock.fileno())
            sock.close()

    def close(self) -> None:
        self._closed = True
        self._forget_sockets()
        for asking in tuple(self._asking):
            asking.close()
        for connection in tuple(self._connections):
            connection.close()

    # --- questions --------------------------------------------------------------------------------------------------

    def _datagrams(self) -> None:
        for _ in range(_BATCH):
            try:
                query, client = self._udp.recvfrom(_DATAGRAM)
            except OSError:
                return
            self.ask(query, lambda answer, client=client: self._send(answer, client), stream=False)  # type: ignore[misc]

    def _send(self, answer: bytes, client: tuple[str, int]) -> None:
        with suppress(OSError):  # datagrams may be lost
            self._udp.sendto(answer, client)

    def _accept(self) -> None:
        for _ in range(_BATCH):
            try:
                sock, _ = self._tcp.accept()
            except OSError as error:
                if error.errno in EXHAUSTED:  # the listener stays readable: stop watching it for a moment
                    self._loop.on_readable(self._tcp.fileno(), None)
                    self._pause = self._loop.call_later(BACK_OFF, self._listen_for_connections)
                return
            if len(self._connections) >= _CONNECTIONS:
                sock.close()
            else:
                sock.setblocking(False)
                self._connections.add(_Connection(self._loop, sock, self.ask, self._connections.discard))

    def ask(self, query: bytes, answer: Callable[[bytes], None], *, stream: bool) -> None:
        """Answer a query from the tables, or forward it. An invalid query is answered with an error; data that is not a
        query is not answered."""
        asked = wire.question(query)
        if asked is None:
            if refusal := wire.refusal(query):
                answer(refusal)
            return
        size = _DATAGRAM if stream else asked.size
        known = self._tables.answer(asked.type, asked.name)
        if known is not None:
            answer(wire.reply(query, asked, known, size=size))
            return
        container = self._tables.container
        if container.dotted and "." not in asked.name and asked.type in (wire.A, wire.AAAA):
            answer(wire.reply(query, asked))  # an empty answer makes the client continue with its search list
            return
        servers = container.servers[:_SERVERS]
        if not servers or len(self._asking) >= _MOST:
            answer(wire.reply(query, asked, code=wire.REFUSED if servers else wire.SERVFAIL))
            return

        def done(asking: _Asking, found: bytes | None) -> None:
            self._asking.discard(asking)
            answer(found or wire.reply(query, asked, code=wire.SERVFAIL))

        netns = self._netns if container.inside else -1
        self._asking.add(_Asking(self._loop, query, servers, netns, done, stream=stream))


class _Asking:
    """One query. It is forwarded to the upstream servers, one after the other, by the protocol that the client used (UDP or
    TCP)."""

    def __init__(
        self,
        loop: Loop,
        query: bytes,
        servers: tuple[str, ...],
        netns: int,
        done: Callable[[_Asking, bytes | None], None],
        *,
        stream: bool,
    ) -> None:
        self._loop, self._query, self._servers, self._netns = loop, query, list(servers), netns
        self._done, self._stream = done, stream
        self._sock: socket.socket | None = None
        self._got = bytearray()
        self._last: bytes | None = None
        self._timer: Timer = loop.call_soon(self._next)

    def _next(self) -> None:
        self._drop()
        if not self._servers:
            self._done(self, self._last)
            return
        server = self._servers.pop(0)
        try:
            family = socket.AF_INET6 if ipaddress.ip_address(server.partition("%")[0]).version == 6 else socket.AF_INET
            kind = socket.SOCK_STREAM if self._stream else socket.SOCK_DGRAM
            with linux.in_network_namespace(self._netns) if self._netns >= 0 else nullcontext():
                self._sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
            with suppress(BlockingIOError):
                self._sock.connect((server, _PORT))
            if not self._stream:
                self._sock.send(self._query)
        except (OSError, ValueError):
            self._timer = self._loop.call_soon(self._next)
            return
        self._timer = self._loop.call_later(_SECONDS, self._next)
        if self._stream:
            self._loop.on_writable(self._sock.fileno(), self._connected)
        self._loop.on_readable(self._sock.fileno(), self._read)

    def _connected(self) -> None:
        assert self._sock
        self._loop.on_writable(self._sock.fileno(), None)
        try:
            self._sock.send(struct.pack("!H", len(self._query)) + self._query)
        except OSError:
            self._next()

    def _read(self) -> None:
        assert self._sock
        try:
            data = self._sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            self._next()
            return
        if self._stream:
            self._got += data
            if data and (len(self._got) < 2 or len(self._got) < 2 + int.from_bytes(self._got[:2], "big")):
                return
            data = bytes(self._got[2:])
        if len(data) < 12 or data[:2] != self._query[:2]:
            if self._stream:
                self._next()
            return  # ignore a datagram that does not answer this query
        self._last = data
        if wire.rcode(data) in (wire.SERVFAIL, wire.REFUSED):
            self._next()
            return
        self.close()
        self._done(self, data)

    def _drop(self) -> None:
        self._timer.cancel()
        self._got.clear()
        if self._sock:
            if self._sock.fileno() >= 0:
                self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._sock = None

    close = _drop


class _Connection:
    """A TCP client. Each query is preceded by its length. Answers are sent as they become available."""

    def __init__(
        self, loop: Loop, sock: socket.socket, ask: Callable[..., None], ended: Callable[[_Connection], None]
    ) -> None:
        self._loop, self._sock, self._ask, self._ended = loop, sock, ask, ended
        self._got = bytearray()
        self._owed = 0
        self._said_all = False
        self._idle = loop.call_later(_IDLE, self.close)
        loop.on_readable(sock.fileno(), self._read)

    def _read(self) -> None:
        try:
            data = self._sock.recv(_DATAGRAM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._said_all = True
            self._loop.on_readable(self._sock.fileno(), None)
            if not self._owed:
                self.close()
            return
        self._idle.cancel()
        self._idle = self._loop.call_later(_IDLE, self.close)
        self._got += data
        while len(self._got) >= 2 and len(self._got) >= (end := 2 + int.from_bytes(self._got[:2], "big")):
            query = bytes(self._got[2:end])
            del self._got[:end]
            self._owed += 1
            self._ask(query, self._answer, stream=True)

    def _answer(self, answer: bytes) -> None:
        self._owed -= 1
        if self._sock.fileno() < 0:
            return
        data = struct.pack("!H", len(answer)) + answer
        try:
            whole = self._sock.send(data) == len(data)
        except OSError:
            whole = False
        if not whole or (self._said_all and not self._owed):
            self.close()  # the client does not read its answers, or has received all of them

    def close(self) -> None:
        if self._sock.fileno() >= 0:
            self._idle.cancel()
            self._loop.forget(self._sock.fileno())
            self._sock.close()
            self._ended(self)
