"""The contract of a network driver. The driver makes links, routes and firewall rules. The daemon allocates addresses
(IPAM), except for drivers with their own address management (DHCP, for example).

Order of calls at the start of the daemon: `create_network` for each network, then `restore` once, then `update` for the
endpoints of containers that run. After that, `attach`, `update` and `detach` of an endpoint come in this order.
"""

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
    """`sandbox` is "new" if a container on this network gets its own network namespace, "host" if it uses the host's.
    `addresses` is true if the daemon allocates addresses for endpoints. If it is false, the driver may assign addresses
    (`EndpointState.addresses`). `publishes` is true if the driver can publish ports. In this case, the daemon must know an
    endpoint's addresses before `attach`. `predefined_only` is true if users cannot create networks with this driver. Such a
    driver has one network, which always exists. `macs` is true if an endpoint gets the MAC address that the daemon derives
    from its IP address. If it is false, `Endpoint.mac` is set only if a user asks for a MAC address. `several_subnets` is
    true if a network may have more than one subnet of each IP version. `uplink_option` is the name of the option that
    connects a network to other hosts, and "" for a driver without such an option. A network that does not set the option is
    internal. `link_local` is true if the driver adds the addresses of `Endpoint.link_local`."""

    sandbox: str = "new"
    addresses: bool = True
    publishes: bool = True
    predefined_only: bool = False
    macs: bool = True
    several_subnets: bool = False
    uplink_option: str = ""
    link_local: bool = False


class NetworkContext(msgspec.Struct, frozen=True):
    """Argument of a network factory. `instance` distinguishes the daemons of one host ("" if there is only one daemon). The
    driver must derive the names of all tables, chains and links from `instance`. `default_bridge` is the link name of the
    network `bridge`. `state_dir` is the driver's private directory below exec-root: `network` for the driver `bridge`,
    `network-drivers/NAME` for other drivers. The directory exists. It is lost when the machine reboots. `mtu` is in
    bytes."""

    instance: str
    default_bridge: str
    state_dir: str
    mtu: int = 1500
    iptables: bool = True
    ip_forward: bool = True


class Subnet(msgspec.Struct, frozen=True):
    """A subnet and its gateway, for example "172.17.0.0/16" and "172.17.0.1"."""

    subnet: str
    gateway: str


class NetworkSpec(msgspec.Struct, frozen=True):
    """A network as the driver sees it. `options` are the `-o` options of `docker network create`."""

    id: str
    name: str
    subnets: tuple[Subnet, ...] = ()
    options: dict[str, str] = {}
    internal: bool = False
    ipv6: bool = False


class Address(msgspec.Struct, frozen=True):
    """An interface address with its prefix length ("172.17.0.2/16"), and the gateway of the default route ("" for none)."""

    address: str
    gateway: str = ""


class PublishedPort(msgspec.Struct, frozen=True):
    """A published port. The daemon has chosen `host_port`, has bound (host_ip, host_port), and forwards connections over
    loopback and IPv6 itself. The driver forwards all other traffic for this address and port to the container. "0.0.0.0" and
    "::" in `host_ip` mean any address. If `host_port` is 0, the network routes packets to the container's own address
    (gateway mode `routed`). The driver then only allows packets to `container_port` at this address."""

    protocol: str
    host_ip: str
    host_port: int
    container_port: int


class LinkedPort(msgspec.Struct, frozen=True):
    """A port of another container to which a `--link` gives access. Both containers are attached to the network. The driver
    must allow this traffic even if the network isolates its containers (icc=false). The traffic must still be allowed after
    the other container's address has changed."""

    container_id: str
    protocol: str
    port: int


class Endpoint(msgspec.Struct, frozen=True):
    """A container's attachment to a network, as the daemon wants it to be. `netns` is a path below /proc at which the
    container's network namespace can be opened. It is valid while the container's monitor runs. `ifname` is the interface
    name in the container. `default_route`: the container's default route goes through this endpoint. If `mac` is "", the
    driver chooses the MAC address. `links` are the ports to which `--link` gives this container access. `link_local` are
    additional addresses of the interface that a user has chosen, such as "169.254.1.1/16"; they belong to no subnet and have
    no gateway. If the driver's capability `link_local` is false, `link_local` is always empty."""

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
    link_local: tuple[str, ...] = ()


