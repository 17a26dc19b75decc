"""Networks that were changed since the last start of the daemon, and tables of another version."""

from __future__ import annotations

import subprocess

import msgspec
import pytest

from orlop_net_bridge import BridgeDriver
from orlop_sdk import (
    Address,
    Conflict,
    Endpoint,
    EndpointState,
    InvalidParameter,
    NetworkContext,
    NetworkSpec,
    PublishedPort,
    Subnet,
)
from orlop_sdk.testing import in_own_network

pytestmark = pytest.mark.root

CONTEXT = NetworkContext(instance="", default_bridge="orlt0", state_dir="/nonexistent")
NETWORK = NetworkSpec(
    id="a" * 64,
    name="bridge",
    subnets=(Subnet("10.211.0.0/16", "10.211.0.1"),),
    options={"com.docker.network.bridge.default_bridge": "true"},
)
SMALLER = msgspec.structs.replace(NETWORK, subnets=(Subnet("10.211.1.0/24", "10.211.1.1"),))


def run(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


def test_changed_subnet_is_replaced_when_the_daemon_starts() -> None:
    async def main() -> None:
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(NETWORK)
        await driver.close()
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(SMALLER)
        await driver.restore([SMALLER], [])
        table = run("nft", "list", "table", "inet", "orlop")
        assert "10.211.1.0/24" in table and "10.211.0.0/16" not in table
        addresses = run("ip", "-4", "-o", "address", "show", "orlt0")
        assert "10.211.1.1/24" in addresses and "10.211.0.1/16" not in addresses
        await driver.delete_network(SMALLER)
        await driver.close()

    in_own_network(main)


def test_new_data_root_takes_over_an_existing_bridge() -> None:
    async def main() -> None:
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(NETWORK)
        await driver.close()
        other = msgspec.structs.replace(SMALLER, id="b" * 64)
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(other)
        await driver.restore([other], [])
        assert "10.211.1.1/24" in run("ip", "-4", "-o", "address", "show", "orlt0")
        await driver.delete_network(other)
        assert "orlt0" not in run("ip", "-o", "link")
        await driver.close()

    in_own_network(main)


def test_nftables_table_of_another_version_is_replaced() -> None:
    async def main() -> None:
        run(
            "nft",
            "add table inet orlop; add set inet orlop bridges { type ipv4_addr; }; add set inet orlop old { type mark; }",
        )
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(NETWORK)
        await driver.restore([NETWORK], [])
        table = run("nft", "list", "table", "inet", "orlop")
        assert '"orlt0"' in table and "set old" not in table
        await driver.delete_network(NETWORK)
        await driver.close()

    in_own_network(main)


def test_invalid_network_does_not_affect_other_networks() -> None:
    async def main() -> None:
        driver = BridgeDriver(CONTEXT)
        sick = NetworkSpec(id="b" * 64, name="sick", subnets=(Subnet("10.212.0.0/16", "10.212.0.1"),))
        for network in (NETWORK, sick):
            await driver.create_network(network)
        sick = msgspec.structs.replace(sick, options={"com.docker.network.driver.mtu": "thin"})
        port = PublishedPort(protocol="tcp", container_port=80, host_ip="0.0.0.0", host_port=8080)
        endpoints = [
            Endpoint(ident * 64, NETWORK, ident * 64, netns="", addresses=(Address(address),), ports=(port,))
            for ident, address in (("c", "10.211.0.2/16"), ("d", "nowhere/16"))
        ]
        await driver.restore([NETWORK, sick], [(endpoint, EndpointState()) for endpoint in endpoints])
        table = run("nft", "list", "table", "inet", "orlop")
        assert '"orlt0"' in table and "tcp . 8080 : 10.211.0.2 . 80" in table
        assert "br-bbbbbbbbbbbb" in run("ip", "-o", "link"), "its bridge is kept"
        await driver.close()

    in_own_network(main)


def test_nftables_rules_are_removed_after_iptables_was_disabled() -> None:
    async def main() -> None:
        driver = BridgeDriver(CONTEXT)
        await driver.create_network(NETWORK)
        await driver.close()
        assert "table inet orlop\n" in run("nft", "list", "tables")
        driver = BridgeDriver(msgspec.structs.replace(CONTEXT, iptables=False))
        await driver.create_network(NETWORK)
        for _ in range(2):
            await driver.restore([NETWORK], [])
            assert run("nft", "list", "tables") == ""
        await driver.delete_network(NETWORK)
        await driver.close()

    in_own_network(main)


def test_bridge_name_that_another_link_or_network_uses_is_refused() -> None:
    async def main() -> None:
        driver = BridgeDriver(CONTEXT)
        run("ip", "link", "add", "orlt0", "type", "veth", "peer", "name", "orlt1")
        with pytest.raises(Conflict, match="is not a bridge"):
            await driver.create_network(NETWORK)
        run("ip", "link", "delete", "orlt0")
        await driver.create_network(NETWORK)
        with pytest.raises(Conflict, match="uses it"):
            await driver.create_network(msgspec.structs.replace(SMALLER, id="b" * 64))
        bad = msgspec.structs.replace(SMALLER, options={"com.docker.network.driver.mtu": "x"})
        with pytest.raises(InvalidParameter):
            await driver.create_network(bad)
        await driver.delete_network(NETWORK)
        await driver.close()

    in_own_network(main)
