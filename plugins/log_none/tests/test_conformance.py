from __future__ import annotations

import pytest

from orlop_log_none import NoLog
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogWriterSuite


class TestNoLog(LogWriterSuite):
    name = "none"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return NoLog()
