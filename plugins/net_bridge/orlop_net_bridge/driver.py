"""The driver: the order of operations. All methods that are not async run in the network thread.

The driver keeps a copy of the table's wanted content in memory. The copy shows which elements belong to an endpoint. If
another program deletes rules, the table is restored from the copy within a second (see `_watch`). Attach makes the link,
then publishes the ports. Detach withdraws the ports, then removes the link.
"""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Callable, Iterator, Sequence

import msgspec

from orlop_sdk import (
    Conflict,
    Drift,
    DriverError,
    Endpoint,
    EndpointState,
    NetworkCapabilities,
    NetworkContext,
    NetworkSpec,
    OrlopError,
)
from orlop_sdk.networking import Worker, enable_forwarding, forwards

from . import _audit, _plan
from ._audit import Wanted
from ._conntrack import forget_udp
from ._links import Links, isolates
from ._network import Bridge, read_network
from ._nft import NftError
from ._table import Table
from ._uplinks import gateway_links, uplink_bridges
from ._watch import Watch

__all__ = ["BridgeDriver"]

_log = logging.getLogger("orlop.networks")
_LINGER = 1.0
_PAUSE = 0.2  # seconds before a repair, because other programs replace their rules in several steps


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _ports_of(endpoint: Endpoint) -> frozenset[_plan.Element]:
    """The elements of a running container's ports. If the data is invalid, the result is empty: the endpoint keeps its link,
    but publishes no ports."""
    try:
        return _plan.port_elements(endpoint)
    except (OrlopError, ValueError) as error:
        _log.error("cannot restore the published ports of container %s: %s", endpoint.container_id[:12], error)
        return frozenset()


def _reachable(wanted: Wanted) -> Wanted:
    """`wanted`, but only with endpoints whose namespace exists. The namespace is missing if a container ended while no
    daemon ran."""
    return wanted._replace(endpoints=[each for each in wanted.endpoints if os.path.exists(each[0].netns)])


