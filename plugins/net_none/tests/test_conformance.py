from __future__ import annotations

import subprocess

import pytest

from orlop_net_none import NoneDriver
from orlop_sdk import linux
from orlop_sdk.testing import NetworkFactory, NetworkMain, NetworkSuite, in_own_network

pytestmark = pytest.mark.root


def _output(*argv: str) -> str:
    return subprocess.run(argv, check=True, capture_output=True, text=True).stdout


class TestNone(NetworkSuite):
    real = True

    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return NoneDriver

    def host(self, main: NetworkMain) -> None:
        in_own_network(main)

    def look(self, netns: str) -> set[str] | None:
        with open(netns, "rb") as file, linux.in_network_namespace(file.fileno()):
            text = subprocess.run(
                ["ip", "-4", "-o", "address", "show", "up"], check=True, capture_output=True, text=True
            ).stdout
        return {line.split()[3] for line in text.splitlines()}
