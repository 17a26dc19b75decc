"""Reads the host's network configuration: routes, name servers, the address of an existing bridge. This module changes
nothing."""

from __future__ import annotations

import fcntl
import ipaddress
import os
import socket
import struct

from orlop_sdk import InvalidParameter

from .ipam import IPNetwork

__all__ = [
    "bridge_address",
    "gateway_routes",
    "interface_address",
    "nameservers",
    "on_link_routes",
    "read_resolv_conf",
    "used",
]

_SIOCGIFADDR, _SIOCGIFNETMASK = 0x8915, 0x891B
_RTF_UP, _RTF_GATEWAY = 0x1, 0x2
# This is the directory of the thread, not of the process, because tests run the daemon in a thread with its own network
# namespace.
_PROC_NET = "/proc/thread-self/net/"


def _lines(path: str) -> list[str]:
    try:
        with open(path) as file:
            return file.read().splitlines()
    except OSError:
        return []


def on_link_routes() -> list[IPNetwork]:
    """Networks that the host reaches without a gateway. The host cannot reach such a network if a container network overlaps
    it."""
    return _routes(0)


def gateway_routes() -> list[IPNetwork]:
    """Networks that the host reaches through a specific gateway, not through the default route."""
    return _routes(_RTF_GATEWAY)


def _routes(gateway: int) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for line in _lines(_PROC_NET + "route")[1:]:
        fields = line.split()
        flags = int(fields[3], 16)
        if flags & _RTF_UP and flags & _RTF_GATEWAY == gateway and fields[7] != "00000000":
            # The kernel prints the address and the mask in native byte order.
            address, mask = (socket.inet_ntoa(struct.pack("=I", int(fields[i], 16))) for i in (1, 7))
            found.append(ipaddress.IPv4Network(f"{address}/{mask}", strict=False))
    for line in _lines(_PROC_NET + "ipv6_route"):
        fields = line.split()
        length, flags = int(fields[1], 16), int(fields[8], 16)
        if flags & _RTF_UP and flags & _RTF_GATEWAY == gateway and 0 < length < 128:
            network = ipaddress.IPv6Network((int(fields[0], 16), length), strict=False)
            if not network.is_link_local and not network.is_multicast:
                found.append(network)
    return found


def read_resolv_conf() -> str:
    """The host's resolv.conf; if it only contains systemd-resolved's local stub, the list of systemd-resolved's upstream
    servers."""
    try:
        with open("/etc/resolv.conf") as file:
            text = file.read()
        if nameservers(text) == [ipaddress.ip_network("127.0.0.53")]:
            with open("/run/systemd/resolve/resolv.conf") as file:
                text = file.read()
    except OSError:
        return ""
    return text


def nameservers(resolv_conf: str) -> list[IPNetwork]:
    found: list[IPNetwork] = []
    for line in resolv_conf.splitlines():
        fields = line.split()
        if fields[:1] == ["nameserver"] and len(fields) > 1:
            try:
                found.append(ipaddress.ip_network(fields[1].partition("%")[0]))
            except ValueError:
                continue
    return found


def used() -> list[IPNetwork]:
    """Networks from which containers must not get addresses unless a user asks for it."""
    return on_link_routes() + nameservers(read_resolv_conf())


def bridge_address(name: str) -> str:
    """The first IPv4 address of a bridge that the administrator has created; "" if it has none. Raises `InvalidParameter`
    with Docker's message if the link does not exist."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        raise InvalidParameter(f"bridge device with non default name {name} must be created manually") from None
    return interface_address(name)


def interface_address(name: str) -> str:
    """ "10.0.0.1/24": the first IPv4 address of a link; "" if it has none."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16s16x", os.fsencode(name)[:15])
        try:
            address, mask = (fcntl.ioctl(sock, code, request)[20:24] for code in (_SIOCGIFADDR, _SIOCGIFNETMASK))
        except OSError:
            return ""
    length = int.from_bytes(mask, "big").bit_count()
    return f"{socket.inet_ntoa(address)}/{length}"
