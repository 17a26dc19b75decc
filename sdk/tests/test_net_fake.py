"""The fake network driver passes the conformance suite."""

from __future__ import annotations

import pytest

from orlop_sdk import NetworkContext, NetworkDriver
from orlop_sdk.testing.network import Factory, FakeNetwork, NetworkSuite


class TestFake(NetworkSuite):
    @pytest.fixture
    def factory(self) -> Factory:
        hosts: dict[str, dict[tuple[str, str, int], str]] = {}

        def make(context: NetworkContext) -> NetworkDriver:
            return FakeNetwork(context, shared=hosts.setdefault(context.instance, {}))

        return make
