from __future__ import annotations

import pytest

from orlop_kernel.spi import LogDriver
from orlop_kernel.testing import LogWriterSuite
from orlop_log_none import NoLog


class TestNoLog(LogWriterSuite):
    name = "none"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return NoLog()
