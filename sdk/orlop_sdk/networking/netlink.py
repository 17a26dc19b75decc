"""Encoding of the rtnetlink messages that connect and disconnect an endpoint, and decoding of the kernel's answers. This
module does no I/O.

This module needs microseconds for each container; pyroute2 would need milliseconds. Formats: linux/netlink.h, rtnetlink.h,
if_link.h, net_namespace.h, veth.h, if_addr.h, in the byte order of the host.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import NamedTuple

__all__ = [
    "NLMSG_DONE",
    "NLMSG_ERROR",
    "NLM_F_DUMP_INTR",
    "LinkInfo",
    "Request",
    "add_address",
    "add_link",
    "add_veth",
    "assign_namespace_id",
    "attribute",
    "delete_default_route",
    "delete_group",
    "delete_link",
    "encode",
    "enslave",
    "get_namespace_id",
    "list_links",
    "list_namespace_ids",
    "mark_port",
    "name_link",
    "notify_neighbours",
    "read_answers",
    "read_error",
    "read_link",
    "read_messages",
    "read_namespace_id",
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
_S32 = Struct("=i")
_U8 = Struct("=B")
_ERROR = Struct("=i")

NLMSG_ERROR, NLMSG_DONE, NLM_F_DUMP_INTR = 2, 3, 0x10
_NEWLINK, _DELLINK, _GETLINK, _NEWADDR, _NEWROUTE, _DELROUTE, _NEWNSID, _GETNSID = 16, 17, 18, 20, 24, 25, 88, 90
_ASK = 0x01 | 0x04  # NLM_F_REQUEST and NLM_F_ACK
_LIST = 0x01 | 0x300  # NLM_F_REQUEST and NLM_F_DUMP
_REPLACE, _EXCL, _CREATE = 0x100, 0x200, 0x400

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINK, _IFLA_MASTER = 1, 3, 4, 5, 10
_IFLA_LINKINFO, _IFLA_IFALIAS, _IFLA_AF_SPEC, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_TARGET_NETNSID = 18, 20, 26, 27, 28, 46
_NETNSA_NSID, _NETNSA_FD = 1, 3
_INFO_KIND, _INFO_DATA, _INFO_SLAVE_DATA = 1, 2, 5
_VETH_INFO_PEER = 1
_BRPORT_STATE, _BRPORT_MODE, _BRPORT_ISOLATED = 1, 4, 33
_IFLA_INET_CONF, _ARP_NOTIFY = 1, 22
_IFF_UP = 1
_SCOPE_LINK = 253

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


def attribute(kind: int, value: bytes) -> bytes:
    # The length does not include the padding to four bytes.
    return _ATTRIBUTE.pack(4 + len(value), kind) + value + b"\0" * (-len(value) % 4)


def _text(kind: int, value: str) -> bytes:
    return attribute(kind, value.encode() + b"\0")


def _number(kind: int, value: int) -> bytes:
    return attribute(kind, _U32.pack(value))


def _link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _LINK.pack(0, 0, 0, index, flags, change)


def _packed(address: str) -> tuple[int, bytes]:
    """Returns (address family, packed address). Raises OSError for an invalid address."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.inet_pton(family, address)


# --- links ----------------------------------------------------------------------------------------------------------


def add_veth(name: str, master: int, peer: str, namespace: int, mac: str, mtu: int, group: int = 0) -> Request:
    """Make a veth pair. The link `name` is in this namespace. It is up, belongs to the link group `group`, and is a port of
    the bridge whose index is `master`. The link `peer` is down, and is in the namespace of the file descriptor `namespace`.
    `mtu` 0 means the kernel's default."""
    size = _number(_IFLA_MTU, mtu) if mtu else b""
    inside = (
        _link()
        + _text(_IFLA_IFNAME, peer)
        + _number(_IFLA_NET_NS_FD, namespace)
        + attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
        + size
    )
    info = _text(_INFO_KIND, "veth") + attribute(_INFO_DATA, attribute(_VETH_INFO_PEER, inside))
    body = (
        _link(flags=_IFF_UP, change=_IFF_UP)
        + _text(_IFLA_IFNAME, name)
        + _number(_IFLA_MASTER, master)
        + (_number(_IFLA_GROUP, group) if group else b"")
        + size
        + attribute(_IFLA_LINKINFO, info)
    )
    return Request(_NEWLINK, _ASK | _CREATE | _EXCL, body, f"add veth {name} with peer {peer}")


def enslave(name: str, master: int, mtu: int) -> Request:
    """Set a link up, as a port of the bridge whose index is `master`. `mtu` 0 leaves the MTU unchanged."""
    size = _number(_IFLA_MTU, mtu) if mtu else b""
    body = _link(flags=_IFF_UP, change=_IFF_UP) + _text(_IFLA_IFNAME, name) + _number(_IFLA_MASTER, master) + size
    return Request(_NEWLINK, _ASK, body, f"make link {name} a bridge port")


