"""An endpoint's end in the container: settings, addresses, up, routes. For the network thread, and inside the namespace: its
socket is opened there, and closed before the thread goes home.
"""

from __future__ import annotations

import errno
import os
import socket

from orlop_sdk import DriverError, Endpoint

from ._netlink import add_address, delete_default_route, notify_neighbours, replace_default_route, set_up
from ._route_socket import Refused, RouteSocket
from ._sysctl import skip_duplicate_search, write_sysctl

__all__ = ["route_inside", "set_up_inside"]

_LOOPBACK = 1  # the kernel gives it this index in every namespace


def _prepare_ipv6(ifname: str, wanted: bool) -> None:
    """Without an address the container has no IPv6 there; with one, it is not taken from strangers' announcements. A link
    whose MTU is below 1280 has no IPv6, and no settings of it; nor has any on a kernel without it."""
    if not os.path.exists(f"/proc/sys/net/ipv6/conf/{ifname}"):
        return
    if not wanted:
        write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", "1")
        return
    write_sysctl(f"net/ipv6/conf/{ifname}/accept_ra", "0")
    skip_duplicate_search(ifname)


def set_up_inside(endpoint: Endpoint) -> None:
    """Raises OSError or `DriverError`; the caller takes the pair away then."""
    ipv6 = any(":" in each.address for each in endpoint.addresses)
    _prepare_ipv6(endpoint.ifname, ipv6)
    try:
        index = socket.if_nametoindex(endpoint.ifname)
    except OSError as error:
        raise DriverError(f"cannot find {endpoint.ifname}, just made") from error
    with RouteSocket() as inside:
        inside.change(
            set_up(_LOOPBACK),
            # A neighbour that still holds the address's former MAC learns the new one at "up", not half a minute later.
            notify_neighbours(index),
            *(add_address(index, each.address) for each in endpoint.addresses),
            set_up(index),
        )
        # Apart: a route the container has must not give way to one of a link that did not come up.
        if endpoint.default_route:
            inside.change(*(replace_default_route(index, each.gateway) for each in endpoint.addresses if each.gateway))
    for key, value in endpoint.sysctls:
        write_sysctl(key.replace("IFNAME", endpoint.ifname), value)


def route_inside(endpoint: Endpoint) -> None:
    """The default routes by this endpoint, or without `default_route` none by it. Raises OSError or `DriverError`."""
    gateways = [each.gateway for each in endpoint.addresses if each.gateway]
    try:
        index = socket.if_nametoindex(endpoint.ifname)
    except OSError as error:
        if endpoint.default_route:
            raise DriverError(f"cannot find {endpoint.ifname} in the container") from error
        return
    with RouteSocket() as inside:
        if endpoint.default_route:
            inside.change(*(replace_default_route(index, gateway) for gateway in gateways))
            return
        for gateway in gateways:
            try:
                inside.change(delete_default_route(index, gateway))
            except Refused as error:
                if error.errno != errno.ESRCH:  # another has taken its place
                    raise
