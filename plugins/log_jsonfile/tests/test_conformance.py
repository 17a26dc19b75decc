from __future__ import annotations

import pytest

from orlop_log_jsonfile import JsonFile
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogSuite


class TestJsonFile(LogSuite):
    name = "json-file"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return JsonFile()
