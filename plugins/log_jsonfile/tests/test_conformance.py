from __future__ import annotations

import pytest

from orlop_kernel.spi import LogDriver
from orlop_kernel.testing import LogSuite
from orlop_log_jsonfile import JsonFile


class TestJsonFile(LogSuite):
    name = "json-file"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return JsonFile()
