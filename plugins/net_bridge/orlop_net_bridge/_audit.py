"""What the host has against what it should have: rules, bridges, ports of bridges. No I/O.

A leftover's note says what `mend` looks for: "link NAME ALIAS", "element SET|KEY|VALUE", "bridge NETWORK" or "table".
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

from orlop_kernel.spi import Endpoint, EndpointState, Leftover

from . import _plan
from ._network import Bridge

__all__ = ["Link", "Wanted", "compare_links", "compare_table", "element_of", "rules_in"]


class Link(NamedTuple):
    """A link on the host. `kind` and `ident` are those of our alias, "" for a link that is not ours."""

    name: str
    alias: str
    kind: str
    ident: str


class Wanted(NamedTuple):
    """The books: networks by id, endpoints with what was made for each."""

    bridges: Mapping[str, Bridge]
    endpoints: Collection[tuple[Endpoint, EndpointState]]

    def elements(self) -> dict[_plan.Element, str]:
        """Each element, and whose it is."""
        found = {each: bridge.network_id for bridge in self.bridges.values() for each in _plan.network_elements(bridge)}
        found |= {each: endpoint.id for endpoint, _ in self.endpoints for each in _plan.port_elements(endpoint)}
        return found


def rules_in(listing: Mapping[str, Any]) -> int:
    """How many rules a listed table has."""
    return sum("rule" in entry for entry in listing.get("nftables", ()))


def element_of(note: str) -> _plan.Element:
    name, key, value = note.split("|")
    return _plan.Element(name, key, value)


def compare_table(table: str, held: frozenset[_plan.Element] | None, whole: bool, wanted: Wanted) -> Iterator[Leftover]:
    """`held` None: not a table of ours by its looks. `whole`: it has all of its rules."""
    name = f"nft table inet {table}"
    if held is None or not whole:
        yield Leftover(
            "damaged", name, "its sets and rules are not those that this daemon writes", "write it anew", note="table"
        )
    if held is None:
        return
    expected = wanted.elements()
    for element in sorted(held - expected.keys()):
        text = f"leads packets for nobody: {_words(element)}"
        yield Leftover("stray", f"{name} {element.set}", text, "remove it", note=f"element {'|'.join(element)}")
    for element in sorted(expected.keys() - held):
        text = f"lacks {_words(element)}"
        yield Leftover("missing", f"{name} {element.set}", text, "add it", expected[element], "table")


def _words(element: _plan.Element) -> str:
    return f"{element.key} : {element.value}" if element.value else element.key


def compare_links(links: Collection[Link], wanted: Wanted) -> Iterator[Leftover]:
    known = {"network": set(wanted.bridges), "endpoint": {endpoint.id for endpoint, _ in wanted.endpoints}}
    for link in links:
        if link.kind in known and link.ident not in known[link.kind]:
            text = f"is of the {link.kind} {link.ident[:12]}, which does not exist"
            yield Leftover("stray", f"link {link.name}", text, "remove it", link.ident, f"link {link.name} {link.alias}")
    names = {link.name for link in links}
    for bridge in wanted.bridges.values():
        if bridge.name not in names:
            yield Leftover(
                "missing",
                f"link {bridge.name}",
                f"is the bridge of network {bridge.network_id[:12]} and is not there",
                "make it",
                bridge.network_id,
                f"bridge {bridge.network_id}",
            )
    for endpoint, state in wanted.endpoints:
        if state.host_link and state.host_link not in names:
            text = f"connects container {endpoint.container_id[:12]} to {endpoint.network.name} and is not there"
            yield Leftover("missing", f"link {state.host_link}", text, "", endpoint.id)
