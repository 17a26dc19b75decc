"""The pure parts of a monitor, and its event loop."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from orlop_monitor import records, sealed
from orlop_monitor.connection import FrameParser
from orlop_monitor.loop import Loop
from orlop_monitor.protocol import HEADER, ExitRecord, InitRecord
from orlop_monitor.sandbox import _paths, detachable
from orlop_monitor.streams import Input, Output
from orlop_monitor.task import Stdio
from orlop_sdk import Mount, cgroups, linux, mountinfo, smallfiles

# --- processes ------------------------------------------------------------------------------------------------------


def test_process_is_identified_by_pid_and_start_time() -> None:
    child = subprocess.Popen(["true"])
    start_time = linux.process_start_time(child.pid)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert linux.is_process(child.pid, start_time) and not linux.is_process(child.pid, start_time + 1)
    child.wait()
    assert not linux.is_process(child.pid, start_time)


# --- frames ---------------------------------------------------------------------------------------------------------


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


# --- mounts ---------------------------------------------------------------------------------------------------------

MOUNTS = b"""\
20 1 8:1 / / rw - ext4 /dev/a rw
21 20 0:5 / /proc rw - proc proc rw
22 20 0:6 / /data rw - ext4 /dev/b rw
23 22 0:7 / /data/docker rw - ext4 /dev/c rw
24 20 0:8 / /mnt/usb\\040stick rw - vfat /dev/d rw
25 20 0:9 / /srv rw shared:5 - ext4 /dev/e rw
26 25 0:10 / /srv/x rw - ext4 /dev/f rw
27 20 0:11 / /usr/share rw - squashfs /dev/g ro
28 20 0:12 / /media rw shared:6 - ext4 /dev/h rw
29 28 0:13 / /media/inner rw - ext4 /dev/i rw
"""


def _detached(needed: set[str], trees: set[str]) -> list[str]:
    return [entry.path for entry in detachable(mountinfo.parse(MOUNTS), needed, trees)]


def test_octal_escapes_of_mount_points_are_decoded() -> None:
    assert "/mnt/usb stick" in [entry.path for entry in mountinfo.parse(MOUNTS)]


def test_only_topmost_unneeded_mounts_are_detached() -> None:
    # The parent of /media/inner propagates, so detaching it here would detach it on the host. /media therefore stays as
    # well.
    assert _detached(set(), {"/proc", "/usr"}) == ["/data", "/mnt/usb stick"]


def test_mounts_above_needed_paths_stay() -> None:
    assert _detached({"/data/docker/overlay2"}, {"/proc", "/usr"}) == ["/mnt/usb stick"]
    assert _detached({"/data/x"}, {"/proc", "/usr"}) == ["/data/docker", "/mnt/usb stick"]


def test_mounts_below_a_bind_source_stay() -> None:
    assert _detached(set(), {"/proc", "/usr", "/data"}) == ["/mnt/usb stick"]


def test_shared_root_does_not_keep_its_children() -> None:
    entries = mountinfo.parse(MOUNTS.replace(b"/ / rw - ext4 /dev/a", b"/ / rw shared:1 - ext4 /dev/a"))
    assert [entry.path for entry in detachable(entries, set(), set())] == ["/data/docker"]


def test_paths_in_mount_options_are_needed() -> None:
    mount = Mount("overlay", "overlay", "", ("lowerdir=/a/1:/b/2", "upperdir=/c", "ro", "index=off"))
    assert _paths([mount]) == {"/a/1", "/b/2", "/c"}
    image = Mount("erofs", "/a/layer.erofs", "", ("ro", "device=/b/layer.tar"), "/c/diff")
    assert _paths([image]) == {"/a/layer.erofs", "/b/layer.tar", "/c/diff"}


# --- streams --------------------------------------------------------------------------------------------------------


class _Slow:
    """A client that does not read. `slow` is as in `Attachment`."""

    slow = False
    taken = 0

    def output(self, stream: str, data: bytes) -> None:
        self.taken += len(data)
        self.slow = self.taken > 1 << 20


class _Reads:
    """A loop on which a process's output is readable as long as a callback is set."""

    def __init__(self) -> None:
        self.read: Callable[[], None] | None = None

    def on_readable(self, fd: int, callback: Callable[[], None] | None) -> None:
        self.read = callback

    on_writable = on_readable

    def call_later(self, seconds: float, callback: Callable[[], None]) -> SimpleNamespace:
        return SimpleNamespace(cancel=lambda: None)

    def forget(self, fd: int) -> None:
        self.read = None

    def run(self) -> None:
        while self.read:
            self.read()


