from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest
from orlop_mydriver import ADDRESS, MyDriver

from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """The lines that arrived. A record is the data of one connection; its last line may still be incomplete."""
    messages = [json.loads(text) for record in records for text in record.split(b"\n")[:-1]]
    return [(message["stream"], message["text"].encode()) for message in messages]


class TestMyDriver(LogServiceSuite):
    name = "mydriver"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return MyDriver()

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with closing(RecordingService("tcp", lines)) as service:
            service.options = {ADDRESS: service.address}
            yield service
