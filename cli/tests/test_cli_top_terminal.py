"""`orlop top` on a terminal of tmux: screens, sizes, terminal types and signals, and that the terminal is restored."""

from __future__ import annotations

import os
import re
import shutil
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tmux_terminal import Tmux

from orlop_cli.testing import RecordedDaemon, Request, answer

pytestmark = pytest.mark.skipif(not shutil.which("tmux"), reason="tmux is not installed")

ID = "ab" * 32
HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
ROWS = [
    {"Id": ID, "Names": ["/web"], "Image": "nginx", "State": "running", "Status": "Up 2 hours (healthy)"},
    {"Id": "cd" * 32, "Names": ["/job"], "Image": "busybox", "State": "exited", "Status": "Exited (137) 3 minutes ago"},
]
STATS = {
    "read": "2026-01-01T00:00:00Z",
    "cpu_stats": {"cpu_usage": {"total_usage": 7}, "system_cpu_usage": 9, "online_cpus": 2},
    "memory_stats": {"usage": 50 << 20, "limit": 64 << 20},
    "networks": {"eth0": {"rx_bytes": 1, "tx_bytes": 1}},
    "pids_stats": {"current": 5},
}
SCREEN = """\
orlop top  {host}  1 of 2 running
1Cont 2Img 3Vol 4Net 5Cache   by NAME
NAME            STATE      HEALTH      CPU %      MEM  MEM %    NET IN   NET OUT
job             exited 137 -               -        -      -         -         -
web             running    healthy       0.0    50MiB   78.1      0B/s      0B/s






? help l log e shell i inspect x explain s stop S Start r restart p pause"""
NARROW = """\
1Cont 2Img 3Vol 4Net 5Cache   by NAME
NAME         STATE        CPU %      MEM
job          exited 137       -        -
web          running        0.0    50MiB



? help l log e shell i inspect"""


class Log:
    """A log that is followed until the client disconnects."""

    def __init__(self, daemon: RecordedDaemon) -> None:
        self.left = threading.Event()
        self.more = threading.Event()
        daemon.on("GET", f"/containers/{ID}/logs", self)

    def __call__(self, connection: Any, request: Request) -> None:
        lines = b"".join(b"line %d\n" % at for at in range(30))
        connection.sendall(HEAD + b"%x\r\n%b\r\n" % (len(lines), lines))
        self.more.wait(30)
        connection.sendall(b"6\r\nevil\x1b\n\r\n")
        connection.recv(1)
        self.left.set()


def answers(daemon: RecordedDaemon) -> RecordedDaemon:
    daemon.on("GET", "/_ping", answer("OK"))
    daemon.on("GET", "/containers/json", answer(ROWS))
    daemon.on("GET", f"/containers/{ID}/stats", answer(STATS))
    daemon.on("GET", f"/containers/{ID}/json", answer({"Id": ID, "Name": "/web", "Config": {"Tty": True}}))
    return daemon


@pytest.fixture
def serving(daemon: RecordedDaemon) -> RecordedDaemon:
    return answers(daemon)


@pytest.fixture
def screens() -> Iterator[Any]:
    opened: list[Tmux] = []

    def start(**options: Any) -> Tmux:
        opened.append(Tmux(**options))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def top(host: str) -> list[str]:
    return [sys.executable, "-m", "orlop_cli", "-H", host, "top"]


def pid_of(daemon: RecordedDaemon) -> int:
    """The pid of the client that shows the view."""
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdecimal() else []
        except OSError:
            continue  # the process has ended
        if words[1:] == [*(word.encode() for word in top(daemon.host)[1:]), b""]:
            return int(entry)
    raise AssertionError("the view does not run")


def test_screen_is_redrawn_when_the_terminal_is_resized(serving: RecordedDaemon, screens: Any) -> None:
    terminal = screens()
    terminal.run(top(serving.host))
    expected = SCREEN.format(host=serving.host)
    terminal.until(lambda screen: [line[:80].rstrip() for line in expected.splitlines()] == screen.splitlines())
    terminal.resize(40, 9)
    terminal.until(lambda screen: screen.partition("\n")[2] == NARROW)
    terminal.resize(80, 12)
    terminal.until(lambda screen: screen.endswith(SCREEN.partition("\n")[2]))
    terminal.type("q")
    terminal.see("code=0\n$")
    assert terminal.is_cooked()