def test_output_after_the_exit_is_bounded_for_a_slow_client() -> None:
    loop, client, ended = _Reads(), _Slow(), []
    output = Output(loop)  # type: ignore[arg-type]  # all that it needs of one
    output.attach(client)  # type: ignore[arg-type]
    output.start({"stdout": os.open("/dev/zero", os.O_RDONLY)})
    loop.run()
    assert 1 << 20 < client.taken < 2 << 20
    output.end(2, lambda: ended.append(True))
    for _ in range(1000):
        if loop.read:
            loop.read()
    assert 16 << 20 <= client.taken < 19 << 20 and not loop.read
    output.end_now()
    assert ended == [True]


def test_remaining_output_is_read_for_a_slow_client() -> None:
    ours, theirs = os.pipe()
    loop, client, ended = _Reads(), _Slow(), []
    output = Output(loop)  # type: ignore[arg-type]
    output.attach(client)  # type: ignore[arg-type]
    output.start({"stdout": ours})
    client.slow, client.taken = True, 2 << 20
    os.write(theirs, b"last words")
    os.close(theirs)
    output.end(2, lambda: ended.append(True))
    loop.run()
    assert ended == [True] and client.taken == (2 << 20) + len("last words")


# --- cgroups --------------------------------------------------------------------------------------------------------

V1 = mountinfo.parse(
    b"32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
    b"35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    b"40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n"
    b"41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
)
V2 = mountinfo.parse(b"41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")


def test_v1_directories_of_all_controllers_are_selected() -> None:
    theirs = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n2:name=systemd:/docker/abc\n0::/\n"
    ours = "4:cpu,cpuacct:/\n3:memory:/x\n2:name=systemd:/\n0::/\n"
    assert cgroups.select(theirs, ours, V1, "abc") == (
        "/sys/fs/cgroup/cpu,cpuacct/docker/abc",
        "/sys/fs/cgroup/memory/docker/abc",
        "/sys/fs/cgroup/systemd/docker/abc",
    )


def test_v2_directory_ends_at_the_containers_cgroup() -> None:
    theirs = "0::/system.slice/docker-abc.scope/init.scope\n"
    assert cgroups.select(theirs, "0::/system.slice/orlop.service\n", V2, "abc") == (
        "/sys/fs/cgroup/system.slice/docker-abc.scope",
    )


@pytest.mark.parametrize("theirs", ["/", "/user", "/user/orlop"])
def test_own_cgroup_is_never_selected(theirs: str) -> None:
    assert cgroups.select(f"0::{theirs}\n", "0::/user/orlop\n", V2, "abc") == ()


def test_cgroup_beside_one_with_a_longer_name_is_selected() -> None:
    assert cgroups.select("0::/user/orlop\n", "0::/user/orlop2\n", V2, "abc") == ("/sys/fs/cgroup/user/orlop",)


