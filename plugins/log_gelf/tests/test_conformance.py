from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from orlop_log_gelf import Gelf
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService

_STREAMS = {6: "stdout", 3: "stderr"}


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    found = [json.loads(text) for record in records for text in record.split(b"\0")[:-1]]
    return [(_STREAMS[message["level"]], message["short_message"].encode()) for message in found]


class TestGelf(LogServiceSuite):
    name = "gelf"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return Gelf()

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with closing(RecordingService("tcp", lines)) as service:
            service.options = {"gelf-address": service.address}
            yield service
