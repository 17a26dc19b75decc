"""The contract of a network driver. Addresses are the kernel's business (IPAM); links, routes and rules the driver's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import msgspec

from .common import Drift

__all__ = [
    "Address",
    "Endpoint",
    "EndpointState",
    "LinkedPort",
    "NetworkAudit",
    "NetworkCapabilities",
    "NetworkContext",
    "NetworkDriver",
    "NetworkSpec",
    "PublishedPort",
    "Subnet",
]


class NetworkCapabilities(msgspec.Struct, frozen=True):
    """`sandbox`: which namespace a container on this network runs in: "new" (its own) or "host". `addresses`: the kernel
    allocates addresses for endpoints. `publishes`: ports can be published."""

    sandbox: str = "new"
    addresses: bool = True
    publishes: bool = True


class NetworkContext(msgspec.Struct, frozen=True):
    """What the kernel gives a network factory. `instance` tells daemons on one host apart ("" for the only one): every
    table, chain and generated link name derives from it. `default_bridge` is the link name of the network `bridge`.
    `state_dir` is the driver's alone, under exec-root (`network` for `bridge`, `network-drivers/NAME` for others); it
    exists, and is lost on reboot."""

    instance: str
    default_bridge: str
    state_dir: str
    mtu: int = 1500
    iptables: bool = True
    ip_forward: bool = True


class Subnet(msgspec.Struct, frozen=True):
    """A subnet and its gateway, as text: "172.17.0.0/16", "172.17.0.1"."""

    subnet: str
    gateway: str


class NetworkSpec(msgspec.Struct, frozen=True):
    """A network as the driver sees it. `options` are the `-o` of network create."""

    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    options: dict[str, str] = {}
    internal: bool = False
    ipv6: bool = False


class Address(msgspec.Struct, frozen=True):
    """An interface address: "172.17.0.2/16" and the gateway to route by ("" = none)."""

    address: str
    gateway: str = ""


class PublishedPort(msgspec.Struct, frozen=True):
    """A published port, host side decided: the kernel has bound (host_ip, host_port) and serves loopback and IPv6 itself;
    the driver leads everything else there. `host_ip` "0.0.0.0" or "::" is any address."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int


class LinkedPort(msgspec.Struct, frozen=True):
    """A port of another container that a `--link` leads to. It is reached on the network that both are on, also where that
    keeps its containers apart, whatever address the other one has at the time."""

    container_id: str
    protocol: str
    port: int


class Endpoint(msgspec.Struct, frozen=True):
    """A container's place on a network, as the kernel wants it. `netns` is a path under /proc that opens the namespace
    (valid while the monitor lives). `ifname` is the name inside; `default_route` whether this endpoint is the gateway."""

    id: str
    network: NetworkSpec
    container_id: str
    netns: str
    ifname: str = "eth0"
    mac: str = ""
    addresses: tuple[Address, ...] = ()
    ports: tuple[PublishedPort, ...] = ()
    default_route: bool = True
    sysctls: tuple[tuple[str, str], ...] = ()
    links: tuple[LinkedPort, ...] = ()


class EndpointState(msgspec.Struct, frozen=True):
    """What the driver made. Kept by the kernel and given back on `detach` and `restore`. `host_link` is the link on the
    host's side ("" = none)."""

    mac: str = ""
    host_link: str = ""


@runtime_checkable
class NetworkDriver(Protocol):
    """Runs against the host's network and namespaces given by path. Every method may be called again after a crash.
    Kernel objects of an endpoint end with its namespace; `detach` must cope with their being gone."""

    @property
    def capabilities(self) -> NetworkCapabilities: ...

    async def create_network(self, network: NetworkSpec) -> None:
        """Make the network's objects on the host, or bring existing ones in line (called again at each boot)."""
        ...

    async def delete_network(self, network: NetworkSpec) -> None:
        """Remove them. Already gone: no error."""
        ...

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        """Connect the namespace and publish the ports, all or nothing. `Conflict` when a port is taken in the driver's
        own tables."""
        ...

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        """An attached endpoint has become its container's gateway, or is it no longer: only `ports` and `default_route` are
        others now. Publish exactly these ports (`Conflict` as of `attach`). With `default_route` lead the namespace's here,
        in place of any other's; without it, take back those that still lead here. After a boot it is called with what should
        be so already, the gateway first."""
        ...

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Withdraw ports, then the link. Already gone: no error. With `endpoint.netns` "" the namespace is about to end and
        takes the link along: it must carry nothing any more on return, but its removal need not be waited for."""
        ...

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        """Once at boot, after `create_network` of each: make the host's rules exactly those of these endpoints. Rules of
        living endpoints never disappear meanwhile; what belongs to nobody goes. An endpoint whose link was lost or
        disconnected while no daemon ran is connected again, under the same `EndpointState`."""
        ...

    async def close(self) -> None:
        """Release threads and sockets; leave everything in the host's kernel as it is."""
        ...


@runtime_checkable
class NetworkAudit(Protocol):
    """What a network driver may have besides: comparing the host with the books, for `orlop system check`. It reads only,
    and is asked of a driver that has been told of nothing as well: what it needs to know comes as arguments."""

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Drift]:
        """What the host has of this driver's that is not of these, what of theirs it lacks, and what is damaged."""
        ...

    async def dump(self) -> str:
        """What the host has of this driver's, for people: part of a debug bundle."""
        ...

    async def repair(self, found: Drift) -> None:
        """Do what its `repair` says; `found` is of the last `audit`. It has put itself right, or is another's by now: no
        error. What the kernel knows of an endpoint stays true: its `EndpointState` does not change."""
        ...