def test_paths_are_relative_to_the_root_of_the_cgroup_mount() -> None:
    part = mountinfo.parse(b"41 31 0:38 /outer /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    assert cgroups.select("0::/outer/c/abc\n", "0::/outer\n", part, "abc") == ("/sys/fs/cgroup/c/abc",)


@pytest.mark.parametrize(
    ("spec", "path"),
    [
        ("/docker/abc", "/docker/abc"),
        ("docker/abc", "/docker/abc"),
        ("system.slice:docker:abc", "/system.slice/docker-abc.scope"),
        ("a-b-c.slice:docker:abc", "/a.slice/a-b.slice/a-b-c.slice/docker-abc.scope"),
        (":docker:abc", "/system.slice/docker-abc.scope"),
        ("-.slice:docker:abc", "/docker-abc.scope"),
    ],
)
def test_cgroups_path_of_a_spec_is_normalized(spec: str, path: str) -> None:
    assert cgroups.relative(spec) == path


def test_oom_kills_are_counted_on_both_cgroup_versions(tmp_path: Path) -> None:
    v1, v2 = tmp_path / "v1", tmp_path / "v2"
    for directory, name, text in (
        (v1, "memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 2\n"),
        (v2, "memory.events", "low 0\noom 4\noom_kill 3\noom_group_kill 0\n"),
    ):
        directory.mkdir()
        (directory / name).write_text(text)
    assert cgroups.oom_kills(cgroups.oom_file([str(v1)])) == 2
    assert cgroups.oom_kills(cgroups.oom_file([str(tmp_path), str(v2)])) == 3
    assert cgroups.oom_kills(cgroups.oom_file([])) == 0


def test_container_without_oom_killer_is_reported_as_stopped(tmp_path: Path) -> None:
    file = tmp_path / "memory.oom_control"
    for text, stopped in (
        ("oom_kill_disable 1\nunder_oom 1\noom_kill 0\n", True),
        ("oom_kill_disable 1\nunder_oom 0\noom_kill 0\n", False),
        ("oom_kill_disable 0\nunder_oom 1\noom_kill 0\n", False),  # the OOM killer is about to act
    ):
        file.write_text(text)
        assert cgroups.oom_stopped(str(file)) is stopped
    assert not cgroups.oom_stopped("")


def test_kill_of_a_missing_cgroup_succeeds(tmp_path: Path) -> None:
    assert cgroups.kill([str(tmp_path / "gone")])


# --- records --------------------------------------------------------------------------------------------------------


def test_records_are_read_as_written(tmp_path: Path) -> None:
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


def test_damaged_and_missing_records_are_none(tmp_path: Path) -> None:
    (tmp_path / "exit.json").write_text('{"code": 1')
    assert records.read_exit(str(tmp_path)) is None
    assert records.read_init(str(tmp_path)) is None
    assert records.read_init(str(tmp_path / "nowhere")) is None


def test_files_of_any_size_are_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for size in (0, 1, 16384, 16385, 300_000):
        path.write_bytes(b"x" * size)
        assert smallfiles.read(str(path)) == b"x" * size


# --- the loop -------------------------------------------------------------------------------------------------------

_LOOP = """
import os, sys
from orlop_monitor.loop import Loop
loop, said = Loop(), []
"""


def _in_a_process(code: str) -> list[str]:
    """Run `code` in a new process, because the loop owns SIGCHLD and all children of its process."""
    done = subprocess.run(
        [sys.executable, "-c", _LOOP + code],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    return done.stdout.split()


def test_exit_of_an_unclaimed_child_is_delivered_later() -> None:
    assert _in_a_process(
        """
loop.hold_unclaimed()
pid = os.fork() or os._exit(7)
def claim():
    loop.on_child(pid, lambda status: (print(status), loop.stop()))
loop.on_child(os.fork() or os._exit(0), lambda status: loop.call_later(0.05, claim))
loop.run()
"""
    ) == ["7"]


def test_unheld_exit_status_is_dropped() -> None:
    assert _in_a_process(
        """
pid = os.fork() or os._exit(7)
loop.on_child(pid + 100000, print)
loop.call_later(0.05, loop.stop)
loop.run()
print(loop._unclaimed)
"""
    ) == ["{}"]


def test_death_by_signal_is_a_negative_status() -> None:
    code = "pid = os.fork() or os.kill(os.getpid(), 9)\nloop.on_child(pid, lambda s: (print(s), loop.stop()))\nloop.run()"
    assert _in_a_process(code) == [str(-signal.SIGKILL)]


def test_hangup_and_half_close_are_distinguished() -> None:
    said: list[str] = []
    loop = Loop()
    try:
        ours, theirs = socket.socketpair()
        with ours, theirs:

            def gone() -> None:
                said.append("gone")
                loop.forget(ours.fileno())
                loop.stop()

            def later() -> None:
                said.append("still there")
                theirs.close()

            loop.on_hangup(ours.fileno(), gone)
            theirs.shutdown(socket.SHUT_WR)
            loop.call_later(0.02, later)
            loop.run()
    finally:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for sock in (loop._wake, loop._wakeup):
            sock.close()
        loop._epoll.close()
    assert said == ["still there", "gone"]


# --- descriptors ----------------------------------------------------------------------------------------------------


def test_listener_pauses_when_descriptors_run_out(tmp_path: Path) -> None:
    assert _in_a_process(
        f"""
import resource, socket
from orlop_monitor.connection import Listener
class Counting(Listener):
    def _accept(self):
        said.append("tried")
        super()._accept()
listener = Counting(loop, {str(tmp_path)!r}, lambda sock: (said.append("came"), loop.stop()))
client = socket.socket(socket.AF_UNIX)
client.connect({str(tmp_path)!r} + "/sock")
lowest_free = os.dup(0)
os.close(lowest_free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
loop.call_later(0.35, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
loop.run()
print(said[-1], said.count("tried") < 9)
"""
    ) == ["came", "True"]


def test_name_server_pauses_tcp_when_descriptors_run_out() -> None:
    """Without descriptors, the name server answers by UDP; by TCP, once there are descriptors again."""
    assert _in_a_process(
        """
import resource, socket, struct, types
from orlop_monitor.dns import server, wire
def bind(self, port):
    pair = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
    for sock in pair:
        sock.bind(("127.0.0.1", 0))
        sock.setblocking(False)
    pair[1].listen()
    return pair
server.NameServer._bind = bind
server.NameServer._redirect = lambda self: None
class Counting(server.NameServer):
    def _accept(self):
        said.append("tried")
        super()._accept()
tables = types.SimpleNamespace(answer=lambda kind, name: [wire.address_record("10.0.0.1")])
names = Counting(loop, -1, tables, lambda: None)
query = struct.pack("!6H", 7, 0x100, 1, 0, 0, 0) + bytes((3,)) + b"web" + bytes((0, 0, 1, 0, 1))
udp, tcp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM), socket.socket()
tcp.connect(names._tcp.getsockname())
tcp.sendall(struct.pack("!H", len(query)) + query)
lowest_free = os.dup(0)
os.close(lowest_free)
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
udp.connect(names._udp.getsockname())
udp.send(query)
loop.on_readable(udp.fileno(), lambda: said.append("answered") or loop.on_readable(udp.fileno(), None))
loop.on_readable(tcp.fileno(), lambda: said.append("came") or loop.stop())
loop.call_later(0.35, lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard)))
loop.run()
names.close()
print(said[-1], said.index("answered") < said.index("came"), said.count("tried") < 9)
"""
    ) == ["came", "True", "True"]


def test_name_server_closed_during_the_pause_does_not_accept() -> None:
    """After `close`, a delayed accept must not use the descriptor numbers of closed sockets, which may be reused."""
    assert _in_a_process(
        """
import errno, types
from orlop_monitor.dns import server
class Scarce:
    def fileno(self): return 99
    def close(self): pass
    def accept(self): raise OSError(errno.EMFILE, "Too many open files")
server.NameServer._bind = lambda self, port: (Scarce(), Scarce())
server.NameServer._redirect = lambda self: None
loop.on_readable = lambda fd, callback: said.append(callback is not None)
loop.forget = lambda fd: None
names = server.NameServer(loop, -1, None, lambda: None)
names._accept()
names.close()
loop.call_later(0.2, loop.stop)
loop.run()
print(said)
"""
    ) == ["[True,", "True,", "False]"]


# --- standard input -------------------------------------------------------------------------------------------------


def test_unread_input_blocks_the_client_and_is_not_lost() -> None:
    """The queue of standard input is bounded; a blocked client goes on when the process reads again, and no input is
    lost."""
    assert (
        _in_a_process(
            """
import hashlib, socket
from orlop_monitor.channel import Channel
from orlop_monitor.protocol import Attach
from orlop_monitor.streams import Attachment, Input, Output
LENGTH = 8 << 20
content = os.urandom(LENGTH)
ours, client = socket.socketpair()
client.setblocking(False)
reading, writing = os.pipe()
os.set_blocking(reading, False)
input_ = Input(loop, terminal=False)
input_.open(writing)
Attachment(Channel(loop, ours), Attach(stdin=True, stdin_once=True), input_, Output(loop), True).join(b"")
sent, most, got = 0, 0, hashlib.sha256()
def send():
    global sent
    try:
        while sent < LENGTH:
            sent += client.send(content[sent : sent + 65536])
    except BlockingIOError:
        return
    loop.on_writable(client.fileno(), None)
    client.shutdown(socket.SHUT_WR)
def watch(before):
    # Nothing moves any more: the client is held up
    global most
    if sent != before:
        loop.call_later(0.05, lambda: watch(sent))
        return
    most = sent
    loop.on_readable(reading, read)
def read():
    data = os.read(reading, 65536)
    got.update(data)
    if not data:
        loop.stop()
loop.on_writable(client.fileno(), send)
watch(-1)
loop.run()
print(most < 2 << 20, sent == LENGTH, got.hexdigest() == hashlib.sha256(content).hexdigest(), input_.closed)
"""
        )
        == ["True"] * 4
    )


def test_monitor_raises_its_descriptor_limit_but_not_its_childrens() -> None:
    assert _in_a_process(
        """
import resource
from orlop_monitor import commands
from orlop_sdk import Command
_, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
commands.raise_file_limit()
shell = Command(("sh", "-c", "ulimit -Sn; ulimit -Hn"), (("PATH", "/bin:/usr/bin"),))
commands.run(loop, shell, (0, 1, 2), lambda status, timed_out: loop.stop())
loop.run()
print(hard, resource.getrlimit(resource.RLIMIT_NOFILE) == (min(hard, 65536), hard))
"""
    ) == ["500", hard := str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]), hard, "True"]


