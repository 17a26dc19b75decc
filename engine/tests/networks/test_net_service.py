"""The networks service, with the fake driver and a real store."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from networks_fixture import NETNS, NetworksFixture, address, asked, request, routes, static

from orlop_engine.config import AddressPool, Config
from orlop_engine.networks import filters, predefined
from orlop_engine.networks.service import Networks, Sandbox
from orlop_engine.networks.status import EndpointStatus
from orlop_engine.types.containers import EndpointSettings, PortBinding
from orlop_engine.types.networks import IPAM, CreateRequest, IPAMConfig
from orlop_kernel.store import Put
from orlop_monitor.protocol import Forward
from orlop_sdk import (
    Address,
    Conflict,
    DriverError,
    Forbidden,
    InvalidParameter,
    NotFound,
    OrlopError,
    PublishedPort,
    Unavailable,
)
from orlop_sdk.testing.network import FakeNetwork
from orlop_sdk.testing.ports import free_port


def members(networks: Networks, name: str) -> dict[str, str]:
    """The first address of each container on a network."""
    return {sandbox.container_id: attached.endpoint.addresses[0].address for sandbox, attached in networks.members(name)}


def test_predefined_networks_stay_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        async with networks_fixture.daemon() as networks:
            first = {record.name: record.id for record, _ in networks.records()}
            assert set(first) == {"bridge", "host", "none"}
            assert networks.resolve("default").name == "bridge"
            assert networks.resolve("bridge").subnets[0].gateway == "10.200.0.1"
            await networks.create(request("mine", "10.201.0.0/24"))
        networks_fixture = NetworksFixture(tmp_path, bip="10.202.0.1/24")
        async with networks_fixture.daemon() as networks:
            again = {record.name: record.id for record, _ in networks.records()}
            assert first.items() < again.items() and "mine" in again
            assert networks.resolve("bridge").subnets[0].subnet == "10.202.0.0/24", "daemon.json decides"
            assert {spec.name for spec in networks_fixture.bridge.networks.values()} == {"bridge", "mine"}

    trio.run(main)


def test_a_configuration_that_the_next_start_could_not_load_is_refused(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        before = h.networks.resolve("bridge")
        h.networks.check_config(msgspec.structs.replace(h.config, default_gateway="10.200.0.9", ipv6=True))
        h.networks.check_config(msgspec.structs.replace(h.config, bip="", bridge="none"))
        with pytest.raises(InvalidParameter, match=r"it is not in 10.200.0.0/24, the bridge's subnet"):
            h.networks.check_config(msgspec.structs.replace(h.config, default_gateway="10.1.1.1"))
        assert h.networks.resolve("bridge") is before

    networks_fixture(body)


@pytest.mark.parametrize("iptables", [True, False])
def test_a_sandbox_tells_whether_rules_lead_to_it(networks_fixture: Callable[..., None], iptables: bool) -> None:
    async def body(h: NetworksFixture) -> None:
        assert (await h.start()).iptables is iptables

    networks_fixture(body, iptables=iptables)


def test_no_bridge_when_daemon_json_says_none(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        with pytest.raises(NotFound, match=r"^network bridge not found$"):
            h.networks.resolve("bridge")
        assert h.networks.host_gateways() == ()

    networks_fixture(body, bridge="none", bip="")


def test_without_a_default_bridge_who_asks_for_it_has_no_network(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("mine", "10.201.0.0/24"))
        alone = await h.start(1, bindings={"80": [PortBinding(host_port="80")]})
        assert routes(alone) == []
        shown = h.networks.of_container(alone, endpoints=asked("bridge")).endpoints
        assert (list(shown), shown["bridge"].network_id) == (["bridge"], "")
        h.networks.check("bridge", asked("bridge"))
        assert routes(await h.start(2, endpoints=asked("bridge", "mine"))) == [("mine", True, 0)]
        assert (await h.start(3, endpoints={})).endpoints == ()

    networks_fixture(body, bridge="none", bip="")


def fixed(root: Path, **config: Any) -> tuple[str, str]:
    """The subnet of the default bridge, and the first container's address."""
    found = []

    async def main() -> None:
        networks_fixture = NetworksFixture(root, **{"bip": "", **config})
        async with networks_fixture.daemon() as networks:
            found.append((networks.resolve("bridge").subnets[0].subnet, address(await networks_fixture.start())))

    trio.run(main)
    return found[0]


