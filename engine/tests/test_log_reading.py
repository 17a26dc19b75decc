"""`engine.logs`: from log records to the bytes that a client receives."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from orlop_engine.logs import LogsRequest, frame_records, parse_tail, parse_time, read_logs
from orlop_sdk import (
    DriverError,
    InvalidParameter,
    LogBlock,
    LogDriver,
    LogInfo,
    LogQuery,
    LogReader,
    LogRecord,
    NotImplementedHere,
)
from orlop_sdk.testing.log import FakeLog

INFO = LogInfo("c" * 64, "/c", "", "", "", "", "")
NS = 1_700_000_000_000_000_000


@pytest.mark.parametrize(
    ("text", "ns"),
    [
        ("", 0),
        ("0", 0),
        ("5", 5_000_000_000),
        ("5.", 5_000_000_000),
        ("5.5", 5_500_000_000),
        ("5.000000001", 5_000_000_001),
        ("1700000000.120000000", 1_700_000_000_120_000_000),
        ("-5", -5_000_000_000),
    ],
)
def test_times_are_parsed(text: str, ns: int) -> None:
    assert parse_time(text) == ns


@pytest.mark.parametrize("text", ["abc", "1.x", "2024-01-01T00:00:00Z", "1.1.1", " 1", "9" * 30])
def test_invalid_times_are_refused(text: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^strconv\.ParseInt: parsing \".*\": invalid syntax$"):
        parse_time(text)


@pytest.mark.parametrize(
    ("text", "tail"), [("", None), ("all", None), ("-1", None), ("x", None), ("0", 0), ("10", 10), ("+3", 3)]
)
def test_tail_is_parsed(text: str, tail: int | None) -> None:
    assert parse_tail(text) == tail


RECORDS = [
    LogRecord("stdout", b"one\n", "2024-01-01T00:00:00Z", {"b": "x y", "a": "1&2"}),
    LogRecord("stderr", b"two\n", "2024-01-01T00:00:00.5Z"),
]


def test_each_log_record_has_a_frame_header_that_identifies_stdout_or_stderr() -> None:
    assert frame_records(RECORDS, LogsRequest()) == b"\1\0\0\0\0\0\0\4one\n\2\0\0\0\0\0\0\4two\n"
    assert frame_records(RECORDS, LogsRequest(stdout=False)) == b"\2\0\0\0\0\0\0\4two\n"
    assert frame_records(RECORDS, LogsRequest(stderr=False)) == b"\1\0\0\0\0\0\0\4one\n"
    assert frame_records(RECORDS, LogsRequest(multiplexed=False)) == b"one\ntwo\n"
    assert frame_records([], LogsRequest()) == b""
    long = LogRecord("stdout", b"x" * 70_000, "")
    assert frame_records([long], LogsRequest())[:8] == b"\1\0\0\0\0\1\x11\x70"


def test_timestamps_and_details_precede_the_text_of_a_log_record() -> None:
    raw = LogsRequest(multiplexed=False, timestamps=True)
    assert frame_records(RECORDS, raw) == b"2024-01-01T00:00:00.000000000Z one\n2024-01-01T00:00:00.500000000Z two\n"
    raw = LogsRequest(multiplexed=False, details=True)
    assert frame_records(RECORDS, raw) == b"a=1%262,b=x+y one\n two\n"
    raw = LogsRequest(multiplexed=False, details=True, timestamps=True, stderr=False)
    assert frame_records(RECORDS, raw) == b"2024-01-01T00:00:00.000000000Z a=1%262,b=x+y one\n"


def written(driver: LogDriver, *texts: bytes) -> LogDriver:
    writer = driver.open_writer(INFO, {})
    writer.write([LogBlock("stdout", text, NS + index) for index, text in enumerate(texts)])
    writer.close()
    return driver


RAW = LogsRequest(multiplexed=False)


def test_log_stream_without_follow_ends_after_the_last_record() -> None:
    async def main() -> None:
        driver = written(FakeLog(), b"a\nb\n", b"c\n")
        async with read_logs(driver, INFO, {}, RAW, None) as stream:
            assert [chunk async for chunk in stream] == [b"a\nb\nc\n"]
        # The stream is used without `async with`, and with `follow` on a stopped container.
        stream = read_logs(driver, INFO, {}, LogsRequest(multiplexed=False, follow=True, tail=1), None)
        assert b"".join([chunk async for chunk in stream]) == b"c\n"

    trio.run(main)


def test_existing_log_records_are_sent_in_big_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    class Slices:
        def __init__(self) -> None:
            self._left = 300

        def read(self) -> Sequence[LogRecord]:
            self._left -= 1
            return [LogRecord("stdout", b"x" * 9999 + b"\n", "")] if self._left >= 0 else []

        def fileno(self) -> int:
            return -1

        def close(self) -> None:
            pass

    async def main() -> None:
        driver = FakeLog()
        monkeypatch.setattr(driver, "open_reader", lambda *_: Slices())
        async with read_logs(driver, INFO, {}, RAW, None) as stream:
            chunks = [chunk async for chunk in stream]
        assert sum(map(len, chunks)) == 3_000_000
        assert all(1 << 16 <= len(chunk) <= 1 << 20 for chunk in chunks[:-1])

    trio.run(main)


def test_followed_log_ends_when_the_container_has_ended() -> None:
    async def main() -> None:
        driver, ended, seen = FakeLog(), trio.Event(), []
        written(driver, b"before\n")
        writer = driver.open_writer(INFO, {})
        request = LogsRequest(multiplexed=False, follow=True)

        async def follow() -> None:
            async with read_logs(driver, INFO, {}, request, ended) as stream:
                async for chunk in stream:
                    seen.append(chunk)
                    if len(seen) == 1:
                        writer.write([LogBlock("stdout", b"after\n", NS)])
                    elif len(seen) == 2:
                        # Output that is written just before the end must not be lost.
                        writer.write([LogBlock("stdout", b"last\n", NS)])
                        ended.set()

        with trio.fail_after(10):
            await follow()
        assert seen == [b"before\n", b"after\n", b"last\n"]

    trio.run(main)


def test_followed_log_without_records_ends_when_the_container_has_ended() -> None:
    async def main() -> None:
        ended = trio.Event()
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                async def follow() -> None:
                    request = LogsRequest(follow=True)
                    async with read_logs(FakeLog(), INFO, {}, request, ended) as stream:
                        assert [chunk async for chunk in stream] == []

                nursery.start_soon(follow)
                await trio.testing.wait_all_tasks_blocked()
                ended.set()

    trio.run(main)


def test_followed_log_ends_when_the_time_until_is_reached() -> None:
    async def main() -> None:
        request = LogsRequest(follow=True, until_ns=time.time_ns() + 50_000_000)
        with trio.fail_after(10):
            async with read_logs(FakeLog(), INFO, {}, request, trio.Event()) as stream:
                assert [chunk async for chunk in stream] == []

    trio.run(main)


def test_log_error_before_the_first_byte_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(info: LogInfo, options: object, query: LogQuery) -> LogReader:
        raise NotImplementedHere("configured logging driver does not support reading")

    async def main() -> None:
        driver = FakeLog()
        monkeypatch.setattr(driver, "open_reader", refuse)
        with pytest.raises(NotImplementedHere):
            await read_logs(driver, INFO, {}, RAW, None).open()

    trio.run(main)


class Failing:
    """A reader whose second read fails."""

    def __init__(self) -> None:
        self.closed = 0
        self._reads = 0

    def read(self) -> Sequence[LogRecord]:
        self._reads += 1
        if self._reads == 2:
            raise DriverError("cannot read log x: Input/output error")
        return [LogRecord("stdout", b"x" * (1 << 18), "")]

    def fileno(self) -> int:
        return -1

    def close(self) -> None:
        self.closed += 1


@pytest.mark.parametrize("multiplexed", [True, False])
def test_log_error_after_the_first_byte_is_sent_in_the_stream(multiplexed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        driver, reader = FakeLog(), Failing()
        monkeypatch.setattr(driver, "open_reader", lambda *_: reader)
        async with read_logs(driver, INFO, {}, LogsRequest(multiplexed=multiplexed), None) as stream:
            chunks = [chunk async for chunk in stream]
        text = b"Error grabbing logs: cannot read log x: Input/output error\n"
        assert chunks[1:] == [b"\3\0\0\0" + len(text).to_bytes(4, "big") + text if multiplexed else text]
        assert reader.closed == 1

    trio.run(main)


def test_hanging_disk_does_not_delay_a_cancelled_log_request(monkeypatch: pytest.MonkeyPatch) -> None:
    """If a request is cancelled while a thread reads, the request returns immediately, and the thread closes the reader
    later."""

    class Hanging(Failing):
        def __init__(self) -> None:
            super().__init__()
            self.entered, self.go_on, self.gone = threading.Event(), threading.Event(), threading.Event()

        def read(self) -> Sequence[LogRecord]:
            self.entered.set()
            self.go_on.wait(10)
            assert not self.closed
            return []

        def close(self) -> None:
            super().close()
            self.gone.set()

    async def main() -> None:
        driver, reader = FakeLog(), Hanging()
        monkeypatch.setattr(driver, "open_reader", lambda *_: reader)

        async def read() -> None:
            async with read_logs(driver, INFO, {}, RAW, None) as stream:
                async for _ in stream:
                    pass

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await trio.to_thread.run_sync(reader.entered.wait, 5)
                nursery.cancel_scope.cancel()
        assert not reader.gone.is_set()
        reader.go_on.set()
        assert await trio.to_thread.run_sync(reader.gone.wait, 5)
        assert reader.closed == 1

    trio.run(main)