class EndpointState(msgspec.Struct, frozen=True):
    """The result of `attach`. The daemon stores the state and passes it to `update`, `detach` and `restore`. `host_link` is
    the name of the link on the host ("" for none). A driver with its own address management sets `addresses` to the
    addresses that it gave to the endpoint. The daemon shows these addresses, and its name servers answer with them."""

    mac: str = ""
    host_link: str = ""
    addresses: tuple[Address, ...] = ()


@runtime_checkable
class NetworkDriver(Protocol):
    """Changes the network of the host, and of the namespaces whose paths it gets. Every method may be called again, even if
    a crash interrupted an earlier call at any point. Methods may be called concurrently for different endpoints and
    networks. The links of an endpoint disappear with its namespace; `detach` must not fail when the links are gone. Failures
    raise `DriverError`.

    The daemon calls each async method with a deadline, and may cancel it at any await. `capabilities` is read once."""

    @property
    def capabilities(self) -> NetworkCapabilities: ...

    async def create_network(self, network: NetworkSpec) -> None:
        """Make the network's objects on the host, or correct existing objects. Called again for every network at each start
        of the daemon. Raises `InvalidParameter` for an option with an invalid value, and `Conflict` if the name of a link is
        in use."""
        ...

    async def delete_network(self, network: NetworkSpec) -> None:
        """Remove the network's objects from the host. Succeeds if the objects do not exist."""
        ...

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        """Connect the namespace to the network and publish the ports. After a failure, nothing remains. Raises `Conflict` if
        a port is already published in the driver's own tables."""
        ...

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Change `ports` and `default_route` of an attached endpoint; no other field has changed. Publish exactly
        `endpoint.ports`, and raise `Conflict` as in `attach`. If `default_route` is true, replace the namespace's default
        routes by default routes through this endpoint. If it is false, remove default routes through this endpoint. When the
        default route of a container moves to another endpoint, the daemon first withdraws the ports of the old endpoint,
        then updates the new endpoint, then removes the default route of the old endpoint. After a start of the daemon,
        `update` is called with the recorded values, first for the endpoint with the default route."""
        ...

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Withdraw the ports, then remove the link. Succeeds if the ports or the link do not exist. If `endpoint.netns` is
        "", the namespace is about to be destroyed together with the link. On return, no traffic must pass through the link,
        but the link may still exist."""
        ...

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        """Called once when the daemon starts, after `create_network` for each network. Change this instance's rules on the
        host to exactly the rules that `endpoints` need. The rules of these endpoints must stay in force during the call.
        Remove rules and links of this instance that belong to no endpoint. If an endpoint's link was deleted or disconnected
        while no daemon ran, connect the endpoint again, with the same `EndpointState`."""
        ...

    async def close(self) -> None:
        """Release threads and sockets. Links, rules and routes stay, so that containers keep their network while no daemon
        runs."""
        ...


@runtime_checkable
class NetworkAudit(Protocol):
    """Optional methods of a network driver: compare the host with the daemon's records, for `orlop system check`. They may
    be the first methods called after the factory, without `create_network` or `restore`."""

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Drift]:
        """Compare the host with these networks and endpoints. An object of the driver that belongs to none of them is
        "stray". An object that one of them needs, and that does not exist, is "missing". Changes nothing."""
        ...

    async def dump(self) -> str:
        """A readable listing of this driver's objects on the host, for a debug bundle. Changes nothing."""
        ...

    async def repair(self, found: Drift) -> None:
        """Do what `found.repair` describes; `found` comes from the last `audit`. May be called twice. Succeeds if the
        difference no longer exists, or if the object now belongs to another endpoint. Must not change the `EndpointState` of
        an endpoint."""
        ...
