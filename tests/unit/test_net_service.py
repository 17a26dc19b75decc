"""Networks as the engine uses them, on the fake driver and a real store."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from tests.unit.networks_bench import NETNS, Bench, address, asked, free_port, request, static

from orlop_kernel.engine.networks import filters
from orlop_kernel.engine.networks.service import Networks, Sandbox
from orlop_kernel.monitor.protocol import Forward
from orlop_kernel.spi import (
    Conflict,
    DriverError,
    Forbidden,
    InvalidParameter,
    NotFound,
    OrlopError,
)
from orlop_kernel.store import Put
from orlop_kernel.types.containers import EndpointSettings, PortBinding
from orlop_kernel.types.networks import IPAM, CreateRequest, IPAMConfig


def test_predefined_networks_stay_the_same(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        async with bench.daemon() as networks:
            first = {record.name: record.id for record, _ in networks.records()}
            assert set(first) == {"bridge", "host", "none"}
            assert networks.resolve("default").name == "bridge"
            assert networks.resolve("bridge").subnets[0].gateway == "10.200.0.1"
            await networks.create(request("mine", "10.201.0.0/24"))
        bench = Bench(tmp_path, bip="10.202.0.1/24")
        async with bench.daemon() as networks:
            again = {record.name: record.id for record, _ in networks.records()}
            assert first.items() < again.items() and "mine" in again
            assert networks.resolve("bridge").subnets[0].subnet == "10.202.0.0/24", "daemon.json decides"
            assert {spec.name for spec in bench.bridge.networks.values()} == {"bridge", "mine"}

    trio.run(main)


def test_no_bridge_when_daemon_json_says_none(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        with pytest.raises(NotFound, match=r"^network bridge not found$"):
            b.networks.resolve("bridge")
        assert b.networks.host_gateways() == ()

    bench(body, bridge="none", bip="")


def test_a_row_that_cannot_be_read_is_set_aside(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.store.commit([Put("networks", "x" * 64, b"\xff\xff")])
        networks = Networks(b.store, b.events, b.driver, b.config)  # type: ignore[arg-type]
        await networks.load()
        await networks.restore([])
        assert b.store.quarantined()[0][:2] == ("networks", "x" * 64)

    bench(body)


def test_resolve(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        record = await b.networks.create(request("mine"))
        assert b.networks.resolve(record.id) == b.networks.resolve("mine") == b.networks.resolve(record.id[:12]) == record
        with pytest.raises(NotFound, match=r"^network other not found$"):
            b.networks.resolve("other")
        with pytest.raises(NotFound):
            b.networks.resolve("")

    bench(body)


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
def test_networks_that_cannot_be(
    bench: Callable[..., None], given: CreateRequest, error: type[OrlopError], message: str
) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("taken"))
        with pytest.raises(error) as caught:
            await b.networks.create(given)
        assert str(caught.value) == message
        assert {spec.name for spec in b.bridge.networks.values()} == {"bridge", "taken"}

    bench(body)


def test_create_inspect_remove(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        record = await b.networks.create(request("mine", "10.201.0.0/24", internal=True, labels={"a": "b"}))
        sandbox = await b.start(1, "mine")
        view = msgspec.to_builtins(b.networks.inspect("mine"))
        assert view["IPAM"]["Config"] == [{"Subnet": "10.201.0.0/24", "Gateway": "10.201.0.1"}]
        assert view["Internal"] and view["Labels"] == {"a": "b"} and view["Scope"] == "local"
        assert view["Containers"][f"{1:064x}"]["IPv4Address"] == "10.201.0.2/24"
        assert view["Containers"][f"{1:064x}"]["Name"] == "c1"
        with pytest.raises(Forbidden, match=r'^error while removing network: network mine has active endpoints \(name:"c1"'):
            await b.networks.remove("mine")
        await b.networks.release(sandbox)
        await b.networks.remove(record.id[:10])
        assert [event for event in b.events.events if event[0] == "network"] == [
            ("network", "create", "mine"),
            ("network", "destroy", "mine"),
        ]
        assert record.id not in b.bridge.networks
        with pytest.raises(Forbidden, match="pre-defined network and cannot be removed"):
            await b.networks.remove("bridge")

    bench(body)


def test_a_network_whose_driver_fails_is_not_there(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        b.bridge.fail["create_network"] = DriverError("cannot create bridge: no memory")
        with pytest.raises(DriverError):
            await b.networks.create(request("mine"))
        await b.networks.create(request("mine"))
        b.bridge.fail["delete_network"] = DriverError("cannot delete bridge: busy")
        with pytest.raises(DriverError):
            await b.networks.remove("mine")
        assert b.networks.resolve("mine")

    bench(body)


def test_prune(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("idle", labels={"keep": "no"}))
        await b.networks.create(request("kept", labels={"keep": "yes"}))
        await b.networks.create(request("used"))
        await b.start(1, "used")
        wanted = filters.prunable({"label!": ["keep=yes"]}, 0)
        assert await b.networks.prune(wanted) == ["idle"]
        assert b.events.events[-1][:2] == ("network", "prune")

    bench(body)


def test_lowest_address_is_used_again(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        one, two = await b.start(1), await b.start(2)
        assert (address(one), address(two)) == ("10.200.0.2/24", "10.200.0.3/24")
        assert one.endpoints[0].endpoint.mac == "02:42:0a:c8:00:02"
        await b.networks.release(one)
        await b.networks.release(one)
        assert address(await b.start(3)) == "10.200.0.2/24"
        assert address(await b.start(4)) == "10.200.0.4/24"

    bench(body)


def test_static_addresses(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("mine", "10.201.0.0/24"))
        await b.networks.create(request("ours"))
        assert address(await b.start(1, "mine", endpoints={"mine": static("10.201.0.9")})) == "10.201.0.9/24"
        for mode, text, error, message in (
            ("mine", "10.201.0.9", Forbidden, "Address already in use"),
            ("mine", "10.7.0.9", InvalidParameter, "no configured subnet contains IP address 10.7.0.9"),
            ("bridge", "10.200.0.9", InvalidParameter, "supported on user-defined networks only"),
            ("ours", "172.18.0.9", InvalidParameter, "networks with user configured subnets"),
        ):
            with pytest.raises(error, match=message):
                await b.plan(2, mode, endpoints={mode: static(text)})
        assert address(await b.start(3, "mine")) == "10.201.0.2/24", "nothing is left of what failed"

    bench(body)


def test_ports(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        port = free_port()
        bindings = {"80/tcp": [PortBinding(host_port=str(port))]}
        plan = await b.plan(1, exposed={"80/tcp", "90/udp"}, bindings=bindings)
        assert plan.forwards == [Forward("tcp", "10.200.0.2", 80)] and len(plan.sockets) == 1
        sandbox = await b.networks.attach(plan, NETNS)
        settings = b.networks.settings(sandbox, exposed={"80/tcp", "90/udp"})
        assert settings["Ports"] == {"80/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}], "90/udp": None}
        assert settings["Networks"]["bridge"]["IPAddress"] == settings["IPAddress"] == "10.200.0.2"
        assert settings["Networks"]["bridge"]["Gateway"] == "10.200.0.1"
        with pytest.raises(DriverError) as caught:
            await b.plan(2, bindings=bindings)
        text = str(caught.value)
        assert text.startswith(
            "failed to set up container networking: driver failed programming external connectivity on endpoint c2 ("
        )
        assert text.endswith(f"): Bind for 127.0.0.1:{port} failed: port is already allocated")
        await b.networks.release(sandbox)
        again = await b.start(2, bindings=bindings)
        assert address(again) == "10.200.0.2/24"

    bench(body)


def test_a_plan_that_came_to_nothing(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        bindings = {"80/tcp": [PortBinding(host_port=str(free_port()))]}
        plan = await b.plan(1, bindings=bindings)
        await b.networks.abandon(plan)
        await b.networks.abandon(plan)
        plan = await b.plan(2, bindings=bindings)
        b.bridge.fail["attach"] = DriverError("cannot connect: no memory")
        with pytest.raises(DriverError, match=r"^failed to set up container networking: cannot connect: no memory$"):
            await b.networks.attach(plan, NETNS)
        await b.networks.abandon(plan)
        assert address(await b.start(3, bindings=bindings)) == "10.200.0.2/24"

    bench(body)


def test_a_failed_attach_takes_back_the_networks_before_it(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("two"))
        plan = await b.plan(1, endpoints={"bridge": EndpointSettings(), "two": EndpointSettings()})
        original = b.bridge.attach

        async def second_fails(endpoint: Any) -> Any:
            if endpoint.network.name == "two":
                raise DriverError("cannot")
            return await original(endpoint)

        b.bridge.attach = second_fails  # type: ignore[method-assign]
        with pytest.raises(DriverError):
            await b.networks.attach(plan, NETNS)
        assert not b.bridge.endpoints

    bench(body)


def test_several_networks(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("inner", internal=True))
        await b.networks.create(request("outer", "10.203.0.0/24"))
        port = free_port()
        sandbox = await b.start(
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
        preferred = await b.start(
            2, "bridge", endpoints={"bridge": EndpointSettings(), "outer": EndpointSettings(gw_priority=1)}
        )
        assert [attached.endpoint.default_route for attached in preferred.endpoints] == [False, True]

    bench(body)


def test_modes_that_do_not_go_together(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        assert b.networks.sandbox_kind("container:x") == "container:x"
        assert b.networks.sandbox_kind("host") == "host"
        assert b.networks.sandbox_kind("none") == b.networks.sandbox_kind("mine") == "new"
        sandbox = await b.start(1, "none", exposed={"80"}, publish_all=True)
        assert not sandbox.endpoints[0].endpoint.addresses and not sandbox.ports
        with pytest.raises(InvalidParameter, match="network-scoped aliases"):
            b.networks.check("bridge", {"bridge": EndpointSettings(aliases=["x"])})
        with pytest.raises(NotFound):
            b.networks.check("gone", asked("gone"))
        b.networks.check("none", asked("bridge"))  # as in Docker: what is asked for counts, not the mode
        for mode, names, message in (
            ("host", "bridge", "sharing network namespace"),
            ("host", "host bridge", "sharing network namespace"),
            ("bridge", "host", "connected to host network"),
            ("bridge", "bridge host", "sharing network namespace"),
            ("bridge", "host bridge", "sharing network namespace"),
            (b.networks.resolve("host").id, "host", "connected to host network"),
            ("none", "none bridge", r"private \(none\) mode"),
            ("bridge", "bridge none", r"private \(none\) mode"),
        ):
            with pytest.raises(InvalidParameter, match=message):
                b.networks.check(mode, asked(*names.split()))

    bench(body)


def test_restart_with_living_containers(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        port = free_port()
        bindings = {"80": [PortBinding(host_port=str(port))]}
        async with bench.daemon():
            living = await bench.start(1, bindings=bindings)
            await bench.start(2)
        # As the container's row has it.
        kept = msgspec.msgpack.decode(msgspec.msgpack.encode(living), type=Sandbox)
        assert kept == living
        bench = Bench(tmp_path)
        async with bench.daemon() as networks:
            await networks.restore([kept])
            assert [e.container_id for e in bench.bridge.endpoints.values()] == [living.container_id]
            assert ("restore", "1") in bench.bridge.log
            with pytest.raises(DriverError, match="port is already allocated"):
                await bench.plan(3, bindings=bindings)
            assert address(await bench.start(4)) == "10.200.0.3/24"
            assert networks.inspect("bridge").containers[living.container_id].ipv4_address == "10.200.0.2/24"
            await networks.release(kept)
            assert address(await bench.start(5, bindings=bindings)) == "10.200.0.2/24"

    trio.run(main)


def test_a_network_that_cannot_be_made_at_boot(tmp_path: Path) -> None:
    async def main() -> None:
        bench = Bench(tmp_path)
        bench.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
        async with bench.daemon():
            bench.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
            with pytest.raises(DriverError, match="no module"):
                await bench.plan(1)
            await bench.plan(1)  # it is tried again at each start

    trio.run(main)


def test_connect_and_disconnect(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("two", "10.203.0.0/24"))
        sandbox = await b.start(1)
        grown = await b.networks.connect(sandbox, "two", static("10.203.0.7", aliases=["a"]), NETNS)
        assert [each.endpoint.ifname for each in grown.endpoints] == ["eth0", "eth1"]
        assert address(grown, 1) == "10.203.0.7/24" and not grown.endpoints[1].endpoint.default_route
        with pytest.raises(Forbidden, match="already exists in network two"):
            await b.networks.connect(grown, "two", EndpointSettings(), NETNS)
        assert set(b.networks.settings(grown)["Networks"]) == {"bridge", "two"}
        shrunk = await b.networks.disconnect(grown, "two", NETNS)
        assert shrunk == sandbox
        with pytest.raises(Forbidden, match="is not connected to network two"):
            await b.networks.disconnect(shrunk, "two", NETNS)
        assert len(b.bridge.endpoints) == 1
        for mode in ("none", "host"):
            with pytest.raises(InvalidParameter):
                await b.networks.connect(sandbox, mode, EndpointSettings(), NETNS)

    bench(body)


def test_settings_of_a_stopped_container(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        record = await b.networks.create(request("mine"))
        settings = b.networks.settings(
            None, endpoints={"mine": EndpointSettings(aliases=["x"])}, exposed={"80"}, running=False
        )
        assert settings["Ports"] == {} and settings["SandboxID"] == ""
        assert settings["Networks"]["mine"]["NetworkID"] == record.id
        assert settings["Networks"]["mine"]["Aliases"] == ["x"]
        assert settings["Networks"]["mine"]["IPAddress"] == ""
        assert b.networks.settings(None)["Networks"] == {}
        by_id = b.networks.settings(None, endpoints=asked(record.id, "gone", record.id[:8]))["Networks"]
        assert {name: each["NetworkID"] for name, each in by_id.items()} == {
            "mine": record.id,
            "gone": "",
            record.id[:8]: "",
        }

    bench(body)


def test_list_filters(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("mine", labels={"a": "b"}))
        await b.networks.create(request("used"))
        await b.start(1, "used")

        def names(**given: list[str]) -> set[str]:
            accept = filters.listed(given)
            return {record.name for record, in_use in b.networks.records() if accept(record, in_use)}

        assert names() == {"bridge", "host", "none", "mine", "used"}
        assert names(type=["custom"]) == {"mine", "used"}
        assert names(dangling=["true"]) == {"mine"}
        assert names(driver=["null", "host"]) == {"host", "none"}
        assert names(name=["^m"]) == names(label=["a=b"]) == {"mine"}
        assert names(id=[b.networks.resolve("used").id[:8]]) == {"used"}
        assert names(scope=["swarm"]) == set()
        with pytest.raises(InvalidParameter, match="invalid filter 'nope'"):
            names(nope=["x"])

    bench(body)


# --- which networks a container is on -------------------------------------------------------------------------------


def test_what_is_asked_for_is_all_there_is(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("inner", internal=True))
        assert b.networks.pin("", {}) == ("bridge", asked("bridge"))
        assert b.networks.pin("inner", {}) == ("inner", asked("inner"))
        mode, endpoints = b.networks.pin("bridge", {"inner": None})
        assert (mode, endpoints) == ("bridge", asked("inner"))
        sandbox = await b.start(1, mode, endpoints=endpoints)
        assert [each.network.name for each in sandbox.endpoints] == ["inner"]
        stopped = b.networks.settings(None, endpoints=endpoints, running=False)
        assert set(stopped["Networks"]) == {"inner"}
        assert b.networks.pin("container:x", asked("inner")) == ("container:x", {})
        assert (await b.start(2, endpoints={})).endpoints == ()

    bench(body)


def test_names_mean_the_same_networks_for_ever(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        mine = await b.networks.create(request("mine"))
        assert b.networks.pin(mine.id[:6], asked(mine.id[:6], "mine")) == (mine.id, asked("mine"))
        assert b.networks.pin(mine.id, {}) == (mine.id, asked(mine.id))
        assert b.networks.pin("default", asked("default")) == ("bridge", asked("bridge"))
        # A network that is called as another's id begins, until it is removed.
        name = mine.id[:1]
        await b.networks.create(request(name))
        mode, endpoints = b.networks.pin(name, asked(name))
        assert (mode, endpoints) == (name, asked(name))
        await b.networks.remove(name)
        with pytest.raises(NotFound, match=rf"^network {name} not found$"):
            await b.plan(1, mode, endpoints=endpoints)
        assert b.networks.settings(None, endpoints=endpoints)["Networks"][name]["NetworkID"] == ""
        # One that did not exist when it was asked for.
        assert b.networks.pin("zz", {}) == ("zz", asked("zz"))

    bench(body)


def test_a_network_by_its_id(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        one, two = await b.networks.create(request("one")), await b.networks.create(request("two"))
        by_id = EndpointSettings(network_id=two.id, aliases=["x"])
        _, endpoints = b.networks.pin("bridge", {"one": by_id, "bridge": EndpointSettings(network_id=one.id)})
        assert endpoints == {two.id: EndpointSettings(aliases=["x"]), "bridge": EndpointSettings()}

    bench(body)


@pytest.mark.parametrize("name", ["default", "host", "none", "bridge", "container:", f"container:{'a' * 64}"])
def test_names_that_are_modes(bench: Callable[..., None], name: str) -> None:
    async def body(b: Bench) -> None:
        with pytest.raises(Forbidden, match=f"^operation is not permitted on predefined {name} network $"):
            await b.networks.create(request(name))

    bench(body)


def test_ports_are_the_gateways(bench: Callable[..., None]) -> None:
    async def body(b: Bench) -> None:
        await b.networks.create(request("inner", internal=True))
        for mode, shown in (("bridge", {"80/tcp": None}), ("inner", {}), ("none", {})):
            sandbox = await b.start(1, mode, exposed={"80"})
            assert b.networks.settings(sandbox, exposed={"80"})["Ports"] == shown
            await b.networks.release(sandbox)
        assert b.networks.settings(None, endpoints=asked("host"), exposed={"80"})["Ports"] == {}

    bench(body)


def test_subnets_of_the_host(bench: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    async def body(b: Bench) -> None:
        assert b.networks.overlaps_host(request("n", "10.5.5.0/24")) == ["10.5.5.0/24"]
        assert b.networks.overlaps_host(request("n", "10.0.0.0/8")) == ["10.0.0.0/8"]
        for given in (request("n"), request("n", "10.6.0.0/24"), request("n", "0.0.0.0/24"), request("n", "nonsense")):
            assert b.networks.overlaps_host(given) == []
        both = CreateRequest(
            name="n", ipam=IPAM(config=[IPAMConfig(subnet=each) for each in ("fd00:9::/64", "192.0.2.53/24", "10.6.0.0/24")])
        )
        assert b.networks.overlaps_host(both) == ["fd00:9::/64", "192.0.2.53/24"]

    used = [ipaddress.ip_network(each) for each in ("10.5.0.0/16", "192.0.2.53/32", "fd00:9::/48")]
    monkeypatch.setattr("orlop_kernel.engine.networks.host.used", lambda: used)
    bench(body)
