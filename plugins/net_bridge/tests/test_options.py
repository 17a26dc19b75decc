"""Options of a bridge network: effects, and errors with Docker's messages."""

from __future__ import annotations

import pytest

from orlop_net_bridge._network import Bridge, read_network
from orlop_sdk import InvalidParameter, NetworkContext, NetworkSpec, Subnet

CONTEXT = NetworkContext(instance="", default_bridge="orlt0", state_dir="/nonexistent", mtu=1450)
FOUR, SIX = Subnet("10.211.0.0/16", "10.211.0.1"), Subnet("fd00:211::/64", "fd00:211::1")


def read(*subnets: Subnet, internal: bool = False, **options: str) -> Bridge:
    named = {f"com.docker.network.{key.replace('__', '.')}": value for key, value in options.items()}
    return read_network(NetworkSpec(id="a" * 64, name="n", subnets=subnets, options=named, internal=internal), CONTEXT)


def test_options_configure_the_bridge() -> None:
    bridge = read(
        FOUR,
        SIX,
        bridge__name="br9",
        bridge__enable_icc="false",
        bridge__enable_ip_masquerade="0",
        bridge__inhibit_ipv4="true",
        driver__mtu="1300",
        host_ipv4="192.0.2.9",
        host_ipv6="2001:db8::9",
        bridge__gateway_mode_ipv6="nat-unprotected",
        bridge__host_binding_ipv4="127.0.0.1",
        container_iface_prefix="lan",
    )
    assert (bridge.name, bridge.icc, bridge.masquerade, bridge.mtu) == ("br9", False, False, 1300)
    assert bridge.addresses == ("fd00:211::1/64",)
    assert bridge.snat == (("10.211.0.0/16", "192.0.2.9"), ("fd00:211::/64", "2001:db8::9"))
    assert (bridge.unprotected, bridge.routed) == ({6}, frozenset())
    assert read(FOUR, bridge__gateway_mode_ipv4="routed").routed == {4}
    assert read(FOUR).mtu == 0
    assert (read(FOUR, bridge__default_bridge="1").mtu, read(FOUR, bridge__default_bridge="1").name) == (1450, "orlt0")
    assert read(FOUR, driver__mtu="").mtu == 0


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"bridge__name": "a/b"}, r"bridge.name value: 'a/b' \(not a link name\)"),
        ({"bridge__enable_icc": "perhaps"}, "enable_icc value: 'perhaps'"),
        ({"driver__mtu": "-1"}, "driver.mtu value: '-1'"),
        ({"driver__mtu": "67"}, r"driver.mtu value: 67 \(must be at least 68\)"),
        ({"driver__mtu": "1279"}, r"driver.mtu value: 1279 \(IPv6 needs at least 1280\)"),
        ({"host_ipv4": "fd00::1"}, r"host_ipv4 value: 'fd00::1' \(not an IPv4 address\)"),
        ({"host_ipv6": "192.0.2.1"}, r"host_ipv6 value: '192.0.2.1' \(not an IPv6 address\)"),
        ({"host_ipv4": "x"}, "host_ipv4 value: 'x'"),
        ({"bridge__host_binding_ipv4": "nowhere"}, "host_binding_ipv4 value: 'nowhere'"),
        ({"container_iface_prefix": "much-too-long-a-name"}, "container_iface_prefix value"),
        ({"bridge__gateway_mode_ipv4": "router"}, "value: 'router' \\(unsupported gateway mode\\)"),
        ({"bridge__gateway_mode_ipv4": "isolated"}, "can only be used for an internal network"),
        ({"bridge__trusted_host_interfaces": "eth1"}, "is not supported"),
    ],
)
def test_invalid_options_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(InvalidParameter, match=text):
        read(FOUR, SIX, **options)
