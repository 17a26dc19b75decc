"""The rows of running and stopped containers after connects and disconnects, on real networks with the fake driver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio
from networks_fixture import NETNS, FakeListeners, NetworksFixture, asked, request, routes

from orlop_engine.containers import connections, netfiles
from orlop_engine.containers.container import Container
from orlop_engine.containers.events import ContainerEvents
from orlop_engine.containers.record import ContainerRecord, decode, encode
from orlop_engine.types.containers import ContainerConfig, EndpointIPAMConfig, EndpointSettings, HostConfig, PortBinding
from orlop_sdk import DriverError, Endpoint, EndpointState, Forbidden, InvalidParameter
from orlop_sdk.testing.ports import free_port


def record(mode: str = "bridge", **more: Any) -> ContainerRecord:
    return ContainerRecord(
        id=f"{1:064x}",
        name="c1",
        created_ns=1,
        args=["true"],
        config=ContainerConfig(),
        host_config=HostConfig(network_mode=mode, port_bindings=more.pop("bindings", None)),
        image_id="i",
        storage_driver="fake",
        **more,
    )


class LiveFixture:
    """The parts of an engine that these functions use, and one container."""

    def __init__(self, networks_fixture: NetworksFixture, row: ContainerRecord) -> None:
        self.saved: list[ContainerRecord] = []
        self.save_error: Exception | None = None
        self.saves = 99
        self.ports = cast(
            "Any",
            SimpleNamespace(
                networks=networks_fixture.networks,
                rows=SimpleNamespace(save=self._save, change=self._change),
                background=SimpleNamespace(start=lambda operation, *args: None),
                events=ContainerEvents(networks_fixture.events),
            ),
        )
        self.listeners = FakeListeners()
        self.container = Container(row)
        connections.complete(networks_fixture.networks, self.container)

    async def _save(self, container: Any) -> None:
        self.saves -= 1
        if self.save_error or self.saves < 0:
            raise self.save_error or DriverError("disk full")
        self.saved.append(decode(encode(container.record)))

    @asynccontextmanager
    async def _change(self, container: Any) -> AsyncIterator[ContainerRecord]:
        with container.publish() as draft:
            yield draft
            await self._save(SimpleNamespace(record=draft))

    async def run(self, networks_fixture: NetworksFixture) -> None:
        row = self.container.record
        bindings = row.host_config.port_bindings or {}
        row.sandbox = await networks_fixture.start(
            1, row.host_config.network_mode, endpoints=row.endpoints, bindings=bindings
        )
        row.state = row.state.after_start(77, 1, 1)
        monitor = self.listeners
        monitor.netns_path = NETNS  # type: ignore[attr-defined]
        settled = trio.Event()
        settled.set()
        self.container.run = SimpleNamespace(monitor=monitor, settled=settled)

    async def connect(self, network: str, **settings: Any) -> None:
        await connections.connect(self.ports, self.container, network, EndpointSettings(**settings))

    async def disconnect(self, network: str) -> None:
        await connections.disconnect(self.ports, self.container, network)

    async def exit(self, networks_fixture: NetworksFixture) -> None:
        """Release the container's network, as `connections.release` does."""
        async with self.container.network_lock:
            row = self.container.record
            sandbox, row.sandbox = row.sandbox, None
            if sandbox is not None:
                await networks_fixture.networks.release(sandbox)


Body = Callable[[NetworksFixture, LiveFixture], Awaitable[None]]


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    async def answer_names(containers: Any, container: Any) -> None:
        pass

    monkeypatch.setattr(netfiles, "refresh", lambda containers, container, before: None)
    monkeypatch.setattr(netfiles, "answer_names", answer_names)

    def start(body: Body, row: ContainerRecord | None = None) -> None:
        async def main() -> None:
            networks_fixture = NetworksFixture(tmp_path)
            async with networks_fixture.daemon() as networks:
                await networks.create(request("two", "10.203.0.0/24"))
                await networks.create(request("inner", internal=True))
                await body(
                    networks_fixture,
                    LiveFixture(networks_fixture, row or record(endpoints=asked("bridge"), endpoints_complete=True)),
                )

        trio.run(main)

    return start


def test_container_rows_of_older_daemons_are_completed_with_their_networks(ship: Callable[..., None]) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        def completed(mode: str, **more: Any) -> ContainerRecord:
            container = Container(record(mode, **more))
            connections.complete(h.networks, container)
            assert container.record.endpoints_complete
            return container.record

        assert completed("mine").endpoints == asked("mine")  # the network `mine` does not exist
        assert completed("", endpoints=asked("two")).endpoints == asked("bridge", "two")
        assert completed("two", endpoints={"two": EndpointSettings(gw_priority=1)}).endpoints["two"].gw_priority == 1
        assert completed("container:x").endpoints == {}
        assert completed("bridge", endpoints={}, endpoints_complete=True).endpoints == {}
        two = h.networks.resolve("two").id
        short = completed(two[:12], endpoints=asked(two[:12], "inner"))
        assert (short.host_config.network_mode, short.endpoints) == (two, asked(two, "inner"))

    ship(body)


