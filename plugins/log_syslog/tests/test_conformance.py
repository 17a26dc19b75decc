from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from orlop_log_syslog import Syslog
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService

_MESSAGE = re.compile(rb"<(\d+)>\w+ [ \d]\d [\d:]+ \w+\[\d+\]: (.*)\n")
_STREAMS = {b"30": "stdout", b"27": "stderr"}


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    return [(_STREAMS[priority], text) for record in records for priority, text in _MESSAGE.findall(record)]


class TestSyslog(LogServiceSuite):
    name = "syslog"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return Syslog()

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with closing(RecordingService("tcp", lines)) as service:
            service.options = {"syslog-address": service.address}
            yield service


class TestSyslogOverDatagrams(TestSyslog):
    loses = True

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with closing(RecordingService("udp", lines)) as service:
            service.options = {"syslog-address": service.address}
            yield service