class BridgeDriver:
    """The driver, with its network thread and sockets. Created once and closed once."""

    def __init__(self, context: NetworkContext) -> None:
        self._context = context
        self._owner = "orlop" + (f"-{context.instance.replace(':', '_')}" if context.instance else "")
        self._worker = Worker("orlop-network")
        self._links: Links | None = None
        self._table: Table | None = None
        self._bridges: dict[str, Bridge] = {}
        self._ports: dict[str, frozenset[_plan.Element]] = {}
        self._members: dict[str, Endpoint] = {}
        self._links_allowed: frozenset[_plan.Element] = frozenset()
        self._uplinks: frozenset[_plan.Element] | None = None
        self._audited = Wanted({}, ())
        self._watch: Watch | None = None
        self._mending = False

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities(link_local=True)

    # --- the contract -----------------------------------------------------------------------------------------------

    async def create_network(self, network: NetworkSpec) -> None:
        bridge = read_network(network, self._context)
        await self._worker.run(lambda: self._create(bridge))

    async def delete_network(self, network: NetworkSpec) -> None:
        bridge = read_network(network, self._context)
        await self._worker.run(lambda: self._delete(bridge))

    async def attach(self, endpoint: Endpoint) -> EndpointState:
        bridge = read_network(endpoint.network, self._context)
        wanted = _plan.port_elements(endpoint)
        return await self._worker.run(
            lambda: self._attach(endpoint, bridge, wanted), undo=lambda state: self._detach(endpoint, state)
        )

    async def update(self, endpoint: Endpoint, state: EndpointState) -> None:
        wanted = _plan.port_elements(endpoint)
        await self._worker.run(lambda: self._update(endpoint, wanted))

    async def detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        await self._worker.run(lambda: self._detach(endpoint, state))

    async def restore(self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]) -> None:
        known = {network.id for network in networks}
        bridges = {network.id: bridge for network in networks if (bridge := self._readable(network)) is not None}
        wanted = Wanted(bridges, endpoints)
        await self._worker.run(lambda: self._restore(wanted, known))

    def _readable(self, network: NetworkSpec) -> Bridge | None:
        """Parse a recorded network. Returns None if the network is invalid. Its bridge is then kept, and the other networks
        are restored."""
        try:
            return read_network(network, self._context)
        except (OrlopError, ValueError) as error:
            _log.error("cannot restore network %s: %s", network.name, error)
            return None

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Drift]:
        wanted = Wanted({network.id: read_network(network, self._context) for network in networks}, endpoints)
        return await self._worker.run(lambda: self._audit(wanted))

    async def dump(self) -> str:
        return await self._worker.run(self._dump)

    async def repair(self, found: Drift) -> None:
        await self._worker.run(lambda: self._repair(found))

    async def close(self) -> None:
        await self._worker.close(self._close)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _open_links(self) -> Links:
        if self._links is None:
            self._links = Links(self._owner)
        return self._links

    def _open_table(self) -> Table | None:
        """The open table. With `"iptables": false` it is None. In this case there are no rules, and only the monitors serve
        published ports."""
        if self._table is None and self._context.iptables:
            self._table = Table(_plan.table_name(self._context.instance))
        return self._table

    def _close(self) -> None:
        for held in (self._watch, self._links, self._table):
            if held is not None:
                held.close()
        self._watch = self._links = self._table = None

    def _wanted(self) -> frozenset[_plan.Element]:
        parts = [_plan.network_elements(bridge) for bridge in self._bridges.values()]
        return self._known_uplinks().union(self._links_allowed, *parts, *self._ports.values())

    def _bridge_names(self) -> list[str]:
        return [bridge.name for bridge in self._bridges.values()]

    def _known_uplinks(self) -> frozenset[_plan.Element]:
        """The elements of the uplinks. The uplinks are found when the first network is made, at the start of the daemon and
        at each repair. Between these moments the driver uses the stored result, because listing links takes milliseconds."""
        if self._uplinks is None:
            self._uplinks = self._find_uplinks()
        return self._uplinks

    def _find_uplinks(self) -> frozenset[_plan.Element]:
        found = uplink_bridges(self._open_links().listed(), gateway_links(), self._bridge_names())
        return _plan.uplink_elements(found)

    def _create(self, bridge: Bridge) -> None:
        for known in self._bridges.values():
            if known.name == bridge.name and known.network_id != bridge.network_id:
                raise Conflict(f"cannot create bridge {bridge.name}: network {known.network_id[:12]} uses it")
        before = self._bridges.get(bridge.network_id)
        if self._context.ip_forward and not bridge.internal:
            for version in sorted({_version(subnet) for subnet in bridge.subnets}):
                enable_forwarding(version)
        self._open_links().ensure_bridge(bridge)
        table = self._open_table()
        # Only add elements here, because at the start of the daemon the table contains ports of running containers, which
        # are not known before `restore`.
        self._bridges[bridge.network_id] = bridge
        if table is None:
            return
        try:
            elements = _plan.network_elements(bridge) | self._known_uplinks()
            table.ensure(elements, f"create the rules of bridge {bridge.name}")
            table.admit([bridge.name])
        except NftError:
            # The table was written by another version, or contains a former subnet that conflicts. `restore` corrects the
            # rest.
            try:
                table.settle(self._wanted(), keep=True)
                table.admit([bridge.name])
            except DriverError:
                self._forget(bridge, before)
                raise

    def _forget(self, bridge: Bridge, before: Bridge | None) -> None:
        if before is not None:
            self._bridges[bridge.network_id] = before
            return
        self._bridges.pop(bridge.network_id, None)
        with contextlib.suppress(DriverError):
            self._open_links().delete_bridge(bridge)

    def _delete(self, bridge: Bridge) -> None:
        self._bridges.pop(bridge.network_id, None)
        failures: list[DriverError] = []
        steps: tuple[Callable[[Bridge], None], ...] = (self._withdraw, self._open_links().delete_bridge)
        for step in steps:
            try:
                step(bridge)
            except DriverError as error:
                failures.append(error)
        if failures:
            raise DriverError("; ".join(str(failure) for failure in failures)) from failures[0]

    def _withdraw(self, bridge: Bridge) -> None:
        table = self._open_table()
        if table is None:
            return
        table.withdraw(self._bridge_names())
        if self._bridges:
            table.delete_present(_plan.network_elements(bridge) - self._wanted(), f"delete {bridge.name}")
        else:
            table.remove()

    def _attach(self, endpoint: Endpoint, bridge: Bridge, wanted: frozenset[_plan.Element]) -> EndpointState:
        self._watch_rules()  # `restore` is not called if no network existed when the daemon started
        host_link, mac = self._open_links().connect(endpoint, bridge)
        try:
            self._publish(endpoint, wanted)
            self._members[endpoint.id] = endpoint
            self._allow_links()
        except BaseException:
            self._members.pop(endpoint.id, None)
            self._take_back(endpoint)
            self._open_links().disconnect(host_link, endpoint.id)
            raise
        return EndpointState(mac=mac, host_link=host_link)

    def _update(self, endpoint: Endpoint, wanted: frozenset[_plan.Element]) -> None:
        held = self._ports.get(endpoint.id, frozenset())
        table = self._open_table()
        if table is not None and held and held != wanted:
            self._unpublish(table, held, endpoint)
            del self._ports[endpoint.id]
        if held != wanted:
            self._publish(endpoint, wanted)
        self._open_links().reroute(endpoint)

    def _publish(self, endpoint: Endpoint, wanted: frozenset[_plan.Element]) -> None:
        table = self._open_table()
        if table is None or not wanted:
            return
        self._check_free(endpoint, wanted)
        what = f"publish the ports of container {endpoint.container_id[:12]}"
        try:
            table.add(wanted, what)
        except NftError as error:
            if error.exists:
                raise Conflict(f"cannot {what}: a port is already allocated") from error
            if not error.missing:
                raise
            # The ruleset was flushed: restore the whole table, with these elements.
            self._ports[endpoint.id] = wanted
            try:
                table.settle(self._wanted())
                table.admit(self._bridge_names())
            except BaseException:
                del self._ports[endpoint.id]
                raise
        self._ports[endpoint.id] = wanted
        for version in (4, 6):
            udp = {port.host_port for port in endpoint.ports if port.protocol == "udp" and _version(port.host_ip) == version}
            if udp := udp - {0}:
                forget_udp(version, udp)

    def _take_back(self, endpoint: Endpoint) -> None:
        """Withdraw the ports of a failed attach. Otherwise they would stay in the wanted content of the table, and forward
        to the next container that gets the address."""
        gone, table = self._ports.pop(endpoint.id, None), self._open_table()
        if gone and table is not None:
            with contextlib.suppress(DriverError):  # the caller raises the error of the attach
                self._unpublish(table, gone, endpoint)

    def _allow_links(self) -> None:
        """Update the rules for `--link` after an attach or a detach, because the addresses of linked containers may
        change."""
        before, wanted = self._links_allowed, _plan.link_elements(self._members.values())
        table = self._open_table()
        if table is None or before == wanted:
            return
        self._links_allowed = wanted
        if before - wanted:
            table.delete_present(before - wanted, "withdraw links of containers")
        if wanted - before:
            try:
                table.add(wanted - before, "allow links of containers")
            except NftError as error:
                if not error.missing:
                    raise
                table.settle(self._wanted())  # the ruleset was flushed

    def _check_free(self, endpoint: Endpoint, wanted: frozenset[_plan.Element]) -> None:
        keys = {(element.set, element.key) for element in wanted}
        for ident, elements in self._ports.items():
            taken = next((e for e in elements if (e.set, e.key) in keys), None)
            if ident != endpoint.id and taken is not None:
                raise Conflict(
                    f"cannot publish port {taken.key} of container {endpoint.container_id[:12]}: port is already allocated"
                )

    def _detach(self, endpoint: Endpoint, state: EndpointState) -> None:
        known = self._ports.pop(endpoint.id, None)
        gone = _plan.port_elements(endpoint) if known is None else known
        # An earlier daemon attached the endpoint. Keep the elements that other endpoints have got since then
        if known is None:
            taken = {(element.set, element.key) for elements in self._ports.values() for element in elements}
            gone = frozenset(element for element in gone if (element.set, element.key) not in taken)
        table = self._open_table()
        self._members.pop(endpoint.id, None)
        try:
            if table is not None and gone:
                self._unpublish(table, gone, endpoint)
            self._allow_links()
        finally:
            self._remove_link(endpoint, state)

    def _remove_link(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Remove the endpoint's link. This takes the kernel 15-30 ms. If the namespace is about to be destroyed, its links
        are destroyed with it, so the link is only disabled. It is removed later, because another process may keep the
        namespace alive."""
        links = self._open_links()
        if endpoint.netns or not state.host_link:
            links.disconnect(state.host_link, endpoint.id)
        else:
            links.silence(state.host_link)
            self._worker.later(_LINGER, lambda: links.disconnect(state.host_link, endpoint.id))

    def _unpublish(self, table: Table, gone: frozenset[_plan.Element], endpoint: Endpoint) -> None:
        what = f"withdraw the ports of container {endpoint.container_id[:12]}"
        try:
            table.delete(gone, what)
        except NftError as error:
            if not error.missing:
                raise
            table.delete_present(gone, what)  # some elements no longer exist, so delete the remaining elements

    def _adopt(self, wanted: Wanted) -> None:
        self._bridges = dict(wanted.bridges)
        self._ports = {endpoint.id: _ports_of(endpoint) for endpoint, _ in wanted.endpoints}
        self._members = {endpoint.id: endpoint for endpoint, _ in wanted.endpoints}
        self._links_allowed = _plan.link_elements(self._members.values())

    def _restore(self, wanted: Wanted, networks: set[str]) -> None:
        self._adopt(wanted)
        table = self._open_table()
        if table is not None:
            if self._bridges:
                self._uplinks = None
                table.settle(self._wanted())
                table.admit(self._bridge_names())
            else:
                table.remove()
            table.withdraw(self._bridge_names())
        else:
            self._remove_rules()
        self._watch_rules()
        self._open_links().remove_strangers(networks, set(self._ports))
        for failure in self._reconnect_all(_reachable(wanted)):
            # Only logged, because the daemon must start nevertheless; `audit` reports the failure, too
            _log.error("%s", failure)

    def _watch_rules(self) -> None:
        table = self._table
        if table is None or self._watch is not None:
            return
        try:
            self._watch = Watch(table.name, lambda: self._worker.submit(self._mend_later))
        except OSError as error:
            _log.warning("rules that other programs delete are restored only at the next start: %s", error.strerror)
            return
        self._mend_later()  # firewall programs that start together with the daemon may have deleted rules already

    def _mend_later(self) -> None:
        if not self._mending:
            self._mending = True
            self._worker.later(_PAUSE, self._mend)

    def _mend(self) -> None:
        """Restore what another program deleted from this daemon's table and from Docker's chain."""
        self._mending = False
        table, bridges = self._table, self._bridge_names()
        if table is None or not bridges:
            return
        try:
            listing = table.listing()
            lost = not table.is_whole(listing) or self._wanted() - (_plan.read_elements(listing) or frozenset())
            if lost:
                table.rebuild(self._wanted())
            if lacking := table.not_admitted(bridges):
                table.admit(lacking)
        except Exception as error:  # the network thread drops exceptions of delayed functions
            _log.error("cannot restore rules that another program deleted: %s", error, exc_info=error)
            return
        if lost:
            text = "another program deleted rules of table %s; they are restored"
            _log.warning(text, table.name, extra={"throttle": "rules restored"})
        if lacking:
            _log.info("the chain DOCKER-USER has the accept rules of bridges %s again", ", ".join(lacking))

    def _remove_rules(self) -> None:
        """Remove rules of an earlier daemon that ran with iptables on. These rules forward ports to addresses that other
        containers may have now."""
        with contextlib.suppress(DriverError):  # without nftables there are no rules to remove
            table = Table(_plan.table_name(self._context.instance))
            try:
                table.remove()
                table.withdraw([])
            finally:
                table.close()

    def _reconnect_all(self, wanted: Wanted) -> list[DriverError]:
        """Reconnect endpoints whose link was deleted or is no longer a port of the endpoint's bridge. Returns the
        failures."""
        links = {link.name: link for link in self._open_links().listed()} if wanted.endpoints else {}
        failures = []
        for endpoint, state in wanted.endpoints:
            bridge = wanted.bridges.get(endpoint.network.id)
            if bridge is None or not state.host_link:
                continue
            link = links.get(state.host_link)
            if any(_audit.compare_endpoint(link, endpoint, state, bridge, isolates(bridge))):
                try:
                    self._reconnect(endpoint, state, bridge, lost=link is None)
                except DriverError as error:
                    failures.append(error)
        return failures

    def _reconnect(self, endpoint: Endpoint, state: EndpointState, bridge: Bridge, *, lost: bool) -> None:
        """Reconnect under the recorded name of the host end, so that the stored `EndpointState` stays valid."""
        links = self._open_links()
        if lost:
            links.connect(msgspec.structs.replace(endpoint, mac=state.mac or endpoint.mac), bridge, state.host_link)
        else:
            links.reconnect(state.host_link, endpoint, bridge)
        _log.info("container %s is connected to network %s again", endpoint.container_id[:12], endpoint.network.name)

    # --- comparing ------------------------------------------------------------------------------------------------------

    def _dump(self) -> str:
        links = [f"link {link.name} {link.alias}" for link in self._open_links().listed() if link.kind]
        table = self._open_table()
        elements = sorted(table.held() or ()) if table is not None else []
        rows = [f"{table.name} {element.set} {element.key} : {element.value}" for element in elements] if table else []
        return "".join(f"{line}\n" for line in (*links, *rows))

    def _audit(self, wanted: Wanted) -> list[Drift]:
        if not self._bridges and not self._ports:
            self._adopt(wanted)  # no daemon runs, so `restore` was not called, and `repair` needs these records
        self._audited = wanted
        links = self._open_links()
        host = _audit.Host(
            links.listed(),
            {bridge.name: links.addresses(bridge.name) for bridge in wanted.bridges.values()},
            {bridge.network_id for bridge in wanted.bridges.values() if isolates(bridge)},
        )
        found = list(_audit.compare_links(host, wanted))
        if self._context.ip_forward:
            families = _audit.routed_families(wanted.bridges.values())
            found += _audit.compare_forwarding([version for version in families if not forwards(version)])
        table = self._open_table()
        return found if table is None else [*found, *self._audit_rules(table, wanted)]

    def _audit_rules(self, table: Table, wanted: Wanted) -> Iterator[Drift]:
        listing = table.listing()
        names = [bridge.name for bridge in wanted.bridges.values()]
        whole = not names or table.is_whole(listing)
        expected = wanted.elements() | dict.fromkeys(self._find_uplinks() if names else (), "")
        yield from _audit.compare_table(table.name, _plan.read_elements(listing), whole, expected)
        for name in table.not_admitted(names):
            yield Drift(
                "missing", "chain DOCKER-USER", f"lacks the accept rules for bridge {name}", "add them", note="docker-user"
            )

    def _repair(self, found: Drift) -> None:
        what, _, token = found.note.partition(" ")
        if what == "link":
            name, _, alias = token.partition(" ")
            self._open_links().remove(name, alias)
        elif what in ("bridge", "endpoint"):
            self._repair_links(what, token)
        elif what == "forwarding":
            enable_forwarding(int(token))
        elif (table := self._open_table()) is not None:
            self._repair_rules(table, what, token)

    def _repair_links(self, what: str, ident: str) -> None:
        """Repair a bridge with all of its ports, or a single port."""
        bridges, endpoints = self._audited.bridges, self._audited.endpoints
        if what == "bridge" and ident in bridges:
            self._create(bridges[ident])
            endpoints = [each for each in endpoints if each[0].network.id == ident]
        else:
            endpoints = [each for each in endpoints if each[0].id == ident]
        if failures := self._reconnect_all(Wanted(bridges, endpoints)):
            raise DriverError("; ".join(map(str, failures))) from failures[0]

    def _repair_rules(self, table: Table, what: str, token: str) -> None:
        if what == "element":
            self._remove_element(table, _audit.element_of(token))
        elif what == "docker-user":
            table.admit(self._bridge_names())
        elif what == "table":
            self._uplinks = None
            table.rebuild(self._wanted())

    def _remove_element(self, table: Table, element: _plan.Element) -> None:
        """Remove a stray element from the table, and from endpoints that the engine no longer has. Elements of an existing
        network are kept."""
        if any(element in _plan.network_elements(bridge) for bridge in self._bridges.values()):
            return
        for ident in [ident for ident, elements in self._ports.items() if element in elements]:
            del self._ports[ident]
        table.delete_present(frozenset({element}), f"remove {element.key} from table {table.name}")
