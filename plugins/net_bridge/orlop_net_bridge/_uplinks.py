"""Finds the host's bridges that lead out of it (uplinks). Pure except for reading the routes.

Next to dockerd, packets to and from a bridge that Orlop did not make are left to Docker's rules. The host's own uplink may
be a bridge too: one with a network card as a port, or with a gateway behind it. Such bridges must not be taken for Docker's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ._audit import Link

__all__ = ["gateway_links", "uplink_bridges"]

# Link types of network cards ("") and their aggregates. Docker and virtual machines attach "veth" and "tun" links.
_CARDS = frozenset({"", "bond", "team", "vlan"})
_RTF_GATEWAY = 0x2
# Of the thread, not the process: in tests the driver's thread is in another network namespace.
_ROUTES = (("/proc/thread-self/net/route", 0, 3), ("/proc/thread-self/net/ipv6_route", 9, 8))


def gateway_links() -> set[str]:
    """Names of links that have a route with a gateway."""
    found = set()
    for path, name, flags in _ROUTES:
        with contextlib.suppress(OSError), open(path) as file:  # a kernel without IPv6 lacks the second file
            for line in file:
                fields = line.split()
                if fields[flags].strip("0") and fields[0] != "Iface" and int(fields[flags], 16) & _RTF_GATEWAY:
                    found.add(fields[name])
    return found


def uplink_bridges(links: Collection[Link], routed: Collection[str], ours: Collection[str]) -> set[str]:
    """The names of uplink bridges. `routed`: see `gateway_links`. `ours`: the names of Orlop's bridges, which are
    excluded."""
    bridges = {link.name for link in links if link.type == "bridge"} - set(ours)
    carded = {link.master for link in links if link.master and link.type in _CARDS}
    return {name for name in bridges if name in carded or name in routed}
