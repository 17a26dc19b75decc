"""The endpoints of a container. This module reserves addresses and ports, calls network drivers, and frees addresses and
ports at the end.

All state is in memory; the sandboxes are stored in the containers' rows. Addresses are reserved without an await, so that
two starts cannot interleave.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from orlop_engine.config import Config, defaults
from orlop_monitor.protocol import Forward
from orlop_sdk import (
    Address,
    Conflict,
    DriverError,
    Endpoint,
    Forbidden,
    InvalidParameter,
    LinkedPort,
    NetworkDriver,
    NotFound,
    OrlopError,
    PublishedPort,
    Unavailable,
)

from . import planning
from .ports import Bound, PortAllocator, PortBindings, PortInUse, Wanted, wanted_ports
from .records import AttachedEndpoint, NetworkRecord, Plan, PlannedEndpoint, Sandbox
from .state import Network, mac_for, new_id, reported_addresses

if TYPE_CHECKING:
    from .preview import Preview

__all__ = ["Attachments", "Listeners"]

_log = logging.getLogger("orlop.networks")
_UNDO_SECONDS = 20
_FAILED = "failed to set up container networking: "
_BINDING = "com.docker.network.bridge.host_binding_ipv4"
_GATEWAY_MODE = "com.docker.network.bridge.gateway_mode_ipv"


class Listeners(Protocol):
    """Serves a container's published ports on loopback and IPv6. The container's monitor implements it."""

    async def serve(self, forwards: Sequence[Forward], sockets: Sequence[socket.socket]) -> None: ...

    async def redirect(self, moved: Mapping[str, str]) -> None: ...


class Attachments:
    """The endpoints and host ports of all containers. `networks` is the table of `service.Networks`, by network id."""

    def __init__(
        self,
        drivers: Callable[[str], Awaitable[NetworkDriver]],
        networks: dict[str, Network],
        config: Config,
        changed: Callable[[Network], None],
    ) -> None:
        """`changed` is called with each network whose members have changed."""
        self._drivers = drivers
        self._networks = networks
        self._changed = changed
        self._ports = PortAllocator(config.ip)
        self._iptables = config.iptables

    # --- plan -------------------------------------------------------------------------------------------------------

    async def plan(
        self,
        plan: Plan,
        requests: Sequence[planning.Request],
        exposed: Collection[str],
        bindings: PortBindings,
        publish_all: bool,
        links: Sequence[LinkedPort] = (),
    ) -> Plan:
        drivers = [await self._drivers(request.record.driver) for request in requests]
        names = planning.interface_names(requests)
        gateway = planning.choose_gateway(requests)
        wanted = wanted_ports(exposed, bindings, publish_all)
        try:
            for request, driver, ifname in zip(requests, drivers, names, strict=True):
                linked = tuple(links) if request.record.name == defaults.DEFAULT_NETWORK else ()
                planned = self._plan_endpoint(plan, request, driver, ifname, linked, default_route=request is gateway)
                if request is gateway and wanted and driver.capabilities.publishes:
                    bound = await self._bind(plan, planned, wanted, request.record.options)
                    ports = tuple(each.port for each in bound)
                    endpoint = msgspec.structs.replace(planned.endpoint, ports=ports)
                    plan.endpoints[-1] = msgspec.structs.replace(planned, endpoint=endpoint)
        except BaseException:
            self.abandon(plan)
            raise
        return plan

    async def preview(self, requests: Sequence[planning.Request], wanted: Sequence[Wanted], *, missing: bool) -> Preview:
        """What `plan` would reserve, except addresses. Reserves nothing. `missing`: a network of the container does not
        exist. Then the ports are checked even if no known network publishes them."""
        from .preview import Preview, PreviewedNetwork, sentence  # imported here, because only dry runs need it

        found = Preview()
        gateway = planning.choose_gateway(requests)
        names = planning.interface_names(requests)
        for request, ifname in zip(requests, names, strict=True):
            record = request.record
            found.networks.append(PreviewedNetwork.of(record, ifname, default_route=request is gateway))
            if (network := self._networks.get(record.id)) and network.fault:
                found.problems.append(f"{_FAILED}{network.fault}")
            try:
                driver = await self._drivers(record.driver)
            except OrlopError as error:
                found.problems.append(str(error))
                continue
            if request is gateway and wanted and driver.capabilities.publishes:
                ports, failures = self._ports.probe(wanted, record.options.get(_BINDING, ""), _routed(record.options))
                found.ports += [sentence(port, record, iptables=self._iptables) for port in ports]
                found.problems += [f"{_FAILED}{failure}" for failure in failures]
        if missing and gateway is None:
            found.problems += [f"{_FAILED}{failure}" for failure in self._ports.probe(wanted)[1]]
        return found

    def _plan_endpoint(
        self,
        plan: Plan,
        request: planning.Request,
        driver: NetworkDriver,
        ifname: str,
        links: tuple[LinkedPort, ...] = (),
        *,
        default_route: bool,
    ) -> PlannedEndpoint:
        record, settings = request
        network = self._networks.get(record.id)
        if network is None:
            raise NotFound(f"network {record.name} not found")
        link_local = planning.link_local(settings)
        if link_local and not driver.capabilities.link_local:
            raise InvalidParameter(f"network driver {record.driver} does not support link-local addresses")
        addresses = network.allocate(settings) if driver.capabilities.addresses else ()
        endpoint = Endpoint(
            id=new_id(),
            network=network.spec,
            container_id=plan.container_id,
            netns="",
            ifname=ifname,
            mac=mac_for(settings, addresses if driver.capabilities.macs else ()),
            addresses=addresses,
            default_route=default_route,
            sysctls=planning.endpoint_sysctls(settings),
            links=links,
            link_local=link_local,
        )
        network.planned.add(endpoint.id)
        planned = PlannedEndpoint(
            driver=record.driver,
            endpoint=endpoint,
            settings=settings,
            dns_names=planning.dns_names(record, settings, plan.container_name, plan.container_id, plan.hostname),
        )
        plan.endpoints.append(planned)
        return planned

    async def _bind(
        self, plan: Plan, planned: PlannedEndpoint, wanted: Sequence[Wanted], options: Mapping[str, str]
    ) -> list[Bound]:
        try:
            bound = await self._ports.allocate(wanted, options.get(_BINDING, ""), _routed(options))
        except OrlopError as error:
            text = (
                f"{_FAILED}driver failed programming external connectivity on endpoint "
                f"{plan.container_name} ({planned.endpoint.id}): {error}"
            )
            raise (error.renamed(text) if isinstance(error, PortInUse) else DriverError(text)) from error
        for each in bound:
            if each.socket is not None:
                plan.sockets.append(each.socket)
                plan.forwards.append(_forward(each.port, planned.endpoint.addresses))
        return bound

    def abandon(self, plan: Plan) -> None:
        plan.close_sockets()
        if plan.attached:
            return
        for planned in plan.endpoints:
            network = self._networks.get(planned.endpoint.network.id)
            if network is not None and planned.endpoint.id in network.planned:
                network.planned.discard(planned.endpoint.id)
                network.release(planned.endpoint.addresses)
                self._ports.release(planned.endpoint.ports)

    # --- attach and release -----------------------------------------------------------------------------------------

    async def attach(self, plan: Plan, netns: str) -> Sandbox:
        done: list[AttachedEndpoint] = []
        try:
            for planned in plan.endpoints:
                attached = await self._attach_one(planned, netns)
                done.append(attached)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_SECONDS):
                for attached in reversed(done):
                    await self._detach_one(attached)
            raise
        plan.attached = True
        sandbox = Sandbox(
            container_id=plan.container_id,
            container_name=plan.container_name,
            network_mode=plan.network_mode,
            hostname=plan.hostname,
            endpoints=tuple(done),
            iptables=self._iptables,
        )
        self.update_members(sandbox)
        return sandbox

    async def _attach_one(self, planned: PlannedEndpoint, netns: str) -> AttachedEndpoint:
        driver = await self._drivers(planned.driver)
        endpoint = msgspec.structs.replace(planned.endpoint, netns=netns)
        try:
            state = await driver.attach(endpoint)
        except (Conflict, DriverError) as error:
            raise type(error)(f"{_FAILED}{error}") from error
        attached = AttachedEndpoint(
            driver=planned.driver, endpoint=endpoint, state=state, settings=planned.settings, dns_names=planned.dns_names
        )
        if driver.capabilities.addresses:
            return attached
        try:
            addresses = reported_addresses(planned.driver, state)
        except DriverError:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_SECONDS):
                await self._detach_one(attached, ending=False)
            raise
        return msgspec.structs.replace(attached, endpoint=msgspec.structs.replace(endpoint, addresses=addresses))

    def update_members(self, sandbox: Sandbox) -> None:
        for network in self._add_members(sandbox):
            self._changed(network)

    def _add_members(self, sandbox: Sandbox) -> list[Network]:
        """Make the endpoints members of their networks. Returns the changed networks."""
        joined = []
        for attached in sandbox.endpoints:
            network = self._networks.get(attached.network.id)
            if network is not None:
                network.planned.discard(attached.endpoint.id)
                network.members[attached.endpoint.id] = (sandbox, attached)
                joined.append(network)
        return joined

    async def _detach_one(self, attached: AttachedEndpoint, *, ending: bool = True) -> None:
        """Detach one endpoint. `ending`: the container's network namespace is removed too, so the driver need not wait
        until the link is removed."""
        endpoint = msgspec.structs.replace(attached.endpoint, netns="") if ending else attached.endpoint
        try:
            driver = await self._drivers(attached.driver)
            await driver.detach(endpoint, attached.state)
        except OrlopError as error:
            _log.error("cannot detach endpoint %s from network %s: %s", endpoint.id[:12], attached.network.name, error)

    async def release(self, sandbox: Sandbox) -> None:
        for attached in sandbox.endpoints:
            await self._release_one(attached, ending=True)

    async def _release_one(self, attached: AttachedEndpoint, *, ending: bool) -> None:
        network = self._networks.get(attached.network.id)
        if network is None or network.members.pop(attached.endpoint.id, None) is None:
            return
        self._changed(network)
        # The address stays allocated until the driver has detached the endpoint, because until then no other container may
        # get the address.
        network.planned.add(attached.endpoint.id)
        try:
            await self._detach_one(attached, ending=ending)
        finally:
            network.planned.discard(attached.endpoint.id)
            network.release(attached.endpoint.addresses)
            self._ports.release(attached.endpoint.ports)

    # --- start of the daemon ----------------------------------------------------------------------------------------

    async def restore(self, sandboxes: Sequence[Sandbox], used: Collection[str] = ()) -> None:
        """Restore the endpoints of running containers when the daemon starts. Does not call `changed`, because a names table
        without all members breaks name lookups of running containers."""
        by_driver: dict[str, list[AttachedEndpoint]] = {network.record.driver: [] for network in self._networks.values()}
        for sandbox in sandboxes:
            for attached in sandbox.endpoints:
                if attached.network.id in self._networks:
                    by_driver.setdefault(attached.driver, []).append(attached)
                else:
                    _log.error(
                        "container %s: network %s does not exist any more", sandbox.container_id[:12], attached.network.name
                    )
            try:
                self._hold(sandbox)
                self._add_members(sandbox)
            except Exception:  # the addresses of the other containers must still be marked as used
                _log.exception("cannot restore networks of container %s", sandbox.container_id[:12])
        for name in used:  # their `restore` removes objects of networks that were never stored
            by_driver.setdefault(name, [])
        for name, living in by_driver.items():
            # This includes networks that could not be created, because they have rows, and containers may still be running
            # on them.
            specs = [network.spec for network in self._networks.values() if network.record.driver == name]
            try:
                driver = await self._drivers(name)
                await driver.restore(specs, [(attached.endpoint, attached.state) for attached in living])
            except OrlopError as error:
                _log.error("network driver %s cannot restore its networks: %s", name, error)

    def _hold(self, sandbox: Sandbox) -> None:
        for attached in sandbox.endpoints:
            network = self._networks.get(attached.network.id)
            if network is not None:
                network.mark(attached.endpoint)
                self._ports.adopt(attached.endpoint.ports)

    # --- the gateway of a running container -------------------------------------------------------------------------

    async def choose_gateway(
        self, sandbox: Sandbox, wanted: Sequence[Wanted], netns: str, listeners: Listeners, leaving: str
    ) -> Sandbox:
        """Choose the gateway again and move the published ports to it. The ports keep their host address, even if the new
        network has another default address. The reason: the monitor's listeners keep the ports bound, and another program
        can take a port that is released for a moment."""
        former, chosen = sandbox.gateway, self._chosen(sandbox, leaving)
        if former is chosen:
            return sandbox
        publishes = chosen is not None and (await self._drivers(chosen.driver)).capabilities.publishes
        ports = former.endpoint.ports if former else ()
        fresh = Plan(sandbox.container_id, sandbox.container_name, sandbox.network_mode, sandbox.hostname)
        taken: tuple[PublishedPort, ...] = ()
        try:
            if chosen and publishes and wanted and not ports:
                bound = await self._bind(fresh, _planned(chosen), wanted, chosen.network.options)
                taken = tuple(each.port for each in bound)
            new_gateway = _with(chosen, (ports or taken) if publishes else (), True) if chosen else None
            await self._move(former, new_gateway, netns)
            if fresh.sockets:
                await listeners.serve(fresh.forwards, fresh.sockets)
        except BaseException:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _UNDO_SECONDS):
                try:
                    await self._move_back(former, chosen, netns)
                    if chosen and fresh.sockets:
                        await self._unserve(chosen, listeners)
                finally:
                    self._ports.release(taken)
            raise
        finally:
            fresh.close_sockets()
        if former and ports:
            try:
                await listeners.redirect(_moved([former], new_gateway if publishes else None))
            except OrlopError as error:  # only logged, because an outdated listener is better than moving the rules back
                _log.warning(
                    "cannot redirect listeners of published ports of container %s: %s",
                    former.endpoint.container_id[:12],
                    error,
                )
            self._ports.release(() if publishes else ports)
        left = _with(former, (), False) if former else None
        changed = {each.endpoint.id: each for each in (left, new_gateway) if each}
        updated = msgspec.structs.replace(
            sandbox, endpoints=tuple(changed.get(each.endpoint.id, each) for each in sandbox.endpoints)
        )
        self.update_members(updated)
        return updated

    async def _unserve(self, chosen: AttachedEndpoint, listeners: Listeners) -> None:
        """Stop serving ports at `chosen`. If the request to serve them timed out, the monitor may still execute it. The
        monitor executes requests in order, so this request takes effect last."""
        try:
            await listeners.redirect(_moved([chosen], None))
        except OrlopError as error:
            _log.warning(
                "cannot redirect listeners of published ports of container %s: %s", chosen.endpoint.container_id[:12], error
            )

    def _chosen(self, sandbox: Sandbox, leaving: str) -> AttachedEndpoint | None:
        able = [each for each in sandbox.endpoints if each.network.id in self._networks and each.network.id != leaving]
        requests = [planning.Request(self._networks[each.network.id].record, each.settings) for each in able]
        gateway = planning.choose_gateway(requests)
        return next((each for each, request in zip(able, requests, strict=True) if request is gateway), None)

    async def _move(self, former: AttachedEndpoint | None, new_gateway: AttachedEndpoint | None, netns: str) -> None:
        """Move the ports first, because only one endpoint may have them. Remove the former default route last, so that
        the container always has a default route."""
        if former and former.endpoint.ports:
            await self._update(_with(former, (), True), netns)
        if new_gateway:
            await self._update(new_gateway, netns)
        if former:
            await self._update(_with(former, (), False), netns)

    async def _move_back(self, former: AttachedEndpoint | None, chosen: AttachedEndpoint | None, netns: str) -> None:
        for each in filter(None, (chosen, former)):
            try:
                await self._update(each, netns)
            except OrlopError as error:
                _log.error("cannot move endpoint %s on network %s back: %s", each.endpoint.id[:12], each.network.name, error)

    async def _update(self, attached: AttachedEndpoint, netns: str) -> None:
        driver = await self._drivers(attached.driver)
        try:
            await driver.update(msgspec.structs.replace(attached.endpoint, netns=netns), attached.state)
        except (Conflict, DriverError) as error:
            raise type(error)(f"{_FAILED}{error}") from error

    async def keep_gateway(self, sandbox: Sandbox, netns: str, listeners: Listeners) -> None:
        """Apply a container's gateway again after a start of the daemon, because routes and listeners may differ from the
        row if the previous daemon was killed within `choose_gateway`. The driver's `restore` has already made the rules
        match the row."""
        gateway = sandbox.gateway
        others = [each for each in sandbox.endpoints if each is not gateway]
        for each in (gateway, *others):
            if each:
                await self._update(each, netns)
        new_gateway = gateway if gateway and gateway.endpoint.ports else None
        # A monitor that an older daemon started does not support `redirect`; its listeners were never moved
        with suppress(Unavailable):
            await listeners.redirect(_moved(others if new_gateway else sandbox.endpoints, new_gateway))

    # --- running containers -----------------------------------------------------------------------------------------

    async def connect(self, sandbox: Sandbox, request: planning.Request, netns: str) -> Sandbox:
        record = request.record
        if any(attached.network.id == record.id for attached in sandbox.endpoints):
            raise Forbidden(f"endpoint with name {sandbox.container_name} already exists in network {record.name}")
        present = [self._networks[each.network.id].record for each in sandbox.endpoints if each.network.id in self._networks]
        planning.check_combination(sandbox.network_mode, [*present, record])
        driver = await self._drivers(record.driver)
        plan = Plan(sandbox.container_id, sandbox.container_name, sandbox.network_mode, sandbox.hostname)
        try:
            planned = self._plan_endpoint(plan, request, driver, _free_name(sandbox, request), default_route=False)
            attached = await self._attach_one(planned, netns)
        except BaseException:
            self.abandon(plan)
            raise
        grown = msgspec.structs.replace(sandbox, endpoints=(*sandbox.endpoints, attached))
        self.update_members(grown)
        return grown

    def without(self, sandbox: Sandbox, record: NetworkRecord) -> Sandbox:
        """The sandbox after a `disconnect` from this network."""
        rest = tuple(attached for attached in sandbox.endpoints if attached.network.id != record.id)
        if len(rest) == len(sandbox.endpoints):
            raise Forbidden(f"container {sandbox.container_id} is not connected to network {record.name}")
        return msgspec.structs.replace(sandbox, endpoints=rest)

    async def disconnect(self, sandbox: Sandbox, record: NetworkRecord, netns: str) -> Sandbox:
        rest = self.without(sandbox, record)
        for attached in sandbox.endpoints:
            if attached.network.id == record.id:
                living = msgspec.structs.replace(attached, endpoint=msgspec.structs.replace(attached.endpoint, netns=netns))
                await self._release_one(living, ending=False)
        return rest

    def renamed(self, sandbox: Sandbox, name: str) -> Sandbox:
        old = sandbox.container_name
        endpoints = [
            msgspec.structs.replace(attached, dns_names=tuple(name if each == old else each for each in attached.dns_names))
            for attached in sandbox.endpoints
        ]
        return msgspec.structs.replace(sandbox, container_name=name, endpoints=tuple(endpoints))


def _routed(options: Mapping[str, str]) -> list[int]:
    return [version for version in (4, 6) if options.get(f"{_GATEWAY_MODE}{version}") == "routed"]


def _forward(port: PublishedPort, addresses: Sequence[Address]) -> Forward:
    """The target of a listener's connections. If the container has an address of the listener's IP version, this is the
    target."""
    return Forward(port.protocol, _same_family(port.host_ip, addresses), port.container_port)


def _moved(others: Iterable[AttachedEndpoint], new_gateway: AttachedEndpoint | None) -> dict[str, str]:
    """Maps each address of `others` to the address to which its listeners must forward from now on. This is "" if there is
    no gateway."""
    addresses = [_bare(address) for each in others for address in each.endpoint.addresses]
    return {address: _same_family(address, new_gateway.endpoint.addresses) if new_gateway else "" for address in addresses}


def _bare(address: Address) -> str:
    return address.address.partition("/")[0]


def _same_family(host: str, addresses: Sequence[Address]) -> str:
    bare = [_bare(each) for each in addresses]
    return next((address for address in bare if (":" in address) == (":" in host)), bare[0])


def _with(attached: AttachedEndpoint, ports: tuple[PublishedPort, ...], default_route: bool) -> AttachedEndpoint:
    endpoint = msgspec.structs.replace(attached.endpoint, ports=ports, default_route=default_route)
    return msgspec.structs.replace(attached, endpoint=endpoint)


def _planned(attached: AttachedEndpoint) -> PlannedEndpoint:
    return PlannedEndpoint(driver=attached.driver, endpoint=attached.endpoint, settings=attached.settings)


def _free_name(sandbox: Sandbox, request: planning.Request) -> str:
    """The next free interface name (eth0, eth1, ...) of a running container."""
    (name,) = planning.interface_names([request])
    used = {attached.endpoint.ifname for attached in sandbox.endpoints}
    prefix = name.rstrip("0123456789")
    number = 0
    while name in used:
        name = f"{prefix}{number}"
        number += 1
    return name
