"""Finds the bridges that connect the host to other hosts (uplinks).

On a host with dockerd, Orlop leaves packets to and from other programs' bridges to Docker's rules. The host's uplink may
also be a bridge: it has a network card as a port, or there is a gateway behind it. Such a bridge must not be treated as a
bridge of Docker.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ._audit import Link

__all__ = ["gateway_links", "uplink_bridges"]

# The link types of network cards ("") and their aggregates. Docker and virtual machines use the types "veth" and "tun".
_CARDS = frozenset({"", "bond", "team", "vlan"})
_RTF_GATEWAY = 0x2
# These are the files of the thread, not of the process, because in tests the driver's thread is in another network
# namespace.
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
