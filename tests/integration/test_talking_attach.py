"""Attach and exec in the API, compared with dockerd: requested streams, their end, and error messages."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.integration.engine import Engine, until
from tests.integration.talking import Hijacked, exec_in, frames

pytestmark = pytest.mark.root

BOTH = "stream=1&stdout=1&stderr=1"


@pytest.fixture
def box(engine: Engine, name: str) -> Iterator[str]:
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    yield name


def create(engine: Engine, name: str, *argv: str, **config: Any) -> None:
    status, made = engine.api("POST", f"/containers/create?name={name}", {"Image": "busybox", "Cmd": argv, **config})
    assert status == 201, made


def start(engine: Engine, name: str) -> None:
    assert engine.api("POST", f"/containers/{name}/start")[0] == 204


def test_client_attached_before_the_start_gets_all_output(engine: Engine, name: str) -> None:
    create(engine, name, "sh", "-c", "echo hi; cat; echo e >&2", OpenStdin=True, StdinOnce=True)
    client = Hijacked(engine, f"/containers/{name}/attach?{BOTH}&stdin=1")
    assert client.status == 101
    client.send(b"early\n")
    client.end()
    start(engine, name)
    assert frames(client.rest()) == {1: b"hi\nearly\n", 2: b"e\n"}


def test_attached_client_gets_only_the_streams_that_it_requested(engine: Engine, name: str) -> None:
    create(engine, name, "sh", "-c", "echo o; echo e >&2; cat", OpenStdin=True)
    error = Hijacked(engine, f"/containers/{name}/attach?stream=1&stderr=1")
    nothing = Hijacked(engine, f"/containers/{name}/attach?stream=1")
    neither = Hijacked(engine, f"/containers/{name}/attach?stdout=1")
    closed = Hijacked(engine, f"/containers/{name}/attach")
    for client in (nothing, neither, closed):
        assert (client.status, client.rest()) == (101, b"")
    start(engine, name)
    error.expect(b"e\n")
    replay = Hijacked(engine, f"/containers/{name}/attach?logs=1&stdout=1")
    assert frames(replay.rest()) == {1: b"o\n"}
    # Without StdinOnce, the end of one client's input ends only the attach of this client
    writer = Hijacked(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    writer.send(b"one\n")
    writer.expect(b"one\n")
    writer.end()
    assert frames(writer.rest()) == {1: b"one\n"}
    assert engine.state(name) == "running"
    engine.ok("kill", name)
    assert frames(error.rest()) == {2: b"e\n"}


def test_stdin_once_closes_the_input_for_all_clients(engine: Engine, name: str) -> None:
    """With `StdinOnce`, the end of one client's input ends the container's input, even if other clients are attached."""
    create(engine, name, "cat", OpenStdin=True, StdinOnce=True)
    start(engine, name)
    first, second = (Hijacked(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1") for _ in range(2))
    until(lambda: engine.events(container=name).count("attach") == 2, "both are attached")
    first.send(b"a\n")
    second.expect(b"a\n")
    second.send(b"b\n")
    first.expect(b"b\n")
    first.end()
    assert frames(first.rest()) == frames(second.rest()) == {1: b"a\nb\n"}
    engine.wait_state(name, "exited")


def test_refused_attach_requests_get_dockerds_status_and_message(engine: Engine, name: str) -> None:
    client = Hijacked(engine, "/containers/no-such/attach?stream=1")
    assert client.status == 404
    engine.ok("run", "-d", "--name", name, "--log-driver", "none", "busybox", "sleep", "600")
    container = engine.inspect(name)["Id"]
    assert Hijacked(engine, f"/containers/{name}/attach?stream=1&detachKeys=ctrl-").status == 400
    client = Hijacked(engine, f"/containers/{name}/attach?logs=1&stdout=1")
    assert client.status == 501
    client.expect(b"configured logging driver does not support reading")
    engine.ok("pause", name)
    client = Hijacked(engine, f"/containers/{name}/attach?{BOTH}")
    assert client.status == 409
    client.expect(f"container {container} is paused, unpause the container before attach".encode())
    engine.ok("unpause", name)


def test_client_attached_to_an_exited_container_gets_the_output_of_its_next_run(engine: Engine, name: str) -> None:
    engine.ok("run", "--name", name, "busybox", "echo", "again")
    client = Hijacked(engine, f"/containers/{name}/attach?{BOTH}")
    assert client.stays_open()
    start(engine, name)
    assert frames(client.rest()) == {1: b"again\n"}
    other = Hijacked(engine, f"/containers/{name}/attach?{BOTH}")
    engine.ok("rm", name)
    assert other.rest() == b""


def test_attached_client_gets_output_written_immediately_before_the_exit(engine: Engine, name: str) -> None:
    def once(number: int) -> bytes:
        create(engine, f"{name}-{number}", "echo", str(number))
        client = Hijacked(engine, f"/containers/{name}-{number}/attach?{BOTH}")
        start(engine, f"{name}-{number}")
        return client.rest()

    with ThreadPoolExecutor(3) as pool:
        assert [frames(data) for data in pool.map(once, range(20))] == [{1: b"%d\n" % number} for number in range(20)]


def test_container_terminal_has_the_requested_size_and_can_be_resized(engine: Engine, name: str) -> None:
    create(engine, name, "sh", Tty=True, OpenStdin=True, HostConfig={"ConsoleSize": [11, 22]})
    assert engine.api("POST", f"/containers/{name}/resize?h=1&w=1")[0] == 409
    client = Hijacked(engine, f"/containers/{name}/attach?stream=1&stdin=1&stdout=1")
    start(engine, name)
    client.send(b"stty size\n")
    client.expect(b"11 22\r\n")
    assert engine.api("POST", f"/containers/{name}/resize?h=33&w=44")[0] == 200
    client.send(b"stty size\n")
    client.expect(b"33 44\r\n")
    for query in ("", "?h=a&w=1", "?h=1"):
        status, answer = engine.api("POST", f"/containers/{name}/resize{query}")
        assert (status, answer["message"].partition(":")[0]) == (400, "strconv.Atoi")
    client.send(b"exit\n")
    client.rest()


def test_exec_sends_only_the_streams_that_its_create_request_attached(engine: Engine, box: str) -> None:
    script = "cat; echo o; echo e >&2; exit 3"
    made = exec_in(engine, box, "sh", "-c", script, AttachStdin=True, AttachStdout=True, AttachStderr=True)
    client = Hijacked(engine, f"/exec/{made}/start", {})
    client.send(b"in\n")
    client.end()
    assert frames(client.rest()) == {1: b"in\no\n", 2: b"e\n"}
    assert engine.api("GET", f"/exec/{made}/json")[1]["ExitCode"] == 3
    made = exec_in(engine, box, "sh", "-c", "echo o; echo e >&2", AttachStderr=True)
    assert frames(Hijacked(engine, f"/exec/{made}/start", {}).rest()) == {2: b"e\n"}


def test_start_request_of_an_exec_without_streams_ends_while_the_exec_runs(engine: Engine, box: str) -> None:
    made = exec_in(engine, box, "sleep", "600")
    assert Hijacked(engine, f"/exec/{made}/start", {}).rest() == b""
    found = engine.api("GET", f"/exec/{made}/json")[1]
    assert (found["Running"], found["CanRemove"]) == (True, False)
    assert found["Pid"] > 0
    assert engine.api("POST", f"/exec/{made}/resize?h=1&w=1")[0] == 200  # a resize without a terminal is no error


def test_exec_output_has_frames_if_the_start_request_has_no_tty(engine: Engine, box: str) -> None:
    """As in dockerd, a start without Tty gets frames, and a start with Tty gets a raw stream."""
    made = exec_in(engine, box, "tty", AttachStdout=True, Tty=True)
    assert frames(Hijacked(engine, f"/exec/{made}/start", {}).rest()) == {1: b"/dev/pts/0\r\n"}
    made = exec_in(engine, box, "echo", "plain", AttachStdout=True)
    client = Hijacked(engine, f"/exec/{made}/start", {"Tty": True})
    assert "application/vnd.docker.raw-stream" in client.head
    assert client.rest() == b"plain\n"


def test_second_start_of_an_exec_and_any_exec_in_a_paused_container_are_refused(engine: Engine, box: str) -> None:
    made = exec_in(engine, box, "true", AttachStdout=True)
    waiting = exec_in(engine, box, "true", AttachStdout=True)
    Hijacked(engine, f"/exec/{made}/start", {}).rest()
    client = Hijacked(engine, f"/exec/{made}/start", {})
    assert client.status == 409
    client.expect(f"Error: Exec command {made} has already run".encode())
    engine.ok("pause", box)
    assert Hijacked(engine, f"/exec/{waiting}/start", {}).status == 409
    assert engine.api("POST", f"/containers/{box}/exec", {"Cmd": ["true"]})[0] == 409
    engine.ok("unpause", box)
    engine.ok("rm", "-f", box)
    for each in (made, waiting):
        assert engine.api("GET", f"/exec/{each}/json")[0] == 404


def test_exec_in_a_container_without_programs_or_passwd_fails_with_dockers_messages(engine: Engine, box: str) -> None:
    """If the container has lost its programs and /etc/passwd, an exec fails with Docker's messages."""
    engine.docker("exec", box, "rm", "-rf", "/bin", "/etc/passwd")
    result = engine.docker("exec", box, "true")
    assert (result.code, 'exec: "true": executable file not found in $PATH' in result.out) == (127, True)
    result = engine.docker("exec", "-u", "nobody", box, "true")
    assert (result.code, result.out) == (126, "unable to find user nobody: no matching entries in passwd file\r\n")


