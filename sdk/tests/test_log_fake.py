"""The fake log driver passes the conformance suite."""

from __future__ import annotations

import pytest

from orlop_sdk import LogDriver
from orlop_sdk.testing.log import FakeLog, LogSuite


class TestFakeLog(LogSuite):
    name = "fake"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return FakeLog()
