"""The nftables table as data: the elements that networks and published ports need, and the commands that change the kernel's
table from its current to the wanted content. This module does no I/O.

The rules do not depend on networks and ports, because they look up sets and maps. So a port is published by one `add
element`. This command is atomic, and fails if the key exists, which detects port conflicts. Each text that this module makes
is one nft transaction, so every packet sees either the old or the new state.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Collection, Iterable, Iterator
from typing import Any, NamedTuple

from orlop_sdk import Endpoint, InvalidParameter

from ._network import Bridge

__all__ = [
    "ADMITTED",
    "Element",
    "add_elements",
    "delete_elements",
    "delete_table",
    "keep_compatible",
    "link_elements",
    "network_elements",
    "parse_elements",
    "port_elements",
    "read_elements",
    "replace_table",
    "structure",
    "table_name",
    "update_table",
    "uplink_elements",
]

ADMITTED = 0x0100_0000
"""The bit of the packet mark that the rules in `DOCKER-USER` accept (see `_docker_user`). Kubernetes, Cilium, Tailscale and
Docker use other bits. The bit is set and cleared within the forward hook, so routing and other hooks do not see it."""
_OTHERS = 0xFFFF_FFFF ^ ADMITTED

_PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_PROTOCOL_NAMES = {str(number): name for name, number in _PROTOCOLS.items()}

# name -> (declaration, is a map)
_SETS = {
    "bridges": ("set", "type ifname;"),
    "internal": ("set", "type ifname;"),
    "uplinks": ("set", "type ifname;"),
    "talking": ("set", "type ifname . ifname;"),
    "apart": ("set", "type ifname . ifname;"),
    "linked4": ("set", "type ipv4_addr . ipv4_addr . inet_proto . inet_service;"),
    "linked6": ("set", "type ipv6_addr . ipv6_addr . inet_proto . inet_service;"),
    "open4": ("set", "type ifname;"),
    "open6": ("set", "type ifname;"),
    "pinged4": ("set", "type ifname;"),
    "pinged6": ("set", "type ifname;"),
    "routed4": ("set", "type ipv4_addr . inet_proto . inet_service;"),
    "routed6": ("set", "type ipv6_addr . inet_proto . inet_service;"),
    "inside4": ("set", "type ipv4_addr; flags interval;"),
    "inside6": ("set", "type ipv6_addr; flags interval;"),
    "masquerade4": ("set", "type ipv4_addr; flags interval;"),
    "masquerade6": ("set", "type ipv6_addr; flags interval;"),
    "source4": ("map", "type ipv4_addr : ipv4_addr; flags interval;"),
    "source6": ("map", "type ipv6_addr : ipv6_addr; flags interval;"),
    "ports4": ("map", "type inet_proto . inet_service : ipv4_addr . inet_service;"),
    "ports6": ("map", "type inet_proto . inet_service : ipv6_addr . inet_service;"),
    "ports4_at": ("map", "type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service;"),
    "ports6_at": ("map", "type ipv6_addr . inet_proto . inet_service : ipv6_addr . inet_service;"),
}

_INTERVALS = frozenset(name for name, (_, body) in _SETS.items() if "interval" in body)

_CHAINS = {
    "publish": "",
    "prerouting": "type nat hook prerouting priority -100; policy accept;",
    "output": "type nat hook output priority -100; policy accept;",
    "postrouting": "type nat hook postrouting priority 100; policy accept;",
    "admit": "type filter hook forward priority -1; policy accept;",
    "forward": "type filter hook forward priority 0; policy accept;",
    "admitted": "type filter hook forward priority 1; policy accept;",
}

_RULES = (
    # A binding to one host address has priority over a binding to all addresses.
    ("publish", "dnat ip to ip daddr . meta l4proto . th dport map @ports4_at"),
    ("publish", "dnat ip6 to ip6 daddr . meta l4proto . th dport map @ports6_at"),
    ("publish", "meta nfproto ipv4 dnat ip to meta l4proto . th dport map @ports4"),
    ("publish", "meta nfproto ipv6 dnat ip6 to meta l4proto . th dport map @ports6"),
    ("prerouting", "fib daddr type local jump publish"),
    # The monitor serves ports on loopback, because packets with an address in 127/8 cannot leave the host without
    # route_localnet.
    ("output", "ip daddr 127.0.0.0/8 return"),
    ("output", "ip6 daddr ::1 return"),
    ("output", "fib daddr type local jump publish"),
    # These rules apply to packets of a container to a published port of its bridge, or to its own published port.
    # Masquerading makes the answers return through the host.
    ("postrouting", "oifname @bridges ct status dnat ip saddr @inside4 masquerade"),
    ("postrouting", "oifname @bridges ct status dnat ip6 saddr @inside6 masquerade"),
    ("postrouting", "oifname != @bridges snat ip to ip saddr map @source4"),
    ("postrouting", "oifname != @bridges snat ip6 to ip6 saddr map @source6"),
    ("postrouting", "oifname != @bridges ip saddr @masquerade4 masquerade"),
    ("postrouting", "oifname != @bridges ip6 saddr @masquerade6 masquerade"),
    ("forward", "iifname . oifname @talking accept"),
    ("forward", "iifname . oifname @apart ip saddr . ip daddr . meta l4proto . th dport @linked4 accept"),
    ("forward", "iifname . oifname @apart ip6 saddr . ip6 daddr . meta l4proto . th dport @linked6 accept"),
    ("forward", "iifname @internal drop"),
    ("forward", "oifname @internal drop"),
    ("forward", "oifname @bridges ct state established,related accept"),
    ("forward", "oifname @bridges ct status dnat accept"),
    ("forward", "meta nfproto ipv4 iifname != @bridges oifname @open4 accept"),
    ("forward", "meta nfproto ipv6 iifname != @bridges oifname @open6 accept"),
    # Gateway mode `routed`: published ports at the container's own address, and ICMP (as in Docker)
    ("forward", "oifname @pinged4 meta l4proto icmp accept"),
    ("forward", "oifname @pinged6 meta l4proto ipv6-icmp accept"),
    ("forward", "oifname @pinged4 ip daddr . meta l4proto . th dport @routed4 accept"),
    ("forward", "oifname @pinged6 ip6 daddr . meta l4proto . th dport @routed6 accept"),
    ("forward", "oifname @bridges drop"),
    # Mark packets that Docker need not filter, because neither end is a bridge of another program. The kind of the link is
    # checked for each packet, so Docker's rules apply immediately to a bridge that dockerd makes later, even while orlopd
    # does not run.
    ("admit", "iifname != @bridges oifname != @bridges return"),
    ("admit", f"meta mark set meta mark & {_OTHERS:#x}"),
    ("admit", 'meta iifkind "bridge" iifname != @bridges iifname != @uplinks return'),
    ("admit", 'meta oifkind "bridge" oifname != @bridges oifname != @uplinks return'),
    ("admit", f"meta mark set meta mark | {ADMITTED:#x}"),
    ("admitted", f"iifname @bridges meta mark set meta mark & {_OTHERS:#x}"),
    ("admitted", f"oifname @bridges meta mark set meta mark & {_OTHERS:#x}"),
)


class Element(NamedTuple):
    """An element of a set (`value` is "") or of a map, in nft's syntax."""

    set: str
    key: str
    value: str = ""


