"""Ports: parses Docker's `ExposedPorts` and `PortBindings`, and allocates host ports.

The daemon takes a host port by binding a socket to it, so that no other program can take it. Connections that arrive before
the driver's rules are installed wait in the socket's queue. The sockets are passed to the container's monitor, which uses
them to serve loopback and IPv6. The port stays bound as long as the monitor runs, with or without a daemon. A table in this
module finds conflicts between containers.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import socket
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import NamedTuple

import trio

from orlop_engine.types.containers import PortBinding
from orlop_sdk import DriverError, InvalidParameter, PublishedPort
from orlop_sdk.numbers import natural

__all__ = ["Bound", "PortAllocator", "PortInUse", "Wanted", "normal_ports", "parse_port", "wanted_ports"]

_PROTOCOLS = ("tcp", "udp", "sctp")
_BACKLOG = 4096  # the kernel reduces this to net.core.somaxconn
_EPHEMERAL = (49153, 65535)
_MAX_EXPOSED = 32_768
_MAX_PUBLISHED = 4_096  # each port needs two sockets in the container's monitor, and packet filter rules
_AT_ONCE = 64  # number of ports that are bound between two checkpoints of the event loop; one port takes about 30 us
# Attempts for an ephemeral port; many are needed, because other engines on this host try ports in the same order
_TRIES = 256

PortBindings = Mapping[str, Sequence[PortBinding] | None]


class Wanted(NamedTuple):
    """One container port to publish. `low`..`high` is a range of host ports, of which the first free port is taken. (0, 0)
    means any port."""

    protocol: str
    container_port: int
    host_ip: str
    low: int
    high: int


class Bound(NamedTuple):
    """A host port that this engine has taken. `socket` is None for protocols without a listener (SCTP)."""

    port: PublishedPort
    socket: socket.socket | None


# --- parsing --------------------------------------------------------------------------------------------------------


def _range(text: str, what: str) -> tuple[int, int]:
    low, dash, high = text.partition("-")
    first, last = natural(low, 65535), natural(high if dash else low, 65535)
    if first is None or last is None or last < first:
        raise InvalidParameter(f'invalid {what}: "{text}"')
    return first, last


def parse_port(text: str) -> list[tuple[int, str]]:
    """ "80", "80/udp", "80-82/tcp" -> [(80, "tcp"), ...]."""
    number, _, protocol = text.partition("/")
    protocol = protocol.lower() or "tcp"
    if protocol not in _PROTOCOLS:
        raise InvalidParameter(f'invalid port specification: "{text}": invalid proto: {protocol}')
    low, high = _range(number, "port specification")
    if not low:
        raise InvalidParameter(f'invalid port specification: "{text}"')
    return [(value, protocol) for value in range(low, high + 1)]


def normal_ports(exposed: Collection[str]) -> list[str]:
    """ "80-81" -> ["80/tcp", "81/tcp"]. Invalid ports are skipped, because an image may contain any text, and one image must
    not make lists fail."""
    found: list[str] = []
    for text in exposed:
        with suppress(InvalidParameter):
            found += [f"{port}/{protocol}" for port, protocol in parse_port(text)]
    return found


def _bindings(text: str, ports: list[tuple[int, str]], binding: PortBinding) -> list[Wanted]:
    try:
        host_ip = str(ipaddress.ip_address(binding.host_ip)) if binding.host_ip else ""
    except ValueError as error:
        raise InvalidParameter(f"invalid IP address in port bindings: {binding.host_ip}") from error
    low, high = _range(binding.host_port or "0", "port specification")
    if len(ports) == 1:
        return [Wanted(ports[0][1], ports[0][0], host_ip, low, high)]
    if (low, high) == (0, 0):
        return [Wanted(protocol, port, host_ip, 0, 0) for port, protocol in ports]
    if high - low + 1 != len(ports):
        raise InvalidParameter(f"invalid ranges specified for container and host Ports: {text} and {binding.host_port}")
    return [Wanted(protocol, port, host_ip, low + i, low + i) for i, (port, protocol) in enumerate(ports)]


def _too_many(what: str, limit: int) -> InvalidParameter:
    return InvalidParameter(f"too many {what} ports: at most {limit} are allowed")


def wanted_ports(exposed: Iterable[str], bindings: PortBindings, publish_all: bool) -> list[Wanted]:
    """The ports to publish, in a stable order. A port with null or an empty list of bindings gets an ephemeral port. Raises
    for any invalid port, also if the port is not published, because lists show it."""
    found: list[Wanted] = []
    bound: set[tuple[int, str]] = set()
    for text, given in bindings.items():
        ports = parse_port(text)
        bound.update(ports)
        for binding in given or [PortBinding()]:
            if len(found) + len(ports) > _MAX_PUBLISHED:
                raise _too_many("published", _MAX_PUBLISHED)
            found += _bindings(text, ports, binding)
    bare: list[tuple[int, str]] = []
    for text in exposed:
        bare += parse_port(text)
        if len(bare) > _MAX_EXPOSED:
            raise _too_many("exposed", _MAX_EXPOSED)
    if publish_all:
        if len(found) + len(bare) > _MAX_PUBLISHED:
            raise _too_many("published", _MAX_PUBLISHED)
        found += [Wanted(protocol, port, "", 0, 0) for port, protocol in bare if (port, protocol) not in bound]
    # Fixed host ports come first, because an ephemeral port must not take a port that another binding asks for by number.
    return sorted(
        set(found), key=lambda want: (want.low == 0, want.low != want.high, want.container_port, want.protocol, want)
    )


# --- allocation -----------------------------------------------------------------------------------------------------


class PortTaken(DriverError):
    """A candidate port is not available. The message is the same as Docker's."""


