"""Encoding of the rtnetlink messages that connect and disconnect an endpoint, and decoding of acknowledgements. This module
does no I/O.

This takes microseconds for each container, whereas pyroute2 takes milliseconds. Bridges and listings use pyroute2. Formats:
linux/netlink.h, rtnetlink.h, if_link.h, veth.h, if_addr.h, in the byte order of the host.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence
from struct import Struct
from typing import NamedTuple

__all__ = [
    "Request",
    "add_address",
    "add_veth",
    "delete_default_route",
    "delete_link",
    "encode",
    "enslave",
    "mark_port",
    "notify_neighbours",
    "read_answers",
    "replace_default_route",
    "set_up",
    "silence_port",
]

_HEADER = Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
_ATTRIBUTE = Struct("=HH")  # nlattr: length, type
_LINK = Struct("=BBHiII")  # ifinfomsg: family, padding, type, index, flags, change
_ADDRESS = Struct("=BBBBI")  # ifaddrmsg: family, prefix length, flags, scope, index
_ROUTE = Struct("=BBBBBBBBI")  # rtmsg: family, lengths, tos, table, protocol, scope, type, flags
_U32 = Struct("=I")
_U8 = Struct("=B")
_ERROR = Struct("=i")

_NLMSG_ERROR = 2
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE, _DELROUTE = 16, 17, 20, 24, 25
_ASK = 0x01 | 0x04  # NLM_F_REQUEST and NLM_F_ACK
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD = 18, 20, 26, 27, 28
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_VETH_INFO_PEER = 1
_BRPORT_STATE, _BRPORT_MODE, _BRPORT_ISOLATED = 1, 4, 33
_IFLA_INET_CONF, _ARP_NOTIFY = 1, 22
_IFF_UP = 1

_IFA_ADDRESS, _IFA_LOCAL, _IFA_BROADCAST, _IFA_FLAGS = 1, 2, 4, 8
_NODAD = 0x02  # IFA_F_NODAD: duplicate address detection would delay the use of an IPv6 address by a second

_RTA_OIF, _RTA_GATEWAY, _RTA_TABLE = 4, 5, 15
_TABLE_MAIN, _PROTO_STATIC, _UNICAST = 254, 4, 1


class Request(NamedTuple):
    """One message without its header. `what` completes the error message "cannot ..."."""

    kind: int
    flags: int
    body: bytes
    what: str


# --- attributes -----------------------------------------------------------------------------------------------------


def _attribute(kind: int, value: bytes) -> bytes:
    # The length does not include the padding to four bytes.
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return _attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return _attribute(kind, _U32.pack(value))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(0, 0, 0, index, flags, change)


def _packed(address: str) -> tuple[int, bytes]:
    """Returns (address family, packed address). Raises OSError for an invalid address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


# --- links ----------------------------------------------------------------------------------------------------------


def add_veth(name: str, master: int, peer: str, namespace: int, mac: str, mtu: int, group: int = 0) -> Request:
    """Make a veth pair. `name` is in this namespace, up, a port of the bridge `master` and in link group `group`. `peer` is
    down, in the namespace of the file descriptor `namespace`. `mtu` 0 means the kernel's default."""
    size = _number(_IFLA_MTU, mtu) if mtu else b""
    inside = (
        _link()
        + _text(_IFLA_IFNAME, peer)
        + _number(_IFLA_NET_NS_FD, namespace)
        + _attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        + size
    )
    info = _text(_INFO_KIND, "veth") + _attribute(_INFO_DATA, _attribute(_VETH_INFO_PEER, inside))
    body = (
        _link(flags=_IFF_UP, change=_IFF_UP)
        + _text(_IFLA_IFNAME, name)
        + _number(_IFLA_MASTER, master)
        + (_number(_IFLA_GROUP, group) if group else b"")
        + size
        + _attribute(_IFLA_LINKINFO, info)
    )
    return Request(_NEWLINK, _ASK | _CREATE | _EXCL, body, f"add veth {name} with peer {peer}")


def enslave(name: str, master: int, mtu: int) -> Request:
    """Make a link a port of the bridge `master`, and up. `mtu` 0 leaves the MTU unchanged."""
    size = _number(_IFLA_MTU, mtu) if mtu else b""
    body = _link(flags=_IFF_UP, change=_IFF_UP) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, master) + size
    return Request(_NEWLINK, _ASK, body, f"make link {name} a bridge port")


def _port(settings: bytes) -> bytes:
    # IFLA_INFO_KIND "bridge_slave" is not sent, because the kernel derives the kind from the master, and might run modprobe
    # for a kind that is sent.
    return _attribute(_IFLA_LINKINFO, _attribute(_INFO_SLAVE_DATA, settings))


