"""The choice of a running container's gateway. If another network becomes the gateway, ports and routes move to this
network."""

from __future__ import annotations

import socket
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import trio
from networks_fixture import NETNS, FakeListeners, NetworksFixture, request, routes

from orlop_engine.networks.ports import wanted_ports
from orlop_engine.types.containers import EndpointSettings, PortBinding
from orlop_monitor.protocol import Forward
from orlop_sdk import DeadlineExceeded, DriverError, Endpoint, EndpointState, Unavailable
from orlop_sdk.testing.ports import free_port


def test_default_route_and_ports_move_when_networks_are_connected_or_disconnected(
    networks_fixture: Callable[..., None],
) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("two", "10.203.0.0/24"))
        bindings = {"80": [PortBinding(host_port=str(free_port()))]}
        listeners = FakeListeners()
        sandbox = await h.start(1, bindings=bindings)
        grown = await h.networks.connect(sandbox, "two", EndpointSettings(), NETNS)
        assert await h.networks.choose_gateway(grown, [], NETNS, listeners) is grown, (
            "it has the former gateway as long as that is first"
        )
        left = await h.networks.choose_gateway(grown, [], NETNS, listeners, leaving=grown.endpoints[0].network.id)
        assert routes(left) == [("bridge", False, 0), ("two", True, 1)]
        assert listeners.moved == [{"10.200.0.2": "10.203.0.2"}] and not listeners.served
        assert set(h.bridge.ports.values()) == {left.endpoints[1].endpoint.id}
        left = await h.networks.disconnect(left, "bridge", NETNS)
        assert routes(left) == [("two", True, 1)]
        with pytest.raises(DriverError, match="port is already allocated"):
            await h.plan(2, bindings=bindings)
        back = await h.networks.connect(left, "bridge", EndpointSettings(gw_priority=1), NETNS)
        back = await h.networks.choose_gateway(back, [], NETNS, listeners)
        assert routes(back) == [("two", False, 0), ("bridge", True, 1)]
        # The container leaves its last network with a gateway, and its ports are withdrawn.
        back = await h.networks.disconnect(back, "two", NETNS)
        alone = await h.networks.choose_gateway(back, [], NETNS, listeners, leaving=h.networks.resolve("bridge").id)
        assert routes(alone) == [("bridge", False, 0)] and listeners.moved[-1] == {"10.200.0.2": ""}
        assert not h.bridge.ports
        await h.networks.release(await h.start(3, bindings=bindings))

    networks_fixture(body)


def test_ports_are_published_when_a_network_with_a_gateway_is_connected_later(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        port = free_port()
        wanted = wanted_ports((), {"80": [PortBinding(host_port=str(port))]}, False)
        sandbox = await h.start(1, "inner", bindings={"80": [PortBinding(host_port=str(port))]})
        assert routes(sandbox) == [("inner", False, 0)]
        grown = await h.networks.connect(sandbox, "bridge", EndpointSettings(), NETNS)
        listeners = FakeListeners()
        for failing in (listeners, h.bridge):  # first the monitor fails, then the driver; both attempts are undone
            if failing is listeners:
                listeners.fail = DriverError("no")
            else:
                h.bridge.fail["update"] = DriverError("no")
            with pytest.raises(DriverError):
                await h.networks.choose_gateway(grown, wanted, NETNS, listeners)
            listeners.fail = None
            assert not h.bridge.ports
        assert not any(each.default_route for each in h.bridge.endpoints.values())
        grown = await h.networks.choose_gateway(grown, wanted, NETNS, listeners)
        assert routes(grown) == [("inner", False, 0), ("bridge", True, 1)]
        assert listeners.served == [Forward("tcp", "10.200.0.2", 80)]
        await h.networks.release(grown)
        await h.networks.release(await h.start(2, bindings={"80": [PortBinding(host_port=str(port))]}))

    networks_fixture(body)


def test_listeners_that_the_monitor_opens_after_the_deadline_are_closed(networks_fixture: Callable[..., None]) -> None:
    class Late(FakeListeners):
        async def serve(self, forwards: Sequence[Forward], sockets: Sequence[socket.socket]) -> None:
            await super().serve(forwards, sockets)
            raise DeadlineExceeded("its monitor gave no answer in 10 s")

    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("inner", internal=True))
        bindings = {"80": [PortBinding(host_port=str(free_port()))]}
        sandbox = await h.start(1, "inner", bindings=bindings)
        grown = await h.networks.connect(sandbox, "bridge", EndpointSettings(), NETNS)
        late = Late()
        with pytest.raises(DeadlineExceeded):
            await h.networks.choose_gateway(grown, wanted_ports((), bindings, False), NETNS, late)
        assert len(late.served) == 1 and late.moved == [{"10.200.0.2": ""}]

    networks_fixture(body)