@pytest.mark.parametrize("running", [True, False])
def test_container_can_leave_its_only_network_and_join_another_network(ship: Callable[..., None], running: bool) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        if running:
            await s.run(h)
        await s.disconnect("bridge")
        row = s.saved[-1]
        assert (row.host_config.network_mode, row.endpoints) == ("bridge", {})
        again = await h.start(2, "bridge", endpoints=row.endpoints)
        assert again.endpoints == (), "a start does not join what was left"
        with pytest.raises(Forbidden, match="is not connected to network bridge"):
            await s.disconnect("bridge")
        await s.connect("two")
        if running:
            with pytest.raises(Forbidden, match="already exists in network two"):
                await s.connect("two")
        else:
            await s.connect("two", aliases=["other"])
            with pytest.raises(InvalidParameter, match="no configured subnet"):
                await s.connect("two", ipam_config=EndpointIPAMConfig(ipv4_address="10.9.9.9"))
            assert s.container.record.endpoints == asked("two"), "it keeps the settings that it has"
        assert (s.saved[-1].host_config.network_mode, set(s.saved[-1].endpoints)) == ("bridge", {"two"})
        if running:
            assert routes(s.container.record.sandbox) == [("two", True, 0)]

    ship(body)


def test_network_connect_checks_conflicts_with_the_connected_networks(ship: Callable[..., None]) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        with pytest.raises(InvalidParameter, match=r"private \(none\) mode"):
            await s.connect("two")
        await s.disconnect("none")
        await s.connect("two")
        with pytest.raises(InvalidParameter, match="container sharing network namespace"):
            await s.connect("host")

    ship(body, record("none"))


@pytest.mark.parametrize("mode", ["host", "container:x"])
def test_connect_is_refused_for_containers_that_share_a_network_namespace(ship: Callable[..., None], mode: str) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        with pytest.raises(InvalidParameter, match="container sharing network namespace"):
            await s.connect("two")
        with pytest.raises((InvalidParameter, Forbidden)):
            await s.disconnect("host")

    ship(body, record(mode))


def test_connect_and_disconnect_move_the_default_route_and_published_ports(ship: Callable[..., None]) -> None:
    bindings = {"80": [PortBinding(host_port=str(free_port()))]}

    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        assert routes(s.container.record.sandbox) == [("inner", False, 0)]
        await s.connect("bridge")
        assert routes(s.saved[-1].sandbox) == [("inner", False, 0), ("bridge", True, 1)]  # type: ignore[arg-type]
        assert len(s.listeners.served) == 1
        await s.connect("two", gw_priority=5)
        await s.disconnect("inner")
        await s.disconnect("bridge")
        assert routes(s.saved[-1].sandbox) == [("two", True, 1)]  # type: ignore[arg-type]
        assert s.listeners.moved == [{"10.200.0.2": "10.203.0.2"}]

    ship(body, record("inner", bindings=bindings))


def test_connect_is_refused_when_a_published_port_is_in_use(ship: Callable[..., None]) -> None:
    bindings = {"80": [PortBinding(host_port=str(free_port()))]}

    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        await h.start(2, bindings=bindings)
        with pytest.raises(DriverError, match="port is already allocated"):
            await s.connect("bridge")
        row = s.container.record
        assert routes(row.sandbox) == [("inner", False, 0)] and set(row.endpoints) == {"inner"}
        assert len(h.bridge.endpoints) == 2, "the new endpoint is gone"

    ship(body, record("inner", bindings=bindings))


def test_disconnect_is_undone_when_the_row_cannot_be_saved(ship: Callable[..., None]) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        await s.connect("two")
        s.save_error = DriverError("disk full")
        with pytest.raises(DriverError):
            await s.disconnect("bridge")
        assert set(s.container.record.endpoints) == {"bridge", "two"}
        assert routes(s.container.record.sandbox) == [("bridge", True, 0), ("two", False, 0)], "as it was"
        assert len(h.bridge.endpoints) == 2

    ship(body)


@pytest.mark.parametrize("saves", [0, 1])
def test_connect_is_undone_when_the_row_cannot_be_saved(ship: Callable[..., None], saves: int) -> None:
    bindings = {"80": [PortBinding(host_port=str(free_port()))]}

    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        s.saves = saves
        with pytest.raises(DriverError, match="disk full"):
            await s.connect("two", gw_priority=1)
        row = s.container.record
        assert (routes(row.sandbox), set(row.endpoints)) == ([("bridge", True, 1)], {"bridge"})
        (endpoint,) = h.bridge.endpoints.values()
        assert endpoint.default_route and set(h.bridge.ports.values()) == {endpoint.id}

    ship(body, record(bindings=bindings))


def test_connect_and_disconnect_succeed_even_if_files_cannot_be_rewritten(
    ship: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(containers: Any, container: Any, before: Any) -> None:
        raise ValueError("not what was written")

    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        monkeypatch.setattr(netfiles, "refresh", refuse)
        await s.run(h)
        await s.connect("two")
        await s.disconnect("bridge")
        assert set(s.saved[-1].endpoints) == {"two"}

    ship(body)


def test_disconnect_succeeds_even_if_the_default_route_cannot_be_moved(ship: Callable[..., None]) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        await s.connect("two")
        h.bridge.fail["update"] = DriverError("no")
        await s.disconnect("bridge")
        assert set(s.saved[-1].endpoints) == {"two"} and len(h.bridge.endpoints) == 1

    ship(body)


def test_exit_during_a_connect_leaves_no_endpoint(ship: Callable[..., None]) -> None:
    async def body(h: NetworksFixture, s: LiveFixture) -> None:
        await s.run(h)
        attach = h.bridge.attach
        async with trio.open_nursery() as nursery:

            async def slowly(endpoint: Endpoint) -> EndpointState:
                nursery.start_soon(s.exit, h)
                for _ in range(9):
                    await trio.lowlevel.checkpoint()
                return await attach(endpoint)

            h.bridge.attach = slowly  # type: ignore[method-assign]
            await s.connect("two")
        assert s.container.record.sandbox is None
        for name in ("bridge", "two"):
            assert not h.networks.members(name)
        await h.networks.remove("two")

    ship(body)
