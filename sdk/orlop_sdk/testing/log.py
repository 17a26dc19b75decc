"""Conformance suite for log drivers, and a verified fake.

    from orlop_sdk.testing.log import LogSuite

    class TestMine(LogSuite):
        name = "mine"

        @pytest.fixture
        def driver(self):
            return MyLog()

For a driver without a reader, subclass `LogWriterSuite` instead; if the driver sends to a service, subclass
`LogServiceSuite`. A driver with other rotation options overrides the fixture `rotating`. No test needs root; each test has a
container directory of its own.
"""

from __future__ import annotations

import os
import resource
import select
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise

import pytest

from orlop_sdk import (
    InvalidParameter,
    LogBlock,
    LogCapabilities,
    LogDriver,
    LogInfo,
    LogQuery,
    LogReader,
    LogRecord,
    LogWriter,
    NotImplementedHere,
)
from orlop_sdk.logfiles import FILE_AND_ATTRIBUTE_OPTIONS, check_options, extra_attributes, rfc3339

__all__ = ["FakeLog", "LogSuite", "LogWriterSuite"]

BASE = 1_700_000_000_000_000_000
SECOND = 1_000_000_000
PROMPT = 10.0  # seconds that a few writes may take on a busy machine
PATIENCE = 20.0  # seconds after which a follower that sees no entries has failed


def entry(number: int, stream: str = "stdout") -> LogBlock:
    return LogBlock(stream, b"entry %06d\n" % number, BASE + number * SECOND)


def numbers(records: Sequence[LogRecord]) -> list[int]:
    return [int(record.data.split()[1]) for record in records]


def drain(reader: LogReader) -> list[LogRecord]:
    found: list[LogRecord] = []
    while batch := reader.read():
        found += batch
    return found


def write(driver: LogDriver, info: LogInfo, options: Mapping[str, str], blocks: Sequence[LogBlock]) -> None:
    writer = driver.open_writer(info, options)
    try:
        for block in blocks:
            writer.write([block])
    finally:
        writer.close()


