from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing

import msgspec
import pytest

from orlop_log_fluentd import Fluentd
from orlop_sdk import LogDriver
from orlop_sdk.testing import LogServiceSuite, RecordingService


def lines(records: Sequence[bytes]) -> list[tuple[str, bytes]]:
    """Each message begins with an array of four values. The first value is a tag of twelve characters."""
    found = []
    for record in records:
        for part in record.split(b"\x94\xac")[1:]:
            try:
                _, _, fields, _ = msgspec.msgpack.decode(b"\x94\xac" + part)
            except msgspec.DecodeError:
                continue  # the message is not complete yet
            found.append((fields["source"], fields["log"].encode()))
    return found


class TestFluentd(LogServiceSuite):
    name = "fluentd"

    @pytest.fixture
    def driver(self) -> LogDriver:
        return Fluentd()

    @pytest.fixture
    def service(self) -> Iterator[RecordingService]:
        with closing(RecordingService("tcp", lines)) as service:
            service.options = {"fluentd-address": service.address}
            yield service
