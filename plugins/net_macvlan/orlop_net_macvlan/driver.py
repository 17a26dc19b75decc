"""The drivers: the order of operations. All methods that are not async run in the network thread."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import ClassVar

import msgspec

from orlop_sdk import (
    Conflict,
    Drift,
    DriverError,
    Endpoint,
    EndpointState,
    InvalidParameter,
    NetworkCapabilities,
    NetworkContext,
    NetworkSpec,
    OrlopError,
)
from orlop_sdk.networking import Worker

from ._audit import Host, Wanted, compare_links, compare_parents, endpoint_fault, stray_parents
from ._links import Links
from ._network import Kind, Network, read_network

__all__ = ["IpvlanDriver", "MacvlanDriver"]

_log = logging.getLogger("orlop.networks")


@contextmanager
def _logged() -> Iterator[None]:
    """Only log an error at the start of the daemon, because the other networks and containers must be restored nevertheless.
    A process of a container with CAP_NET_ADMIN may cause such an error. `audit` reports the failure, too."""
    try:
        yield
    except OrlopError as error:
        _log.error("%s", error)


class _Driver:
    """The base of both drivers. `_namespaces` maps each endpoint to the id of its network namespace: if a container has
    ended, `detach` does not get the path of the namespace."""

    _KIND: ClassVar[Kind]

    def __init__(self, context: NetworkContext) -> None:
        self._owner = "orlop" + (f"-{context.instance.replace(':', '_')}" if context.instance else "")
        self._worker = Worker(f"orlop-{self._KIND.name}")
        self._opened: Links | None = None
        self._networks: dict[str, Network] = {}
        self._namespaces: dict[str, int] = {}
        self._audited = Wanted({}, ())

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(
            publishes=False,
            macs=self._KIND.name == "macvlan",
            several_subnets=True,
            uplink_option="parent",
            link_local=True,
        )

    # --- the contract -----------------------------------------------------------------------------------------------

    async def create_network(self, network: NetworkSpec) -> None:
        wanted = read_network(network, self._KIND)
        await self._worker.run(lambda: self._create(wanted))

    async def delete_network(self, network: NetworkSpec) -> None:
        wanted = read_network(network, self._KIND)
        await self._worker.run(lambda: self._delete(wanted))

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        network = read_network(endpoint.network, self._KIND)
        if endpoint.mac and not self.capabilities.macs:
            raise InvalidParameter(f"{self._KIND.name} interfaces do not support custom mac address assignment")
        return await self._worker.run(lambda: self._attach(endpoint, network), undo=lambda _: self._detach(endpoint))

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        network = read_network(endpoint.network, self._KIND)
        await self._worker.run(lambda: self._links.reroute(endpoint, network))

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        await self._worker.run(lambda: self._detach(endpoint))

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        wanted = self._wanted(networks, endpoints)
        await self._worker.run(lambda: self._restore(wanted))

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Drift]:
        wanted = self._wanted(networks, endpoints)
        return await self._worker.run(lambda: self._audit(wanted))

    async def dump(self) -> str:
        return await self._worker.run(self._dump)

    async def repair(self, found: Drift) -> None:
        await self._worker.run(lambda: self._repair(found))

    async def close(self) -> None:
        await self._worker.close(self._close)

    def _wanted(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> Wanted:
        """The engine's records, without networks whose options are invalid. The containers of such networks keep their
        links."""
        found = {}
        for network in networks:
            try:
                found[network.id] = read_network(network, self._KIND)
            except OrlopError as error:
                _log.error("cannot restore network %s: %s", network.name, error)
        return Wanted(found, endpoints, complete=len(found) == len(networks))

    # --- in the thread ----------------------------------------------------------------------------------------------

    @property
    def _links(self) -> Links:
        if self._opened is None:
            self._opened = Links(self._owner, self._KIND)
        return self._opened

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()
        self._opened = None

    def _create(self, network: Network) -> None:
        for other in self._networks.values():
            if other.parent == network.parent and other.id != network.id and (other.exclusive or network.exclusive):
                # Other modes can share a parent
                raise Conflict(
                    f"network {other.id[:12]} is already using parent interface {network.parent}"
                    + (" in mode passthru" if other.exclusive else ", which mode passthru cannot share")
                )
        self._links.ensure_parent(network)
        self._networks[network.id] = network

    def _delete(self, network: Network) -> None:
        self._networks.pop(network.id, None)
        if all(other.parent != network.parent for other in self._networks.values()):
            self._links.delete_parent(network.parent)

    def _attach(self, endpoint: Endpoint, network: Network) -> EndpointState:
        mac, self._namespaces[endpoint.id] = self._links.connect(endpoint, network)
        return EndpointState(mac=mac)

    def _remember(self, endpoint: Endpoint) -> None:
        ident = self._links.namespace_id(endpoint.netns)
        if ident is not None:
            self._namespaces[endpoint.id] = ident

    def _detach(self, endpoint: Endpoint) -> None:
        known = self._namespaces.pop(endpoint.id, None)
        if endpoint.netns:
            known = self._links.namespace_id(endpoint.netns)
            if known is None:
                return  # the link was destroyed together with the namespace
        self._links.disconnect(endpoint.id, known)

    def _restore(self, wanted: Wanted) -> None:
        links = self._links
        self._networks = dict(wanted.networks)
        self._namespaces = {}
        host = self._host()
        for name in stray_parents(host.parents, wanted):
            with _logged():
                links.delete_parent(name)
        known = {endpoint.id for endpoint, _ in wanted.endpoints}
        for found in host.endpoints:
            if found.ident not in known:
                with _logged():
                    links.delete_found(found.link.group, found.namespace_id)
        for endpoint, state in wanted.endpoints:
            with _logged():
                self._keep(endpoint, state, wanted, host)

    def _keep(self, endpoint: Endpoint, state: EndpointState, wanted: Wanted, host: Host) -> None:
        """Remember the namespace of a running container's link. If the link is lost, make it again: the kernel removes a
        link together with its parent."""
        network = wanted.networks.get(endpoint.network.id)
        self._remember(endpoint)
        if network is None or endpoint.id not in self._namespaces:
            return
        # A process with CAP_NET_ADMIN in another container can make a link with the same alias
        place = (endpoint.id, self._namespaces[endpoint.id])
        found = next((each for each in host.endpoints if (each.ident, each.namespace_id) == place), None)
        if endpoint_fault(found, network, host):
            self._links.connect(msgspec.structs.replace(endpoint, mac=state.mac or endpoint.mac), network)
            _log.info("container %s is connected to network %s again", endpoint.container_id[:12], endpoint.network.name)

    # --- comparing --------------------------------------------------------------------------------------------------

    def _host(self) -> Host:
        links = self._links
        return Host({link.name: link for link in links.all()}, {link.name for link in links.parents()}, links.endpoints())

    def _dump(self) -> str:
        links = self._links
        lines = [f"link {link.name} {link.alias}\n" for link in links.parents()]
        inside = [f"link {link.name} in network namespace {ident} {link.alias}\n" for link, ident, _ in links.endpoints()]
        return "".join(lines + inside)

    def _audit(self, wanted: Wanted) -> list[Drift]:
        self._audited = wanted
        host = self._host()
        return [*compare_parents(host, wanted), *compare_links(host, wanted)]

    def _repair(self, found: Drift) -> None:
        what, _, rest = found.note.partition(" ")
        if what == "parent":
            if all(network.parent != rest for network in self._networks.values()):
                self._links.delete_parent(rest)
        elif what == "link":
            group, _, namespace = rest.partition(" ")
            self._links.delete_found(int(group), int(namespace))
        elif what == "network" and rest in self._audited.networks:
            self._links.ensure_parent(self._audited.networks[rest])
            self._reconnect([each for each in self._audited.endpoints if each[0].network.id == rest])
        elif what == "endpoint":
            self._reconnect([each for each in self._audited.endpoints if each[0].id == rest])

    def _reconnect(self, endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        host = self._host()
        failures = []
        for endpoint, state in endpoints:
            try:
                self._keep(endpoint, state, self._audited, host)
            except DriverError as error:
                failures.append(error)
        if failures:
            raise DriverError("; ".join(map(str, failures))) from failures[0]


class MacvlanDriver(_Driver):
    """Each container has a MAC address of its own on the parent's network."""

    _KIND = Kind("macvlan", "dm")


class IpvlanDriver(_Driver):
    """In mode l2, containers have the parent's MAC address. In modes l3 and l3s, the host is the router between containers
    and other hosts."""

    _KIND = Kind("ipvlan", "di")