def read(driver: LogDriver, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> list[LogRecord]:
    reader = driver.open_reader(info, options, query)
    try:
        return drain(reader)
    finally:
        reader.close()


def files(info: LogInfo) -> list[str]:
    return [os.path.join(top, name) for top, _, names in os.walk(info.directory) for name in names]


@contextmanager
def file_size_limit(limit: int) -> Iterator[None]:
    """Simulate a full disk with RLIMIT_FSIZE. As on a full disk, the first write is short, and the next write fails."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


class Follower:
    """Reads from a `follow` reader until it has seen entry `last`. Waits on the reader's descriptor, as the daemon does."""

    def __init__(self, reader: LogReader, last: int) -> None:
        self.seen: list[int] = []
        self._reader = reader
        self._last = last
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while (not self.seen or self.seen[-1] != self._last) and time.monotonic() < deadline:
            if batch := self._reader.read():
                self.seen += numbers(batch)
            else:
                select.select([self._reader.fileno()], [], [], 1.0)

    def join(self) -> list[int]:
        self._thread.join(PATIENCE + 10)
        assert not self._thread.is_alive()
        self._reader.close()
        return self.seen


class LogWriterSuite:
    """Tests for every log driver, with or without a reader."""

    name = ""

    @pytest.fixture
    def driver(self) -> LogDriver:
        raise LookupError("a subclass of the suite must override the fixture `driver`")

    @pytest.fixture
    def options(self) -> dict[str, str]:
        """The options that the driver needs."""
        return {}

    @pytest.fixture
    def info(self, tmp_path: os.PathLike[str]) -> LogInfo:
        directory = os.path.join(tmp_path, "container")
        os.mkdir(directory, 0o710)
        return LogInfo(
            container_id="0123456789abcdef" * 4,
            container_name="/web",
            image_id="sha256:" + "fedcba9876543210" * 4,
            image_name="example/web:1",
            command="serve --fast",
            created="2024-01-01T00:00:00Z",
            directory=directory,
            labels={"role": "web", "tier.name": "front"},
            env=("MODE=prod", "EMPTY=", "EQUAL=a=b"),
            hostname="machine",
        )

    def test_is_a_driver(self, driver: LogDriver) -> None:
        assert isinstance(driver, LogDriver)

    def test_accepts_the_options_that_it_needs(self, driver: LogDriver, options: dict[str, str]) -> None:
        driver.validate(options)

    def test_writes_and_closes_twice(self, driver: LogDriver, info: LogInfo, options: dict[str, str]) -> None:
        writer = driver.open_writer(info, options)
        assert isinstance(writer, LogWriter)
        writer.write([entry(0), entry(1, "stderr")])
        writer.write([])
        writer.close()
        writer.close()

    def test_readable_capability_is_true(self, driver: LogDriver, info: LogInfo) -> None:
        if driver.capabilities.readable:
            driver.open_reader(info, {}, LogQuery()).close()
        else:
            with pytest.raises(NotImplementedHere, match=r"^configured logging driver does not support reading$"):
                driver.open_reader(info, {}, LogQuery())

    def test_path_exists_if_the_driver_stores(self, driver: LogDriver, info: LogInfo, options: dict[str, str]) -> None:
        write(driver, info, options, [entry(0)])
        path = driver.path(info)
        assert bool(path) == driver.capabilities.stores
        assert not path or os.path.isfile(path)

    def test_writes_only_in_its_directory(
        self, driver: LogDriver, info: LogInfo, options: dict[str, str], tmp_path: os.PathLike[str]
    ) -> None:
        write(driver, info, options, [entry(0)])
        assert os.listdir(tmp_path) == ["container"]

    def test_any_bytes_are_accepted(self, driver: LogDriver, info: LogInfo, options: dict[str, str]) -> None:
        """`write` neither raises nor waits, because the monitor reads no output until `write` returns."""
        odd = (b"\xff\xfe\n", b"\0\n", b"\n", b"\x1b[31m\r\n", "\u2028".encode() + b"\n", b'{"a": "\n')
        writer = driver.open_writer(info, options)
        began = time.monotonic()
        writer.write([LogBlock("stdout", data, BASE) for data in odd])
        writer.write([LogBlock("stderr", b"\xc3" * 16384, BASE, partial=True)])
        assert time.monotonic() - began < PROMPT, "write() waits"
        writer.close()


class LogSuite(LogWriterSuite):
    """Tests for log drivers with a reader."""

    @pytest.fixture
    def rotating(self) -> dict[str, str]:
        """Options that make the driver rotate its file every few hundred entries, and keep a hundred files."""
        return {"max-size": "16k", "max-file": "100"}

    @pytest.fixture(params=["plain", "compressed"])
    def rotated(self, request: pytest.FixtureRequest, rotating: dict[str, str]) -> dict[str, str]:
        return rotating | {"compress": "true" if request.param == "compressed" else "false"}

    def test_unknown_option_is_refused(self, driver: LogDriver) -> None:
        with pytest.raises(InvalidParameter, match=f"^unknown log opt 'colour' for {self.name} log driver$"):
            driver.validate({"colour": "red"})

    def test_mode_and_buffer_size_are_validated(self, driver: LogDriver) -> None:
        driver.validate({"mode": "non-blocking", "max-buffer-size": "4m"})
        driver.validate({"mode": "blocking"})
        for wrong in ({"mode": "sometimes"}, {"max-buffer-size": "4m"}, {"mode": "non-blocking", "max-buffer-size": "x"}):
            with pytest.raises(InvalidParameter):
                driver.validate(wrong)

    def test_empty_log_is_read(self, driver: LogDriver, info: LogInfo) -> None:
        assert read(driver, info, {}, LogQuery()) == []
        assert read(driver, info, {}, LogQuery(tail=5)) == []

    def test_order_streams_and_times_are_kept(self, driver: LogDriver, info: LogInfo) -> None:
        blocks = [
            LogBlock("stdout", b"a\nb\n\nc\n", BASE),
            LogBlock("stderr", b"oops\n", BASE + 1_500_000_000),
            LogBlock("stdout", b"d\n", BASE + 123_456_789),
        ]
        writer = driver.open_writer(info, {})
        writer.write(blocks)
        writer.close()
        records = read(driver, info, {}, LogQuery())
        assert [(record.stream, record.data) for record in records] == [
            ("stdout", b"a\n"),
            ("stdout", b"b\n"),
            ("stdout", b"\n"),
            ("stdout", b"c\n"),
            ("stderr", b"oops\n"),
            ("stdout", b"d\n"),
        ]
        assert [record.time for record in records[3:]] == [
            "2023-11-14T22:13:20Z",
            "2023-11-14T22:13:21.5Z",
            "2023-11-14T22:13:20.123456789Z",
        ]
        assert all(record.attrs is None for record in records)

    def test_text_is_read_as_written(self, driver: LogDriver, info: LogInfo) -> None:
        text = "".join(map(chr, range(1, 0x250))).replace("\n", "") + '\u2028\u2029\ufffd\U0001f680 <&> \\n "q" ?'
        write(driver, info, {}, [LogBlock("stdout", text.encode() + b"\n", BASE)])
        assert [record.data for record in read(driver, info, {}, LogQuery())] == [text.encode() + b"\n"]

    def test_partial_pieces_stay_partial(self, driver: LogDriver, info: LogInfo) -> None:
        piece = b"x" * 16384
        blocks = [
            LogBlock("stdout", piece, BASE, partial=True),
            LogBlock("stdout", piece, BASE, partial=True),
            LogBlock("stdout", b"end\n", BASE),
            LogBlock("stderr", b"no end", BASE, partial=True),
        ]
        write(driver, info, {}, blocks)
        records = read(driver, info, {}, LogQuery())
        assert [record.data for record in records] == [piece, piece, b"end\n", b"no end"]
        assert [record.data for record in read(driver, info, {}, LogQuery(tail=2))] == [b"end\n", b"no end"]

    def test_reopen_appends(self, driver: LogDriver, info: LogInfo) -> None:
        for number in range(3):
            write(driver, info, {}, [entry(number)])
        assert numbers(read(driver, info, {}, LogQuery())) == [0, 1, 2]

    def test_tail_returns_the_last_entries(self, driver: LogDriver, info: LogInfo, rotated: dict[str, str]) -> None:
        write(driver, info, rotated, [entry(number) for number in range(2000)])
        for tail in (0, 1, 2, 10, 700, 1999, 2000, 2001):
            assert numbers(read(driver, info, rotated, LogQuery(tail=tail))) == list(range(max(0, 2000 - tail), 2000))

    def test_tail_may_start_within_a_block(self, driver: LogDriver, info: LogInfo) -> None:
        lines = b"".join(b"entry %06d\n" % number for number in range(5000))
        write(driver, info, {}, [LogBlock("stdout", lines, BASE), entry(5000)])
        assert numbers(read(driver, info, {}, LogQuery(tail=1500))) == list(range(3501, 5001))

    def test_since_and_until_are_inclusive(self, driver: LogDriver, info: LogInfo, rotated: dict[str, str]) -> None:
        write(driver, info, rotated, [entry(number) for number in range(2000)])
        for since, until in ((0, 0), (0, 1999), (500, 1000), (1990, 1990), (1999, 5000), (3000, 0)):
            query = LogQuery(since=since and BASE + since * SECOND, until=until and BASE + until * SECOND)
            wanted = range(since, min(1999, until or 1999) + 1)
            assert numbers(read(driver, info, rotated, query)) == list(wanted)

    def test_since_may_be_between_two_entries(self, driver: LogDriver, info: LogInfo) -> None:
        write(driver, info, {}, [entry(number) for number in range(10)])
        query = LogQuery(since=BASE + 3 * SECOND + 1, until=BASE + 7 * SECOND - 1)
        assert numbers(read(driver, info, {}, query)) == [4, 5, 6]

    def test_tail_is_counted_before_since(self, driver: LogDriver, info: LogInfo) -> None:
        write(driver, info, {}, [entry(number) for number in range(10)])
        assert numbers(read(driver, info, {}, LogQuery(tail=5, since=BASE + 7 * SECOND))) == [7, 8, 9]
        assert numbers(read(driver, info, {}, LogQuery(tail=2, since=BASE + 3 * SECOND))) == [8, 9]
        assert numbers(read(driver, info, {}, LogQuery(tail=5, until=BASE + 7 * SECOND))) == [5, 6, 7]

    def test_follow_may_start_before_the_log(self, driver: LogDriver, info: LogInfo) -> None:
        follower = Follower(driver.open_reader(info, {}, LogQuery(follow=True)), last=4)
        write(driver, info, {}, [entry(number) for number in range(5)])
        assert follower.join() == list(range(5))

    def test_follow_continues_after_tail(self, driver: LogDriver, info: LogInfo) -> None:
        write(driver, info, {}, [entry(number) for number in range(10)])
        for tail, first in ((0, 10), (3, 7)):
            reader = driver.open_reader(info, {}, LogQuery(follow=True, tail=tail))
            assert numbers(drain(reader)) == list(range(first, 10))
            reader.close()
        reader = driver.open_reader(info, {}, LogQuery(follow=True, tail=0))
        follower = Follower(reader, last=12)
        write(driver, info, {}, [entry(number) for number in range(10, 13)])
        assert follower.join() == [10, 11, 12]

    def test_descriptor_is_readable_only_after_a_write(self, driver: LogDriver, info: LogInfo) -> None:
        """`fileno` polls readable only after a write. Otherwise the daemon would spin, or miss entries."""
        writer = driver.open_writer(info, {})
        reader = driver.open_reader(info, {}, LogQuery(follow=True))
        drain(reader)
        for number in range(3):
            assert not select.select([reader.fileno()], [], [], 0)[0]
            writer.write([entry(number)])
            assert select.select([reader.fileno()], [], [], PATIENCE)[0]
            assert numbers(drain(reader)) == [number]
        reader.close()
        writer.close()

    def test_reader_without_follow_ends(self, driver: LogDriver, info: LogInfo) -> None:
        writer = driver.open_writer(info, {})
        writer.write([entry(0)])
        reader = driver.open_reader(info, {}, LogQuery())
        assert numbers(drain(reader)) == [0]
        writer.write([entry(1)])
        assert list(reader.read()) == []
        reader.close()
        writer.close()

    def test_follow_continues_across_rotations(self, driver: LogDriver, info: LogInfo, rotated: dict[str, str]) -> None:
        """A follower sees each entry once and in order, across rotations and batch sizes."""
        total = 6000
        follower = Follower(driver.open_reader(info, rotated, LogQuery(follow=True)), last=total - 1)
        writer = driver.open_writer(info, rotated)
        number = 0
        while number < total:
            count = min(1 + number * 7 % 97, total - number)
            writer.write([entry(one) for one in range(number, number + count)])
            number += count
        writer.close()
        assert follower.join() == list(range(total))
        assert numbers(read(driver, info, rotated, LogQuery())) == list(range(total))

    def test_readers_continue_while_rotation_deletes_files(
        self, driver: LogDriver, info: LogInfo, rotated: dict[str, str]
    ) -> None:
        """While rotation deletes old files, readers see the remaining entries once and in order, including the last."""
        options = rotated | {"max-file": "3"}
        total = 6000
        follower = Follower(driver.open_reader(info, options, LogQuery(follow=True)), last=total - 1)
        writer = driver.open_writer(info, options)
        for number in range(0, total, 20):
            writer.write([entry(one) for one in range(number, number + 20)])
            if number % 500 == 0:
                some = numbers(read(driver, info, options, LogQuery()))
                assert some == list(range(some[0], number + 20))
        writer.close()
        seen = follower.join()
        assert seen[-1] == total - 1
        assert all(one < other for one, other in pairwise(seen))

    def test_truncated_log_loses_only_its_last_record(self, driver: LogDriver, info: LogInfo) -> None:
        write(driver, info, {}, [entry(number) for number in range(10)])
        torn = max(files(info), key=os.path.getsize, default="")
        kept = list(range(9)) if torn else list(range(10))
        if torn:
            os.truncate(torn, os.path.getsize(torn) - 5)
        assert numbers(read(driver, info, {}, LogQuery())) == kept
        assert numbers(read(driver, info, {}, LogQuery(tail=2))) == kept[-2:]
        write(driver, info, {}, [entry(20)])
        assert numbers(read(driver, info, {}, LogQuery())) == [*kept, 20]

    def test_damage_loses_only_damaged_records(self, driver: LogDriver, info: LogInfo) -> None:
        write(driver, info, {}, [entry(number) for number in range(30)])
        for name in files(info):
            with open(name, "r+b") as file:
                file.seek(os.path.getsize(name) // 2)
                file.write(bytes(40))
        whole = numbers(read(driver, info, {}, LogQuery()))
        assert whole == sorted(set(whole))
        assert (whole[0], whole[-1]) == (0, 29)
        assert len(whole) >= 27

    def test_full_disk_drops_whole_entries(self, driver: LogDriver, info: LogInfo) -> None:
        """On a full disk the writer drops entries, writes no torn record, and accepts entries when there is space again."""
        writer = driver.open_writer(info, {})
        with file_size_limit(10_000):
            for number in range(0, 1000, 10):
                writer.write([entry(one) for one in range(number, number + 10)])
        writer.write([entry(1000), entry(1001)])
        writer.close()
        seen = numbers(read(driver, info, {}, LogQuery()))
        assert seen[-2:] == [1000, 1001]
        assert seen[:-2] == list(range(len(seen) - 2))
        assert len(seen) > 50
        assert len(read(driver, info, {}, LogQuery(tail=5))) == 5

    def test_descriptors_are_closed(self, driver: LogDriver, info: LogInfo, rotated: dict[str, str]) -> None:
        before = sorted(os.listdir("/proc/self/fd"))
        writer = driver.open_writer(info, rotated)
        for number in range(0, 2000, 50):
            writer.write([entry(one) for one in range(number, number + 50)])
        reader = driver.open_reader(info, rotated, LogQuery(follow=True))
        reader.read()
        reader.close()
        reader.close()
        writer.close()
        assert sorted(os.listdir("/proc/self/fd")) == before


class _FakeWriter:
    def __init__(self, log: list[tuple[int, LogRecord]], wake: list[int], attributes: dict[str, str]) -> None:
        self._log = log
        self._wake = wake
        self._attributes = attributes or None

    def write(self, blocks: Sequence[LogBlock]) -> None:
        for block in blocks:
            lines = [block.data] if block.partial else [line + b"\n" for line in block.data[:-1].split(b"\n")]
            time = rfc3339(block.time_ns)
            self._log += [(block.time_ns, LogRecord(block.stream, line, time, self._attributes)) for line in lines]
        for fd in list(self._wake):
            os.eventfd_write(fd, 1)

    def close(self) -> None:
        pass


class _FakeReader:
    def __init__(self, log: list[tuple[int, LogRecord]], wake: list[int], query: LogQuery) -> None:
        self._log = log
        self._wake = wake
        self._query = query
        self._fd = -1
        if query.follow:
            self._fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            wake.append(self._fd)
        self._end = None if query.follow else len(log)
        self._next = 0 if query.tail is None else max(0, len(log) - query.tail)

    def read(self) -> Sequence[LogRecord]:
        if self._fd >= 0:
            try:
                os.eventfd_read(self._fd)
            except BlockingIOError:
                pass
        end = len(self._log) if self._end is None else self._end
        batch, self._next = self._log[self._next : end], end
        since, until = self._query.since, self._query.until
        return [record for at, record in batch if at >= since and (not until or at <= until)]

    def fileno(self) -> int:
        return self._fd

    def close(self) -> None:
        fd, self._fd = self._fd, -1
        if fd >= 0:
            self._wake.remove(fd)
            os.close(fd)


class FakeLog:
    """A log driver that keeps logs in memory, for tests of code that uses log drivers. Passes `LogSuite`."""

    capabilities = LogCapabilities(readable=True, stores=False)

    def __init__(self) -> None:
        self._logs: dict[str, list[tuple[int, LogRecord]]] = {}
        self._wake: dict[str, list[int]] = {}

    def _of(self, info: LogInfo) -> tuple[list[tuple[int, LogRecord]], list[int]]:
        key = info.container_id
        return self._logs.setdefault(key, []), self._wake.setdefault(key, [])

    def validate(self, options: Mapping[str, str]) -> None:
        check_options("fake", options, FILE_AND_ATTRIBUTE_OPTIONS)

    def open_writer(self, info: LogInfo, options: Mapping[str, str]) -> LogWriter:
        return _FakeWriter(*self._of(info), extra_attributes(info, options))

    def open_reader(self, info: LogInfo, options: Mapping[str, str], query: LogQuery) -> LogReader:
        return _FakeReader(*self._of(info), query)

    def path(self, info: LogInfo) -> str:
        return ""
