"""Networks when the daemon starts: running containers, damaged rows, interrupted removals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from networks_fixture import NETNS, NetworksFixture, address, members, request

from orlop_engine.networks.service import Sandbox
from orlop_engine.types.containers import EndpointSettings, PortBinding
from orlop_sdk import (
    Address,
    DriverError,
    Unavailable,
)
from orlop_sdk.testing.ports import free_port


def test_running_containers_keep_addresses_and_ports_after_a_restart_of_the_daemon(tmp_path: Path) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        port = free_port()
        bindings = {"80": [PortBinding(host_port=str(port))]}
        async with networks_fixture.daemon():
            living = await networks_fixture.start(1, bindings=bindings)
            await networks_fixture.start(2)
        # Use the sandbox in the form in which the container's row stores it.
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
def test_invalid_row_of_a_container_does_not_affect_networks_of_other_containers(tmp_path: Path, damage: str) -> None:
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


def test_network_whose_removal_failed_can_still_be_used(networks_fixture: Callable[..., None]) -> None:
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


def test_network_that_the_driver_could_not_create_is_created_at_the_next_use(tmp_path: Path) -> None:
    async def main() -> None:
        networks_fixture = NetworksFixture(tmp_path)
        networks_fixture.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
        async with networks_fixture.daemon():
            networks_fixture.bridge.fail["create_network"] = DriverError("cannot create bridge: no module")
            with pytest.raises(DriverError, match="no module"):
                await networks_fixture.plan(1)
            await networks_fixture.plan(1)  # each start tries again to create the network

    trio.run(main)
