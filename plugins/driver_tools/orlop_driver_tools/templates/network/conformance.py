from __future__ import annotations

import subprocess

import pytest
from orlop_mydriver import MyDriver

from orlop_sdk import linux
from orlop_sdk.testing import NetworkFactory, NetworkMain, NetworkSuite, in_own_network


@pytest.mark.root
class TestMyDriver(NetworkSuite):
    """Each test runs in a new network namespace; the machine's network is not changed."""

    real = True

    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return MyDriver

    def host(self, main: NetworkMain) -> None:
        in_own_network(main)

    def look(self, netns: str) -> set[str] | None:
        with open(netns, "rb") as file, linux.in_network_namespace(file.fileno()):
            argv = ["ip", "-4", "-o", "address", "show", "up"]
            text = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
        return {line.split()[3] for line in text.splitlines()}
