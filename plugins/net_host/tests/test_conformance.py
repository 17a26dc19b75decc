from __future__ import annotations

import pytest

from orlop_net_host import HostDriver
from orlop_sdk.testing import NetworkFactory, NetworkSuite


class TestHost(NetworkSuite):
    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return HostDriver

    def test_container_runs_in_the_hosts_namespace(self, factory: NetworkFactory) -> None:
        assert factory(self.context()).capabilities.sandbox == "host"
