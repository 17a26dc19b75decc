from __future__ import annotations

import pytest
from orlop_mydriver import MyDriver

from orlop_sdk import LogDriver
from orlop_sdk.testing import LogSuite


class TestMyDriver(LogSuite):
    name = "mydriver"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return MyDriver()
