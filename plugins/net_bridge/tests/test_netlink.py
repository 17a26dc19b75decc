"""Netlink messages equal those of pyroute2, byte for byte; and decoding of acknowledgements."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from orlop_sdk.networking import netlink

NAME, PEER, MAC = "veth0123456", "eth0", "02:42:0a:00:00:02"
ALIAS = "orlop-a_b:endpoint:" + "e" * 64
HEADER = 16


def theirs(message: Any, fields: dict[str, Any], attributes: list[tuple[str, Any]]) -> bytes:
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = attributes
    message.encode()
    return bytes(message.data)[HEADER:]


@pytest.mark.parametrize("mtu", [0, 1400])
@pytest.mark.parametrize("peer", [PEER, "e", "eth01234567890a"])
def test_add_veth_request_equals_the_request_of_pyroute2(mtu: int, peer: str) -> None:
    size = [("IFLA_MTU", mtu)] if mtu else []
    inside = [("IFLA_IFNAME", peer), ("IFLA_NET_NS_FD", 7), ("IFLA_ADDRESS", MAC), *size]
    info = [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", {"attrs": [("VETH_INFO_PEER", {"attrs": inside})]})]
    expected = theirs(
        ifinfmsg(),
        {"flags": 1, "change": 1},
        [("IFLA_IFNAME", NAME), ("IFLA_MASTER", 3), *size, ("IFLA_LINKINFO", {"attrs": info})],
    )
    request = netlink.add_veth(NAME, 3, peer, 7, MAC, mtu)
    assert request.body == expected
    assert (request.kind, request.flags) == (16, 0x605)
    grouped = [("IFLA_IFNAME", NAME), ("IFLA_MASTER", 3), ("IFLA_GROUP", 5), *size, ("IFLA_LINKINFO", {"attrs": info})]
    assert netlink.add_veth(NAME, 3, peer, 7, MAC, mtu, 5).body == theirs(ifinfmsg(), {"flags": 1, "change": 1}, grouped)


@pytest.mark.parametrize("isolated", [False, True])
def test_mark_port_request_equals_the_request_of_pyroute2(isolated: bool) -> None:
    settings = [("IFLA_BRPORT_MODE", 1), ("IFLA_BRPORT_ISOLATED", int(isolated))]
    # pyroute2 needs IFLA_INFO_KIND to encode slave data; the driver does not send this attribute.
    kind = [("IFLA_INFO_KIND", "bridge_slave")]
    info = theirs(
        ifinfmsg(),
        {},
        [("IFLA_LINKINFO", {"attrs": [*kind, ("IFLA_INFO_SLAVE_DATA", {"attrs": settings})]})],
    )
    slave_data = info[16 + 4 + 20 :]
    expected = theirs(ifinfmsg(), {}, [("IFLA_IFNAME", NAME), ("IFLA_IFALIAS", ALIAS)])
    expected += struct.pack("=HH", 4 + len(slave_data), 18) + slave_data
    request = netlink.mark_port(NAME, ALIAS, isolated)
    assert request.body == expected
    assert (request.kind, request.flags) == (16, 0x5)


def test_delete_link_and_set_up_requests_equal_the_requests_of_pyroute2() -> None:
    assert netlink.delete_link(NAME).body == theirs(ifinfmsg(), {}, [("IFLA_IFNAME", NAME)])
    assert netlink.delete_link(NAME).kind == 17
    assert netlink.set_up(5).body == theirs(ifinfmsg(), {"index": 5, "flags": 1, "change": 1}, [])
    assert (netlink.set_up(5).kind, netlink.set_up(5).flags) == (16, 0x5)


@pytest.mark.parametrize(
    ("address", "fields", "attributes"),
    [
        ("10.1.2.3/16", {"prefixlen": 16}, [("IFA_BROADCAST", "10.1.255.255"), ("IFA_LOCAL", "10.1.2.3")]),
        ("10.1.2.3/8", {"prefixlen": 8}, [("IFA_BROADCAST", "10.255.255.255"), ("IFA_LOCAL", "10.1.2.3")]),
        ("10.1.2.3/30", {"prefixlen": 30}, [("IFA_BROADCAST", "10.1.2.3"), ("IFA_LOCAL", "10.1.2.3")]),
        ("10.1.2.3/31", {"prefixlen": 31}, [("IFA_LOCAL", "10.1.2.3")]),
        ("10.1.2.3", {"prefixlen": 32}, [("IFA_LOCAL", "10.1.2.3")]),
        ("fd00:1::2/64", {"family": 10, "prefixlen": 64}, [("IFA_FLAGS", 2)]),
    ],
)
def test_add_address_request_equals_the_request_of_pyroute2(
    address: str, fields: dict[str, Any], attributes: list[tuple[str, Any]]
) -> None:
    expected = theirs(
        ifaddrmsg(), {"family": 2, "index": 4, **fields}, [("IFA_ADDRESS", address.partition("/")[0]), *attributes]
    )
    request = netlink.add_address(4, address)
    assert request.body == expected
    assert (request.kind, request.flags) == (20, 0x605)


@pytest.mark.parametrize(("gateway", "family"), [("10.1.0.1", 2), ("fd00:1::1", 10)])
def test_default_route_request_equals_the_request_of_pyroute2(gateway: str, family: int) -> None:
    expected = theirs(
        rtmsg(),
        {"family": family, "table": 254, "proto": 4, "type": 1},
        [("RTA_GATEWAY", gateway), ("RTA_OIF", 4), ("RTA_TABLE", 254)],
    )
    request = netlink.replace_default_route(4, gateway)
    assert request.body == expected
    assert (request.kind, request.flags) == (24, 0x505)
    assert netlink.delete_default_route(4, gateway)[:3] == (25, 0x5, expected)


@pytest.mark.parametrize("address", ["10.1.2/16", "10.1.2.3.4", "fd00::g/64", ""])
def test_invalid_addresses_are_refused(address: str) -> None:
    with pytest.raises(OSError, match="illegal IP address"):
        netlink.add_address(4, address)


def test_several_requests_are_encoded_in_one_datagram() -> None:
    requests = [netlink.mark_port(NAME, ALIAS + "x" * extra, False) for extra in range(4)]
    datagram = netlink.encode(requests, 0xFFFFFFFE)
    seen = []
    while datagram:
        length, kind, flags, sequence, _ = struct.unpack_from("=IHHII", datagram)
        assert length % 4 == 0
        seen.append((kind, flags, sequence, datagram[HEADER:length]))
        datagram = datagram[length:]
    assert [sequence for _, _, sequence, _ in seen] == [0xFFFFFFFE, 0xFFFFFFFF, 0, 1]
    assert [netlink.Request(kind, flags, body, "mark bridge port " + NAME) for kind, flags, _, body in seen] == requests


def answer(sequence: int, code: int, kind: int = 2, rest: bytes = b"") -> bytes:
    body = struct.pack("=i", -code) + rest
    return struct.pack("=IHHII", HEADER + len(body), kind, 0, sequence, 77) + body + b"\0" * (-len(body) % 4)


def test_acknowledgements_and_errors_are_decoded() -> None:
    echo = b"r" * 33  # an error contains the request
    notice = answer(9, 0, kind=16)
    datagram = answer(1, 0) + answer(2, 17, rest=echo) + notice + answer(3, 0)
    assert list(netlink.read_answers(datagram)) == [(1, 0), (2, 17), (3, 0)]
    assert list(netlink.read_answers(b"")) == []


@pytest.mark.parametrize("cut", range(1, 20))
def test_truncated_answers_are_refused(cut: int) -> None:
    with pytest.raises(ValueError, match=r"cut short|invalid message length"):
        list(netlink.read_answers(answer(1, 0) + answer(2, 0)[:-cut]))


@pytest.mark.parametrize("length", [0, 15, 16, 19])
def test_answers_with_invalid_lengths_are_refused(length: int) -> None:
    datagram = struct.pack("=IHHII", length, 2, 0, 1, 0) + b"\0" * 4
    with pytest.raises(ValueError, match=r"cut short|invalid message length"):
        list(netlink.read_answers(datagram))