def _port(settings: bytes) -> bytes:
    # IFLA_INFO_KIND "bridge_slave" is not sent, because the kernel derives the kind from the master, and might run modprobe
    # for a kind that is sent.
    return attribute(_IFLA_LINKINFO, attribute(_INFO_SLAVE_DATA, settings))


def mark_port(name: str, alias: str, isolated: bool) -> Request:
    """Set a port's alias and turn on hairpin (packets may leave through the port from which they came). `isolated`: no
    traffic to other isolated ports."""
    settings = attribute(_BRPORT_MODE, _U8.pack(1)) + attribute(_BRPORT_ISOLATED, _U8.pack(isolated))
    body = _link() + _text(_IFLA_IFNAME, name) + _text(_IFLA_IFALIAS, alias) + _port(settings)
    return Request(_NEWLINK, _ASK, body, f"mark bridge port {name}")


def silence_port(name: str) -> Request:
    """Disable a bridge port and set it down. The bridge then forgets the addresses learned there."""
    settings = attribute(_BRPORT_STATE, _U8.pack(0))
    body = _link(change=_IFF_UP) + _text(_IFLA_IFNAME, name) + _port(settings)
    return Request(_NEWLINK, _ASK, body, f"disable bridge port {name}")


def delete_link(name: str) -> Request:
    return Request(_DELLINK, _ASK, _link() + _text(_IFLA_IFNAME, name), f"delete link {name}")


def set_up(index: int) -> Request:
    return Request(_NEWLINK, _ASK, _link(index, _IFF_UP, _IFF_UP), f"set link {index} up")


def notify_neighbours(index: int) -> Request:
    """Set arp_notify, so that the kernel announces the link's addresses when the link comes up."""
    settings = attribute(_IFLA_INET_CONF, _number(_ARP_NOTIFY, 1))
    body = _link(index) + attribute(_IFLA_AF_SPEC, attribute(socket.AF_INET, settings))
    return Request(_NEWLINK, _ASK, body, f"set arp_notify of link {index}")


def add_link(
    name: str,
    kind: str,
    data: bytes = b"",
    *,
    parent: int = 0,
    namespace: int | None = None,
    mac: str = "",
    mtu: int = 0,
    group: int = 0,
) -> Request:
    """Make a link of a kind such as "macvlan". The link is down. `data`: the attributes of IFLA_INFO_DATA. `parent`: the
    index of the lower link in this namespace. `namespace`: a file descriptor of the namespace of the new link. If `mtu` is 0
    or `mac` is "", the kernel chooses the value."""
    info = _text(_INFO_KIND, kind) + (attribute(_INFO_DATA, data) if data else b"")
    body = _link() + _text(_IFLA_IFNAME, name)
    if mac:
        body += attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    for key, value in ((_IFLA_MTU, mtu), (_IFLA_LINK, parent), (_IFLA_GROUP, group)):
        if value:
            body += _number(key, value)
    if namespace is not None:
        body += _number(_IFLA_NET_NS_FD, namespace)
    body += attribute(_IFLA_LINKINFO, info)
    return Request(_NEWLINK, _ASK | _CREATE | _EXCL, body, f"add {kind} link {name}")


def name_link(index: int, name: str, alias: str) -> Request:
    """Set the name and the alias of a link that is down."""
    body = _link(index) + _text(_IFLA_IFNAME, name) + _text(_IFLA_IFALIAS, alias)
    return Request(_NEWLINK, _ASK, body, f"name link {name}")


def delete_group(group: int, namespace_id: int) -> Request:
    """Delete all links with this link group (not 0) in another namespace; ENODEV if there are none. The kernel checks the
    group of each link before it deletes the link. So no other link is deleted, even if `namespace_id` now belongs to another
    namespace."""
    body = _link() + _number(_IFLA_GROUP, group) + attribute(_IFLA_TARGET_NETNSID, _S32.pack(namespace_id))
    return Request(_DELLINK, _ASK, body, f"delete links of group {group}")


# --- listings -------------------------------------------------------------------------------------------------------


class LinkInfo(NamedTuple):
    """A link of a listing. `ifindex` is its index. `kind` is the kernel's link type ("" for a network card). `parent`
    is the index of the lower link, which may be in another namespace; 0 for none."""

    ifindex: int
    name: str
    alias: str
    kind: str
    group: int
    parent: int
    mtu: int
    up: bool
    mac: str


def list_links(namespace_id: int | None = None) -> Request:
    """List the links of this namespace, or of the namespace with this id."""
    body = _link() + (b"" if namespace_id is None else attribute(_IFLA_TARGET_NETNSID, _S32.pack(namespace_id)))
    return Request(_GETLINK, _LIST, body, "list links")


def list_namespace_ids() -> Request:
    return Request(_GETNSID, _LIST, bytes(4), "list network namespaces")


def assign_namespace_id(namespace: int) -> Request:
    """Give the namespace of this file descriptor an id in this namespace; EEXIST if it has one."""
    body = bytes(4) + attribute(_NETNSA_NSID, _S32.pack(-1)) + _number(_NETNSA_FD, namespace)
    return Request(_NEWNSID, _ASK, body, "give the network namespace an id")