def mark_port(name: str, alias: str, isolated: bool) -> Request:
    """Set a port's alias and turn on hairpin (packets may leave through the port from which they came). `isolated`: no
    traffic to other isolated ports."""
    settings = _attribute(_BRPORT_MODE, _U8.pack(1)) + _attribute(_BRPORT_ISOLATED, _U8.pack(isolated))
    body = _link() + _text(_IFLA_IFNAME, name) + _text(_IFLA_IFALIAS, alias) + _port(settings)
    return Request(_NEWLINK, _ASK, body, f"mark bridge port {name}")


def silence_port(name: str) -> Request:
    """Disable a bridge port and set it down. The bridge then forgets the addresses learned there."""
    settings = _attribute(_BRPORT_STATE, _U8.pack(0))
    body = _link(change=_IFF_UP) + _text(_IFLA_IFNAME, name) + _port(settings)
    return Request(_NEWLINK, _ASK, body, f"disable bridge port {name}")


def delete_link(name: str) -> Request:
    return Request(_DELLINK, _ASK, _link() + _text(_IFLA_IFNAME, name), f"delete link {name}")


def set_up(index: int) -> Request:
    return Request(_NEWLINK, _ASK, _link(index, _IFF_UP, _IFF_UP), f"set link {index} up")


def notify_neighbours(index: int) -> Request:
    """Set arp_notify, so that the kernel announces the link's addresses when the link comes up."""
    settings = _attribute(_IFLA_INET_CONF, _number(_ARP_NOTIFY, 1))
    body = _link(index) + _attribute(_IFLA_AF_SPEC, _attribute(socket.AF_INET, settings))
    return Request(_NEWLINK, _ASK, body, f"set arp_notify of link {index}")


# --- addresses and routes -------------------------------------------------------------------------------------------


def add_address(index: int, address: str) -> Request:
    """Add an address. `address` has a prefix length: "10.1.0.2/16"."""
    host, _, prefix = address.partition("/")
    family, packed = _packed(host)
    bits = 8 * len(packed)
    length = int(prefix) if prefix else bits
    attributes = _attribute(_IFA_ADDRESS, packed)
    if family == socket.AF_INET6:
        attributes += _number(_IFA_FLAGS, _NODAD)
    else:
        if length < 31:
            broadcast = int.from_bytes(packed, "big") | ((1 << (bits - length)) - 1)
            attributes += _attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
        attributes += _attribute(_IFA_LOCAL, packed)
    body = _ADDRESS.pack(family, length, 0, 0, index) + attributes
    return Request(_NEWADDR, _ASK | _CREATE | _EXCL, body, f"add address {address}")


def _default_route(index: int, gateway: str) -> bytes:
    family, packed = _packed(gateway)
    return (
        _ROUTE.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTO_STATIC, 0, _UNICAST, 0)
        + _attribute(_RTA_GATEWAY, packed)
        + _number(_RTA_OIF, index)
        + _number(_RTA_TABLE, _TABLE_MAIN)
    )


def replace_default_route(index: int, gateway: str) -> Request:
    return Request(_NEWROUTE, _ASK | _CREATE | _REPLACE, _default_route(index, gateway), f"set default route by {gateway}")


def delete_default_route(index: int, gateway: str) -> Request:
    """Delete only the default route through this link and gateway."""
    return Request(_DELROUTE, _ASK, _default_route(index, gateway), f"delete default route by {gateway}")


# --- framing --------------------------------------------------------------------------------------------------------


def encode(requests: Sequence[Request], sequence: int) -> bytes:
    """Encode requests as one datagram, numbered from `sequence`. The kernel executes all requests in order, even if an
    earlier request fails."""
    parts = []
    for number, request in enumerate(requests, sequence):
        parts.append(_HEADER.pack(_HEADER.size + len(request.body), request.kind, request.flags, number & 0xFFFFFFFF, 0))
        parts.append(request.body)  # the attributes in the body are padded, so the next header is aligned
    return b"".join(parts)


def read_answers(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Yield (sequence, errno) of each acknowledgement; errno 0 is success. Raises ValueError for a truncated message."""
    offset = 0
    while offset < len(datagram):
        if offset + _HEADER.size > len(datagram):
            raise ValueError("cut short in a header")
        length, kind, _, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise ValueError(f"a message of {length} bytes")
        if kind == _NLMSG_ERROR:
            if length < _HEADER.size + _ERROR.size:
                raise ValueError("cut short in an acknowledgement")
            yield sequence, -_ERROR.unpack_from(datagram, offset + _HEADER.size)[0]
        offset += length + -length % 4
