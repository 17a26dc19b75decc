from __future__ import annotations

import subprocess

import pytest

from orlop_net_bridge import BridgeDriver
from orlop_sdk import linux
from orlop_sdk.testing import NetworkFactory, NetworkMain, NetworkSuite, in_own_network

pytestmark = pytest.mark.root


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class TestBridge(NetworkSuite):
    """Each test runs in a new network namespace; the machine's network is not changed."""

    real = True

    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return BridgeDriver

    def host(self, main: NetworkMain) -> None:
        async def watched() -> None:
            await main()
            left = _output("ip", "-o", "link")
            assert "veth" not in left and "br-" not in left
            assert "orlop" not in _output("nft", "list", "tables")

        in_own_network(watched)

    def look(self, netns: str) -> set[str] | None:
        with open(netns, "rb") as file, linux.in_network_namespace(file.fileno()):
            text = subprocess.run(
                ["ip", "-4", "-o", "address", "show", "up"], check=True, capture_output=True, text=True
            ).stdout
        return {line.split()[3] for line in text.splitlines()}
