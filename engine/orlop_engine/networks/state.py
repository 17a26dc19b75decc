"""One network in memory: its row, its addresses, its members."""

from __future__ import annotations

import ipaddress
import secrets

from orlop_engine.types.containers import EndpointIPAMConfig, EndpointSettings
from orlop_sdk import Address, DriverError, Endpoint, EndpointState, InvalidParameter, NetworkSpec, Subnet

from .ipam import AddressPool, derived_mac, parse_subnet
from .records import AttachedEndpoint, NetworkRecord, Sandbox, SubnetRecord

__all__ = ["Network", "mac_for", "new_id", "reported_addresses"]


def new_id() -> str:
    return secrets.token_hex(32)


class Network:
    """A network. When the daemon starts, it rebuilds the address pools from the row and from the endpoints of running
    containers. `planned` are endpoints that are being created or removed. `fault` is the error with which the driver could
    not create the network."""

    def __init__(self, record: NetworkRecord) -> None:
        self.members: dict[str, tuple[Sandbox, AttachedEndpoint]] = {}
        self.planned: set[str] = set()
        self.fault = ""
        self.set_record(record)

    def set_record(self, record: NetworkRecord) -> None:
        self.record = record
        self.pools = [
            AddressPool(parse_subnet(each.subnet), each.gateway, each.ip_range, each.auxiliary.values())
            for each in record.subnets
        ]

    @property
    def spec(self) -> NetworkSpec:
        record = self.record
        return NetworkSpec(
            id=record.id,
            name=record.name,
            subnets=tuple(Subnet(each.subnet, each.gateway) for each in record.subnets),
            options=record.options,
            internal=record.internal,
            ipv6=record.ipv6,
        )

    @property
    def in_use(self) -> bool:
        return bool(self.members or self.planned)

    def allocate(self, settings: EndpointSettings) -> tuple[Address, ...]:
        """Allocate one address for each IP version, all or none."""
        config = settings.ipam_config or EndpointIPAMConfig()
        for text in filter(None, (config.ipv4_address, config.ipv6_address)):
            if not any(_family(text) == pool.subnet.version and text in pool for pool in self.pools):
                raise InvalidParameter(f"no configured subnet contains IP address {text}")
        found: list[Address] = []
        try:
            for version, wanted in ((4, config.ipv4_address), (6, config.ipv6_address)):
                subnets = [each for each in self._subnets() if each[0].subnet.version == version]
                if subnets:
                    found.append(self._allocate_one(subnets, wanted))
        except BaseException:
            self.release(found)
            raise
        return tuple(found)

    def _subnets(self) -> list[tuple[AddressPool, SubnetRecord]]:
        return list(zip(self.pools, self.record.subnets, strict=True))

    def _allocate_one(self, subnets: list[tuple[AddressPool, SubnetRecord]], wanted: str) -> Address:
        """The wanted address, or the lowest free address of the first subnet that is not full."""
        if wanted:
            subnets = [each for each in subnets if wanted in each[0]]
        for place, (pool, subnet) in enumerate(subnets, 1):
            try:
                address = pool.allocate(wanted)
            except InvalidParameter:
                if place == len(subnets):
                    raise
                continue
            return Address(f"{address}/{pool.subnet.prefixlen}", "" if self.record.internal else subnet.route_by)
        raise InvalidParameter(f"no configured subnet contains IP address {wanted}")

    def mark(self, endpoint: Endpoint) -> None:
        """Mark the addresses of a running container. Ignores an address outside the network's current subnets, because no
        other container can get it."""
        for pool, address in self._placed(endpoint.addresses):
            pool.reserve(address)

    def release(self, addresses: list[Address] | tuple[Address, ...]) -> None:
        for pool, address in self._placed(addresses):
            pool.release(address)

    def _placed(self, addresses: list[Address] | tuple[Address, ...]) -> list[tuple[AddressPool, str]]:
        bare = [each.address.partition("/")[0] for each in addresses]
        return [
            (pool, text) for text in bare for pool in self.pools if pool.subnet.version == _family(text) and text in pool
        ]


def _family(text: str) -> int:
    return 6 if ":" in text else 4


def mac_for(settings: EndpointSettings, addresses: tuple[Address, ...]) -> str:
    """The requested MAC address. If no MAC address is requested, it is derived from the IPv4 address. Without an IPv4
    address, the result is "", and the driver chooses the MAC address."""
    if settings.mac_address:
        return settings.mac_address.replace("-", ":").lower()
    for each in addresses:
        if ":" not in each.address:
            return derived_mac(each.address.partition("/")[0])
    return ""


def reported_addresses(name: str, state: EndpointState) -> tuple[Address, ...]:
    """The addresses that a driver with its own address management has assigned to an endpoint. Raises `DriverError` if a
    reported address is invalid, because an invalid address breaks the names tables."""
    for each in state.addresses:
        try:
            if "/" not in each.address:
                raise ValueError(f"{each.address!r} has no prefix length")
            ipaddress.ip_interface(each.address)
            if each.gateway:
                ipaddress.ip_address(each.gateway)
        except ValueError as error:
            raise DriverError(f"network driver {name} reported an invalid address: {error}") from error
    return state.addresses
