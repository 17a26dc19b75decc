"""Netlink messages and options of the drivers macvlan and ipvlan. The kernel of a test machine may have neither VLAN nor
ipvlan links, so the messages are compared with those of pyroute2."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from orlop_net_macvlan._network import Kind, at_gateway, parse_vlan, read_network
from orlop_sdk import Address, Endpoint, InvalidParameter, NetworkSpec, Subnet
from orlop_sdk.networking import netlink

MACVLAN, IPVLAN = Kind("macvlan", "dm"), Kind("ipvlan", "di")
FOUR, SIX = Subnet("10.211.0.0/24", "10.211.0.1"), Subnet("fd00:211::/64", "fd00:211::1")


def network(*subnets: Subnet, **options: str) -> NetworkSpec:
    return NetworkSpec(id="a" * 64, name="n", subnets=subnets, options=options)


def theirs(kind: str, data: list[tuple[str, Any]], *more: tuple[str, Any]) -> bytes:
    message = ifinfmsg()
    info = [("IFLA_INFO_KIND", kind), ("IFLA_INFO_DATA", {"attrs": data})]
    message["attrs"] = [("IFLA_IFNAME", "o01234567"), *more, ("IFLA_LINKINFO", {"attrs": info})]
    message.encode()
    return bytes(message.data)[16:]


@pytest.mark.parametrize("mode", ["bridge", "private", "vepa", "passthru", ""])
def test_netlink_message_for_a_macvlan_link_is_the_same_as_pyroute2s(mode: str) -> None:
    data = read_network(network(FOUR, parent="eth0", macvlan_mode=mode), MACVLAN).data
    request = netlink.add_link(
        "o01234567", "macvlan", data, parent=3, namespace=7, mac="02:42:0a:00:00:02", mtu=1400, group=5
    )
    attributes = [
        ("IFLA_ADDRESS", "02:42:0a:00:00:02"),
        ("IFLA_MTU", 1400),
        ("IFLA_LINK", 3),
        ("IFLA_GROUP", 5),
        ("IFLA_NET_NS_FD", 7),
    ]
    assert request.body == theirs("macvlan", [("IFLA_MACVLAN_MODE", mode or "bridge")], *attributes)
    assert (request.kind, request.flags) == (16, 0x605)


@pytest.mark.parametrize(("flag", "number"), [("", 0), ("bridge", 0), ("private", 1), ("vepa", 2)])
@pytest.mark.parametrize(("mode", "value"), [("", 0), ("l2", 0), ("l3", 1), ("l3s", 2)])
def test_netlink_message_for_an_ipvlan_link_is_the_same_as_pyroute2s(mode: str, value: int, flag: str, number: int) -> None:
    data = read_network(network(FOUR, parent="eth0", ipvlan_mode=mode, ipvlan_flag=flag), IPVLAN).data
    request = netlink.add_link("o01234567", "ipvlan", data, parent=3, namespace=7, group=5)
    attributes = [("IFLA_LINK", 3), ("IFLA_GROUP", 5), ("IFLA_NET_NS_FD", 7)]
    expected = theirs("ipvlan", [("IFLA_IPVLAN_MODE", value)], *attributes)
    # pyroute2 lacks IFLA_IPVLAN_FLAGS (2, u16, see linux/if_link.h), the last attribute of the inner of two nested
    # attributes
    flags = struct.pack("=HHHxx", 6, 2, number)
    expected += flags
    for length_of, size in ((expected.index(b"ipvlan\0") - 8, 28 + len(flags)), (len(expected) - 20, 12 + len(flags))):
        expected = expected[:length_of] + struct.pack("=H", size) + expected[length_of + 2 :]
    assert request.body == expected


def test_netlink_message_for_a_vlan_link_is_the_same_as_pyroute2s() -> None:
    vlan = parse_vlan("eth0.50")
    assert (vlan.lower, vlan.number) == ("eth0", 50)
    data = netlink.attribute(1, (50).to_bytes(2, "little"))
    request = netlink.add_link("o01234567", "vlan", data, parent=3)
    assert request.body == theirs("vlan", [("IFLA_VLAN_ID", 50)], ("IFLA_LINK", 3))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nosuch", "invalid subinterface vlan name nosuch, example formatting is eth0.10"),
        ("eth0.5.6", "required interface name format is: name.vlan_id, ex. eth0.10 for vlan 10, instead received eth0.5.6"),
        ("eth0.x", r"unable to parse a valid vlan id from: x \(ex. eth0.10 for vlan 10\)"),
        ("eth0.", r"unable to parse a valid vlan id from:  \(ex. eth0.10 for vlan 10\)"),
        ("eth0.0", "vlan id must be between 1-4094, received: 0"),
        ("eth0.4095", "vlan id must be between 1-4094, received: 4095"),
        ("eth0.-1", "vlan id must be between 1-4094, received: -1"),
        ("e.99999999999", "vlan id must be between 1-4094, received: 99999999999"),
    ],
)
def test_invalid_vlan_names_are_refused(name: str, text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        parse_vlan(name)


@pytest.mark.parametrize(
    ("kind", "options", "text"),
    [
        (MACVLAN, {"parent": "lo"}, "loopback interface is not a valid macvlan parent link"),
        (IPVLAN, {"parent": "lo"}, "loopback interface is not a valid ipvlan parent link"),
        (MACVLAN, {"parent": "a/b"}, "invalid parent 'a/b': not a link name"),
        (MACVLAN, {"parent": "x" * 16}, "not a link name"),
        (
            MACVLAN,
            {"macvlan_mode": "x"},
            "requested macvlan mode 'x' is not valid, 'bridge' mode is the macvlan driver default",
        ),
        (IPVLAN, {"ipvlan_mode": "x"}, "requested ipvlan mode 'x' is not valid, 'l2' mode is the ipvlan driver default"),
        (IPVLAN, {"ipvlan_flag": "x"}, "requested ipvlan flag 'x' is not valid, 'bridge' is the ipvlan driver default"),
        (MACVLAN, {"com.docker.network.driver.mtu": "x"}, "driver.mtu value: 'x'"),
        (MACVLAN, {"com.docker.network.driver.mtu": "67"}, r"driver.mtu value: 67 \(must be at least 68\)"),
        (MACVLAN, {"com.docker.network.driver.mtu": "1279"}, r"driver.mtu value: 1279 \(IPv6 needs at least 1280\)"),
    ],
)
def test_network_with_invalid_driver_options_is_refused(kind: Kind, options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        read_network(network(FOUR, SIX, **options), kind)


def test_network_without_a_parent_option_gets_a_parent_name_from_its_id() -> None:
    assert read_network(network(FOUR), MACVLAN).parent == "dm-aaaaaaaaaaaa"
    assert read_network(network(FOUR), IPVLAN).parent == "di-aaaaaaaaaaaa"


@pytest.mark.parametrize(
    ("options", "gateways"),
    [
        ({"parent": "eth0"}, ["10.211.0.1", "fd00:211::1"]),
        ({"parent": "eth0", "ipvlan_mode": "l3"}, ["0.0.0.0", "::"]),
        ({"parent": "eth0", "ipvlan_mode": "l3s"}, ["0.0.0.0", "::"]),
        ({"ipvlan_mode": "l3"}, ["", ""]),
        ({}, ["", ""]),
    ],
)
def test_mode_of_an_ipvlan_network_determines_the_default_route(options: dict[str, str], gateways: list[str]) -> None:
    """As in Docker, the route uses the gateway in mode l2, and the link itself in modes l3 and l3s. A network without a
    parent has no default route."""
    spec = network(FOUR, SIX, **options)
    addresses = (Address("10.211.0.2/24", "10.211.0.1"), Address("fd00:211::2/64", "fd00:211::1"))
    endpoint = Endpoint(id="e", network=spec, container_id="c", netns="", addresses=addresses)
    changed = at_gateway(endpoint, read_network(spec, IPVLAN))
    assert [each.gateway for each in changed.addresses] == gateways
    assert [each.address for each in changed.addresses] == [each.address for each in addresses]