def test_daemon_learns_of_an_execs_exit_after_the_connection_to_its_monitor_broke(engine: Engine, box: str) -> None:
    """The daemon's connection to the monitor breaks, so the report of an exit is lost. The daemon asks for the exit after it
    has reconnected."""
    lost = exec_in(engine, box, "sh", "-c", "sleep 0.2; exit 3")
    kept = exec_in(engine, box, "sleep", "600")
    assert engine.process is not None
    monitor, ours = engine.monitor(box), set(os.listdir(f"/proc/{engine.process.pid}/fd"))
    for made in (lost, kept):
        assert engine.api("POST", f"/exec/{made}/start", {"Detach": True})[0] == 200
    _break_connection(engine.process.pid, monitor)
    until(lambda: not engine.api("GET", f"/exec/{lost}/json")[1]["Running"], "the exec that nobody told of has ended")
    assert engine.api("GET", f"/exec/{lost}/json")[1]["ExitCode"] == 3
    assert engine.api("GET", f"/exec/{kept}/json")[1]["Running"]
    assert engine.ok("exec", box, "echo", "well") == "well"
    assert len(set(os.listdir(f"/proc/{engine.process.pid}/fd")) - ours) < 8


def _break_connection(daemon: int, monitor: int) -> None:
    """Shut down the control connection from the monitor's side. The descriptor is duplicated by pidfd_getfd(2)."""
    import ctypes
    import socket

    pidfd = os.pidfd_open(monitor)
    try:
        for name in sorted(map(int, os.listdir(f"/proc/{monitor}/fd"))):
            if not os.readlink(f"/proc/{monitor}/fd/{name}").startswith("socket:"):
                continue
            fd = ctypes.CDLL(None, use_errno=True).syscall(438, pidfd, name, 0)
            assert fd >= 0
            with socket.socket(fileno=fd) as sock:
                if sock.family == socket.AF_UNIX and not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    sock.shutdown(socket.SHUT_RDWR)
    finally:
        os.close(pidfd)
    time.sleep(0)


def test_non_blocking_log_is_complete_if_its_buffer_is_large_enough(engine: Engine, name: str) -> None:
    options = ["--log-opt", "mode=non-blocking", "--log-opt", "max-buffer-size=8m"]
    result = engine.docker("run", "--name", name, *options, "busybox", "seq", "1", "50000")
    assert result.code == 0
    assert engine.docker("logs", name).out == result.out
