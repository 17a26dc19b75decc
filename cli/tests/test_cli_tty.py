"""The client as a child process on a pty: raw mode and back, sizes, detach keys, signals."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import sys
import termios
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from orlop_cli.testing import UPGRADED, RecordedDaemon, Request, answer

ID = "ab" * 32
CLIENT = [sys.executable, "-m", "orlop_cli"]


class Terminal:
    """The user's side of a pty with `orlop` on the other side. All waits have a deadline."""

    def __init__(self, daemon: RecordedDaemon, *args: str) -> None:
        self.output = b""
        self.code: int | None = None
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.environ.update(PYTHONPATH=os.pathsep.join(path for path in sys.path if path), PYTHONWARNINGS="")
            os.execv(sys.executable, [*CLIENT, "-H", daemon.host, *args])
        self.before = self.mode()
        self.size(30, 100)

    def mode(self) -> list[Any]:
        return termios.tcgetattr(self.fd)

    def size(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, data: bytes) -> None:
        os.write(self.fd, data)

    def until(self, wanted: Callable[[], bool]) -> None:
        """Read output until a condition is true; fails after ten seconds."""
        deadline = time.monotonic() + 10
        while not wanted():
            assert time.monotonic() < deadline, f"waited in vain; output: {self.output!r}"
            self.read(0.02)

    def read(self, timeout: float) -> None:
        """Read the client's output. EIO means that the client has closed its side."""
        if select.select([self.fd], [], [], timeout)[0]:
            try:
                self.output += os.read(self.fd, 65536)
            except OSError:
                select.select([], [], [], timeout)

    def see(self, text: bytes) -> None:
        self.until(lambda: text in self.output)

    def wait(self) -> int:
        """Wait for the client's exit and return the exit code."""

        def over() -> bool:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            return bool(pid)

        self.until(over)
        self.read(0)
        assert self.code is not None
        return self.code

    def close(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        os.close(self.fd)


class Shell:
    """A recorded container with a TTY: echoes, exits on `exit\\r`, and detaches on the detach keys, as the daemon does."""

    def __init__(self, daemon: RecordedDaemon, keys: bytes = b"\x10\x11") -> None:
        self.keys, self.closing = keys, daemon.closing
        self.ended = threading.Event()
        self.input = b""
        daemon.on("POST", "/containers/create", answer({"Id": ID, "Warnings": []}, 201))
        daemon.on("POST", f"/containers/{ID}/start", answer(status=204))
        daemon.on("POST", f"/containers/{ID}/resize", answer())
        daemon.on("POST", f"/containers/{ID}/kill", self.kill)
        daemon.on("POST", f"/containers/{ID}/attach", self.attach)
        daemon.on("POST", f"/containers/{ID}/wait", self.wait)

    def attach(self, connection: Any, request: Request) -> None:
        connection.sendall(UPGRADED + b"$ ")
        while data := connection.recv(4096):
            self.input += data
            if self.keys in self.input:
                return
            connection.sendall(b"[" + data + b"]")
            if b"exit\r" in self.input:
                self.ended.set()
                return

    def kill(self, connection: Any, request: Request) -> None:
        self.ended.set()
        connection.sendall(answer(status=204))

    def wait(self, connection: Any, request: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n")
        while not self.ended.wait(0.05) and not self.closing.is_set():
            pass
        connection.sendall(b'{"StatusCode":3}')


@pytest.fixture
def daemon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with RecordedDaemon(str(tmp_path / "d.sock")) as made:
        yield made


@pytest.fixture
def terminal(daemon: RecordedDaemon) -> Any:
    opened: list[Terminal] = []

    def start(*args: str) -> Terminal:
        opened.append(Terminal(daemon, *args))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def is_raw(mode: list[Any]) -> bool:
    return not mode[3] & (termios.ICANON | termios.ECHO | termios.ISIG)


def test_interactive_run_sets_raw_mode_and_restores_it(daemon: RecordedDaemon, terminal: Any) -> None:
    shell = Shell(daemon)
    here = terminal("run", "-it", "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    here.type(b"\x03")  # in raw mode ctrl-c is an ordinary byte
    here.see(b"[\x03]")
    here.type(b"exit\r")
    assert here.wait() == 3
    assert here.mode() == here.before
    assert shell.input == b"\x03exit\r"
    assert daemon.find("POST", "/containers/create").json()["HostConfig"]["ConsoleSize"] == [30, 100]
    assert daemon.find("POST", f"/containers/{ID}/resize").target.endswith("?h=30&w=100")


def test_terminal_of_the_container_is_resized_with_the_users_window(daemon: RecordedDaemon, terminal: Any) -> None:
    Shell(daemon)
    here = terminal("run", "-it", "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    here.size(41, 121)  # the kernel sends SIGWINCH
    here.until(lambda: any(request.target.endswith("?h=41&w=121") for request in daemon.requests))
    here.type(b"exit\r")
    assert here.wait() == 3


@pytest.mark.parametrize(("flags", "keys"), [([], b"\x10\x11"), (["--detach-keys", "ctrl-a,d"], b"\x01d")])
def test_detach_keys_leave_the_container_running(
    daemon: RecordedDaemon, terminal: Any, flags: list[str], keys: bytes
) -> None:
    Shell(daemon, keys)
    here = terminal("run", "-it", *flags, "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    here.type(keys[:1])
    here.see(b"[" + keys[:1] + b"]")
    here.type(keys[1:])
    assert here.wait() == 0
    assert here.mode() == here.before
    if flags:
        assert "detachKeys=ctrl-a%2Cd" in daemon.find("POST", f"/containers/{ID}/attach").target


def test_sigterm_is_forwarded_to_the_container(daemon: RecordedDaemon, terminal: Any) -> None:
    Shell(daemon)
    here = terminal("run", "-it", "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    os.kill(here.pid, signal.SIGTERM)
    here.until(lambda: f"POST /containers/{ID}/kill" in daemon.seen())
    assert daemon.find("POST", f"/containers/{ID}/kill").target.endswith("?signal=TERM")
    here.type(b"exit\r")
    assert here.wait() == 3


def test_fatal_signal_restores_the_terminal(daemon: RecordedDaemon, terminal: Any) -> None:
    Shell(daemon)
    here = terminal("run", "-it", "--sig-proxy=false", "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    os.kill(here.pid, signal.SIGTERM)
    assert here.wait() == 128 + signal.SIGTERM
    assert here.mode() == here.before


def test_lost_daemon_restores_the_terminal(daemon: RecordedDaemon, terminal: Any) -> None:
    shell = Shell(daemon)

    def die(connection: Any, request: Request) -> None:
        connection.sendall(UPGRADED + b"$ ")
        connection.recv(10)
        shell.ended.set()

    def wait(connection: Any, request: Request) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 16\r\n\r\n")
        shell.ended.wait(10)

    daemon.on("POST", f"/containers/{ID}/attach", die)
    daemon.on("POST", f"/containers/{ID}/wait", wait)
    here = terminal("run", "-it", "busybox")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    here.type(b"x")
    assert here.wait() == 125
    assert b"orlop: error waiting for container: connection closed in the middle of an answer" in here.output
    assert here.mode() == here.before


def test_interactive_exec_sets_raw_mode_and_restores_it(daemon: RecordedDaemon, terminal: Any) -> None:
    shell = Shell(daemon)
    daemon.on("POST", "/containers/web/exec", answer({"Id": "e1"}, 201))
    daemon.on("POST", "/exec/e1/start", shell.attach)
    daemon.on("POST", "/exec/e1/resize", answer())
    daemon.on("POST", "/exec/e1/resize", answer({"message": "not started"}, 500), times=2)
    daemon.on("GET", "/exec/e1/json", answer({"ExitCode": 4}))
    here = terminal("exec", "-it", "web", "sh")
    here.see(b"$ ")
    here.until(lambda: daemon.seen().count("POST /exec/e1/resize") == 3)  # repeated until the process has started
    here.type(b"exit\r")
    assert here.wait() == 4
    assert here.mode() == here.before


def test_attach_resizes_the_terminal_twice_to_force_a_redraw(daemon: RecordedDaemon, terminal: Any) -> None:
    Shell(daemon)
    state = {"Running": True, "Paused": False, "Restarting": False}
    daemon.on("GET", "/containers/web/json", answer({"Id": ID, "State": state, "Config": {"Tty": True, "OpenStdin": True}}))
    here = terminal("attach", "web")
    here.see(b"$ ")
    here.until(lambda: is_raw(here.mode()))
    here.type(b"\x10\x11")
    assert here.wait() == 1
    assert b"read escape sequence" in here.output
    sizes = [request.target.partition("?")[2] for request in daemon.requests if request.path.endswith("/resize")]
    assert sizes == ["h=31&w=101", "h=30&w=100"]


def test_pull_shows_a_line_per_layer(daemon: RecordedDaemon, terminal: Any) -> None:
    go_on = threading.Event()

    def pull(connection: Any, request: Request) -> None:
        def say(text: bytes) -> None:
            connection.sendall(b"%x\r\n%b\r\n" % (len(text), text))

        connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        say(b'{"status":"Pulling from library/x","id":"latest"}\r\n')
        for layer in (b"a1", b"b2"):
            say(b'{"status":"Pulling fs layer","progressDetail":{},"id":"%b"}\r\n' % layer)
        say(b'{"status":"Downloading","progressDetail":{"current":5000000,"total":10000000},"id":"a1"}\r\n')
        go_on.wait(10)
        say(b'{"status":"Pull complete","progressDetail":{},"id":"a1"}\r\n')
        say(b'{"status":"Pull complete","progressDetail":{},"id":"b2"}\r\n')
        say(b'{"status":"Digest: sha256:12"}\r\n{"status":"Status: Downloaded newer image for x:latest"}\r\n')
        connection.sendall(b"0\r\n\r\n")

    daemon.on("POST", "/images/create", pull)
    here = terminal("pull", "x")
    here.see(b"5.0/10.0 MB")
    assert b"latest: Pulling from library/x" in here.output
    go_on.set()
    assert here.wait() == 0
    here.until(lambda: b"docker.io/library/x:latest" in here.output)
    end = here.output.rpartition(b"b2: Pull complete")[2]
    assert end.index(b"Digest: sha256:12") < end.index(b"Status: Downloaded newer image") < end.index(b"docker.io/library/x")


def test_output_is_still_received_after_stdin_reaches_eof(daemon: RecordedDaemon, tmp_path: Path) -> None:
    """Without a terminal, EOF of stdin closes one direction only."""
    import subprocess

    shell = Shell(daemon)
    got: list[bytes] = []

    def attach(connection: Any, request: Request) -> None:
        connection.sendall(UPGRADED)
        while data := connection.recv(65536):
            got.append(data)
        connection.sendall(b"\x01\x00\x00\x00\x00\x00\x00\x05after")
        shell.ended.set()

    daemon.on("POST", f"/containers/{ID}/attach", attach)
    data = os.urandom(1 << 20)
    command = [*CLIENT, "-H", daemon.host, "run", "-i", "busybox", "cat"]
    done = subprocess.run(command, input=data, capture_output=True, timeout=20, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (3, b"after", b"")
    assert b"".join(got) == data


def test_client_is_killed_by_sigpipe_when_its_output_is_closed(daemon: RecordedDaemon) -> None:
    import subprocess

    body = (b"\x01\x00\x00\x00\x00\x00\x00\x02y\n") * 1000

    def logs(connection: Any, request: Request) -> None:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.docker.multiplexed-stream\r\n\r\n"
        connection.sendall(head)
        while True:
            connection.sendall(body)

    daemon.on("GET", "/containers/web/logs", logs)
    client = subprocess.Popen([*CLIENT, "-H", daemon.host, "logs", "-f", "web"], stdout=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.read(2) == b"y\n"
    client.stdout.close()
    assert client.wait(10) == -signal.SIGPIPE