def get_namespace_id(namespace: int) -> Request:
    """Ask for the id of a namespace. The answer is a message for `read_namespace_id`, then an acknowledgement."""
    return Request(_GETNSID, _ASK, bytes(4) + _number(_NETNSA_FD, namespace), "find the id of the network namespace")


def _attributes(data: bytes) -> Mapping[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, offset)
        if length < _ATTRIBUTE.size or offset + length > len(data):
            raise ValueError(f"invalid attribute length {length}")
        found[kind & 0x3FFF] = data[offset + _ATTRIBUTE.size : offset + length]  # without NLA_F_NESTED
        offset += length + -length % 4
    return found


def _string(value: bytes) -> str:
    return value.rstrip(b"\0").decode(errors="replace")


def read_link(body: bytes) -> LinkInfo:
    """Decode the body of a RTM_NEWLINK message. Raises ValueError."""
    if len(body) < _LINK.size:
        raise ValueError("cut short in a link")
    _, _, _, index, flags, _ = _LINK.unpack_from(body)
    found = _attributes(body[_LINK.size :])

    def number(key: int) -> int:
        return int.from_bytes(found.get(key, b""), sys.byteorder)

    return LinkInfo(
        ifindex=index,
        name=_string(found.get(_IFLA_IFNAME, b"")),
        alias=_string(found.get(_IFLA_IFALIAS, b"")),
        kind=_string(_attributes(found.get(_IFLA_LINKINFO, b"")).get(_INFO_KIND, b"")),
        group=number(_IFLA_GROUP),
        parent=number(_IFLA_LINK),
        mtu=number(_IFLA_MTU),
        up=bool(flags & _IFF_UP),
        mac=found.get(_IFLA_ADDRESS, b"").hex(":"),
    )


def read_namespace_id(body: bytes) -> int:
    """Decode the body of a RTM_NEWNSID message; -1 if the namespace has no id. Raises ValueError."""
    value = _attributes(body[4:]).get(_NETNSA_NSID, b"")
    if len(value) != _S32.size:
        raise ValueError("a namespace without an id")
    found: int = _S32.unpack(value)[0]
    return found


# --- addresses and routes -------------------------------------------------------------------------------------------


def add_address(index: int, address: str) -> Request:
    """Add an address. `address` has a prefix length: "10.1.0.2/16"."""
    host, _, prefix = address.partition("/")
    family, packed = _packed(host)
    bits = 8 * len(packed)
    length = int(prefix) if prefix else bits
    attributes = attribute(_IFA_ADDRESS, packed)
    if family == socket.AF_INET6:
        attributes += _number(_IFA_FLAGS, _NODAD)
    else:
        if length < 31:
            broadcast = int.from_bytes(packed, "big") | ((1 << (bits - length)) - 1)
            attributes += attribute(_IFA_BROADCAST, broadcast.to_bytes(4, "big"))
        attributes += attribute(_IFA_LOCAL, packed)
    body = _ADDRESS.pack(family, length, 0, 0, index) + attributes
    return Request(_NEWADDR, _ASK | _CREATE | _EXCL, body, f"add address {address}")


def _default_route(index: int, gateway: str) -> bytes:
    """`gateway` "0.0.0.0" or "::" means that every address is reached directly through the link (`ip route add default dev
    LINK`)."""
    family, packed = _packed(gateway)
    direct = not any(packed)
    scope = _SCOPE_LINK if direct and family == socket.AF_INET else 0
    return (
        _ROUTE.pack(family, 0, 0, 0, _TABLE_MAIN, _PROTO_STATIC, scope, _UNICAST, 0)
        + (b"" if direct else attribute(_RTA_GATEWAY, packed))
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


def read_messages(datagram: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """Yield (type, flags, sequence, body) of each message. Raises ValueError for a truncated message."""
    offset = 0
    while offset < len(datagram):
        if offset + _HEADER.size > len(datagram):
            raise ValueError("cut short in a header")
        length, kind, flags, sequence, _ = _HEADER.unpack_from(datagram, offset)
        if length < _HEADER.size or offset + length > len(datagram):
            raise ValueError(f"invalid message length {length}")
        yield kind, flags, sequence, datagram[offset + _HEADER.size : offset + length]
        offset += length + -length % 4


def read_error(body: bytes) -> int:
    """The errno of an acknowledgement; 0 is success. Raises ValueError for a truncated message."""
    if len(body) < _ERROR.size:
        raise ValueError("cut short in an acknowledgement")
    code: int = _ERROR.unpack_from(body)[0]
    return -code


def read_answers(datagram: bytes) -> Iterator[tuple[int, int]]:
    """Yield (sequence, errno) of each acknowledgement; errno 0 is success. Raises ValueError for a truncated message."""
    for kind, _, sequence, body in read_messages(datagram):
        if kind == NLMSG_ERROR:
            yield sequence, read_error(body)