def test_former_gateway_is_restored_if_the_gateway_cannot_be_moved(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        await h.networks.create(request("two"))
        sandbox = await h.start(1, bindings={"80": [PortBinding(host_port=str(free_port()))]})
        grown = await h.networks.connect(sandbox, "two", EndpointSettings(gw_priority=9), NETNS)
        update = h.bridge.update

        async def refuse(endpoint: Endpoint, state: EndpointState) -> None:
            if endpoint.network.name == "two" and endpoint.default_route:
                raise DriverError("no")
            await update(endpoint, state)

        h.bridge.update = refuse  # type: ignore[method-assign]
        with pytest.raises(DriverError):
            await h.networks.choose_gateway(grown, [], NETNS, FakeListeners())
        former = h.bridge.endpoints[sandbox.endpoints[0].endpoint.id]
        assert former.default_route and set(h.bridge.ports.values()) == {former.id}
        h.bridge.update = update  # type: ignore[method-assign]
        deaf = FakeListeners()
        deaf.fail = DriverError("its monitor is of an older Orlop")
        assert routes(await h.networks.choose_gateway(grown, [], NETNS, deaf)) == [("bridge", False, 0), ("two", True, 1)]

    networks_fixture(body)


def test_daemon_start_restores_the_gateway_in_the_containers_row(tmp_path: Path) -> None:
    async def body() -> None:
        h, listeners = NetworksFixture(tmp_path), FakeListeners()
        async with h.daemon() as networks:
            await networks.create(request("two", "10.203.0.0/24"))
            sandbox = await h.start(1, bindings={"80": [PortBinding(host_port=str(free_port()))]})
            grown = await networks.connect(sandbox, "two", EndpointSettings(gw_priority=9), NETNS)
            await networks.choose_gateway(grown, [], NETNS, listeners)  # the daemon is killed before the row is saved
        async with h.daemon(grown) as networks:
            await networks.keep_gateway(grown, NETNS, listeners)
            told = {each.network.name: (each.default_route, len(each.ports)) for each in h.bridge.endpoints.values()}
            assert told == {"bridge": (True, 1), "two": (False, 0)}
            assert h.bridge.log[-2:] == [("update", "bridge"), ("update", "two")], "never without a route"
            assert listeners.moved[-1] == {"10.203.0.2": "10.200.0.2"}

    trio.run(body)


def test_daemon_start_closes_listeners_that_are_not_in_the_containers_row(tmp_path: Path) -> None:
    async def body() -> None:
        h, listeners, port = NetworksFixture(tmp_path), FakeListeners(), str(free_port())
        wanted = wanted_ports((), {"80": [PortBinding(host_port=port)]}, False)
        async with h.daemon() as networks:
            await networks.create(request("inner", "10.204.0.0/24", internal=True))
            sandbox = await h.start(1, "inner", bindings={"80": [PortBinding(host_port=port)]})
            grown = await networks.connect(sandbox, "bridge", EndpointSettings(), NETNS)
            await networks.choose_gateway(grown, wanted, NETNS, listeners)
        async with h.daemon(grown) as networks:
            await networks.keep_gateway(grown, NETNS, listeners)
            assert listeners.moved[-1] == {"10.204.0.2": "", "10.200.0.2": ""}
            assert not h.bridge.ports and not any(each.default_route for each in h.bridge.endpoints.values())
            listeners.fail = Unavailable("its monitor is of an older Orlop")
            await networks.keep_gateway(grown, NETNS, listeners)

    trio.run(body)