class PortInUse(PortTaken):
    """The port of the host's address is published by a container (`is_published`), or used by another program."""

    def __init__(self, message: str, port: int, protocol: str, address: str, *, is_published: bool) -> None:
        super().__init__(message)
        self.port, self.protocol, self.address, self.is_published = port, protocol, address, is_published

    def renamed(self, message: str) -> PortInUse:
        return PortInUse(message, self.port, self.protocol, self.address, is_published=self.is_published)


def ephemeral_range() -> tuple[int, int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_port_range") as file:
            low, high = file.read().split()
            return int(low), int(high)
    except (OSError, ValueError):
        return _EPHEMERAL


def _reserved() -> set[int]:
    try:
        with open("/proc/sys/net/ipv4/ip_local_reserved_ports") as file:
            text = file.read().strip()
    except OSError:
        return set()
    found: set[int] = set()
    for part in text.split(",") if text else ():
        low, _, high = part.partition("-")
        found.update(range(int(low), int(high or low) + 1))
    return found


def _shown(address: str) -> str:
    return f"[{address}]" if ":" in address else address


def _open(protocol: str, address: str, port: int, *, listen: bool = True) -> socket.socket | None:
    """Bind a socket; for TCP, also listen if `listen` is true. Raises OSError."""
    if protocol == "sctp":
        return None
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    sock = socket.socket(family, kind | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if protocol == "tcp":
            # The option allows a port that has connections in TIME_WAIT. It is not set for UDP, because with UDP it allows
            # two sockets on one port.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((address, port))
        if protocol == "tcp" and listen:
            sock.listen(_BACKLOG)
    except BaseException:
        sock.close()
        raise
    return sock


class _Ephemeral:
    """Ephemeral ports in the order in which they are tried. The order begins with the port after the last allocated port,
    and continues at the start of the range after its end. Use one object for all ports of an allocation. The iteration
    continues after the previous port, so an allocation of thousands of ports does not try occupied ports again. No port is
    returned twice."""

    def __init__(self, last: int) -> None:
        self._low, self._high = ephemeral_range()
        self._reserved = _reserved()
        self._next = last + 1 if self._low <= last < self._high else self._low

    def __iter__(self) -> Iterator[int]:
        for _ in range(self._high - self._low + 1):
            port, self._next = self._next, self._next + 1 if self._next < self._high else self._low
            if port not in self._reserved:
                yield port


class PortAllocator:
    """The host ports of this engine's containers. They are not stored. When the daemon starts, it calls `adopt` with the
    ports of running containers."""

    def __init__(self, default_ip: str = "0.0.0.0") -> None:
        self._default_ip = default_ip
        self._taken: dict[tuple[str, int], list[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {}
        self._last = 0
        self._listen = True

    def probe(
        self, wanted: Sequence[Wanted], default_ip: str = "", routed: Collection[int] = ()
    ) -> tuple[list[PublishedPort], list[str]]:
        """The ports that `allocate` would take now, and the messages about ports that it cannot take. An ephemeral port has
        the `host_port` 0. Takes no port: sockets are bound to the fixed ports, but do not listen, and are closed again
        before another task runs."""
        trial = PortAllocator(self._default_ip)
        trial._taken, trial._listen = {key: [*held] for key, held in self._taken.items()}, False
        found: list[Bound] = []
        failures = []
        try:
            for want in wanted:
                addresses = self._addresses(want.host_ip, default_ip)
                direct = [each for each in addresses if not want.low or (6 if ":" in each else 4) in routed]
                found += [Bound(PublishedPort(want.protocol, each, 0, want.container_port), None) for each in direct]
                if addresses := [each for each in addresses if each not in direct]:
                    try:
                        found += trial._allocate_one(want, addresses, None)
                    except DriverError as error:
                        failures.append(str(error))
        finally:
            close_sockets(found)
        return [each.port for each in found], failures

    async def allocate(self, wanted: Sequence[Wanted], default_ip: str = "", routed: Collection[int] = ()) -> list[Bound]:
        """Take all ports or none. Raises `DriverError` with Docker's message. `default_ip` is the network's default
        address, for bindings without an address. `routed` are the IP versions (4, 6) whose packets reach the container
        directly. In these versions, published ports take no port of the host, and their `host_port` is 0."""
        found: list[Bound] = []
        ephemeral = _Ephemeral(self._last) if any(not want.low for want in wanted) else None
        try:
            for count, want in enumerate(wanted, 1):
                addresses = self._addresses(want.host_ip, default_ip)
                direct = [each for each in addresses if (6 if ":" in each else 4) in routed]
                found += [Bound(PublishedPort(want.protocol, each, 0, want.container_port), None) for each in direct]
                if addresses := [each for each in addresses if each not in direct]:
                    found += self._allocate_one(want, addresses, ephemeral)
                if count % _AT_ONCE == 0:
                    await trio.lowlevel.checkpoint()
        except BaseException:
            close_sockets(found)
            self.release(bound.port for bound in found)
            raise
        return found

    def _addresses(self, host_ip: str, default_ip: str) -> list[str]:
        address = host_ip or default_ip or self._default_ip
        if not host_ip and address == "0.0.0.0":
            return ["0.0.0.0", "::"] if socket.has_ipv6 and os.path.exists("/proc/sys/net/ipv6") else ["0.0.0.0"]
        return [address]

    def _allocate_one(self, want: Wanted, addresses: list[str], ephemeral: _Ephemeral | None) -> list[Bound]:
        failure = DriverError("no free port")
        tries = 0
        candidates = range(want.low, want.high + 1) if want.low or ephemeral is None else ephemeral
        for port in candidates:
            if not want.low and (want.protocol, port) in self._taken:
                continue
            try:
                return self._take(want, addresses, port)
            except PortTaken as taken:
                failure = taken
                tries += not want.low
                if tries >= _TRIES:
                    break
        raise failure

    def _take(self, want: Wanted, addresses: list[str], port: int) -> list[Bound]:
        found: list[Bound] = []
        try:
            for address in addresses:
                self._check(want.protocol, address, port)
                try:
                    sock = _open(want.protocol, address, port, listen=self._listen)
                except OSError as error:
                    # IPv6 is disabled on this host, so the IPv4 binding is enough.
                    if address == "::" and len(addresses) == 2 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                        continue
                    text = f"failed to bind host port {_shown(address)}:{port}/{want.protocol}: {_reason(error)}"
                    if error.errno == errno.EADDRINUSE:
                        raise PortInUse(text, port, want.protocol, address, is_published=False) from error
                    raise PortTaken(text) from error
                published = PublishedPort(want.protocol, address, port, want.container_port)
                self._taken.setdefault((want.protocol, port), []).append(ipaddress.ip_address(address))
                found.append(Bound(published, sock))
        except BaseException:
            close_sockets(found)
            self.release(bound.port for bound in found)
            raise
        if not want.low:
            self._last = port
        return found

    def _check(self, protocol: str, address: str, port: int) -> None:
        new = ipaddress.ip_address(address)
        for held in self._taken.get((protocol, port), ()):
            if held.version == new.version and (held == new or held.is_unspecified or new.is_unspecified):
                text = f"Bind for {_shown(address)}:{port} failed: port is already allocated"
                raise PortInUse(text, port, protocol, address, is_published=True)

    def adopt(self, ports: Iterable[PublishedPort]) -> None:
        """Record the ports of running containers."""
        for port in ports:
            if not port.host_port:  # the network routes to the container, so no port of the host is taken
                continue
            self._taken.setdefault((port.protocol, port.host_port), []).append(ipaddress.ip_address(port.host_ip))

    def release(self, ports: Iterable[PublishedPort]) -> None:
        """Free the ports. Ignores ports that are not taken."""
        for port in ports:
            key = (port.protocol, port.host_port)
            held = self._taken.get(key, [])
            address = ipaddress.ip_address(port.host_ip)
            if address in held:
                held.remove(address)
            if not held:
                self._taken.pop(key, None)


def _reason(error: OSError) -> str:
    """The message in Go's errno table, because clients compare this text."""
    known = {
        errno.EADDRINUSE: "address already in use",
        errno.EADDRNOTAVAIL: "cannot assign requested address",
        errno.EACCES: "permission denied",
    }
    return known.get(error.errno or 0, (error.strerror or str(error)).lower())


def close_sockets(bound: Iterable[Bound]) -> None:
    for each in bound:
        if each.socket is not None:
            each.socket.close()
