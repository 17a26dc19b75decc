"""The non-blocking log buffer: order, size limit, flush at close, and no blocking of the container."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import pytest

from orlop_monitor import ring
from orlop_monitor.ring import RingWriter, ringed
from orlop_sdk import InvalidParameter
from orlop_sdk.log import LogBlock
from orlop_sdk.logfiles import buffer_size


class Disk:
    """A log writer that blocks until the event `may` is set."""

    def __init__(self) -> None:
        self.may = threading.Event()
        self.busy = threading.Event()
        self.written: list[bytes] = []
        self.closed = threading.Event()
        self.broken = False

    def write(self, blocks: Sequence[LogBlock]) -> None:
        self.busy.set()
        self.may.wait(10)
        if self.broken:
            raise OSError("no such disk")
        self.written += [block.data for block in blocks]

    def close(self) -> None:
        self.closed.set()


def blocks(*texts: bytes) -> list[LogBlock]:
    return [LogBlock("stdout", text, 1) for text in texts]


def test_full_buffer_drops_lines_without_blocking() -> None:
    disk = Disk()
    writer = RingWriter(disk, 10)
    writer.write(blocks(b"first"))
    assert disk.busy.wait(10)
    writer.write(blocks(b"12345", b"67890", b"dropped"))
    writer.write(blocks(b"more\nthan\none\nline\n"))
    assert (writer.dropped, writer.reason) == (5, "the buffer of mode=non-blocking was full")
    disk.may.set()
    writer.close()
    assert disk.written == [b"first", b"12345", b"67890"]
    assert disk.closed.is_set()


def test_block_of_output_larger_than_the_buffer_is_accepted() -> None:
    disk = Disk()
    disk.may.set()
    writer = RingWriter(disk, 3)
    writer.write(blocks(b"larger"))
    writer.close()
    assert (disk.written, writer.dropped) == ([b"larger"], 0)


def test_hanging_disk_does_not_delay_the_close_of_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring, "_LAST_WRITES", 0.05)
    disk = Disk()
    writer = RingWriter(disk, 10)
    writer.write(blocks(b"x"))
    writer.write(blocks(b"y\nz\n"))
    writer.close()
    assert not disk.closed.is_set()
    assert writer.dropped == 3
    disk.may.set()
    assert disk.closed.wait(10)


def test_error_of_a_log_writer_is_reported_and_the_writer_can_be_closed(capsys: pytest.CaptureFixture[str]) -> None:
    disk = Disk()
    disk.may.set()
    disk.broken = True
    writer = RingWriter(disk, 10)
    writer.write(blocks(b"x"))
    assert disk.busy.wait(10)
    writer.close()
    assert disk.closed.is_set()
    assert capsys.readouterr().err == "log writer: OSError: no such disk\n"
    assert (writer.dropped, writer.reason) == (1, "OSError: no such disk")


def test_entries_that_the_writer_dropped_are_counted() -> None:
    class Full(Disk):
        dropped = 7

    disk = Full()
    disk.may.set()
    writer = RingWriter(disk, 10)
    assert writer.dropped == 7
    writer.close()


def test_only_non_blocking_logs_have_a_buffer() -> None:
    disk = Disk()
    assert ringed(disk, {}) is disk
    assert ringed(disk, {"mode": "blocking"}) is disk
    made = ringed(disk, {"mode": "non-blocking"})
    assert isinstance(made, RingWriter)
    made.close()
    assert buffer_size({}) == 1 << 20
    assert buffer_size({"max-buffer-size": "4m"}) == 4 << 20
    with pytest.raises(InvalidParameter):
        buffer_size({"max-buffer-size": "x"})