def table_name(instance: str) -> str:
    """The name of the table of a daemon. Characters of `instance` that nft does not allow in a name become underscores."""
    return "orlop" + ("_" + re.sub(r"[^A-Za-z0-9_]", "_", instance) if instance else "")


def network_elements(bridge: Bridge) -> frozenset[Element]:
    name = f'"{bridge.name}"'
    found = {Element("bridges", name)}
    found.add(Element("talking" if bridge.icc else "apart", f"{name} . {name}"))
    if bridge.internal:
        found.add(Element("internal", name))
    found.update(Element(f"open{family}", name) for family in bridge.unprotected)
    found.update(Element(f"pinged{family}", name) for family in bridge.routed)
    sources = dict(bridge.snat)
    for subnet in bridge.subnets:
        version = ipaddress.ip_network(subnet).version
        found.add(Element(f"inside{version}", subnet))
        if bridge.masquerade and not bridge.internal and version not in bridge.routed:
            if subnet in sources:
                found.add(Element(f"source{version}", subnet, sources[subnet]))
            else:
                found.add(Element(f"masquerade{version}", subnet))
    return frozenset(found)


def link_elements(endpoints: Collection[Endpoint]) -> frozenset[Element]:
    """The elements that allow `--link` traffic on networks that isolate their containers. `endpoints` must be all
    endpoints."""
    found: set[Element] = set()
    linking = [endpoint for endpoint in endpoints if endpoint.links]
    for endpoint in linking:
        for link in endpoint.links:
            for other in endpoints:
                if other.container_id == link.container_id and other.network.id == endpoint.network.id:
                    found.update(_link(endpoint, other, f"{link.protocol} . {int(link.port)}", link.protocol))
    return frozenset(found)


