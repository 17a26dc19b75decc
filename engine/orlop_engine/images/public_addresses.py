"""Decides which addresses are public. The builder process imports this module too, so this module has few imports."""

from __future__ import annotations

import ipaddress
import socket

__all__ = ["is_public"]

_NAT64 = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052
# All IPv6 unicast addresses that IANA has assigned; the old site-local addresses, for example, are not among them
_UNICAST = ipaddress.ip_network("2000::/3")


def _embedded(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """The IPv4 address that is embedded in an IPv6 address; if there is none, the address itself."""
    if isinstance(address, ipaddress.IPv6Address):
        if address in _NAT64:
            return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        return address.ipv4_mapped or address.sixtofour or address
    return address


def _is_own(address: str) -> bool:
    """Whether the address belongs to this host. A firewall may protect services of this host from other hosts, but it does
    not protect them from the daemon."""
    try:
        with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def is_public(text: str) -> bool:
    """Whether an address is public and does not belong to this host."""
    address = _embedded(ipaddress.ip_address(text))
    if not address.is_global or address.is_multicast or (address.version == 6 and address not in _UNICAST):
        return False
    return not _is_own(str(address))
