"""The bridge driver's nftables plan: elements for networks and ports, and the changes between two states."""

from __future__ import annotations

import json

import pytest

from orlop_net_bridge import _plan
from orlop_net_bridge._network import Bridge, read_network
from orlop_net_bridge._plan import Element
from orlop_sdk import Address, Endpoint, InvalidParameter, NetworkContext, NetworkSpec, PublishedPort, Subnet

CONTEXT = NetworkContext(instance="", default_bridge="orlop0", state_dir="", mtu=1400)
SPEC = NetworkSpec(id="0123456789abcdef" * 4, name="n", subnets=(Subnet("10.1.0.0/16", "10.1.0.1"),))
OPTION = "com.docker.network."


def spec(*, internal: bool = False, **options: str) -> NetworkSpec:
    named = {OPTION + key.replace("__", "."): value for key, value in options.items()}
    return NetworkSpec(id=SPEC.id, name="n", subnets=SPEC.subnets, options=named, internal=internal)


def test_bridge_is_configured_by_the_options_of_its_network() -> None:
    bridge = read_network(spec(), CONTEXT)
    assert bridge == Bridge(SPEC.id, "br-0123456789ab", ("10.1.0.1/16",), ("10.1.0.0/16",))
    default = read_network(spec(bridge__default_bridge="true"), CONTEXT)
    assert (default.name, default.mtu) == ("orlop0", 1400)
    mine = read_network(spec(bridge__name="mine", driver__mtu="9000", bridge__enable_icc="false"), CONTEXT)
    assert (mine.name, mine.mtu, mine.icc) == ("mine", 9000, False)
    assert read_network(spec(bridge__inhibit_ipv4="1"), CONTEXT).addresses == ()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("bridge__name", 'x"; flush ruleset'),
        ("bridge__name", "sixteen-letters-"),
        ("bridge__name", ".."),
        ("driver__mtu", "many"),
        ("bridge__enable_icc", "maybe"),
        ("bridge__gateway_mode_ipv4", "router"),
        ("bridge__gateway_mode_ipv4", "isolated"),
        ("host_ipv4", "1.2.3"),
    ],
)
def test_bridge_network_with_invalid_driver_options_is_refused(key: str, value: str) -> None:
    with pytest.raises(InvalidParameter):
        read_network(spec(internal=False, **{key: value}), CONTEXT)


def test_network_has_the_expected_elements_in_nftables_sets() -> None:
    assert _plan.network_elements(read_network(spec(), CONTEXT)) == {
        Element("bridges", '"br-0123456789ab"'),
        Element("talking", '"br-0123456789ab" . "br-0123456789ab"'),
        Element("inside4", "10.1.0.0/16"),
        Element("masquerade4", "10.1.0.0/16"),
    }
    internal = _plan.network_elements(read_network(spec(internal=True), CONTEXT))
    assert Element("internal", '"br-0123456789ab"') in internal
    assert not any(element.set == "masquerade4" for element in internal)
    fixed = _plan.network_elements(read_network(spec(host_ipv4="192.0.2.9"), CONTEXT))
    assert Element("source4", "10.1.0.0/16", "192.0.2.9") in fixed


def endpoint(*ports: PublishedPort, addresses: tuple[str, ...] = ("10.1.0.2/16",)) -> Endpoint:
    return Endpoint(
        id="e" * 64,
        network=SPEC,
        container_id="c" * 64,
        netns="",
        addresses=tuple(Address(each) for each in addresses),
        ports=ports,
    )


def test_published_ports_have_the_expected_elements_in_nftables_maps() -> None:
    assert _plan.port_elements(
        endpoint(
            PublishedPort("tcp", "0.0.0.0", 8080, 80),
            PublishedPort("udp", "192.0.2.1", 53, 53),
            PublishedPort("tcp", "127.0.0.1", 8081, 80),  # served by the monitor
            PublishedPort("tcp", "::", 8080, 80),  # the endpoint has no IPv6 address: served by the monitor
        )
    ) == {
        Element("ports4", "tcp . 8080", "10.1.0.2 . 80"),
        Element("ports4_at", "192.0.2.1 . udp . 53", "10.1.0.2 . 53"),
    }
    both = endpoint(PublishedPort("tcp", "::", 8080, 80), addresses=("10.1.0.2/16", "fd00::2/64"))
    assert _plan.port_elements(both) == {Element("ports6", "tcp . 8080", "fd00::2 . 80")}
    with pytest.raises(InvalidParameter):
        _plan.port_elements(endpoint(PublishedPort("icmp", "0.0.0.0", 1, 1)))