def _link(endpoint: Endpoint, other: Endpoint, port: str, protocol: str) -> Iterator[Element]:
    if protocol not in _PROTOCOLS:
        return
    for mine in (ipaddress.ip_interface(each.address) for each in endpoint.addresses):
        for its in (ipaddress.ip_interface(each.address) for each in other.addresses):
            if mine.version == its.version:
                yield Element(f"linked{mine.version}", f"{mine.ip} . {its.ip} . {port}")


def uplink_elements(names: Iterable[str]) -> frozenset[Element]:
    """The elements for bridges that connect the host to other hosts (see `_uplinks`)."""
    return frozenset(Element("uplinks", f'"{name}"') for name in names)


def port_elements(endpoint: Endpoint) -> frozenset[Element]:
    """The elements that forward packets to the endpoint's published ports. The monitor serves bindings to loopback, and
    bindings to an IP version in which the endpoint has no address, so these bindings have no elements."""
    targets: dict[int, str] = {}
    for each in endpoint.addresses:
        interface = ipaddress.ip_interface(each.address)
        targets.setdefault(interface.version, str(interface.ip))
    found = set()
    for port in endpoint.ports:
        if port.protocol not in _PROTOCOLS:
            raise InvalidParameter(f"cannot publish port {port.container_port}/{port.protocol}: unknown protocol")
        host = ipaddress.ip_address(port.host_ip)
        if host.is_loopback or host.version not in targets:
            continue
        if not port.host_port:  # gateway mode `routed`
            target = f"{targets[host.version]} . {port.protocol} . {int(port.container_port)}"
            found.add(Element(f"routed{host.version}", target))
            continue
        key = f"{port.protocol} . {int(port.host_port)}"
        value = f"{targets[host.version]} . {int(port.container_port)}"
        if host.is_unspecified:
            found.add(Element(f"ports{host.version}", key, value))
        else:
            found.add(Element(f"ports{host.version}_at", f"{host} . {key}", value))
    return frozenset(found)


def _by_set(elements: Iterable[Element]) -> list[tuple[str, list[Element]]]:
    grouped: dict[str, list[Element]] = {}
    for element in sorted(elements):
        grouped.setdefault(element.set, []).append(element)
    return list(grouped.items())


def add_elements(table: str, elements: Iterable[Element]) -> str:
    lines = []
    for name, members in _by_set(elements):
        inside = ", ".join(f"{e.key} : {e.value}" if e.value else e.key for e in members)
        lines.append(f"add element inet {table} {name} {{ {inside} }}")
    return "\n".join(lines)


def delete_elements(table: str, elements: Iterable[Element]) -> str:
    lines = []
    for name, members in _by_set(elements):
        lines.append(f"delete element inet {table} {name} {{ {', '.join(e.key for e in members)} }}")
    return "\n".join(lines)


def delete_table(table: str) -> str:
    # "add" comes first, because deleting a table that does not exist fails.
    return f"add table inet {table}\ndelete table inet {table}"


def _skeleton(table: str) -> list[str]:
    lines = [f"add table inet {table}"]
    lines += [f"add {kind} inet {table} {name} {{ {body} }}" for name, (kind, body) in _SETS.items()]
    lines += [f"add chain inet {table} {name}" + (f" {{ {body} }}" if body else "") for name, body in _CHAINS.items()]
    lines += [f"flush chain inet {table} {name}" for name in _CHAINS]
    lines += [f"add rule inet {table} {chain} {rule}" for chain, rule in _RULES]
    return lines


