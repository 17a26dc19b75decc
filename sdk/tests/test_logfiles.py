"""Rotation, repair, compression and reading of log files, with lines as the record format."""

from __future__ import annotations

import errno
import gzip
import os
import select
import shutil
import stat
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orlop_sdk import DriverError, LogQuery, LogRecord
from orlop_sdk.logfiles import FileLogReader, FileOptions, RotatingFile, rfc3339
from orlop_sdk.logfiles import _compression as compression
from orlop_sdk.logfiles import _watch as watching
from orlop_sdk.logfiles._segments import Plain

SECOND = 1_000_000_000


class Lines:
    """Record format: each line is a record "SECONDS TEXT"."""

    def complete_length(self, data: bytes) -> int:
        return data.rfind(b"\n") + 1

    def next_end(self, data: bytes, offset: int) -> int:
        return data.index(b"\n", max(0, offset - 1)) + 1

    def count(self, data: bytes) -> int:
        return data.count(b"\n")

    def sync(self, data: bytes) -> int:
        return data.find(b"\n") + 1 or len(data)

    def decode(self, data: bytes) -> list[LogRecord]:
        lines = data.split(b"\n")[:-1]
        return [LogRecord("stdout", line, rfc3339(int(line.split(b" ")[0]) * SECOND)) for line in lines]

    def last(self, fd: int, end: int, count: int) -> tuple[int, int]:
        lines = os.pread(fd, end, 0).splitlines(keepends=True)
        whole = [line for line in lines if line.endswith(b"\n")]
        wanted = whole[len(whole) - min(count, len(whole)) :]
        return sum(map(len, whole)) - sum(map(len, wanted)), len(wanted)

    def valid_size(self, fd: int, size: int) -> int:
        return self.last(fd, size, 0)[0]


def line(number: int, size: int = 20) -> bytes:
    return b"%d " % number + b"x" * size + b"\n"


def contents(path: Path) -> list[bytes]:
    """All records on disk, oldest first."""
    reader = FileLogReader(str(path), Lines(), LogQuery())
    found = []
    while batch := reader.read():
        found += [record.data for record in batch]
    reader.close()
    return found


def names(path: Path) -> list[str]:
    return sorted(os.listdir(path.parent))


def per_record(lines: list[bytes], limit: int) -> list[list[bytes]]:
    """The files that dockerd would write. (dockerd checks the size before each record.)"""
    files: list[list[bytes]] = [[]]
    for one in lines:
        if sum(map(len, files[-1])) >= limit:
            files.append([])
        files[-1].append(one)
    return files


@given(
    st.lists(st.lists(st.integers(0, 60), min_size=1, max_size=12), min_size=1, max_size=6),
    st.integers(1, 200),
)
def test_records_written_in_batches_are_rotated_like_single_records(batches: list[list[int]], limit: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "log"
        file = RotatingFile(str(path), FileOptions(limit, 1000), Lines())
        every: list[bytes] = []
        for sizes in batches:
            batch = [line(len(every) + index, size) for index, size in enumerate(sizes)]
            every += batch
            file.append(b"".join(batch), 1)
        file.close()
        wanted = per_record(every, limit)
        numbered = [path.with_name(f"log.{n}") for n in range(len(wanted) - 1, 0, -1)] + [path]
        assert [one.read_bytes() for one in numbered] == [b"".join(one) for one in wanted]
        assert len(os.listdir(directory)) == len(wanted)


def test_rotated_files_are_numbered_and_private(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 3), Lines())
    for number in range(20):
        file.append(line(number), number)
    file.close()
    file.close()
    assert names(path) == ["log", "log.1", "log.2"]
    assert {stat.S_IMODE(os.stat(tmp_path / name).st_mode) for name in names(path)} == {0o640}


def test_single_file_is_truncated_at_its_limit(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 1), Lines())
    file.append(b"".join(line(number) for number in range(11)), 1)
    file.close()
    assert names(path) == ["log"]
    assert contents(path) == [line(number)[:-1] for number in (9, 10)]


def test_compressed_files_have_dockers_format(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 4, True), Lines())
    for number in range(9):
        file.append(line(number), 1_700_000_000 * SECOND + number * SECOND)
    file.close()
    assert names(path) == ["log", "log.1.gz", "log.2.gz"]
    packed = (tmp_path / "log.1.gz").read_bytes()
    assert gzip.decompress(packed) == line(3) + line(4) + line(5)
    length = int.from_bytes(packed[10:12], "little")
    assert msgspec.json.decode(packed[12 : 12 + length])["lastTime"] == "2023-11-14T22:13:25Z"
    assert contents(path) == [line(number)[:-1] for number in range(9)]