def test_routed_network_allows_traffic_to_published_container_ports() -> None:
    routed = read_network(spec(bridge__gateway_mode_ipv4="routed"), CONTEXT)
    assert _plan.network_elements(routed) == {
        Element("bridges", '"br-0123456789ab"'),
        Element("talking", '"br-0123456789ab" . "br-0123456789ab"'),
        Element("inside4", "10.1.0.0/16"),
        Element("pinged4", '"br-0123456789ab"'),
    }
    assert _plan.port_elements(endpoint(PublishedPort("tcp", "0.0.0.0", 0, 80), PublishedPort("udp", "::", 0, 53))) == {
        Element("routed4", "10.1.0.2 . tcp . 80")
    }


def test_nftables_update_changes_only_elements_that_differ() -> None:
    keep, gone, new = (Element("ports4", f"tcp . {port}", "10.1.0.2 . 80") for port in (1, 2, 3))
    moved = Element("ports4", "tcp . 4", "10.1.0.2 . 80")
    text = _plan.update_table("orlop", frozenset({keep, gone, moved}), frozenset({keep, new, moved._replace(value="x")}))
    assert "delete element inet orlop ports4 { tcp . 2, tcp . 4 }" in text
    assert "add element inet orlop ports4 { tcp . 3 : 10.1.0.2 . 80, tcp . 4 : x }" in text
    assert "tcp . 1" not in text and "delete table" not in text
    assert text.index("delete element") < text.index("add element")


def test_existing_nftables_elements_are_kept_unless_they_conflict_with_new_elements() -> None:
    """At the start of the daemon, the kept elements may belong to running containers."""
    wanted = frozenset({Element("inside4", "10.1.1.0/24"), Element("ports4", "tcp . 1", "new")})
    other = frozenset({Element("inside4", "10.2.0.0/16"), Element("ports4", "tcp . 2", "x"), Element("bridges", '"br1"')})
    former = frozenset({Element("inside4", "10.1.0.0/16"), Element("ports4", "tcp . 1", "old")})
    assert _plan.keep_compatible(wanted, other | former) == wanted | other


def test_json_output_of_nft_is_parsed_into_elements() -> None:
    listing = {
        "nftables": [
            {"metainfo": {}},
            {"table": {"name": "orlop"}},
            {"set": {"name": "bridges", "elem": ["br0"]}},
            {"set": {"name": "talking", "elem": [{"concat": ["br0", "br0"]}]}},
            {"set": {"name": "internal"}},
            {"set": {"name": "inside4", "elem": [{"prefix": {"addr": "10.1.0.0", "len": 16}}, "10.2.0.1"]}},
            {"map": {"name": "ports4", "elem": [[{"concat": [6, 80]}, {"concat": ["10.1.0.2", 80]}]]}},
            {"map": {"name": "ports4_at", "elem": [[{"concat": ["192.0.2.1", "udp", 53]}, {"concat": ["10.1.0.2", 53]}]]}},
            {"map": {"name": "source4", "elem": [[{"prefix": {"addr": "10.1.0.0", "len": 16}}, "192.0.2.9"]]}},
        ]
    }
    assert _plan.parse_elements(json.loads(json.dumps(listing))) == {
        Element("bridges", '"br0"'),
        Element("talking", '"br0" . "br0"'),
        Element("inside4", "10.1.0.0/16"),
        Element("inside4", "10.2.0.1/32"),
        Element("ports4", "tcp . 80", "10.1.0.2 . 80"),
        Element("ports4_at", "192.0.2.1 . udp . 53", "10.1.0.2 . 53"),
        Element("source4", "10.1.0.0/16", "192.0.2.9"),
    }
    with pytest.raises(ValueError, match="unknown set"):
        _plan.parse_elements({"nftables": [{"set": {"name": "other"}}]})


def test_name_of_the_nftables_table_contains_only_safe_characters() -> None:
    assert _plan.table_name("") == "orlop"
    assert _plan.table_name("ab-1; flush") == "orlop_ab_1__flush"
