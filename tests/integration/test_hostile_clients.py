"""Hostile clients: each may block its own connection, and nothing else."""

from __future__ import annotations

import os
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest
from tests.integration.engine import Engine, until
from tests.soak.memory import sample

pytestmark = pytest.mark.root

PATIENCE = 2.0  # seconds for an answer to other clients meanwhile, on a busy machine
GROWTH = 48 << 10  # KiB that the daemon may grow by meanwhile


@pytest.fixture(autouse=True)
def many_files() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _open(engine: Engine, data: bytes = b"") -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(20)
    sock.connect(engine.socket)
    sock.sendall(data)
    return sock


def _get(path: str, method: str = "GET") -> bytes:
    return f"{method} {path} HTTP/1.1\r\nHost: d\r\n\r\n".encode()


def _fds(engine: Engine) -> int:
    assert engine.process is not None
    return len(os.listdir(f"/proc/{engine.process.pid}/fd"))


def _others_are_served(engine: Engine) -> None:
    for path in ("/_ping", "/containers/json?all=1", "/info") * 5:
        began = time.monotonic()
        assert engine.api("GET", path)[0] == 200
        assert time.monotonic() - began < PATIENCE, path


@contextmanager
def _crowd(engine: Engine, size: int, *says: bytes) -> Iterator[list[socket.socket]]:
    """Make `size` connections for each text, and send the text. At the end, the daemon must have freed their memory."""
    before = _fds(engine)
    with ExitStack() as stack:
        yield [stack.enter_context(_open(engine, data)) for data in says or (b"",) for _ in range(size)]
    until(lambda: _fds(engine) <= before + 2, "the daemon has let the connections go")


def test_slow_requests_do_not_delay_other_clients(engine: Engine) -> None:
    with _crowd(engine, 200, b"GET /containers/json HTTP/1.1\r\nHost: d\r\nX-Slow: ") as crowd:
        for letter in (b"a", b"b"):
            for sock in crowd:
                sock.sendall(letter)
            _others_are_served(engine)
        crowd[0].sendall(b"\r\n\r\n")
        assert crowd[0].recv(4096).startswith(b"HTTP/1.1 200")  # slow requests are answered


def test_memory_of_slow_requests_is_freed(engine: Engine) -> None:
    """The clients send headers of 60 KB that never end."""
    assert engine.process is not None
    before = sample(engine.process.pid)["Rss"]
    head = b"GET /containers/json HTTP/1.1\r\nHost: d\r\nX-Slow: " + b"a" * 60_000
    with _crowd(engine, 1000, head):
        _others_are_served(engine)
        assert sample(engine.process.pid)["Rss"] - before > 50 << 10
    pid = engine.process.pid
    until(lambda: sample(pid)["Rss"] - before < 25 << 10, "it is given back", 40)


def test_slow_request_bodies_do_not_delay_other_clients(engine: Engine) -> None:
    head = b"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"
    with _crowd(engine, 200, head):
        _others_are_served(engine)


def test_thousand_idle_connections_do_not_delay_other_clients(engine: Engine) -> None:
    with _crowd(engine, 1000):
        until(lambda: _fds(engine) > 1000, "all are accepted")
        _others_are_served(engine)


def test_clients_that_never_read_do_not_delay_other_clients(engine: Engine, name: str) -> None:
    """Floods clients with output, logs and events, of which they read nothing."""
    script = "while :; do seq 1 20000; done"
    engine.ok("run", "-d", "--name", name, "--log-opt", "max-size=1m", "busybox", "sh", "-c", script)
    engine.ok("run", "-d", "--name", f"{name}q", "busybox", "sleep", "600")
    assert engine.process is not None
    pids = (engine.process.pid, engine.monitor(name))
    before = [sample(pid)["Rss"] for pid in pids]
    deaf = (
        _get(f"/containers/{name}/logs?follow=1&stdout=1"),
        _get(f"/containers/{name}/logs?stdout=1"),
        _get(f"/containers/{name}/attach?stream=1&stdout=1", "POST"),
        _get("/events?since=1"),
    )
    with _crowd(engine, 10, *deaf):
        for round_ in range(20):
            engine.api("POST", f"/containers/{name}q/rename?name={name}q{round_ % 2}")
            engine.api("POST", f"/containers/{name}q{round_ % 2}/rename?name={name}q")
        _others_are_served(engine)
        assert engine.ok("exec", f"{name}q", "echo", "well") == "well"
        grown = [sample(pid)["Rss"] - old for pid, old in zip(pids, before, strict=True)]
        assert max(grown) < GROWTH, f"KiB more in the daemon and the monitor: {grown}"
        engine.ok("kill", name)  # a container that waits for slow clients can be killed


def test_unread_output_does_not_increase_the_memory_of_the_monitor(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, "--log-driver", "none", "busybox", "sh", "-c", "while :; do seq 1 20000; done")
    monitor = engine.monitor(name)
    before = sample(monitor)["Rss"]
    _others_are_served(engine)
    assert sample(monitor)["Rss"] - before < GROWTH
    engine.ok("kill", name)


@pytest.mark.parametrize("framing", ["Content-Length: 1099511627776", "Transfer-Encoding: chunked"])
def test_giant_request_body_is_refused_before_all_of_it_is_read(engine: Engine, framing: str) -> None:
    assert engine.process is not None
    before = sample(engine.process.pid)["Rss"]
    head = f"POST /containers/create HTTP/1.1\r\nHost: d\r\nContent-Type: application/json\r\n{framing}\r\n\r\n"
    piece = b" " * (1 << 20)
    if "chunked" in framing:
        piece = b"%x\r\n%s\r\n" % (len(piece), piece)
    end = time.monotonic() + 10
    with _open(engine, head.encode()) as sock:
        with pytest.raises(OSError):  # the daemon reads a little more, so that the answer arrives, then closes
            while time.monotonic() < end:
                sock.sendall(piece)
        try:
            assert sock.recv(4096).startswith(b"HTTP/1.1 413")
        except ConnectionResetError:
            pass
    assert sample(engine.process.pid)["Rss"] - before < GROWTH
    _others_are_served(engine)