def test_fixed_cidr(tmp_path: Path) -> None:
    """Without `bip`, `fixed-cidr` is the subnet, as in Docker; an existing subnet is kept if the range lies in it."""
    assert fixed(tmp_path, fixed_cidr="10.77.1.7/25") == ("10.77.1.0/25", "10.77.1.2/25")
    assert fixed(tmp_path, fixed_cidr="10.77.1.64/26") == ("10.77.1.0/25", "10.77.1.64/25")
    assert fixed(tmp_path, fixed_cidr="10.77.2.0/24") == ("10.77.2.0/24", "10.77.2.2/24")
    assert fixed(tmp_path, fixed_cidr="10.77.3.128/25", bip="10.77.3.1/24") == ("10.77.3.0/24", "10.77.3.128/24")


def test_a_bridge_that_is_not_there(tmp_path: Path) -> None:
    config = Config(data_root=str(tmp_path), bridge="nosuch0")
    with pytest.raises(InvalidParameter, match=r"^bridge device with non default name nosuch0 must be created manually$"):
        predefined.check(config)
    predefined.check(Config(data_root=str(tmp_path), bridge=config.default_bridge))


def test_options_of_new_networks(networks_fixture: Callable[..., None]) -> None:
    """daemon.json's value is used if the request has none."""

    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("six"))
        assert h.networks.resolve("six").ipv6
        assert [":" in each.subnet for each in h.networks.resolve("six").subnets] == [False, True]
        await h.networks.create(request("four", enable_ipv6=False))
        assert not h.networks.resolve("four").ipv6
        wrong = {"com.docker.network.enable_ipv6": "perhaps"}
        with pytest.raises(InvalidParameter, match="is not a valid bool"):
            await h.networks.create(request("odd", options=wrong))

    networks_fixture(body, default_network_opts={"bridge": {"com.docker.network.enable_ipv6": "true"}})


def test_unreadable_row_is_quarantined(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.store.commit([Put("networks", "x" * 64, b"\xff\xff")])
        networks = Networks(h.store, h.events, h.driver, h.config)  # type: ignore[arg-type]
        await networks.load()
        await networks.restore([])
        assert h.store.quarantined()[0][:2] == ("networks", "x" * 64)

    networks_fixture(body)


def test_resolve(networks_fixture: Callable[..., None]) -> None:
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
def test_invalid_networks_are_refused(
    networks_fixture: Callable[..., None], given: CreateRequest, error: type[OrlopError], message: str
) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("taken"))
        with pytest.raises(error) as caught:
            await h.networks.create(given)
        assert str(caught.value) == message
        assert {spec.name for spec in h.bridge.networks.values()} == {"bridge", "taken"}

    networks_fixture(body)


def test_create_inspect_remove(networks_fixture: Callable[..., None]) -> None:
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


def test_failed_create_leaves_no_network(networks_fixture: Callable[..., None]) -> None:
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


def test_prune(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("idle", labels={"keep": "no"}))
        await h.networks.create(request("kept", labels={"keep": "yes"}))
        await h.networks.create(request("used"))
        await h.start(1, "used")
        wanted = filters.prunable({"label!": ["keep=yes"]}, 0)
        assert await h.networks.prune(wanted) == ["idle"]
        assert h.events.events[-1][:2] == ("network", "prune")

    networks_fixture(body)


