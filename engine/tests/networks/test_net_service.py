"""The networks service, with the fake driver and a real store: create, list, inspect, remove."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable

import msgspec
import pytest
from networks_fixture import NetworksFixture, members, request

from orlop_engine.config import AddressPool
from orlop_engine.networks import filters
from orlop_engine.networks.service import Networks
from orlop_engine.types.networks import IPAM, CreateRequest, IPAMConfig
from orlop_kernel.store import Put
from orlop_sdk import (
    Conflict,
    DriverError,
    Forbidden,
    InvalidParameter,
    NotFound,
    OrlopError,
)
from orlop_sdk.testing import FakeNetwork


def test_unreadable_network_row_is_quarantined(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.store.commit([Put("networks", "x" * 64, b"\xff\xff")])
        networks = Networks(h.store, h.events, h.driver, h.config)  # type: ignore[arg-type]
        await networks.load()
        await networks.restore([])
        assert h.store.quarantined()[0][:2] == ("networks", "x" * 64)

    networks_fixture(body)


def test_network_drivers_without_networks_are_also_asked_to_restore_the_host(networks_fixture: Callable[..., None]) -> None:
    """A daemon that died before it stored the first network of a driver may have left objects of the driver."""

    async def body(h: NetworksFixture) -> None:
        h.drivers["dist:other"] = other = FakeNetwork()
        for name in ("dist@other", "uninstalled"):
            (h.root / "run/network-drivers" / name).mkdir(parents=True)
        networks = Networks(h.store, h.events, h.driver, h.config)  # type: ignore[arg-type]
        await networks.load()
        await networks.restore([])
        assert other.log == [("restore", "0")]

    networks_fixture(body)


def test_networks_are_found_by_name_id_and_prefix(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        record = await h.networks.create(request("mine"))
        assert h.networks.resolve(record.id) == h.networks.resolve("mine") == h.networks.resolve(record.id[:12]) == record
        with pytest.raises(NotFound, match=r"^network other not found$"):
            h.networks.resolve("other")
        with pytest.raises(NotFound):
            h.networks.resolve("")

    networks_fixture(body)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (request(" "), InvalidParameter, "invalid name: name is empty"),
        (request("bridge"), Forbidden, "operation is not permitted on predefined bridge network "),
        (request("taken"), Conflict, "network with name taken already exists"),
        (request("n", "10.0.0.1/24"), InvalidParameter, "invalid subnet 10.0.0.1/24: it should be 10.0.0.0/24"),
        (
            request("n", "10.200.0.0/16"),
            Forbidden,
            "invalid pool request: Pool overlaps with other one on this address space",
        ),
        (
            request("n", "10.9.0.0/24", config={"gateway": "10.8.0.1"}),
            InvalidParameter,
            "no matching subnet for gateway 10.8.0.1",
        ),
        (request("n", driver="macvlan"), NotFound, 'cannot find network driver "macvlan"'),
        (request("n", driver="host"), Forbidden, 'only one instance of "host" network is allowed'),
        (request("n", enable_ipv4=False), InvalidParameter, "IPv4 or IPv6 must be enabled"),
    ],
)
def test_network_create_refuses_invalid_requests(
    networks_fixture: Callable[..., None], given: CreateRequest, error: type[OrlopError], message: str
) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("taken"))
        with pytest.raises(error) as caught:
            await h.networks.create(given)
        assert str(caught.value) == message
        assert {spec.name for spec in h.bridge.networks.values()} == {"bridge", "taken"}

    networks_fixture(body)


def test_network_is_created_inspected_and_removed(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        record = await h.networks.create(request("mine", "10.201.0.0/24", internal=True, labels={"a": "b"}))
        sandbox = await h.start(1, "mine")
        assert h.networks.resolve("mine") == record
        assert [(each.subnet, each.gateway) for each in record.subnets] == [("10.201.0.0/24", "10.201.0.1")]
        assert record.internal and record.labels == {"a": "b"}
        assert members(h.networks, "mine") == {f"{1:064x}": "10.201.0.2/24"}
        with pytest.raises(Forbidden, match=r'^error while removing network: network mine has active endpoints \(name:"c1"'):
            await h.networks.remove("mine")
        await h.networks.release(sandbox)
        await h.networks.remove(record.id[:10])
        assert [event for event in h.events.events if event[0] == "network"] == [
            ("network", "create", "mine"),
            ("network", "destroy", "mine"),
        ]
        assert record.id not in h.bridge.networks
        with pytest.raises(Forbidden, match="pre-defined network and cannot be removed"):
            await h.networks.remove("bridge")

    networks_fixture(body)


def test_failed_network_create_leaves_no_network(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        h.bridge.fail["create_network"] = DriverError("cannot create bridge: no memory")
        with pytest.raises(DriverError):
            await h.networks.create(request("mine"))
        await h.networks.create(request("mine"))
        h.bridge.fail["delete_network"] = DriverError("cannot delete bridge: busy")
        with pytest.raises(DriverError):
            await h.networks.remove("mine")
        assert h.networks.resolve("mine")

    networks_fixture(body)


def test_prune_removes_unused_networks(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("idle", labels={"keep": "no"}))
        await h.networks.create(request("kept", labels={"keep": "yes"}))
        await h.networks.create(request("used"))
        await h.start(1, "used")
        wanted = filters.prunable({"label!": ["keep=yes"]}, 0)
        assert await h.networks.prune(wanted) == ["idle"]
        assert h.events.events[-1][:2] == ("network", "prune")

    networks_fixture(body)


def test_network_list_filters_select_networks(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("mine", labels={"a": "b"}))
        await h.networks.create(request("used"))
        await h.start(1, "used")

        def names(**given: list[str]) -> set[str]:
            accept = filters.listed(given)
            return {record.name for record, in_use in h.networks.records() if accept(record, in_use)}

        assert names() == {"bridge", "host", "none", "mine", "used"}
        assert names(type=["custom"]) == {"mine", "used"}
        assert names(dangling=["true"]) == {"mine"}
        assert names(driver=["null", "host"]) == {"host", "none"}
        assert names(name=["^m"]) == names(label=["a=b"]) == {"mine"}
        assert names(id=[h.networks.resolve("used").id[:8]]) == {"used"}
        assert names(scope=["swarm"]) == set()
        with pytest.raises(InvalidParameter, match="invalid filter 'nope'"):
            names(nope=["x"])

    networks_fixture(body)


@pytest.mark.parametrize("name", ["default", "host", "none", "bridge", "container:", f"container:{'a' * 64}"])
def test_names_of_network_modes_cannot_be_names_of_new_networks(networks_fixture: Callable[..., None], name: str) -> None:
    async def body(h: NetworksFixture) -> None:
        with pytest.raises(Forbidden, match=f"^operation is not permitted on predefined {name} network $"):
            await h.networks.create(request(name))

    networks_fixture(body)


def test_subnets_outside_the_pools_are_reported(networks_fixture: Callable[..., None]) -> None:
    """The host reaches some networks through a router, so its routing table does not contain these networks."""

    async def body(h: NetworksFixture) -> None:
        for subnet in ("172.31.255.0/24", "192.168.4.0/22", "172.24.0.0/14", "0.0.0.0/24", "::/64", "nonsense"):
            assert h.networks.outside_pools(request("n", subnet)) == []
        given = ("10.9.0.0/24", "127.0.0.0/24", "169.254.169.0/24", "8.8.8.0/24", "192.0.0.0/8", "fd00:1::/64")
        for subnet in given:
            assert h.networks.outside_pools(request("n", subnet)) == [subnet]
        chosen = (await h.networks.create(CreateRequest(name="six", enable_ipv6=True))).subnets
        assert [h.networks.outside_pools(request("n", each.subnet)) for each in chosen] == [[], []]

    networks_fixture(body)
    own = AddressPool(base="10.9.0.0/16", size=24)

    async def with_pools(h: NetworksFixture) -> None:
        h.networks._config = msgspec.structs.replace(h.networks._config, default_address_pools=(own,))
        assert h.networks.outside_pools(request("n", "10.9.3.0/25")) == []
        assert h.networks.outside_pools(request("n", "172.18.0.0/16")) == ["172.18.0.0/16"]

    networks_fixture(with_pools)


def test_subnets_that_overlap_networks_of_the_host_are_reported(
    networks_fixture: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(h: NetworksFixture) -> None:
        assert h.networks.overlaps_host(request("n", "10.5.5.0/24")) == ["10.5.5.0/24"]
        assert h.networks.overlaps_host(request("n", "10.0.0.0/8")) == ["10.0.0.0/8"]
        for given in (request("n"), request("n", "10.6.0.0/24"), request("n", "0.0.0.0/24"), request("n", "nonsense")):
            assert h.networks.overlaps_host(given) == []
        both = CreateRequest(
            name="n", ipam=IPAM(config=[IPAMConfig(subnet=each) for each in ("fd00:9::/64", "192.0.2.53/24", "10.6.0.0/24")])
        )
        assert h.networks.overlaps_host(both) == ["fd00:9::/64", "192.0.2.53/24"]

    used = [ipaddress.ip_network(each) for each in ("10.5.0.0/16", "192.0.2.53/32", "fd00:9::/48")]
    monkeypatch.setattr("orlop_engine.networks.host.used", lambda: used)
    networks_fixture(body)
