"""Which of the host's other bridges lead out of it. Pure but for reading the routes.

Beside dockerd a bridge that is not ours is taken for Docker's, and packets to and from it are left to Docker's rules. But a
host's own way out may be a bridge: with a network card as one of its ports, or with a gateway behind it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection

from ._audit import Link

__all__ = ["gateway_links", "uplink_bridges"]

# By kind of link; a network card has none. What Docker and virtual machines plug in is "veth" and "tun".
_CARDS = frozenset({"", "bond", "team", "vlan"})
_RTF_GATEWAY = 0x2
# The thread's, not the process's: in tests the daemon's thread has a network of its own.
_ROUTES = (("/proc/thread-self/net/route", 0, 3), ("/proc/thread-self/net/ipv6_route", 9, 8))


def gateway_links() -> set[str]:
    """Names of links that some route has a gateway on."""
    found = set()
    for path, name, flags in _ROUTES:
        with contextlib.suppress(OSError), open(path) as file:  # no IPv6, no file
            for line in file:
                fields = line.split()
                if fields[flags].strip("0") and fields[0] != "Iface" and int(fields[flags], 16) & _RTF_GATEWAY:
                    found.add(fields[name])
    return found


def uplink_bridges(links: Collection[Link], routed: Collection[str], ours: Collection[str]) -> set[str]:
    """`routed`: see `gateway_links`; `ours` are names of our bridges, which are none."""
    bridges = {link.name for link in links if link.type == "bridge"} - set(ours)
    carded = {link.master for link in links if link.master and link.type in _CARDS}
    return {name for name in bridges if name in carded or name in routed}