def test_interrupted_compression_is_repeated(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(2))
    (tmp_path / "log.1").write_bytes(line(1))
    (tmp_path / "log.1.gz").write_bytes(b"half of somethi")
    (tmp_path / "log.1.gz.tmp").write_bytes(b"hal")
    assert contents(path) == [line(1)[:-1], line(2)[:-1]]
    RotatingFile(str(path), FileOptions(50, 3, True), Lines()).close()
    assert names(path) == ["log", "log.1.gz"]
    assert contents(path) == [line(1)[:-1], line(2)[:-1]]


def test_compression_can_be_cancelled(tmp_path: Path) -> None:
    source = tmp_path / "log.1"
    source.write_bytes(line(1) * 200_000)
    one = compression.Compression(str(source), "")
    one.wait(0)
    # Either the compression finished before it was cancelled, or only the plain file is left.
    assert names(source) in (["log.1"], ["log.1.gz"])


def test_full_disk_while_compressing_keeps_the_plain_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(fd: int, data: bytes) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(compression, "_write_all", full)
    source = tmp_path / "log.1"
    source.write_bytes(line(1))
    compression.Compression(str(source), "").wait()
    assert names(source) == ["log.1"]


def test_incomplete_last_record_is_removed_at_open(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(1) + line(2)[:-4])
    assert contents(path) == [line(1)[:-1]]
    file = RotatingFile(str(path), FileOptions(), Lines())
    file.append(line(3), 1)
    file.close()
    assert path.read_bytes() == line(1) + line(3)


def test_log_file_in_a_missing_directory_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DriverError, match=r"^cannot open log .*/none/log: No such file or directory$"):
        RotatingFile(str(tmp_path / "none" / "log"), FileOptions(), Lines())


def test_symlink_instead_of_a_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DriverError):
        RotatingFile(str(tmp_path / "log"), FileOptions(), Lines())
    assert not (tmp_path / "elsewhere").exists()


def test_full_disk_removes_the_incomplete_record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    containers = [70]

    def write(fd: int, data: bytes) -> int:
        if not containers[0]:
            raise OSError(28, "No space left on device")
        count = real(fd, data[: containers[0]])
        containers[0] -= count
        return count

    real = os.write
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(), Lines())
    monkeypatch.setattr(os, "write", write)
    file.append(b"".join(line(number) for number in range(5)), 1)
    assert path.read_bytes() == b"".join(line(number) for number in range(3))
    assert file.dropped == 2
    file.append(line(7), 1)
    assert file.dropped == 3
    containers[0] = 1000
    file.append(line(8), 1)
    file.close()
    assert path.read_bytes() == line(0) + line(1) + line(2) + line(8)


