from __future__ import annotations

import pytest

from orlop_kernel.spi import LogDriver
from orlop_kernel.testing import LogSuite
from orlop_log_local import LocalLog


class TestLocalLog(LogSuite):
    name = "local"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return LocalLog()
