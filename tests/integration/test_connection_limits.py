"""Many connections: one client cannot exhaust the daemon, an administrator can always connect, and idle connections use
almost no resources."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root

FEW = ("prlimit", "--nofile=512:512")
IDLE = b""
SLOW_HEAD = b"GET /_ping HTTP/1.1\r\nHost: d\r\nX-Slow: "
EVENTS = b"GET /events HTTP/1.1\r\nHost: d\r\n\r\n"
UNREAD = b"GET /containers/talker/logs?stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n"


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def guarded(fresh: Callable[..., Engine]) -> tuple[Engine, str]:
    """A daemon with a low limit of descriptors, and its socket for readers."""
    path = f"/tmp/ot-guarded-{os.getpid()}.sock"
    return fresh({"listeners": [{"host": f"unix://{path}", "role": "read-only"}]}, prefix=FEW), path


def crowd(stack: ExitStack, path: str, size: int, says: bytes = b"") -> list[socket.socket]:
    found = []
    for _ in range(size):
        sock = stack.enter_context(socket.socket(socket.AF_UNIX))
        sock.connect(path)
        sock.settimeout(20)
        try:
            sock.sendall(says)
        except OSError:
            pass  # the connection was refused; the next read shows the reason
        found.append(sock)
    return found


def said(path: str, request: bytes = b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n") -> bytes:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(path)
        try:
            sock.sendall(request)
        except OSError:
            pass
        return sock.recv(65536)


def beginning(sock: socket.socket) -> bytes:
    """The start of the answer. It is empty if too many connections are refused at the same time, because some of them then
    get no answer."""
    try:
        return sock.recv(12)
    except ConnectionResetError:
        return b""


def descriptors(engine: Engine) -> list[str]:
    assert engine.process is not None
    found = []
    for fd in Path(f"/proc/{engine.process.pid}/fd").iterdir():
        try:
            found.append(os.readlink(fd))
        except FileNotFoundError:
            pass
    return found


def works(engine: Engine) -> None:
    assert engine.api("GET", "/_ping")[0] == 200
    assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"
    assert engine.ok("ps", "-q") is not None


@pytest.mark.parametrize("says", [IDLE, SLOW_HEAD])
def test_daemon_closes_old_idle_connections_to_accept_new_connections(guarded: tuple[Engine, str], says: bytes) -> None:
    """When a client has too many connections, the daemon closes its oldest waiting connection for a new one."""
    engine, path = guarded
    with ExitStack() as stack:
        held = crowd(stack, path, 1500, says)
        works(engine)
        assert said(path).startswith(b"HTTP/1.1 200")
        assert len(descriptors(engine)) < 200
        assert held[0].recv(1) == b""  # the oldest
    assert engine.log().count("\n") < 20, engine.log()


def test_open_streams_of_a_restricted_socket_do_not_block_the_administrator(guarded: tuple[Engine, str]) -> None:
    engine, path = guarded
    with ExitStack() as stack:
        held = crowd(stack, path, 600, EVENTS)
        assert held[0].recv(4096).startswith(b"HTTP/1.1 200")
        works(engine)
        answer = said(path)
        assert answer.startswith(b"HTTP/1.1 503") and b"Retry-After: 1\r\n" in answer
        assert b"which is the limit for a client" in answer
        docker = engine.docker("-H", f"unix://{path}", "ps")
        assert docker.code == 1 and "user 0 has" in docker.err, docker
        assert "connection refused: user 0 has" in engine.log()
        assert engine.log().count("\n") < 20, engine.log()
    until(lambda: said(path).startswith(b"HTTP/1.1 200"), "they have gone")


def test_too_many_streams_of_the_administrator_are_refused(fresh: Callable[..., Engine]) -> None:
    """Clients open more streams than the daemon may have descriptors. Some streams are refused, the log stays short, and
    nothing leaks."""
    engine = fresh(prefix=("prlimit", "--nofile=256:256"))
    rotated = ("--log-opt", "max-file=9", "--log-opt", "max-size=10k")
    engine.ok("run", "-d", "--name", "talker", *rotated, "busybox", "sh", "-c", "seq 20000; sleep 600")
    engine.ok("create", "--name", "created", "busybox")
    until(lambda: "20000" in engine.docker("logs", "-n1", "talker", check=0).out, "it has said all")
    before = len(descriptors(engine))
    requests = (
        UNREAD,
        b"GET /containers/talker/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/export HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/created/export HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/archive?path=/bin HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/top HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/stats HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/created/start HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/talker/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        EVENTS,
    )
    for request in requests:
        with ExitStack() as stack:
            crowd(stack, engine.socket, 20, EVENTS)
            held = crowd(stack, engine.socket, 60, request)
            statuses = {beginning(sock) for sock in held}
            assert statuses <= {b"HTTP/1.1 200", b"HTTP/1.1 204", b"HTTP/1.1 304", b"HTTP/1.1 503", b""}, (request, statuses)
        until(lambda: len(descriptors(engine)) <= before + 3, f"all is given back of {request!r}")
    assert "Traceback" not in engine.log(), engine.log()
    assert engine.log().count("\n") < 80, engine.log()
    works(engine)


def test_idle_log_followers_share_one_inotify_instance(engine: Engine, name: str) -> None:
    """The test has more followers than a user may have inotify instances."""
    assert engine.process is not None
    engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", "echo first; read line; echo second; sleep 600")
    follow = f"GET /containers/{name}/logs?stdout=1&follow=1 HTTP/1.1\r\nHost: d\r\n\r\n".encode()
    with ExitStack() as stack:
        held = crowd(stack, engine.socket, 400, follow)
        for sock in held:
            seen = b""
            while b"first" not in seen:
                seen += sock.recv(4096)
        began = os.times()
        spent = cpu_seconds(engine.process.pid)
        with pytest.raises(TimeoutError):
            held[0].settimeout(1.5)
            held[0].recv(1)
        assert os.times().elapsed - began.elapsed >= 1.4
        assert cpu_seconds(engine.process.pid) - spent < 0.2
        found = descriptors(engine)
        assert sum("inotify" in one for one in found) == 1
        assert len(os.listdir(f"/proc/{engine.process.pid}/task")) < 40
        works(engine)
        engine.ok("kill", name)
        for sock in held:
            sock.settimeout(20)
            seen = b""
            while not seen.endswith(b"0\r\n\r\n"):  # wait for the last chunk, because the container has exited
                seen += sock.recv(4096)


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_stop_of_the_daemon_does_not_wait_for_open_streams(fresh: Callable[..., Engine]) -> None:
    """The clients have many streams of each kind, and never read some of them."""
    engine = fresh({"shutdown-timeout": 2})
    engine.ok("run", "-d", "--name", "talker", "-i", "busybox", "sh", "-c", "while :; do echo talk talk; sleep 0.05; done")
    body = {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True}
    execs = [engine.api("POST", "/containers/talker/exec", body)[1]["Id"] for _ in range(30)]
    kinds = (
        b"POST /containers/talker/attach?stream=1&stdin=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/logs?follow=1&stdout=1 HTTP/1.1\r\nHost: d\r\n\r\n",
        b"GET /containers/talker/stats HTTP/1.1\r\nHost: d\r\n\r\n",
        b"POST /containers/talker/wait HTTP/1.1\r\nHost: d\r\n\r\n",
        EVENTS,
    )
    with ExitStack() as stack:
        held = [sock for kind in kinds for sock in crowd(stack, engine.socket, 200, kind)]
        head = "HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"
        for one in execs:
            held += crowd(stack, engine.socket, 1, f"POST /exec/{one}/start {head}".encode())
        for sock in held:
            assert sock.recv(9) == b"HTTP/1.1 ", sock
        works(engine)
        assert engine.stop() == 0
    assert "Traceback" not in engine.log(), engine.log()[-5000:]
