from __future__ import annotations

import pytest

from orlop_log_local import LocalLog
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogSuite


class TestLocalLog(LogSuite):
    name = "local"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return LocalLog()