def test_stats_are_requested_as_single_samples_of_visible_containers_only(serving: RecordedDaemon, screens: Any) -> None:
    """The client requests single samples, and only for the containers on the visible page."""
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("0B/s")
    sampled = [request for request in serving.requests if request.path.endswith("/stats")]
    assert {request.path for request in sampled} == {f"/containers/{ID}/stats"}
    assert {"one-shot=1" in request.target for request in sampled} == {True}
    assert {"stream=0" in request.target for request in sampled} == {True}
    terminal.type("3")
    terminal.see("connection lost")  # the recorded daemon has no volumes
    assert len([request for request in serving.requests if request.path.endswith("/stats")]) <= len(sampled) + 1


def test_log_view_shows_new_lines_and_ends_its_request_when_it_is_closed(serving: RecordedDaemon, screens: Any) -> None:
    log = Log(serving)
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("healthy")
    terminal.type("End", "l")
    assert terminal.see("line 29").startswith("log web  lines 21-30 of 30\nline 20\n")
    log.more.set()
    assert "evil\\x1b" in terminal.see("of 31")
    terminal.type("Escape")
    terminal.see("MEM %")
    assert log.left.wait(30)


@pytest.mark.parametrize("data", [b"line\n" * 10_000, "\u00e9".encode() * 25_000], ids=["lines", "no newline"])
def test_keys_are_read_while_the_view_receives_an_endless_log(serving: RecordedDaemon, screens: Any, data: bytes) -> None:
    left = threading.Event()

    def endless(connection: Any, request: Request) -> None:
        connection.sendall(HEAD)
        try:
            while True:
                connection.sendall(b"%x\r\n%b\r\n" % (len(data), data))
        except OSError:
            left.set()

    serving.on("GET", f"/containers/{ID}/logs", endless)
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("healthy")
    terminal.type("End", "l")
    terminal.see("of 2000" if b"\n" in data else "\u00e9" * 80)
    terminal.type("Escape")
    terminal.see("MEM %")
    assert left.wait(30)


def test_enter_key_shows_the_inspect_json_of_a_container(serving: RecordedDaemon, screens: Any) -> None:
    terminal = screens(width=100)
    terminal.run(top(serving.host))
    terminal.see("healthy")
    terminal.type("End", "Enter")
    assert '\n    "Name": "/web",\n' in terminal.see("Tty")
    terminal.type("q")
    terminal.see("MEM %")


def test_keys_send_requests_and_the_view_shows_the_daemons_refusals(serving: RecordedDaemon, screens: Any) -> None:
    serving.on("POST", f"/containers/{ID}/stop", answer({"message": "it is \x1b[5m busy"}, 409))
    serving.on("DELETE", f"/containers/{ID}", answer(status=204))
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("healthy")
    terminal.type("End", "s")
    terminal.see("cannot stop web: it is \\x1b[5m busy")
    terminal.type("d")
    terminal.see("Remove running container web, which kills it? (y/n)")
    terminal.type("n")
    terminal.see("nothing done")
    assert f"DELETE /containers/{ID}" not in serving.seen()
    terminal.type("d", "y")
    terminal.see("removed web")
    assert serving.find("DELETE", f"/containers/{ID}").target.endswith("?force=1")


def test_view_survives_a_restart_of_the_daemon(tmp_path: Path, screens: Any) -> None:
    terminal = screens()
    with RecordedDaemon(str(tmp_path / "d.sock")) as daemon:
        answers(daemon)
        terminal.run(top(daemon.host))
        terminal.see("healthy")
    os.unlink(daemon.path)
    lost = terminal.see("connection lost, trying again: ")
    assert "\nweb " in lost
    with RecordedDaemon(daemon.path) as daemon:
        answers(daemon)
        terminal.until(lambda screen: screen.startswith("orlop top") and "50MiB" in screen)
        terminal.type("q")
        terminal.see("code=0\n$")