@pytest.mark.parametrize("made", [0, 1, 2])
def test_failed_creation_of_streams_leaves_no_descriptors(monkeypatch: pytest.MonkeyPatch, made: int) -> None:
    pipe, opened, closed = os.pipe, [], []
    dup, close = os.open, os.close

    def scarce() -> tuple[int, int]:
        if len(opened) > 2 * made:
            raise OSError(errno.EMFILE, "Too many open files")
        opened.extend(ends := pipe())
        return ends

    monkeypatch.setattr(os, "open", lambda *args: opened.append(fd := dup(*args)) or fd)
    monkeypatch.setattr(os, "close", lambda fd: (closed.append(fd), close(fd))[1])
    monkeypatch.setattr(os, "pipe", scarce)
    loop: Any = _Reads()
    with pytest.raises(OSError, match="Too many"):
        Stdio(loop, Input(loop, terminal=False), Output(loop), False, (True, True, True))
    assert len(opened) == 1 + 2 * made and sorted(closed) == sorted(opened)


# --- programs held in memory ----------------------------------------------------------------------------------------


@pytest.fixture
def no_copies(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sealed, "_copies", {})
    yield
    for fd in sealed.descriptors():
        os.close(fd)


@pytest.fixture
def program(tmp_path: Path, no_copies: None) -> Path:
    return Path(shutil.copy2(os.path.realpath(sys.executable), tmp_path / "program"))