def keep_compatible(wanted: frozenset[Element], held: frozenset[Element]) -> frozenset[Element]:
    """Returns `wanted`, and those elements of `held` that do not conflict with `wanted`. At the start of the daemon, these
    elements may belong to running containers."""
    keys = {(element.set, element.key) for element in wanted}
    subnets = [(element.set, ipaddress.ip_network(element.key)) for element in wanted if element.set in _INTERVALS]

    def stands_in_the_way(element: Element) -> bool:
        if element.set not in _INTERVALS:
            return (element.set, element.key) in keys
        mine = ipaddress.ip_network(element.key)
        return any(name == element.set and other.overlaps(mine) for name, other in subnets)

    return wanted | {element for element in held if not stands_in_the_way(element)}


def update_table(table: str, held: frozenset[Element], wanted: frozenset[Element]) -> str:
    """Commands to change a table with the elements `held` (or a missing table) so that it contains exactly `wanted`.
    Elements in both sets stay unchanged. An element whose value has changed is deleted and added in the same transaction."""
    return "\n".join(
        filter(
            None,
            [*_skeleton(table), delete_elements(table, held - wanted), add_elements(table, wanted - held)],
        )
    )


def replace_table(table: str, wanted: frozenset[Element]) -> str:
    """Commands to replace a table of another version, with any content, by a table that contains exactly `wanted`."""
    return "\n".join([delete_table(table), *_skeleton(table), add_elements(table, wanted)])


def _word(value: Any) -> str:
    if isinstance(value, dict) and "concat" in value:
        return " . ".join(_word(part) for part in value["concat"])
    if isinstance(value, dict) and "prefix" in value:
        return f"{value['prefix']['addr']}/{value['prefix']['len']}"
    if isinstance(value, dict) and "elem" in value:
        return _word(value["elem"]["val"])
    return str(value)


_IFNAME_SETS = frozenset(name for name, (_, body) in _SETS.items() if "ifname" in body)
_PROTOCOL_AT = {
    **dict.fromkeys(("ports4", "ports6"), 0),
    **dict.fromkeys(("ports4_at", "ports6_at", "routed4", "routed6"), 1),
    **dict.fromkeys(("linked4", "linked6"), 2),
}


def _key(name: str, raw: Any) -> str:
    parts = _word(raw).split(" . ")
    if name in _IFNAME_SETS:
        parts = [f'"{part}"' for part in parts]
    elif name in _PROTOCOL_AT:
        index = _PROTOCOL_AT[name]
        parts[index] = _PROTOCOL_NAMES.get(parts[index], parts[index])
    elif "/" not in parts[0]:  # nft prints a single address without the prefix length
        parts[0] += f"/{ipaddress.ip_address(parts[0]).max_prefixlen}"
    return " . ".join(parts)


def parse_elements(listing: dict[str, Any]) -> frozenset[Element]:
    """The elements in the JSON output of `list table`. Raises ValueError or KeyError for a table that Orlop did not
    write."""
    found = set()
    for entry in listing.get("nftables", ()):
        held = entry.get("set") or entry.get("map")
        if held is None:
            continue
        name = held["name"]
        if name not in _SETS:
            raise ValueError(f"unknown set {name}")
        for raw in held.get("elem", ()):
            if "map" in entry:
                found.add(Element(name, _key(name, raw[0]), _word(raw[1])))
            else:
                found.add(Element(name, _key(name, raw)))
    return frozenset(found)


def read_elements(listing: dict[str, Any]) -> frozenset[Element] | None:
    """Like `parse_elements`, but returns None for a table that Orlop did not write."""
    try:
        return parse_elements(listing)
    except (ValueError, KeyError, IndexError, TypeError):
        return None


_VOLATILE = frozenset({"handle", "table", "elem"})


def structure(listing: dict[str, Any]) -> dict[str, Any]:
    """The parts of a listed table that do not depend on networks and ports: sets and chains by name, and the rules of each
    chain in order. Two tables with the same structure and elements treat packets in the same way."""
    found: dict[str, Any] = {"other": []}
    for entry in listing.get("nftables", ()):
        for kind, value in entry.items():
            if kind in ("metainfo", "table"):
                continue
            kept = {key: each for key, each in value.items() if key not in _VOLATILE}
            if kind == "rule":
                found.setdefault(f"rules {kept.pop('chain')}", []).append(kept)
            elif "name" in kept:
                found[f"{kind} {kept['name']}"] = kept
            else:
                found["other"].append({kind: kept})
    return found
