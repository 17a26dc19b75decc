"""IP address management: chooses subnets for networks and addresses for containers. This module does no I/O, and depends on
neither the host nor drivers.

As in Docker, a container gets the lowest free address, because users rely on `172.17.0.2` for their first container.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Iterator

from orlop_sdk import Forbidden, InvalidParameter

__all__ = ["DEFAULT_POOLS", "AddressPool", "IPNetwork", "derived_mac", "find_subnet", "parse_subnet"]

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

DEFAULT_POOLS: tuple[tuple[str, int], ...] = (
    ("172.17.0.0/16", 16),
    ("172.18.0.0/16", 16),
    ("172.19.0.0/16", 16),
    ("172.20.0.0/14", 16),
    ("172.24.0.0/14", 16),
    ("172.28.0.0/14", 16),
    ("192.168.0.0/16", 20),
)
"""Docker's default address pools: (base, prefix length of each subnet cut from it)."""

EXHAUSTED = "all predefined address pools have been fully subnetted"
OVERLAP = "invalid pool request: Pool overlaps with other one on this address space"


def parse_subnet(text: str) -> IPNetwork:
    """Parse a user's subnet. Host bits must be zero."""
    try:
        interface = ipaddress.ip_interface(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid subnet {text}: invalid CIDR block notation") from error
    if "/" not in text:
        raise InvalidParameter(f"invalid subnet {text}: invalid CIDR block notation")
    if interface.ip != interface.network.network_address:
        raise InvalidParameter(f"invalid subnet {text}: it should be {interface.network}")
    return interface.network


def parse_address(text: str, what: str) -> IPAddress:
    try:
        return ipaddress.ip_address(text)
    except ValueError as error:
        raise InvalidParameter(f"invalid {what} {text}: not an IP address") from error


def _overlaps(subnet: IPNetwork, others: Iterable[IPNetwork]) -> bool:
    return any(other.version == subnet.version and other.overlaps(subnet) for other in others)


def _cuts(pool: tuple[str, int]) -> Iterator[IPNetwork]:
    base, size = ipaddress.ip_network(pool[0]), pool[1]
    yield from base.subnets(new_prefix=max(size, base.prefixlen))


def find_subnet(
    version: int,
    pools: Iterable[tuple[str, int]],
    taken: Collection[IPNetwork],
    avoid: Collection[IPNetwork] = (),
    size: int | None = None,
) -> IPNetwork:
    """The first subnet of the pools that overlaps neither a network of this engine (`taken`) nor a network that the host
    uses (`avoid`: on-link routes, name servers). `size`: the prefix length, if it differs from the prefix length of the
    pool's subnets."""
    blocked = [*taken, *avoid]
    for pool in pools:
        if ipaddress.ip_network(pool[0]).version != version:
            continue
        for candidate in _cuts((pool[0], size) if size else pool):
            if not _overlaps(candidate, blocked):
                return candidate
    raise InvalidParameter(EXHAUSTED)


def check_overlap(subnet: IPNetwork, taken: Collection[IPNetwork]) -> None:
    """Raise if a subnet that a user chose overlaps another network of this engine. A subnet that a user chose may overlap
    the host's routes."""
    if _overlaps(subnet, taken):
        raise Forbidden(OVERLAP)


def derived_mac(address: str) -> str:
    """The MAC address derived from an IPv4 address, by Docker's former scheme. A container that gets the IP address later
    thus gets the same MAC address, and old entries in neighbour caches stay correct."""
    packed = ipaddress.IPv4Address(address).packed
    return ":".join(f"{byte:02x}" for byte in (0x02, 0x42, *packed))


class AddressPool:
    """The addresses of one subnet. The network and broadcast addresses are never allocated (a /31 or /32 has neither)."""

    def __init__(self, subnet: IPNetwork, gateway: str = "", ip_range: str = "", reserved: Iterable[str] = ()) -> None:
        self.subnet = subnet
        self._used: set[int] = set()
        first, last = int(subnet.network_address), int(subnet.broadcast_address)
        if subnet.max_prefixlen - subnet.prefixlen > 1:
            self._used.add(first)
            if subnet.version == 4:
                self._used.add(last)
        cut = self._range(ip_range)
        self._low, self._high = int(cut.network_address), int(cut.broadcast_address)
        self._hint = self._low
        for address in reserved:
            self._used.add(int(self._inside(address)))
        self.gateway = str(self._inside(gateway)) if gateway else self._first_free(first, last)
        self._used.add(int(ipaddress.ip_address(self.gateway)))

    def _range(self, ip_range: str) -> IPNetwork:
        if not ip_range:
            return self.subnet
        cut = parse_subnet(ip_range)
        if cut.version != self.subnet.version or not cut.subnet_of(self.subnet):  # type: ignore[arg-type]
            raise InvalidParameter(f"invalid ip-range {ip_range}: parent subnet {self.subnet} doesn't contain it")
        return cut

    def _inside(self, text: str) -> IPAddress:
        address = parse_address(text, "address")
        if address not in self.subnet:
            raise InvalidParameter(f"no configured subnet contains IP address {text}")
        return address

    def _first_free(self, low: int, high: int) -> str:
        for value in range(low, high + 1):
            if value not in self._used:
                return self._text(value)
        raise InvalidParameter(f"no available IPv{self.subnet.version} addresses on this network's address pools")

    def _text(self, value: int) -> str:
        return str(ipaddress.IPv4Address(value) if self.subnet.version == 4 else ipaddress.IPv6Address(value))

    def __contains__(self, address: str) -> bool:
        try:
            return ipaddress.ip_address(address) in self.subnet
        except ValueError:
            return False  # the row is damaged, because its address is invalid

    def allocate(self, requested: str = "") -> str:
        """Allocate the lowest free address of the range, or the requested address (`Forbidden` if it is taken)."""
        if requested:
            value = int(self._inside(requested))
            if value in self._used:
                raise Forbidden("Address already in use")
            self._used.add(value)
            return self._text(value)
        # All addresses below the hint are taken. Without the hint, allocating many addresses takes quadratic time.
        address = self._first_free(self._hint, self._high)
        value = int(ipaddress.ip_address(address))
        self._used.add(value)
        self._hint = value + 1
        return address

    def reserve(self, address: str) -> None:
        """Mark the address of a running container as taken. May be called twice."""
        self._used.add(int(self._inside(address)))

    def release(self, address: str) -> None:
        """Free an address. Ignores the gateway and addresses that are not taken."""
        value = int(ipaddress.ip_address(address))
        if address != self.gateway and value in self._used:
            self._used.discard(value)
            if self._low <= value:
                self._hint = min(self._hint, value)

    def usage(self) -> tuple[int, int]:
        """Returns (number of addresses in use, including the network and broadcast address; number of addresses that can
        still be allocated)."""
        in_range = sum(self._low <= value <= self._high for value in self._used)
        return len(self._used), self._high - self._low + 1 - in_range