def test_program_runs_from_memory_until_its_file_is_replaced(program: Path) -> None:
    sealed.hold([str(program)])
    copy = sealed.executable(str(program))
    assert copy == f"/proc/self/fd/{sealed.descriptors()[0]}"
    said = subprocess.run([copy, "--version"], pass_fds=sealed.descriptors(), capture_output=True, text=True)
    assert said.stdout.startswith("Python ")
    with pytest.raises(PermissionError), open(copy, "r+b") as file:
        file.truncate(0)
    program.write_bytes(b"another")
    assert sealed.executable(str(program)) == str(program)


def test_script_is_run_from_its_file(tmp_path: Path, no_copies: None) -> None:
    script = tmp_path / "wrapper"
    script.write_text("#!/bin/sh\n")
    sealed.hold([str(script), str(tmp_path / "missing")])
    assert sealed.executable(str(script)) == str(script)
    assert not sealed.descriptors()


@pytest.mark.parametrize("size", [0, 100, (5 << 20) + 7])
def test_copy_on_huge_pages_equals_the_file(size: int) -> None:
    data = os.urandom(size)
    fd = os.memfd_create("huge", os.MFD_CLOEXEC)
    with open(fd, "r+b", buffering=0) as file:
        file.write(data)
        try:
            linux.use_huge_pages(fd)
        except OSError as error:
            pytest.skip(f"this kernel makes none: {error}")
        file.seek(0)
        assert file.read() == data
