from __future__ import annotations

import pytest

from orlop_kernel.testing import NetworkFactory, NetworkSuite
from orlop_net_host import HostDriver


class TestHost(NetworkSuite):
    @pytest.fixture
    def factory(self) -> NetworkFactory:
        return HostDriver

    def test_runs_in_the_hosts_namespace(self, factory: NetworkFactory) -> None:
        assert factory(self.context()).capabilities.sandbox == "host"