def test_view_shows_containers_of_a_daemon_that_is_reached_by_ssh(
    serving: RecordedDaemon, screens: Any, tmp_path: Path
) -> None:
    log = Log(serving)
    script = tmp_path / "ssh"
    script.write_text(f"#!/bin/sh\nexec {sys.executable} -m orlop_cli -H {serving.host} system dial-stdio\n")
    script.chmod(0o700)
    terminal = screens(PATH=f"{tmp_path}:{os.environ['PATH']}")
    terminal.run(top("ssh://me@server"))
    assert terminal.see("healthy").startswith("orlop top  ssh://me@server  1 of 2 running")
    terminal.type("End", "l")
    terminal.see("line 29")
    log.more.set()
    terminal.type("q")
    terminal.see("MEM %")
    assert log.left.wait(30)
    terminal.type("q")
    terminal.see("code=0\n$")


@pytest.mark.parametrize("way", ["C-c", "TERM", "HUP", "crash"])
def test_terminal_is_restored_after_a_signal_or_a_crash(way: str, serving: RecordedDaemon, screens: Any) -> None:
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("healthy")
    assert not terminal.is_cooked()
    if way == "C-c":
        terminal.type("C-c")
    elif way == "crash":
        serving.on("GET", "/containers/json", answer([{"Names": 1}]))
    else:
        os.kill(pid_of(serving), getattr(signal, f"SIG{way}"))
    code = {"C-c": 130, "TERM": 143, "HUP": 129, "crash": 1}[way]
    screen = terminal.see(f"code={code}\n$")
    assert ("KeyError" in screen or "TypeError" in screen) == (way == "crash")
    assert terminal.is_cooked()


def test_view_that_was_suspended_with_ctrl_z_continues_after_fg(serving: RecordedDaemon, screens: Any) -> None:
    terminal = screens()
    terminal.run(top(serving.host))
    terminal.see("healthy")
    terminal.type("C-z")
    terminal.see("Stopped")
    assert terminal.is_cooked()
    terminal.resize(100, 14)
    terminal.tmux("send-keys", "-l", "fg; echo code=$?")
    terminal.type("Enter")
    terminal.until(lambda screen: screen.startswith("orlop top") and len(screen.splitlines()) == 14)
    terminal.type("q")
    terminal.see("code=0\n$")
    assert terminal.is_cooked()


@pytest.mark.parametrize(
    ("environment", "coloured"),
    [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "vt100"}, False), ({"LANG": "C", "LC_ALL": "POSIX"}, True)],
    ids=["colour", "no-color", "vt100", "ascii"],
)
def test_colours_are_used_only_if_the_terminal_and_no_color_allow_them(
    environment: dict[str, str], coloured: bool, serving: RecordedDaemon, screens: Any
) -> None:
    terminal = screens(**environment)
    terminal.run(top(serving.host))
    terminal.see("healthy")
    styled = terminal.screen("-e")
    assert bool(re.search(r"\x1b\[(\d+;)?(3[0-7]|4[0-7])m", styled)) == coloured
    assert re.search(r"\x1b\[(0;)?7m", styled)  # the selected row is reversed with and without colour
    terminal.type("q")
    terminal.see("code=0\n$")


@pytest.mark.parametrize(("name", "reason"), [("dumb", "cannot move the cursor"), ("nonsense", "is unknown")])
def test_terminal_type_without_cursor_movement_is_refused(
    name: str, reason: str, serving: RecordedDaemon, screens: Any
) -> None:
    terminal = screens(TERM=name, width=200)
    terminal.run(top(serving.host))
    screen = terminal.see(reason)
    assert "orlop: cannot show a full-screen view: " in screen and "use `orlop ps` and `orlop stats` instead" in screen
    assert serving.requests == []


def test_top_command_fails_without_a_terminal(orlop: Any) -> None:
    done = orlop("top")
    assert done.code == 1 and "needs a terminal" in done.err and "orlop stats --no-stream" in done.err
