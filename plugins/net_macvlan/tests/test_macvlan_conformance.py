from __future__ import annotations

import subprocess

import msgspec
import pytest

from orlop_net_macvlan import MacvlanDriver
from orlop_sdk import NetworkSpec, linux
from orlop_sdk.testing import NetworkFactory, NetworkMain, NetworkSuite, in_own_network

pytestmark = pytest.mark.root


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class TestMacvlan(NetworkSuite):
    """Each test runs in a new network namespace, which has a veth pair as the link to other hosts."""

    real = True

    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return MacvlanDriver

    def network(self, ident: str = "a", subnet: str = "10.211.0") -> NetworkSpec:
        return msgspec.structs.replace(super().network(ident, subnet), options={"parent": "eth0"})

    def host(self, main: NetworkMain) -> None:
        async def watched() -> None:
            for command in ("add eth0 type veth peer name peer0", "set eth0 up", "set peer0 up"):
                _output("ip", "link", *command.split())
            await main()
            assert {line.split()[0] for line in _output("ip", "-br", "link").splitlines()} == {
                "lo",
                "eth0@peer0",
                "peer0@eth0",
            }

        in_own_network(watched)

    def look(self, netns: str) -> set[str] | None:
        with open(netns, "rb") as file, linux.in_network_namespace(file.fileno()):
            text = _output("ip", "-4", "-o", "address", "show", "up")
        return {line.split()[3] for line in text.splitlines()}


class TestMacvlanWithoutParent(TestMacvlan):
    """Networks without the option `parent`."""

    def network(self, ident: str = "a", subnet: str = "10.211.0") -> NetworkSpec:
        return NetworkSuite.network(self, ident, subnet)
