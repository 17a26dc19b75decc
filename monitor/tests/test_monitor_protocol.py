"""Frames of the monitor's socket, and the records of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from orlop_monitor import records
from orlop_monitor.connection import FrameParser
from orlop_monitor.protocol import HEADER, ExitRecord, InitRecord
from orlop_sdk import smallfiles


def _frame(body: bytes) -> bytes:
    return HEADER.pack(len(body)) + body


def test_frames_are_parsed_from_pieces_of_any_size() -> None:
    data = _frame(b"one") + _frame(b"") + _frame(b"three")
    for step in (1, 2, 5, len(data)):
        parser, found = FrameParser(), []
        for at in range(0, len(data), step):
            parser.feed(data[at : at + step])
            while (frame := parser.next()) is not None:
                found.append(frame)
        assert found == [b"one", b"", b"three"]


def test_bytes_after_the_last_frame_are_kept() -> None:
    parser = FrameParser()
    parser.feed(_frame(b"attach") + b"raw input")
    assert parser.next() == b"attach"
    assert parser.rest() == b"raw input"
    assert parser.next() is None


def test_oversized_frame_is_refused() -> None:
    parser = FrameParser()
    parser.feed(HEADER.pack(1 << 30))
    with pytest.raises(ValueError, match="frame"):
        parser.next()


def test_records_of_a_run_can_be_written_and_read_and_cleared(tmp_path: Path) -> None:
    init, ended = InitRecord(1, 2, 3, ("/sys/fs/cgroup/x",)), ExitRecord(137, 5, True, "why")
    records.write(str(tmp_path), init)
    records.write(str(tmp_path), ended)
    assert (records.read_init(str(tmp_path)), records.read_exit(str(tmp_path))) == (init, ended)
    assert {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {
        "exit.json": 0o600,
        "init.json": 0o600,
    }
    records.clear(str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_damaged_or_missing_record_is_treated_as_absent(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 1')
    assert records.read_exit(str(tmp_path)) is None
    assert records.read_init(str(tmp_path)) is None
    assert records.read_init(str(tmp_path / "nowhere")) is None


def test_small_file_reader_returns_the_whole_content_of_a_file_of_any_size(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, 16384, 16385, 300_000):
        path.write_bytes(b"x" * size)
        assert smallfiles.read(str(path)) == b"x" * size