def test_lowest_address_is_used_again(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        one, two = await h.start(1), await h.start(2)
        assert (address(one), address(two)) == ("10.200.0.2/24", "10.200.0.3/24")
        assert one.endpoints[0].endpoint.mac == "02:42:0a:c8:00:02"
        await h.networks.release(one)
        await h.networks.release(one)
        assert address(await h.start(3)) == "10.200.0.2/24"
        assert address(await h.start(4)) == "10.200.0.4/24"

    networks_fixture(body)


def test_static_addresses(networks_fixture: Callable[..., None]) -> None:
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


def test_ports(networks_fixture: Callable[..., None]) -> None:
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


def test_abandoned_plan_releases_everything(networks_fixture: Callable[..., None]) -> None:
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


def test_a_failed_attach_takes_back_the_networks_before_it(networks_fixture: Callable[..., None]) -> None:
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


def test_several_networks(networks_fixture: Callable[..., None]) -> None:
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


def test_conflicting_modes_are_refused(networks_fixture: Callable[..., None]) -> None:
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
        h.networks.check("none", asked("bridge"))  # as in Docker: the requested networks count, not the mode
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


def test_restart_with_living_containers(tmp_path: Path) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        port = free_port()
        bindings = {"80": [PortBinding(host_port=str(port))]}
        async with networks_fixture.daemon():
            living = await networks_fixture.start(1, bindings=bindings)
            await networks_fixture.start(2)
        # The sandbox as the container's row stores it.
        kept = msgspec.msgpack.decode(msgspec.msgpack.encode(living), type=Sandbox)
        assert kept == living
        networks_fixture = NetworksFixture(tmp_path)
        async with networks_fixture.daemon() as networks:
            await networks.restore([kept])
            assert [e.container_id for e in networks_fixture.bridge.endpoints.values()] == [living.container_id]
            assert ("restore", "1") in networks_fixture.bridge.log
            with pytest.raises(DriverError, match="port is already allocated"):
                await networks_fixture.plan(3, bindings=bindings)
            assert address(await networks_fixture.start(4)) == "10.200.0.3/24"
            assert members(networks, "bridge")[living.container_id] == "10.200.0.2/24"
            await networks.release(kept)
            assert address(await networks_fixture.start(5, bindings=bindings)) == "10.200.0.2/24"

    trio.run(main)


@pytest.mark.parametrize("damage", ["address", "port"])
def test_invalid_row_does_not_affect_others(tmp_path: Path, damage: str) -> None:
    async def main() -> None:
        h = NetworksFixture(tmp_path)
        async with h.daemon():
            living = [await h.start(1, bindings={"80": [PortBinding(host_port=str(free_port()))]}), await h.start(2)]
        (attached,) = living[0].endpoints
        broken: dict[str, Any] = {"addresses": (Address("nowhere/24"),)}
        if damage == "port":
            port = msgspec.structs.replace(attached.endpoint.ports[0], host_ip="nowhere")
            broken = {"ports": (port,)}
        endpoint = msgspec.structs.replace(attached.endpoint, **broken)
        sick = msgspec.structs.replace(living[0], endpoints=(msgspec.structs.replace(attached, endpoint=endpoint),))
        h = NetworksFixture(tmp_path)
        async with h.daemon(sick, living[1]) as networks:
            assert ("restore", "2") in h.bridge.log
            assert address(await h.start(3)) != address(living[1]), "this one still has its own"
            assert living[1].container_id in members(networks, "bridge")
            await networks.release(living[1])

    trio.run(main)


def test_failed_removal_is_finished_by_the_next_start(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        commit = h.store.commit

        async def full(operations: Any) -> None:
            raise Unavailable("cannot write the state database: no space left on device")

        for use in ("start", "connect"):
            if use == "start":
                await h.networks.create(request("mine"))
            h.store.commit = full  # type: ignore[method-assign]
            with pytest.raises(Unavailable):
                await h.networks.remove("mine")
            h.store.commit = commit  # type: ignore[method-assign]
            if use == "start":
                await h.networks.release(await h.start(1, "mine"))
            else:
                await h.networks.connect(await h.start(2), "mine", EndpointSettings(), NETNS)

    networks_fixture(body)


def test_network_that_cannot_be_restored_at_boot(tmp_path: Path) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        networks_fixture.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
        async with networks_fixture.daemon():
            networks_fixture.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
            with pytest.raises(DriverError, match="no module"):
                await networks_fixture.plan(1)
            await networks_fixture.plan(1)  # creation is tried again at each start

    trio.run(main)


def test_connect_and_disconnect(networks_fixture: Callable[..., None]) -> None:
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


def test_settings_of_a_stopped_container(networks_fixture: Callable[..., None]) -> None:
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


def test_list_filters(networks_fixture: Callable[..., None]) -> None:
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


# --- which networks a container is on -------------------------------------------------------------------------------


def test_only_requested_networks_are_pinned(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        assert h.networks.pin("", {}) == ("bridge", asked("bridge"))
        assert h.networks.pin("inner", {}) == ("inner", asked("inner"))
        mode, endpoints = h.networks.pin("bridge", {"inner": None})
        assert (mode, endpoints) == ("bridge", asked("inner"))
        sandbox = await h.start(1, mode, endpoints=endpoints)
        assert [each.network.name for each in sandbox.endpoints] == ["inner"]
        stopped = h.networks.of_container(None, endpoints=endpoints, running=False)
        assert set(stopped.endpoints) == {"inner"}
        assert h.networks.pin("container:x", asked("inner")) == ("container:x", {})
        assert (await h.start(2, endpoints={})).endpoints == ()

    networks_fixture(body)


def test_names_are_pinned_to_their_networks(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        mine = await h.networks.create(request("mine"))
        assert h.networks.pin(mine.id[:6], asked(mine.id[:6], "mine")) == (mine.id, asked("mine"))
        assert h.networks.pin(mine.id, {}) == (mine.id, asked(mine.id))
        assert h.networks.pin("default", asked("default")) == ("bridge", asked("bridge"))
        # A network whose name is a prefix of another network's id, until it is removed.
        name = mine.id[:1]
        await h.networks.create(request(name))
        mode, endpoints = h.networks.pin(name, asked(name))
        assert (mode, endpoints) == (name, asked(name))
        await h.networks.remove(name)
        with pytest.raises(NotFound, match=rf"^network {name} not found$"):
            await h.plan(1, mode, endpoints=endpoints)
        assert h.networks.of_container(None, endpoints=endpoints).endpoints[name].network_id == ""
        # A network that does not exist at create.
        assert h.networks.pin("zz", {}) == ("zz", asked("zz"))

    networks_fixture(body)


def test_a_network_by_its_id(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        one, two = await h.networks.create(request("one")), await h.networks.create(request("two"))
        by_id = EndpointSettings(network_id=two.id, aliases=["x"])
        _, endpoints = h.networks.pin("bridge", {"one": by_id, "bridge": EndpointSettings(network_id=one.id)})
        assert endpoints == {two.id: EndpointSettings(aliases=["x"]), "bridge": EndpointSettings()}

    networks_fixture(body)


@pytest.mark.parametrize("name", ["default", "host", "none", "bridge", "container:", f"container:{'a' * 64}"])
def test_names_that_are_modes(networks_fixture: Callable[..., None], name: str) -> None:
    async def body(h: NetworksFixture) -> None:
        with pytest.raises(Forbidden, match=f"^operation is not permitted on predefined {name} network $"):
            await h.networks.create(request(name))

    networks_fixture(body)


def test_ports_belong_to_the_gateways_endpoint(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        for mode, shown in (("bridge", {"80/tcp": []}), ("inner", {}), ("none", {})):
            sandbox = await h.start(1, mode, exposed={"80"})
            assert h.networks.of_container(sandbox, exposed={"80"}).ports == shown
            await h.networks.release(sandbox)
        assert h.networks.of_container(None, endpoints=asked("host"), exposed={"80"}).ports == {}

    networks_fixture(body)


def test_subnets_outside_the_pools(networks_fixture: Callable[..., None]) -> None:
    """A site's networks behind its router show in no route of this host."""

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


def test_subnets_of_the_host(networks_fixture: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_a_driver_gives_addresses_of_its_own(tmp_path: Path) -> None:
    """As of a DHCP server: the engine shows them, answers them to DNS queries, and keeps them over a restart."""

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
