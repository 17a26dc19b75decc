from __future__ import annotations

import ipaddress
from ipaddress import ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_engine.networks import ipam
from orlop_engine.networks.ipam import DEFAULT_POOLS, AddressPool, find_subnet, parse_subnet
from orlop_sdk import Forbidden, InvalidParameter


def test_default_pools_are_used_in_order() -> None:
    taken: list[ipam.IPNetwork] = []
    for _ in range(17):
        taken.append(find_subnet(4, DEFAULT_POOLS, taken))
    assert [str(each) for each in (taken[0], taken[1], taken[14], taken[15], taken[16])] == [
        "172.17.0.0/16",
        "172.18.0.0/16",
        "172.31.0.0/16",
        "192.168.0.0/20",
        "192.168.16.0/20",
    ]


def test_subnets_in_use_by_the_host_are_avoided() -> None:
    avoid = [ip_network("172.17.5.0/24"), ip_network("172.18.0.9/32"), ip_network("fd00::/8")]
    assert str(find_subnet(4, DEFAULT_POOLS, [], avoid)) == "172.19.0.0/16"


def test_error_is_raised_when_the_default_address_pools_have_no_free_subnet() -> None:
    with pytest.raises(InvalidParameter, match=r"^all predefined address pools have been fully subnetted$"):
        find_subnet(4, [("10.0.0.0/24", 24)], [ip_network("10.0.0.128/25")])


def test_subnet_size_can_be_requested() -> None:
    assert str(find_subnet(4, DEFAULT_POOLS, [ip_network("172.17.0.0/24")], size=24)) == "172.17.1.0/24"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("10.0.0.1/24", "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        ("10.0.0.0", "invalid subnet 10.0.0.0: invalid CIDR block notation"),
        ("10.0.0.0/33", "invalid subnet 10.0.0.0/33: invalid CIDR block notation"),
        ("x", "invalid subnet x: invalid CIDR block notation"),
    ],
)
def test_invalid_subnets_are_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter) as caught:
        parse_subnet(text)
    assert str(caught.value) == message


def test_overlap_with_another_network_is_refused() -> None:
    with pytest.raises(Forbidden, match=r"^invalid pool request: Pool overlaps with other one on this address space$"):
        ipam.check_overlap(ip_network("10.0.0.0/8"), [ip_network("10.1.0.0/16")])
    ipam.check_overlap(ip_network("fd00::/64"), [ip_network("10.1.0.0/16")])


def test_lowest_free_address_is_assigned_first() -> None:
    pool = AddressPool(ip_network("10.0.0.0/24"))
    assert pool.gateway == "10.0.0.1"
    assert [pool.allocate() for _ in range(3)] == ["10.0.0.2", "10.0.0.3", "10.0.0.4"]
    pool.release("10.0.0.3")
    assert pool.allocate() == "10.0.0.3"
    assert pool.allocate() == "10.0.0.5"


def test_requested_addresses_are_assigned_if_free() -> None:
    pool = AddressPool(ip_network("10.0.0.0/24"), "10.0.0.254", "10.0.0.16/28", ["10.0.0.17"])
    assert pool.allocate() == "10.0.0.16"
    assert pool.allocate() == "10.0.0.18", "the auxiliary address is reserved"
    assert pool.allocate("10.0.0.100") == "10.0.0.100", "the range binds only what we choose"
    with pytest.raises(Forbidden, match=r"^Address already in use$"):
        pool.allocate("10.0.0.254")
    with pytest.raises(InvalidParameter, match=r"^no configured subnet contains IP address 10.0.1.1$"):
        pool.allocate("10.0.1.1")


def test_error_is_raised_when_a_subnet_has_no_free_address() -> None:
    pool = AddressPool(ip_network("10.0.0.0/30"))
    assert pool.allocate() == "10.0.0.2"
    with pytest.raises(InvalidParameter, match="no available IPv4 addresses"):
        pool.allocate()
    pool.release("10.0.0.1")
    with pytest.raises(InvalidParameter):
        pool.allocate()


def test_point_to_point_subnet_has_no_network_address() -> None:
    pool = AddressPool(ip_network("10.0.0.0/31"))
    assert (pool.gateway, pool.allocate()) == ("10.0.0.0", "10.0.0.1")


def test_ipv6_pool_has_no_broadcast_address() -> None:
    pool = AddressPool(ip_network("fd00::/64"))
    assert (pool.gateway, pool.allocate()) == ("fd00::1", "fd00::2")
    last = "fd00::ffff:ffff:ffff:ffff"
    assert pool.allocate(last) == last, "IPv6 has no broadcast address"


def test_range_outside_of_the_subnet_is_refused() -> None:
    with pytest.raises(InvalidParameter, match="parent subnet"):
        AddressPool(ip_network("10.0.0.0/24"), ip_range="10.0.1.0/28")


@given(
    st.lists(st.one_of(st.just("take"), st.integers(0, 20), st.integers(1, 14).map(lambda n: f"10.0.0.{n}")), max_size=60)
)
def test_no_address_is_assigned_twice(steps: list[object]) -> None:
    pool = AddressPool(ip_network("10.0.0.0/28"))
    held: list[str] = []
    for step in steps:
        if isinstance(step, int):
            if step < len(held):
                pool.release(held.pop(step))
            continue
        try:
            address = pool.allocate("" if step == "take" else str(step))
        except (Forbidden, InvalidParameter):
            continue
        assert address not in held and address not in ("10.0.0.0", "10.0.0.1", "10.0.0.15")
        if step == "take":
            free = {f"10.0.0.{n}" for n in range(2, 15)} - set(held)
            assert address == min(free, key=ipaddress.ip_address)
        held.append(address)


def test_mac_address_is_derived_from_the_ip_address() -> None:
    assert ipam.derived_mac("172.17.0.2") == "02:42:ac:11:00:02"
