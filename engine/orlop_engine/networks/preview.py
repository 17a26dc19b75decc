"""The networks and published ports that a container would get. Pure functions for `orlop run --dry-run`."""

from __future__ import annotations

import ipaddress

from msgspec import field

from orlop_sdk import PublishedPort
from orlop_sdk.base import WireBase

from .records import NetworkRecord

__all__ = ["Preview", "PreviewedNetwork", "PreviewedPort", "sentence"]


class PreviewedNetwork(WireBase):
    """A network of the container. `families` are the address families in which the container gets an address."""

    name: str
    driver: str
    interface: str
    families: list[str]
    subnets: list[str]
    default_route: bool

    @classmethod
    def of(cls, record: NetworkRecord, interface: str, *, default_route: bool) -> PreviewedNetwork:
        subnets = [each.subnet for each in record.subnets]
        families = list(dict.fromkeys("IPv6" if ":" in each else "IPv4" for each in subnets))
        return cls(
            name=record.name,
            driver=record.driver,
            interface=interface,
            families=families,
            subnets=subnets,
            default_route=default_route,
        )


class PreviewedPort(WireBase):
    """A published port. `host_port` 0: the start chooses a free port. `rule` says which packets reach the container, and
    how."""

    protocol: str
    container_port: int
    host_ip: str = field(name="HostIP")
    host_port: int
    rule: str


class Preview(WireBase):
    networks: list[PreviewedNetwork] = field(default_factory=list)
    ports: list[PreviewedPort] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def sentence(port: PublishedPort, network: NetworkRecord, *, iptables: bool) -> PreviewedPort:
    """The port with its rule. The container's monitor serves loopback, and address families in which the container has no
    address. A firewall element forwards all other packets."""
    address = ipaddress.ip_address(port.host_ip)
    number = str(port.host_port) if port.host_port else "a free port that the start chooses"
    where = f"every IPv{address.version} address of the host" if address.is_unspecified else str(address)
    own = any((":" in each.subnet) == (address.version == 6) for each in network.subnets)
    target = f"port {port.container_port} of the container's IPv{address.version} address on network {network.name}"
    mode = network.options.get(f"com.docker.network.bridge.gateway_mode_ipv{address.version}")
    if mode == "routed":
        rule = f"a firewall element accepts {port.protocol} packets to {target}; no port of the host is taken"
    elif address.is_loopback or not own or not iptables:
        rule = (
            f"the container's monitor listens on {port.protocol} port {number} of {where}, and connects to port "
            f"{port.container_port} of the container; no firewall element"
        )
    else:
        rule = f"a firewall element forwards {port.protocol} packets for port {number} of {where} to {target}"
    return PreviewedPort(
        protocol=port.protocol,
        container_port=port.container_port,
        host_ip=port.host_ip,
        host_port=port.host_port,
        rule=rule,
    )