def test_rotation_without_free_inodes_deletes_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a rotation fails for lack of an inode, it is not repeated, because each attempt would delete an old file."""
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 4), Lines())
    for number in range(6):
        file.append(line(number), 1)

    def full(path: str, flags: int = 0, mode: int = 0) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "open", full)
        for number in range(6, 12):
            file.append(line(number), 1)
    assert file.dropped == 6
    assert names(path) == ["log.1", "log.2"]
    file.append(line(12), 1)
    file.close()
    assert contents(path) == [line(number)[:-1] for number in (0, 1, 2, 3, 4, 5, 12)]


def test_log_truncated_by_another_program_is_continued(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(100, 3), Lines())
    reader = FileLogReader(str(path), Lines(), LogQuery(follow=True))
    file.append(line(0) * 4, 1)
    assert len(reader.read()) == 4
    os.truncate(path, 0)
    file.append(line(1), 1)
    file.append(line(2) * 2, 1)
    assert names(path) == ["log"]
    assert [record.data for record in reader.read()] == [line(1)[:-1]] + [line(2)[:-1]] * 2
    reader.close()
    file.close()


def test_log_removed_by_another_program_is_created_again(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 3), Lines())
    file.append(line(0) * 3, 1)
    os.unlink(path)
    file.append(line(1), 1)
    file.close()
    assert names(path) == ["log"]
    assert path.read_bytes() == line(1)


def test_query_with_since_skips_most_of_a_large_file(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(line(number, 80) for number in range(30_000)))
    reader = FileLogReader(str(path), Lines(), LogQuery(since=25_000 * SECOND))
    first = reader._segments[0]
    assert isinstance(first, Plain)
    assert first.offset > 1_900_000
    found = []
    while batch := reader.read():
        found += [int(record.data.split()[0]) for record in batch]
    reader.close()
    assert found == list(range(25_000, 30_000))


def test_query_with_since_finds_an_entry_between_entries_with_older_times(tmp_path: Path) -> None:
    """`since` finds an entry even if the entries next to it have older times, as the last piece of a long line can have."""
    path = tmp_path / "log"
    times = [1 if number % 3 else number for number in range(30_000)]
    path.write_bytes(b"".join(line(one, 80) for one in times))
    reader = FileLogReader(str(path), Lines(), LogQuery(since=15_000 * SECOND))
    found = []
    while batch := reader.read():
        found += [int(record.data.split()[0]) for record in batch]
    reader.close()
    assert found == list(range(15_000, 30_000, 3))


def test_query_with_since_skips_compressed_files_by_their_header(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 10, True), Lines())
    for number in range(1, 16):
        file.append(line(number), number * SECOND)
    file.close()
    reader = FileLogReader(str(path), Lines(), LogQuery(since=11 * SECOND))
    assert len(reader._segments) == 2
    reader.close()


def test_query_with_until_ends_at_the_first_later_record(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(b"".join(line(number, 80) for number in range(30_000)))
    reader = FileLogReader(str(path), Lines(), LogQuery(until=10 * SECOND))
    assert [int(record.data.split()[0]) for record in reader.read()] == list(range(11))
    assert list(reader.read()) == []
    assert list(reader.read()) == []
    reader.close()


def test_record_longer_than_a_read_chunk_is_returned_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_bytes(line(1, 3 << 20) + line(2))
    assert [len(one) for one in contents(path)] == [2 + (3 << 20), 22]


def test_follower_continues_after_its_file_was_compressed(tmp_path: Path) -> None:
    path = tmp_path / "log"
    file = RotatingFile(str(path), FileOptions(50, 9, True), Lines())
    file.append(line(0), 1)
    reader = FileLogReader(str(path), Lines(), LogQuery(follow=True))
    found = [record.data for record in reader.read()]
    for number in range(1, 20):
        file.append(line(number), 1)
    file.close()
    while batch := reader.read():
        found += [record.data for record in batch]
    reader.close()
    assert found == [line(number)[:-1] for number in range(20)]


def test_readers_poll_the_log_file_if_inotify_is_unavailable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def add(directory: str, watch: watching.Watch) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(watching._dispatcher, "add", add)
    reader = FileLogReader(str(tmp_path / "log"), Lines(), LogQuery(follow=True))
    assert select.select([reader.fileno()], [], [], 5)[0]
    assert list(reader.read()) == []
    reader.close()


def test_followers_share_one_inotify_instance(tmp_path: Path) -> None:
    """The kernel allows a user 128 inotify instances. Each follower is woken only by its own directory."""
    for name in "ab":
        (tmp_path / name).mkdir()
    readers = {
        name: [FileLogReader(str(tmp_path / name / "log"), Lines(), LogQuery(follow=True)) for _ in range(200)]
        for name in "ab"
    }
    every = [reader for name in "ab" for reader in readers[name]]
    assert sum("inotify" in os.readlink(f"/proc/self/fd/{fd}") for fd in _descriptors()) == 1
    (tmp_path / "a" / "log").write_bytes(b"1 line\n")
    for reader in readers["a"]:
        assert select.select([reader.fileno()], [], [], 5)[0]
        assert [record.data for record in reader.read()] == [b"1 line"]
    assert not any(select.select([reader.fileno()], [], [], 0)[0] for reader in readers["b"])
    for reader in every[:-1]:
        reader.close()
    shutil.rmtree(tmp_path / "a")
    (tmp_path / "b" / "log").write_bytes(b"1 line\n")
    assert select.select([every[-1].fileno()], [], [], 5)[0]
    every[-1].close()
    (tmp_path / "a").mkdir()
    again = FileLogReader(str(tmp_path / "a" / "log"), Lines(), LogQuery(follow=True))
    (tmp_path / "a" / "log").write_bytes(b"1 line\n")
    assert select.select([again.fileno()], [], [], 5)[0]
    again.close()


@pytest.mark.parametrize("fails", ["listdir", "fstat", "stat"])
@pytest.mark.parametrize("after", range(6))
def test_reader_that_fails_to_open_leaves_no_descriptors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, after: int
) -> None:
    for name in ("log", "log.1", "log.2"):
        (tmp_path / name).write_bytes(b"1 line\n")
    FileLogReader(str(tmp_path / "log"), Lines(), LogQuery(follow=True)).close()
    before, calls, real = len(_descriptors()), [0], getattr(os, fails)

    def failing(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] > after:
            raise OSError(errno.EMFILE, "Too many open files")
        return real(*given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(os, fails, failing)
        try:
            FileLogReader(str(tmp_path / "log"), Lines(), LogQuery(follow=True)).close()
        except DriverError as error:
            assert "Too many open files" in str(error)
    assert len(_descriptors()) == before


def _descriptors() -> list[str]:
    found = []
    for fd in os.listdir("/proc/self/fd"):
        with suppress(FileNotFoundError):
            os.readlink(f"/proc/self/fd/{fd}")
            found.append(fd)
    return found


@pytest.mark.parametrize(
    ("time_ns", "text"),
    [
        (0, "1970-01-01T00:00:00Z"),
        (1, "1970-01-01T00:00:00.000000001Z"),
        (1_700_000_000_120_000_000, "2023-11-14T22:13:20.12Z"),
        (1_700_000_000_000_000_000, "2023-11-14T22:13:20Z"),
    ],
)
def test_times_are_formatted_as_rfc3339(time_ns: int, text: str) -> None:
    assert rfc3339(time_ns) == text
