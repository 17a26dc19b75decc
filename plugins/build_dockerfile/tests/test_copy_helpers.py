"""Copies by two processes: the result is the same as without the helper, also if the helper fails or is slow."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.ops import helping, paths
from orlop_build_dockerfile.ops.copying import Copier, Options
from orlop_build_dockerfile.ops.helping import StartHelper
from orlop_sdk import filecopies
from orlop_sdk.linux import receive_fds
from orlop_sdk.testing.durability import no_descriptors_left

BIG = 1 << 20
Serve = Callable[[socket.socket], None]


class Helpers:
    """Starts helpers on threads."""

    def __init__(self, serve: Serve = filecopies.serve) -> None:
        self._serve = serve
        self.threads: list[threading.Thread] = []

    def start(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def run() -> None:
            with theirs:
                self._serve(theirs)

        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()
        return ours

    def join(self) -> None:
        for thread in self.threads:
            thread.join(60)
            assert not thread.is_alive()


@contextmanager
def helpers(serve: Serve = filecopies.serve) -> Iterator[Helpers]:
    made = Helpers(serve)
    try:
        yield made
    finally:
        made.join()


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Files of all kinds. The first files are copied without a helper."""
    monkeypatch.setattr(helping, "_ALONE", 20)
    root = tmp_path / "source"
    (root / "a").mkdir(parents=True)
    for number in range(20):
        (root / "a" / f"{number}").write_text("alone")
    for name in ("b", "b/c", "d"):
        (root / name).mkdir()
        for number in range(150):
            path = root / name / f"f{number}"
            path.write_bytes(os.urandom(number * 17))
            path.chmod((0o644, 0o4755, 0o400)[number % 3])
            os.utime(path, ns=(10**18 + number, 10**18 + 7 * number))
            if number % 50 == 0:
                os.setxattr(path, "user.note", str(number).encode())
                if os.geteuid() == 0:
                    os.chown(path, 7, 8)
                    path.chmod(0o4755)
    (root / "b" / "big").write_bytes(os.urandom(BIG))
    os.link(root / "b" / "f3", root / "b" / "linked")
    os.link(root / "b" / "f3", root / "d" / "linked")
    (root / "b" / "soft").symlink_to("f1")
    os.mkfifo(root / "d" / "pipe")
    (root / "d" / "f149").chmod(0o600)
    for path in (root / "b" / "c", root / "b", root / "d", root):
        os.utime(path, ns=(10**18, 10**18 + 9))
    return root


def described(root: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    inodes: dict[int, str] = {}
    for path in sorted(root.rglob("*")):
        info = path.lstat()
        name = str(path.relative_to(root))
        content: Any = None
        if stat.S_ISREG(info.st_mode):
            content = (path.read_bytes(), {key: os.getxattr(path, key) for key in os.listxattr(path)})
        elif stat.S_ISLNK(info.st_mode):
            content = os.readlink(path)
        first = inodes.setdefault(info.st_ino, name)
        found[name] = (info.st_mode, info.st_uid, info.st_gid, info.st_mtime_ns, info.st_nlink, first, content)
    return found


def copy(source: Path, target: Path, start: StartHelper | None, **options: Any) -> None:
    target.mkdir(exist_ok=True)
    with (
        paths.opened(os.open(source, os.O_RDONLY | os.O_DIRECTORY)) as reader,
        paths.opened(os.open(target, os.O_RDONLY | os.O_DIRECTORY)) as writer,
    ):
        Copier(reader, writer, Options(**{"contents": True, **options}), start).copy("/", "/x")


def counted(serve: Serve = filecopies.serve) -> tuple[Serve, list[str]]:
    """Returns a helper, and a list to which the helper adds the names in its batches."""
    names: list[str] = []

    def run(connection: socket.socket) -> None:
        inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)

        def forward() -> None:
            with outer:
                while True:
                    data, fds = receive_fds(connection, 1 << 20, 2)
                    if not data:
                        return
                    names.extend(name for name, _ in filecopies._decode_batch(data).files)
                    socket.send_fds(outer, [data], fds)
                    for fd in fds:
                        os.close(fd)
                    connection.send(outer.recv(1 << 20))

        thread = threading.Thread(target=forward)
        thread.start()
        with inner:
            serve(inner)
        thread.join(60)

    return run, names


