"""The two processes of `filecopies`: the helper and the owner. (Copies of whole trees are tested with the builder.)"""

from __future__ import annotations

import os
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from orlop_sdk.filecopies import Attributes, Batch, Helper, copy_file, serve
from orlop_sdk.linux import receive_fds
from orlop_sdk.testing.durability import no_descriptors_left


@contextmanager
def directories(base: Path) -> Iterator[tuple[int, int]]:
    for name in ("source", "target"):
        (base / name).mkdir()
    source, target = (os.open(base / name, os.O_RDONLY | os.O_DIRECTORY) for name in ("source", "target"))
    try:
        yield source, target
    finally:
        os.close(source)
        os.close(target)


@contextmanager
def helper(serves: Callable[[socket.socket], None] = serve) -> Iterator[Helper[str]]:
    threads = []

    def start() -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> None:
            with theirs:
                serves(theirs)

        threads.append(threading.Thread(target=run))
        threads[0].start()
        return ours

    made: Helper[str] = Helper(start)
    try:
        yield made
    finally:
        made.close()
        for thread in threads:
            thread.join(60)
            assert not thread.is_alive()


def test_copy_helper_copies_files_and_reports_entries_that_it_did_not_copy(tmp_path: Path) -> None:
    with no_descriptors_left(), directories(tmp_path) as (source, target), helper() as made:
        (tmp_path / "source/one").write_text("1")
        (tmp_path / "source/two").write_text("2")
        (tmp_path / "target/two").write_text("old")
        (tmp_path / "source/soft").symlink_to("one")
        batch = Batch([(name, 0o4751) for name in ("one", "two", "soft", "missing")], Attributes(None, 10**18))
        assert made.give(source, target, batch, "label")
        assert made.take(wait=True) == ("label", ["two", "soft", "missing"])
        assert made.take(wait=True) is None
    info = (tmp_path / "target/one").stat()
    assert (stat.S_IMODE(info.st_mode), info.st_mtime_ns) == (0o4751, 10**18)
    assert sorted(os.listdir(tmp_path / "target")) == ["one", "two"]
    assert (tmp_path / "target/two").read_text() == "old"


def test_busy_copy_helper_accepts_two_batches_and_refuses_a_third(tmp_path: Path) -> None:
    may_begin = threading.Event()

    def late(connection: socket.socket) -> None:
        assert may_begin.wait(60)
        serve(connection)

    with directories(tmp_path) as (source, target), helper(late) as made:
        batch = Batch([("missing", 0o644)], Attributes())
        assert [made.give(source, target, batch, label) for label in "abc"] == [True, True, False]
        assert made.take() is None
        may_begin.set()
        assert [made.take(wait=True) for _ in "abc"] == [("a", ["missing"]), ("b", ["missing"]), None]


def test_batch_with_names_that_cannot_be_encoded_is_not_given_to_the_helper(tmp_path: Path) -> None:
    with directories(tmp_path) as (source, target), helper() as made:
        assert not made.give(source, target, Batch([("\udcff", 0o644)], Attributes()), "")
        assert not made.give(source, target, Batch([("x" * 255, 0o644)] * 1000, Attributes()), "")


def test_copy_helper_that_has_exited_gets_no_batches(tmp_path: Path) -> None:
    with directories(tmp_path) as (source, target), helper(lambda connection: None) as made:
        batch = Batch([("a", 0o644)], Attributes())
        if made.give(source, target, batch, "first"):  # false if the helper had ended already
            assert made.take(wait=True) == ("first", ["a"])
        assert not made.give(source, target, batch, "second")


def test_close_waits_for_the_batch_in_progress(tmp_path: Path) -> None:
    closing, answered = threading.Event(), threading.Event()

    def slow(connection: socket.socket) -> None:
        _, fds = receive_fds(connection, 1 << 20, 2)
        for fd in fds:
            os.close(fd)
        assert closing.wait(60)
        time.sleep(0.2)  # during this time, `close` would return if it did not wait
        answered.set()

    with directories(tmp_path) as (source, target), helper(slow) as made:
        assert made.give(source, target, Batch([("a", 0o644)], Attributes()), "")
        closing.set()
        made.close()
        assert answered.is_set()


@pytest.mark.parametrize("size", [0, 1, 256 << 10, (256 << 10) + 1])
def test_copy_file_copies_content_of_any_size(tmp_path: Path, size: int) -> None:
    with no_descriptors_left(), directories(tmp_path) as (source, target):
        (tmp_path / "source/f").write_bytes(os.urandom(size))
        copy_file(source, "f", target, "g", 0o640, Attributes())
        with pytest.raises(FileExistsError):
            copy_file(source, "f", target, "g", 0o600, Attributes())
    assert (tmp_path / "target/g").read_bytes() == (tmp_path / "source/f").read_bytes()
    assert stat.S_IMODE((tmp_path / "target/g").stat().st_mode) == 0o640
