"""Settings of daemon.json for networks: the default bridge, its range, options of new networks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from networks_fixture import NetworksFixture, address, asked, request, routes

from orlop_engine.config import Config
from orlop_engine.networks import predefined
from orlop_engine.types.containers import PortBinding
from orlop_sdk import (
    InvalidParameter,
    NotFound,
)


def test_predefined_networks_keep_their_ids_after_a_restart_of_the_daemon(tmp_path: Path) -> None:
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


def test_reload_with_an_unusable_bridge_configuration_is_refused(networks_fixture: Callable[..., None]) -> None:
    async def body(h: NetworksFixture) -> None:
        before = h.networks.resolve("bridge")
        h.networks.check_config(msgspec.structs.replace(h.config, default_gateway="10.200.0.9", ipv6=True))
        h.networks.check_config(msgspec.structs.replace(h.config, bip="", bridge="none"))
        with pytest.raises(InvalidParameter, match=r"it is not in 10.200.0.0/24, the bridge's subnet"):
            h.networks.check_config(msgspec.structs.replace(h.config, default_gateway="10.1.1.1"))
        assert h.networks.resolve("bridge") is before

    networks_fixture(body)


@pytest.mark.parametrize("iptables", [True, False])
def test_sandbox_record_contains_the_iptables_setting(networks_fixture: Callable[..., None], iptables: bool) -> None:
    async def body(h: NetworksFixture) -> None:
        assert (await h.start()).iptables is iptables

    networks_fixture(body, iptables=iptables)


def test_daemon_with_bridge_none_has_no_default_network(networks_fixture: Callable[..., None]) -> None:
    """If the key `bridge` is `none`, there is no network `bridge`."""

    async def body(h: NetworksFixture) -> None:
        with pytest.raises(NotFound, match=r"^network bridge not found$"):
            h.networks.resolve("bridge")
        assert h.networks.host_gateways() == ()

    networks_fixture(body, bridge="none", bip="")


def test_containers_for_the_default_bridge_get_no_network_if_the_bridge_is_missing(
    networks_fixture: Callable[..., None],
) -> None:
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


def test_fixed_cidr_limits_addresses_of_the_bridge(tmp_path: Path) -> None:
    """As in Docker, `fixed-cidr` is the subnet if `bip` is not set. An existing subnet is kept if it contains
    `fixed-cidr`."""
    assert fixed(tmp_path, fixed_cidr="10.77.1.7/25") == ("10.77.1.0/25", "10.77.1.2/25")
    assert fixed(tmp_path, fixed_cidr="10.77.1.64/26") == ("10.77.1.0/25", "10.77.1.64/25")
    assert fixed(tmp_path, fixed_cidr="10.77.2.0/24") == ("10.77.2.0/24", "10.77.2.2/24")
    assert fixed(tmp_path, fixed_cidr="10.77.3.128/25", bip="10.77.3.1/24") == ("10.77.3.0/24", "10.77.3.128/24")


def test_configured_bridge_device_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    config = Config(data_root=str(tmp_path), bridge="nosuch0")
    with pytest.raises(InvalidParameter, match=r"^bridge device with non default name nosuch0 must be created manually$"):
        predefined.check(config)
    predefined.check(Config(data_root=str(tmp_path), bridge=config.default_bridge))


def test_default_network_options_of_daemon_json_apply_to_new_networks(networks_fixture: Callable[..., None]) -> None:
    """The value in daemon.json is used if the request contains no value."""

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