@pytest.mark.parametrize(
    "options",
    [{}, {"mode": lambda mode: mode & 0o7777 | 0o111}, {"exclude": ("b/f1*",)}],
    ids=["without options", "mode", "exclude"],
)
def test_files_copied_with_a_helper_equal_files_copied_without_a_helper(
    source: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    copy(source, tmp_path / "alone", None, **options)
    serve, names = counted()
    with no_descriptors_left(), helpers(serve) as started:
        copy(source, tmp_path / "helped", started.start, **options)
    assert described(tmp_path / "helped") == described(tmp_path / "alone")
    assert len(started.threads) == 1 and len(names) > 100
    assert not {"big", "linked", "soft", "pipe"} & set(names)


def test_small_copy_starts_no_helper(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    for number in range(200):
        (tmp_path / "source" / f"{number}").write_text("x")
    with helpers() as started:
        copy(tmp_path / "source", tmp_path / "target", started.start)
    assert not started.threads and len(os.listdir(tmp_path / "target/x")) == 200


def test_owner_and_time_options_apply_to_files_that_the_helper_copies(source: Path, tmp_path: Path) -> None:
    attributes = paths.Attributes((os.geteuid(), os.getegid()), 5 * 10**17)
    copy(source, tmp_path / "alone", None, attributes=attributes)
    with helpers() as started:
        copy(source, tmp_path / "helped", started.start, attributes=attributes)
    assert described(tmp_path / "helped") == described(tmp_path / "alone")
    assert (tmp_path / "helped/x/b/f0").stat().st_mtime_ns == 5 * 10**17


def test_helper_replaces_existing_files(source: Path, tmp_path: Path) -> None:
    copy(source, tmp_path / "alone", None)
    shutil.copytree(tmp_path / "alone/x/b", tmp_path / "helped/x/b", ignore=shutil.ignore_patterns("soft", "linked"))
    for path in (tmp_path / "helped/x/b").glob("f*"):
        path.write_text("old")
    with helpers() as started:
        copy(source, tmp_path / "helped", started.start)
    helped, alone = described(tmp_path / "helped"), described(tmp_path / "alone")
    assert helped.pop("x")[0] == alone.pop("x")[0]  # the tests of Copier check the times of existing directories
    assert {name: entry[6] for name, entry in helped.items()} == {name: entry[6] for name, entry in alone.items()}


def test_directory_in_place_of_a_file_is_refused(source: Path, tmp_path: Path) -> None:
    (tmp_path / "target/x/d/f100").mkdir(parents=True)
    with (
        no_descriptors_left(),
        helpers() as started,
        pytest.raises(BuildFailed, match="cannot replace to directory /x/d/f100"),
    ):
        copy(source, tmp_path / "target", started.start)


def ends_at_once(connection: socket.socket) -> None:
    pass


def ends_with_a_batch(connection: socket.socket) -> None:
    """Copies a part of a batch, and ends without an answer."""
    data, fds = receive_fds(connection, 1 << 20, 2)
    batch = filecopies._decode_batch(data)
    filecopies._copy(*fds, filecopies.Batch(batch.files[:10], batch.attributes))
    for fd in fds:
        os.close(fd)


def copies_nothing(connection: socket.socket) -> None:
    while True:
        data, fds = receive_fds(connection, 1 << 20, 2)
        for fd in fds:
            os.close(fd)
        if not data:
            return
        connection.send(filecopies._encode([name.encode() for name, _ in filecopies._decode_batch(data).files]))


@pytest.mark.parametrize("serve", [ends_at_once, ends_with_a_batch, copies_nothing])
def test_copy_is_complete_if_the_helper_fails(source: Path, tmp_path: Path, serve: Serve) -> None:
    copy(source, tmp_path / "alone", None)
    with no_descriptors_left(), helpers(serve) as started:
        copy(source, tmp_path / "helped", started.start)
    assert described(tmp_path / "helped") == described(tmp_path / "alone")


def test_directories_get_their_times_after_the_last_file_of_the_helper(source: Path, tmp_path: Path) -> None:
    """In this test, the helper begins to copy only after the builder has left the directory."""

    def late(connection: socket.socket) -> None:
        deadline = time.monotonic() + 60
        while not (tmp_path / "helped/x/d/pipe").exists() and time.monotonic() < deadline:
            time.sleep(0.002)
        filecopies.serve(connection)

    with helpers(late) as started:
        copy(source, tmp_path / "helped", started.start)
    times = {name: (tmp_path / "helped/x" / name).stat().st_mtime_ns for name in ("b/c", "b", "d", "")}
    assert times == dict.fromkeys(times, 10**18 + 9)


def test_cancelled_copy_waits_for_the_helper(source: Path, tmp_path: Path) -> None:
    """The caller removes the target after the copy, so the helper must not work on a batch any more."""
    busy, idle = threading.Event(), threading.Event()

    def slow(connection: socket.socket) -> None:
        while True:
            data, fds = receive_fds(connection, 1 << 20, 2)
            for fd in fds:
                os.close(fd)
            if not data:
                return
            busy.set()
            assert release.wait(60)
            time.sleep(0.2)  # meanwhile, a copy that does not wait for the helper would end
            idle.set()
            connection.send(filecopies._encode([]))

    release = threading.Event()
    left_idle: list[bool] = []

    def work() -> None:
        try:
            copy(source, tmp_path / "helped", started.start)
        finally:
            left_idle.append(idle.is_set())

    async def main() -> None:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, work)
            await trio.to_thread.run_sync(busy.wait, 60)
            nursery.cancel_scope.cancel()
            release.set()

    with no_descriptors_left(), helpers(slow) as started:
        trio.run(main)
    assert left_idle == [True]
