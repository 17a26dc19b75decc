"""Endpoints of containers: addresses, ports, connect and disconnect, failures."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from networks_fixture import NETNS, NetworksFixture, address, asked, members, request, static

from orlop_engine.networks.status import EndpointStatus
from orlop_engine.types.containers import EndpointIPAMConfig, EndpointSettings, PortBinding
from orlop_engine.types.networks import CreateRequest
from orlop_monitor.protocol import Forward
from orlop_sdk import (
    Address,
    DriverError,
    Forbidden,
    InvalidParameter,
    NetworkCapabilities,
    NotFound,
    PublishedPort,
)
from orlop_sdk.testing.network import FakeNetwork
from orlop_sdk.testing.ports import free_port


def test_lowest_released_address_is_assigned_again(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        one, two = await h.start(1), await h.start(2)
        assert (address(one), address(two)) == ("10.200.0.2/24", "10.200.0.3/24")
        assert one.endpoints[0].endpoint.mac == "02:42:0a:c8:00:02"
        await h.networks.release(one)
        await h.networks.release(one)
        assert address(await h.start(3)) == "10.200.0.2/24"
        assert address(await h.start(4)) == "10.200.0.4/24"

    networks_fixture(body)


def test_static_addresses_are_checked_and_assigned(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("mine", "10.201.0.0/24"))
        await h.networks.create(request("ours"))
        assert address(await h.start(1, "mine", endpoints={"mine": static("10.201.0.9")})) == "10.201.0.9/24"
        for mode, text, error, message in (
            ("mine", "10.201.0.9", Forbidden, "Address already in use"),
            ("mine", "10.7.0.9", InvalidParameter, "no configured subnet or ip-range contain the IP address 10.7.0.9"),
            ("bridge", "10.200.0.9", InvalidParameter, "supported on user-defined networks only"),
            ("ours", "172.18.0.9", InvalidParameter, "networks with user configured subnets"),
        ):
            with pytest.raises(error, match=message):
                await h.plan(2, mode, endpoints={mode: static(text)})
        assert address(await h.start(3, "mine")) == "10.201.0.2/24", "nothing is left of what failed"

    networks_fixture(body)


def test_link_local_addresses_reach_only_drivers_that_support_them(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        h.drivers["old"] = FakeNetwork(capabilities=NetworkCapabilities(link_local=False))
        await h.networks.create(CreateRequest(name="older", driver="old"))
        wanted = EndpointSettings(ipam_config=EndpointIPAMConfig(link_local_ips=["169.254.1.1"]))
        sandbox = await h.start(1, endpoints={"bridge": wanted})
        assert sandbox.endpoints[0].endpoint.link_local == ("169.254.1.1/16",)
        assert address(sandbox) == "10.200.0.2/24"
        with pytest.raises(InvalidParameter, match=r"^network driver old does not support link-local addresses$"):
            await h.plan(2, "older", endpoints={"older": wanted})
        assert members(h.networks, "older") == {}

    networks_fixture(body)


def test_published_ports_are_reserved_and_shown(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        port = free_port()
        bindings = {"80/tcp": [PortBinding(host_port=str(port))]}
        plan = await h.plan(1, exposed={"80/tcp", "90/udp"}, bindings=bindings)
        assert plan.forwards == [Forward("tcp", "10.200.0.2", 80)] and len(plan.sockets) == 1
        sandbox = await h.networks.attach(plan, NETNS)
        shown = h.networks.of_container(sandbox, exposed={"80/tcp", "90/udp"})
        assert shown.ports == {"80/tcp": [PublishedPort("tcp", "127.0.0.1", port, 80)], "90/udp": []}
        assert shown.endpoints["bridge"].attached == sandbox.endpoints[0]
        assert address(sandbox) == "10.200.0.2/24" and sandbox.endpoints[0].endpoint.addresses[0].gateway == "10.200.0.1"
        with pytest.raises(DriverError) as caught:
            await h.plan(2, bindings=bindings)
        text = str(caught.value)
        assert text.startswith(
            "failed to set up container networking: driver failed programming external connectivity on endpoint c2 ("
        )
        assert text.endswith(f"): Bind for 127.0.0.1:{port} failed: port is already allocated")
        await h.networks.release(sandbox)
        again = await h.start(2, bindings=bindings)
        assert address(again) == "10.200.0.2/24"

    networks_fixture(body)


def test_abandoned_network_plan_releases_addresses_and_ports(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        bindings = {"80/tcp": [PortBinding(host_port=str(free_port()))]}
        plan = await h.plan(1, bindings=bindings)
        await h.networks.abandon(plan)
        await h.networks.abandon(plan)
        plan = await h.plan(2, bindings=bindings)
        h.bridge.fail["attach"] = DriverError("cannot connect: no memory")
        with pytest.raises(DriverError, match=r"^failed to set up container networking: cannot connect: no memory$"):
            await h.networks.attach(plan, NETNS)
        await h.networks.abandon(plan)
        assert address(await h.start(3, bindings=bindings)) == "10.200.0.2/24"

    networks_fixture(body)


def test_failed_attach_to_a_network_detaches_the_networks_attached_before(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("two"))
        plan = await h.plan(1, endpoints={"bridge": EndpointSettings(), "two": EndpointSettings()})
        original = h.bridge.attach

        async def second_fails(endpoint: Any) -> Any:
            if endpoint.network.name == "two":
                raise DriverError("cannot")
            return await original(endpoint)

        h.bridge.attach = second_fails  # type: ignore[method-assign]
        with pytest.raises(DriverError):
            await h.networks.attach(plan, NETNS)
        assert not h.bridge.endpoints

    networks_fixture(body)


def test_container_may_be_on_several_networks(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        await h.networks.create(request("outer", "10.203.0.0/24"))
        port = free_port()
        sandbox = await h.start(
            1,
            "inner",
            endpoints={"inner": EndpointSettings(), "outer": EndpointSettings(aliases=["web"])},
            bindings={"80": [PortBinding(host_port=str(port))]},
        )
        inner, outer = (attached.endpoint for attached in sandbox.endpoints)
        assert (inner.ifname, outer.ifname) == ("eth0", "eth1")
        assert not inner.default_route and outer.default_route, "an internal network is no way out"
        assert not inner.ports and outer.ports[0].host_port == port
        assert sandbox.endpoints[1].dns_names == ("c1", "web", f"{1:064x}"[:12], "h1")
        preferred = await h.start(
            2, "bridge", endpoints={"bridge": EndpointSettings(), "outer": EndpointSettings(gw_priority=1)}
        )
        assert [attached.endpoint.default_route for attached in preferred.endpoints] == [False, True]

    networks_fixture(body)


def test_conflicting_network_modes_are_refused(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        assert h.networks.sandbox_kind("container:x") == "container:x"
        assert h.networks.sandbox_kind("host") == "host"
        assert h.networks.sandbox_kind("none") == h.networks.sandbox_kind("mine") == "new"
        sandbox = await h.start(1, "none", exposed={"80"}, publish_all=True)
        assert not sandbox.endpoints[0].endpoint.addresses and not sandbox.ports
        with pytest.raises(InvalidParameter, match="network-scoped aliases"):
            h.networks.check("bridge", {"bridge": EndpointSettings(aliases=["x"])})
        with pytest.raises(NotFound):
            h.networks.check("gone", asked("gone"))
        h.networks.check("none", asked("bridge"))  # as in Docker, only the requested networks are checked, not the mode
        for mode, names, message in (
            ("host", "bridge", "sharing network namespace"),
            ("host", "host bridge", "sharing network namespace"),
            ("bridge", "host", "connected to host network"),
            ("bridge", "bridge host", "sharing network namespace"),
            ("bridge", "host bridge", "sharing network namespace"),
            (h.networks.resolve("host").id, "host", "connected to host network"),
            ("none", "none bridge", r"private \(none\) mode"),
            ("bridge", "bridge none", r"private \(none\) mode"),
        ):
            with pytest.raises(InvalidParameter, match=message):
                h.networks.check(mode, asked(*names.split()))

    networks_fixture(body)


def test_running_container_can_be_connected_to_and_disconnected_from_a_network(
    networks_fixture: Callable[..., None],
) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("two", "10.203.0.0/24"))
        sandbox = await h.start(1)
        grown = await h.networks.connect(sandbox, "two", static("10.203.0.7", aliases=["a"]), NETNS)
        assert [each.endpoint.ifname for each in grown.endpoints] == ["eth0", "eth1"]
        assert address(grown, 1) == "10.203.0.7/24" and not grown.endpoints[1].endpoint.default_route
        with pytest.raises(Forbidden, match="already exists in network two"):
            await h.networks.connect(grown, "two", EndpointSettings(), NETNS)
        assert set(h.networks.of_container(grown).endpoints) == {"bridge", "two"}
        shrunk = await h.networks.disconnect(grown, "two", NETNS)
        assert shrunk == sandbox
        with pytest.raises(Forbidden, match="is not connected to network two"):
            await h.networks.disconnect(shrunk, "two", NETNS)
        assert len(h.bridge.endpoints) == 1
        for mode in ("none", "host"):
            with pytest.raises(InvalidParameter):
                await h.networks.connect(sandbox, mode, EndpointSettings(), NETNS)

    networks_fixture(body)


def test_stopped_container_shows_its_network_settings(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        record = await h.networks.create(request("mine"))
        shown = h.networks.of_container(
            None, endpoints={"mine": EndpointSettings(aliases=["x"])}, exposed={"80"}, running=False
        )
        assert shown.ports == {} and shown.sandbox is None
        assert shown.endpoints == {"mine": EndpointStatus(record.id, EndpointSettings(aliases=["x"]))}
        assert h.networks.of_container(None).endpoints == {}
        by_id = h.networks.of_container(None, endpoints=asked(record.id, "gone", record.id[:8])).endpoints
        assert {name: each.network_id for name, each in by_id.items()} == {
            "mine": record.id,
            "gone": "",
            record.id[:8]: "",
        }

    networks_fixture(body)


def test_ports_are_shown_only_if_an_endpoint_can_publish_them(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        for mode, shown in (("bridge", {"80/tcp": []}), ("inner", {}), ("none", {})):
            sandbox = await h.start(1, mode, exposed={"80"})
            assert h.networks.of_container(sandbox, exposed={"80"}).ports == shown
            await h.networks.release(sandbox)
        assert h.networks.of_container(None, endpoints=asked("host"), exposed={"80"}).ports == {}

    networks_fixture(body)


def test_network_driver_may_assign_addresses(tmp_path: Path) -> None:
    """The addresses may come from a DHCP server: the engine shows them, answers DNS queries with them, and keeps them
    over a restart."""

    async def main() -> None:
        h = NetworksFixture(tmp_path)
        h.drivers["dhcp"] = FakeNetwork(own_addresses=[Address("10.9.0.7/24", "10.9.0.1"), Address("fd00::7/64")])
        async with h.daemon() as networks:
            await networks.create(CreateRequest(name="office", driver="dhcp"))
            first, second = await h.start(1, "office"), await h.start(2, "office")
            assert (address(first), address(second)) == ("10.9.0.7/24", "fd00::7/64")
            assert members(networks, "office") == {f"{1:064x}": "10.9.0.7/24", f"{2:064x}": "fd00::7/64"}
            shown = networks.of_container(first).endpoints["office"].attached
            assert [(each.address, each.gateway) for each in shown.endpoint.addresses] == [("10.9.0.7/24", "10.9.0.1")]
        h = NetworksFixture(tmp_path)
        h.drivers["dhcp"] = FakeNetwork(own_addresses=[])
        async with h.daemon(first) as networks:
            assert members(networks, "office") == {f"{1:064x}": "10.9.0.7/24"}
            await networks.release(first)

    trio.run(main)


@pytest.mark.parametrize("bad", [Address("nowhere/24"), Address("10.9.0.7"), Address("10.9.0.7/24", "gateway")])
def test_addresses_reported_by_a_driver_are_validated(tmp_path: Path, bad: Address) -> None:
    async def main() -> None:
        h = NetworksFixture(tmp_path)
        h.drivers["dhcp"] = FakeNetwork(own_addresses=[bad])
        async with h.daemon() as networks:
            await networks.create(CreateRequest(name="office", driver="dhcp"))
            with pytest.raises(DriverError, match="network driver dhcp reported an invalid address"):
                await h.start(1, "office")
            assert not networks.members("office")
            assert h.drivers["dhcp"].endpoints == {}, "it is detached again"

    trio.run(main)
