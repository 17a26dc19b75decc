"""Comparison of the host's rules, bridges and bridge ports with the engine's records. This module does no I/O.

`Drift.note` tells the driver's `repair` what to do. "link NAME ALIAS" and "element SET|KEY|VALUE" are removed. "bridge
NETWORK" and "endpoint ID" are made or corrected. "table", "docker-user" and "forwarding FAMILY" are restored.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from orlop_sdk import Drift, Endpoint, EndpointState

from . import _plan
from ._network import Bridge

__all__ = [
    "Host",
    "Link",
    "Wanted",
    "compare_endpoint",
    "compare_forwarding",
    "compare_links",
    "compare_table",
    "element_of",
    "routed_families",
]


class Link(NamedTuple):
    """A link on the host. `kind` and `ident` come from Orlop's alias; "" for a link that this daemon does not own. `type` is
    the kernel's link type ("bridge", "veth", "" for a network card). `master` is the bridge that the link is a port of;
    `hairpin` and `isolated` are settings of a port."""

    name: str
    alias: str
    kind: str
    ident: str
    type: str = ""
    master: str = ""
    up: bool = True
    mtu: int = 0
    hairpin: bool = False
    isolated: bool = False


class Host(NamedTuple):
    """The state of the host: all links, the addresses of bridges by name, and the ids of networks whose ports must be
    isolated."""

    links: Collection[Link]
    addresses: Mapping[str, Collection[str]]
    isolated: Collection[str]


class Wanted(NamedTuple):
    """The engine's records: bridges by network id, and endpoints with their state."""

    bridges: Mapping[str, Bridge]
    endpoints: Collection[tuple[Endpoint, EndpointState]]

    def elements(self) -> dict[_plan.Element, str]:
        """Maps all required elements to the id of the network or endpoint that needs the element."""
        found = {each: bridge.network_id for bridge in self.bridges.values() for each in _plan.network_elements(bridge)}
        found |= {each: endpoint.id for endpoint, _ in self.endpoints for each in _plan.port_elements(endpoint)}
        return found | dict.fromkeys(_plan.link_elements([endpoint for endpoint, _ in self.endpoints]), "")


def element_of(note: str) -> _plan.Element:
    name, key, value = note.split("|")
    return _plan.Element(name, key, value)


# --- rules ----------------------------------------------------------------------------------------------------------


def compare_table(
    table: str, held: frozenset[_plan.Element] | None, whole: bool, expected: Mapping[_plan.Element, str]
) -> Iterator[Drift]:
    """Compare the table. `held` are the elements in the kernel's table. It is None if another version of Orlop has written
    the table. `whole`: the sets, chains and rules of the table are the same as this daemon writes. `expected`: see
    `Wanted.elements`."""
    name = f"nft table inet {table}"
    if held is None or not whole:
        yield Drift(
            "damaged", name, "its sets and rules differ from those that this daemon writes", "rewrite it", note="table"
        )
    if held is None:
        return
    for element in sorted(held - expected.keys()):
        text = f"has an element that belongs to no running container: {_words(element)}"
        yield Drift("stray", f"{name} {element.set}", text, "remove it", note=f"element {'|'.join(element)}")
    for element in sorted(expected.keys() - held):
        text = f"lacks {_words(element)}"
        yield Drift("missing", f"{name} {element.set}", text, "add it", expected[element], "table")


def _words(element: _plan.Element) -> str:
    return f"{element.key} : {element.value}" if element.value else element.key


def routed_families(bridges: Collection[Bridge]) -> set[int]:
    """The IP versions (4, 6) that the host must route for these bridges."""
    return {ipaddress.ip_network(subnet).version for bridge in bridges if not bridge.internal for subnet in bridge.subnets}


def compare_forwarding(off: Collection[int]) -> Iterator[Drift]:
    """Report missing forwarding. `off` are the IP versions whose packets the host should forward but does not forward."""
    for version in sorted(off):
        text = "is switched off: containers can neither reach other networks nor be reached from them"
        yield Drift("damaged", f"IPv{version} forwarding", text, "switch it on", note=f"forwarding {version}")


# --- links ----------------------------------------------------------------------------------------------------------


def compare_links(host: Host, wanted: Wanted) -> Iterator[Drift]:
    known = {"network": set(wanted.bridges), "endpoint": {endpoint.id for endpoint, _ in wanted.endpoints}}
    for link in host.links:
        if link.kind in known and link.ident not in known[link.kind]:
            text = f"belongs to {link.kind} {link.ident[:12]}, which does not exist"
            yield Drift("stray", f"link {link.name}", text, "remove it", link.ident, f"link {link.name} {link.alias}")
    links = {link.name: link for link in host.links}
    for bridge in wanted.bridges.values():
        made = links.get(bridge.name)
        note = f"bridge {bridge.network_id}"
        if made is None:
            text = f"is the bridge of network {bridge.network_id[:12]} and is missing"
            yield Drift("missing", f"link {bridge.name}", text, "make it", bridge.network_id, note)
        else:
            for text in _bridge_faults(made, bridge, frozenset(host.addresses.get(bridge.name, ()))):
                yield Drift("damaged", f"link {bridge.name}", text, "correct it", bridge.network_id, note)
    for endpoint, state in wanted.endpoints:
        bridge_of = wanted.bridges.get(endpoint.network.id)
        if state.host_link and bridge_of is not None:
            isolated = bridge_of.network_id in host.isolated
            yield from compare_endpoint(links.get(state.host_link), endpoint, state, bridge_of, isolated)


def _bridge_faults(link: Link, bridge: Bridge, addresses: frozenset[str]) -> Iterator[str]:
    """The faults of a bridge. A bridge that an administrator made may have other addresses and another MTU."""
    if link.type != "bridge":
        yield "is not a bridge"
        return
    if not link.up:
        yield "is down"
    for address in sorted(set(bridge.addresses) - addresses):
        yield f"lacks the address {address}"
    if link.kind == "network":
        for address in sorted(addresses - set(bridge.addresses)):
            yield f"has the address {address}, which its network does not have"
        if bridge.mtu and link.mtu != bridge.mtu:
            yield f"has an MTU of {link.mtu}, not {bridge.mtu}"


def compare_endpoint(
    link: Link | None, endpoint: Endpoint, state: EndpointState, bridge: Bridge, isolated: bool
) -> Iterator[Drift]:
    """Check the host end of a container's veth pair."""
    where = f"container {endpoint.container_id[:12]} to {endpoint.network.name}"
    name, note = f"link {state.host_link}", f"endpoint {endpoint.id}"
    if link is None:
        text = f"connects {where} and is missing"
        yield Drift("missing", name, text, "make it again, in the running container", endpoint.id, note)
        return
    for text in _port_faults(link, endpoint, bridge, isolated):
        yield Drift("damaged", name, f"connects {where}, but {text}", "correct it", endpoint.id, note)


def _port_faults(link: Link, endpoint: Endpoint, bridge: Bridge, isolated: bool) -> Iterator[str]:
    if link.ident != endpoint.id:
        yield "does not have the alias of this endpoint"
    if link.master != bridge.name:
        yield f"is a port of {link.master}, not of {bridge.name}" if link.master else f"is not a port of {bridge.name}"
        return
    if not link.up:
        yield "is down"
    if bridge.mtu and link.mtu != bridge.mtu:
        yield f"has an MTU of {link.mtu}, not {bridge.mtu}"
    if not link.hairpin:
        yield "does not return packets that the container sends to its own published ports"
    if link.isolated != isolated:
        yield "is isolated from its neighbours" if link.isolated else "is not isolated from its neighbours"
