from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from orlop_log_journald import Journald
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService

_PRIORITIES = {b"6": "stdout", b"3": "stderr"}


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    found = []
    for record in records:
        priority, message = (
            re.search(rb"^PRIORITY=(.)$", record, re.MULTILINE),
            re.search(rb"^MESSAGE=(.*)$", record, re.MULTILINE),
        )
        assert priority is not None
        assert message is not None
        found.append((_PRIORITIES[priority[1]], message[1]))
    return found


class TestJournald(LogServiceSuite):
    name = "journald"
    needs_service = True

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with (
            tempfile.TemporaryDirectory(prefix="otj-", dir="/tmp") as home,
            closing(RecordingService("unixgram", lines, f"{home}/s")) as service,
        ):
            yield service

    @pytest.fixture
    def driver(self, service: RecordingService) -> LogDriver:
        return Journald(service.address.removeprefix("unixgram://"))
