from __future__ import annotations

import pytest

from orlop_kernel.testing.network import Factory, NetworkSuite
from orlop_net_host import HostDriver


class TestHost(NetworkSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        return HostDriver

    def test_runs_in_the_hosts_namespace(self, factory: Factory) -> None:
        assert factory(self.context()).capabilities.sandbox == "host"
