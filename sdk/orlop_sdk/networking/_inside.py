"""Configures a container's link: sysctls, addresses, link state and routes.

Only the network thread (see `_worker`) calls this module, while it is in the container's namespace. The netlink socket is
opened in this namespace and closed before the thread leaves it.
"""

from __future__ import annotations

import errno
import os
import socket

from orlop_sdk import DriverError, Endpoint

from ._route_socket import Refused, RouteSocket
from ._sysctl import skip_duplicate_search, write_sysctl
from .netlink import add_address, delete_default_route, notify_neighbours, replace_default_route, set_up

__all__ = ["route_inside", "set_up_inside"]

_LOOPBACK = 1  # loopback has this index in every namespace


def _prepare_ipv6(ifname: str, wanted: bool) -> None:
    """If the endpoint has no IPv6 address, disable IPv6 on the link; otherwise ignore router advertisements. Links with an
    MTU below 1280, and kernels without IPv6, do not have these settings."""
    if not os.path.exists(f"/proc/sys/net/ipv6/conf/{ifname}"):
        return
    if not wanted:
        write_sysctl(f"net/ipv6/conf/{ifname}/disable_ipv6", "1")
        return
    write_sysctl(f"net/ipv6/conf/{ifname}/accept_ra", "0")
    skip_duplicate_search(ifname)


def set_up_inside(endpoint: Endpoint) -> None:
    """Configure a new link. Raises OSError or `DriverError`; the caller then removes the link."""
    # In this order: the kernel prefers the first address of a link as the source of packets
    addresses = [*(each.address for each in endpoint.addresses), *endpoint.link_local]
    _prepare_ipv6(endpoint.ifname, any(":" in address for address in addresses))
    try:
        index = socket.if_nametoindex(endpoint.ifname)
    except OSError as error:
        raise DriverError(f"cannot find {endpoint.ifname}, which was just created") from error
    with RouteSocket() as inside:
        inside.change(
            set_up(_LOOPBACK),
            # Neighbours that have cached an earlier MAC of this address learn the new MAC when the link comes up, not half a
            # minute later.
            notify_neighbours(index),
            *(add_address(index, address) for address in addresses),
            set_up(index),
        )
        # This is a separate request, because an existing default route must not be replaced if the link failed to come up.
        if endpoint.default_route:
            inside.change(*(replace_default_route(index, each.gateway) for each in endpoint.addresses if each.gateway))
    for key, value in endpoint.sysctls:
        write_sysctl(key.replace("IFNAME", endpoint.ifname), value)


def route_inside(endpoint: Endpoint) -> None:
    """Set the default routes through this endpoint, or remove them when `default_route` is false. Raises OSError or
    `DriverError`."""
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
                if error.errno != errno.ESRCH:  # ESRCH means that another default route has replaced this route
                    raise
