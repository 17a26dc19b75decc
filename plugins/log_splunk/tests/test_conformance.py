from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import closing

import pytest

from orlop_log_splunk import Splunk
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
_HEAD = re.compile(rb"POST [^\r]*\r\n(?:[^\r]+\r\n)*?Content-Length: (\d+)\r\n(?:[^\r]+\r\n)*\r\n")


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    found: list[tuple[str, bytes]] = []
    for record in records:
        position = 0
        while head := _HEAD.search(record, position):
            position = head.end() + int(head[1])
            text, at = record[head.end() : position].decode(), 0
            while at < len(text) and position <= len(record):
                event, at = json.JSONDecoder().raw_decode(text, at)
                found.append((event["event"]["source"], event["event"]["line"].encode()))
    return found


class TestSplunk(LogServiceSuite):
    name = "splunk"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return Splunk()

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        def answer(request: bytes) -> tuple[int, bytes]:
            head = _HEAD.search(request)
            complete = head is not None and len(request) >= head.end() + int(head[1])
            return (len(request), _OK) if complete else (0, b"")

        with closing(RecordingService("tcp", lines, answer=answer)) as service:
            service.options = {"splunk-url": service.address.replace("tcp:", "http:"), "splunk-token": "secret"}
            yield service
