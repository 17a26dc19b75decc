"""The driver: what to do in which order. Everything below `async` runs in the network thread.

Memory here is a copy of what the kernel's table should hold: it says which elements are an endpoint's, and puts the table
back when somebody flushed the ruleset. Order on attach: link, then ports; on detach: ports, then link.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Sequence

from orlop_kernel.spi import (
    Conflict,
    DriverError,
    Endpoint,
    EndpointState,
    Leftover,
    NetworkCapabilities,
    NetworkContext,
    NetworkSpec,
    OrlopError,
)

from . import _audit, _docker_user, _plan
from ._conntrack import forget_udp
from ._links import Links
from ._network import Bridge, read_network
from ._nft import Nft, NftError, open_nft
from ._sysctl import enable_forwarding
from ._worker import Worker

__all__ = ["BridgeDriver"]

_log = logging.getLogger("orlop.networks")
_LINGER = 1.0


def _version(address: str) -> int:
    return 6 if ":" in address else 4


def _ports_of(endpoint: Endpoint) -> frozenset[_plan.Element]:
    """Of a living endpoint. One that makes no sense keeps its link, and publishes nothing."""
    try:
        return _plan.port_elements(endpoint)
    except (OrlopError, ValueError) as error:
        _log.error("the ports of container %s are not restored: %s", endpoint.container_id[:12], error)
        return frozenset()


class BridgeDriver:
    """Owns the network thread and what is open in it; made once, closed once."""

    def __init__(self, context: NetworkContext) -> None:
        self._context = context
        self._table = _plan.table_name(context.instance)
        self._owner = "orlop" + (f"-{context.instance.replace(':', '_')}" if context.instance else "")
        self._worker = Worker("orlop-network")
        self._links: Links | None = None
        self._nft: Nft | None = None
        self._bridges: dict[str, Bridge] = {}
        self._ports: dict[str, frozenset[_plan.Element]] = {}

    @property
    def capabilities(self) -> NetworkCapabilities:
        return NetworkCapabilities()

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
        ports = {endpoint.id: _ports_of(endpoint) for endpoint, _ in endpoints}
        await self._worker.run(lambda: self._restore(bridges, ports, known))

    def _readable(self, network: NetworkSpec) -> Bridge | None:
        """One network that makes no sense costs the others nothing, and keeps its bridge."""
        try:
            return read_network(network, self._context)
        except (OrlopError, ValueError) as error:
            _log.error("network %s is not restored: %s", network.name, error)
            return None

    async def audit(
        self, networks: Sequence[NetworkSpec], endpoints: Sequence[tuple[Endpoint, EndpointState]]
    ) -> Sequence[Leftover]:
        wanted = _audit.Wanted({network.id: read_network(network, self._context) for network in networks}, endpoints)
        return await self._worker.run(lambda: self._audit(wanted))

    async def dump(self) -> str:
        return await self._worker.run(self._dump)

    async def mend(self, found: Leftover) -> None:
        await self._worker.run(lambda: self._mend(found))

    async def close(self) -> None:
        await self._worker.close(self._close)

    # --- in the thread ----------------------------------------------------------------------------------------------

    def _open_links(self) -> Links:
        if self._links is None:
            self._links = Links(self._owner)
        return self._links

    def _open_nft(self) -> Nft | None:
        """None with `"iptables": false`: no rules then, and published ports are served by the monitors alone."""
        if self._nft is None and self._context.iptables:
            self._nft = open_nft()
        return self._nft

    def _close(self) -> None:
        for held in (self._links, self._nft):
            if held is not None:
                held.close()
        self._links = self._nft = None

    def _wanted(self) -> frozenset[_plan.Element]:
        parts = [_plan.network_elements(bridge) for bridge in self._bridges.values()]
        return frozenset().union(*parts, *self._ports.values())

    def _create(self, bridge: Bridge) -> None:
        for known in self._bridges.values():
            if known.name == bridge.name and known.network_id != bridge.network_id:
                raise Conflict(f"cannot create bridge {bridge.name}: network {known.network_id[:12]} uses it")
        before = self._bridges.get(bridge.network_id)
        if self._context.ip_forward and not bridge.internal:
            for version in sorted({_version(subnet) for subnet in bridge.subnets}):
                enable_forwarding(version)
        self._open_links().ensure_bridge(bridge)
        nft = self._open_nft()
        if nft is None:
            self._bridges[bridge.network_id] = bridge
            return
        # At boot the table holds the ports of living endpoints, which we hear of in `restore`: only ever add here.
        self._bridges[bridge.network_id] = bridge
        try:
            nft.run(
                _plan.update_table(self._table, frozenset(), _plan.network_elements(bridge)),
                f"create the rules of bridge {bridge.name}",
            )
            _docker_user.admit(nft, self._table, [bridge.name])
        except NftError:
            # A table of another version, or a former subnet in the way: `restore` settles the rest.
            try:
                self._settle(nft, keep=True)
                _docker_user.admit(nft, self._table, [bridge.name])
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

    def _held(self, nft: Nft) -> frozenset[_plan.Element] | None:
        """What the kernel's table holds; None when it is not one we can change step by step."""
        try:
            return _plan.parse_elements(nft.read(f"list table inet {self._table}", f"list table {self._table}"))
        except NftError as error:
            if error.missing:
                return frozenset()
            raise
        except (ValueError, KeyError, IndexError, TypeError):
            return None

    def _settle(self, nft: Nft, *, keep: bool = False) -> None:
        """Make the table hold exactly what it should, in one transaction; with `keep`, also what it holds besides."""
        held, wanted = self._held(nft), self._wanted()
        what = f"restore table {self._table}"
        if held is not None:
            if keep:
                wanted = _plan.keep_compatible(wanted, held)
            try:
                nft.run(_plan.update_table(self._table, held, wanted), what)
                return
            except NftError:
                pass  # its sets are of another kind: then the whole of it
        nft.run(_plan.replace_table(self._table, wanted), what)

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
        nft = self._open_nft()
        if nft is None:
            return
        _docker_user.withdraw(nft, self._table, [each.name for each in self._bridges.values()])
        if self._bridges:
            held = self._held(nft)
            gone = _plan.network_elements(bridge) - self._wanted()
            nft.run(_plan.delete_elements(self._table, gone if held is None else gone & held), f"delete {bridge.name}")
        else:
            nft.run(_plan.delete_table(self._table), f"delete table {self._table}")

    def _attach(self, endpoint: Endpoint, bridge: Bridge, wanted: frozenset[_plan.Element]) -> EndpointState:
        host_link, mac = self._open_links().connect(endpoint, bridge)
        try:
            self._publish(endpoint, wanted)
        except BaseException:
            self._open_links().disconnect(host_link, endpoint.id)
            raise
        return EndpointState(mac=mac, host_link=host_link)

    def _update(self, endpoint: Endpoint, wanted: frozenset[_plan.Element]) -> None:
        held = self._ports.get(endpoint.id, frozenset())
        nft = self._open_nft()
        if nft is not None and held and held != wanted:
            self._unpublish(nft, held, endpoint)
            del self._ports[endpoint.id]
        if held != wanted:
            self._publish(endpoint, wanted)
        self._open_links().reroute(endpoint)

    def _publish(self, endpoint: Endpoint, wanted: frozenset[_plan.Element]) -> None:
        nft = self._open_nft()
        if nft is None or not wanted:
            return
        self._check_free(endpoint, wanted)
        what = f"publish the ports of container {endpoint.container_id[:12]}"
        try:
            nft.run(_plan.add_elements(self._table, wanted), what)
        except NftError as error:
            if error.exists:
                raise Conflict(f"cannot {what}: a port is already allocated") from error
            if not error.missing:
                raise
            # Somebody flushed the ruleset: put all of it back, with this.
            self._ports[endpoint.id] = wanted
            try:
                self._settle(nft)
                _docker_user.admit(nft, self._table, [each.name for each in self._bridges.values()])
            except BaseException:
                del self._ports[endpoint.id]
                raise
        self._ports[endpoint.id] = wanted
        for version in (4, 6):
            udp = {port.host_port for port in endpoint.ports if port.protocol == "udp" and _version(port.host_ip) == version}
            if udp:
                forget_udp(version, udp)

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
        if known is None:  # of before our time: what others have since taken is theirs
            taken = {(element.set, element.key) for elements in self._ports.values() for element in elements}
            gone = frozenset(element for element in gone if (element.set, element.key) not in taken)
        nft = self._open_nft()
        try:
            if nft is not None and gone:
                self._unpublish(nft, gone, endpoint)
        finally:
            self._remove_link(endpoint, state)

    def _remove_link(self, endpoint: Endpoint, state: EndpointState) -> None:
        """Removing a link takes the kernel 15-30 ms, an ending namespace removes all of its own at once and at nobody's
        cost: leave it that, and look once more later, for a namespace that somebody holds."""
        links = self._open_links()
        if endpoint.netns or not state.host_link:
            links.disconnect(state.host_link, endpoint.id)
        else:
            links.silence(state.host_link)
            self._worker.later(_LINGER, lambda: links.disconnect(state.host_link, endpoint.id))

    def _unpublish(self, nft: Nft, gone: frozenset[_plan.Element], endpoint: Endpoint) -> None:
        what = f"withdraw the ports of container {endpoint.container_id[:12]}"
        try:
            nft.run(_plan.delete_elements(self._table, gone), what)
        except NftError as error:
            if not error.missing:
                raise
            held = self._held(nft)  # partly gone already
            if held is not None and gone & held:
                nft.run(_plan.delete_elements(self._table, gone & held), what)

    def _restore(self, bridges: dict[str, Bridge], ports: dict[str, frozenset[_plan.Element]], networks: set[str]) -> None:
        self._bridges, self._ports = bridges, ports
        nft = self._open_nft()
        if nft is not None:
            names = [bridge.name for bridge in bridges.values()]
            if bridges:
                self._settle(nft)
                _docker_user.admit(nft, self._table, names)
            else:
                nft.run(_plan.delete_table(self._table), f"delete table {self._table}")
            _docker_user.withdraw(nft, self._table, names)
        else:
            self._remove_rules()
        self._open_links().remove_strangers(networks, set(ports))

    def _remove_rules(self) -> None:
        """Those of a daemon that made some: they would lead what is sent to a port to whoever has the address since."""
        with contextlib.suppress(DriverError):  # where there is no nftables, there are none
            nft = open_nft()
            try:
                nft.run(_plan.delete_table(self._table), f"delete table {self._table}")
                _docker_user.withdraw(nft, self._table, [])
            finally:
                nft.close()

    # --- comparing ------------------------------------------------------------------------------------------------------

    def _dump(self) -> str:
        links = [f"link {link.name} {link.alias}" for link in self._open_links().listed() if link.kind]
        nft = self._open_nft()
        elements = sorted(self._held(nft) or ()) if nft is not None else []
        table = [f"{self._table} {element.set} {element.key} : {element.value}" for element in elements]
        return "".join(f"{line}\n" for line in (*links, *table))

    def _audit(self, wanted: _audit.Wanted) -> list[Leftover]:
        found = list(_audit.compare_links(self._open_links().listed(), wanted))
        nft = self._open_nft()
        if nft is None:
            return found
        try:
            listing = nft.read(f"list table inet {self._table}", f"list table {self._table}")
        except NftError as error:
            if not error.missing:
                raise
            listing = {}
        whole = not wanted.bridges or _audit.rules_in(listing) == _plan.RULES
        return [*found, *_audit.compare_table(self._table, self._held(nft), whole, wanted)]

    def _mend(self, found: Leftover) -> None:
        what, _, token = found.note.partition(" ")
        if what == "link":
            name, _, alias = token.partition(" ")
            self._open_links().remove(name, alias)
        elif what == "bridge" and token in self._bridges:
            self._create(self._bridges[token])
        elif (nft := self._open_nft()) is not None:
            if what == "element":
                self._remove_element(nft, _audit.element_of(token))
            elif what == "table":
                self._settle(nft)

    def _remove_element(self, nft: Nft, element: _plan.Element) -> None:
        """An endpoint that only we know of any more has no right to it; a network that we know of has."""
        if any(element in _plan.network_elements(bridge) for bridge in self._bridges.values()):
            return
        for ident in [ident for ident, elements in self._ports.items() if element in elements]:
            del self._ports[ident]
        held = self._held(nft)
        if held is not None and element in held:
            nft.run(_plan.delete_elements(self._table, [element]), f"remove {element.key} from table {self._table}")
