"""Concurrent operations, a daemon that is killed or stopped during operations, a monitor that hangs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from tests.integration.engine import Engine, alive, patience, until

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

PORTS = [free_port() for _ in range(3)]  # below the ports of outgoing connections, which other programs may use
SLEEP = ("busybox", "sleep", "600")
QUICK = ("--stop-timeout", "0", *SLEEP)


def _nothing_runs(engine: Engine) -> bool:
    return os.listdir(engine.exec_root / "run") == []


def test_wait_and_attach_requests_end_when_the_container_is_removed(engine: Engine, name: str) -> None:
    engine.ok("create", "--name", name, *SLEEP)
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(engine.api, "POST", f"/containers/{name}/wait?condition=next-exit")
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(10)
            client.connect(engine.socket)
            client.sendall(f"POST /v1.45/containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
            engine.ok("rm", name)
            assert client.recv(4096) == b""
        assert waiting.result(10) == (200, {"StatusCode": 0})


def test_attach_during_a_start_gets_all_output(engine: Engine, name: str) -> None:
    """Each client attaches at another moment of the start. All clients get the end of the output."""
    engine.ok("create", "--name", name, "busybox", "sh", "-c", "sleep 0.5; echo end")
    attached = []
    start = engine.background("start", name)
    for _ in range(8):
        client = socket.socket(socket.AF_UNIX)
        client.settimeout(10)
        client.connect(engine.socket)
        client.sendall(f"POST /v1.45/containers/{name}/attach?stream=1&stdout=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        attached.append(client)
        time.sleep(0.01)
    assert start.wait(10) == 0
    for client in attached:
        seen = b""
        while more := client.recv(4096):
            seen += more
        assert seen.endswith(b"end\n")
        client.close()


def test_forced_removal_during_a_start_leaves_nothing(engine: Engine, name: str) -> None:
    for round_ in range(4):
        engine.ok("create", "--name", name, *SLEEP)
        start = engine.background("start", name)
        time.sleep(0.02 * round_)
        began = time.monotonic()
        engine.ok("rm", "-f", name)
        assert time.monotonic() - began < 5
        start.communicate(timeout=patience(10))
        assert engine.docker("inspect", name).code == 1
    assert not engine.recorded_late()


def test_forced_removal_during_a_restart_leaves_nothing(engine: Engine, name: str) -> None:
    for round_ in range(4):
        engine.ok("run", "-d", "--name", name, *SLEEP)
        restart = engine.background("restart", "-t", "0", name)
        time.sleep(0.02 + 0.02 * round_)
        engine.ok("rm", "-f", name)
        restart.communicate(timeout=patience(10))
        assert engine.docker("inspect", name).code == 1
        until(partial(_nothing_runs, engine), "nothing runs that has no row", 5)


def test_requests_to_a_hanging_monitor_fail_and_forced_removal_works(engine: Engine, name: str) -> None:
    engine.ok("run", "-dt", "--name", name, *SLEEP)
    pid, monitor = int(engine.inspect(name)["State"]["Pid"]), engine.monitor(name)
    os.kill(monitor, signal.SIGSTOP)
    try:
        with ThreadPoolExecutor() as pool:
            refused = pool.submit(engine.api, "POST", f"/containers/{name}/resize?h=5&w=5")
            removed = pool.submit(engine.docker, "rm", "-f", name)
            time.sleep(0.1)
            began = time.monotonic()
            assert name in engine.ok("ps")
            assert engine.inspect(name)["State"]["Running"]
            assert engine.ok("run", "--rm", "busybox", "echo", "well") == "well"
            assert time.monotonic() - began < 5
            status, answer = refused.result(20)
            assert status == 503 or status == 500
            assert "is stopped; `kill -CONT" in answer["message"]
            assert removed.result(40).code == 0
    finally:
        if alive(monitor):
            os.kill(monitor, signal.SIGCONT)
    until(lambda: not alive(pid), "its process is dead")


@contextmanager
def traffic(engine: Engine) -> Iterator[None]:
    """Creates and removes containers of all kinds in a loop. The loop continues while no daemon runs."""
    with ThreadPoolExecutor(6) as pool:
        going = [True]

        def one(number: int) -> None:
            while going:
                for command in (
                    ("run", "-d", "--name", f"t{number}", "-p", f"127.0.0.1:{PORTS[number]}:80", *QUICK),
                    ("run", "--rm", "busybox", "true"),
                    ("restart", "-t", "0", f"t{number}"),
                    ("rm", "-f", f"t{number}"),
                    ("create", "-v", "/anonymous", *SLEEP),
                ):
                    if going:
                        engine.docker(*command)

        for number in range(3):
            pool.submit(one, number)
        try:
            yield
        finally:
            going.clear()


def test_container_starts_again_after_a_kill_of_the_daemon_during_its_start(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"live-restore": True})
    engine.ok("create", "--name", "again", *QUICK)
    for round_ in range(6):
        start = engine.background("start", "again")
        time.sleep(0.02 + 0.01 * round_)
        engine.kill()
        start.communicate(timeout=patience(10))
        engine.start()
        engine.ok("start", "again")
        assert alive(int(engine.inspect("again")["State"]["Pid"]))
        engine.ok("stop", "again")


@pytest.mark.parametrize("live", [True, False])
def test_state_is_consistent_after_a_kill_of_the_daemon_during_operations(fresh: Callable[..., Engine], live: bool) -> None:
    engine = fresh({"live-restore": live, "shutdown-timeout": 3})
    for moment in (0.35, 0.5, 0.75):
        with traffic(engine):
            time.sleep(moment)
            engine.kill()
        engine.start()
        for line in engine.ok("ps", "-aq", "--no-trunc").split():
            status, found = engine.api("GET", f"/containers/{line}/json")
            if status == 404:
                continue  # a --rm container whose exit the daemon has just processed
            state = found["State"]
            assert state["Status"] in ("created", "running", "exited", "removing")
            until(partial(_shown_as_it_is, engine, line), "no dead process is shown as running")
        # The remaining containers work, and their names and ports can be reused.
        for number in range(3):
            engine.docker("rm", "-f", f"t{number}")
            engine.ok("run", "-d", "--name", f"t{number}", "-p", f"127.0.0.1:{PORTS[number]}:80", *SLEEP)
            engine.ok("rm", "-f", f"t{number}")
        for line in engine.ok("ps", "-aq").split():
            engine.ok("rm", "-fv", line)
        until(lambda: os.listdir(engine.data_root / "containers") == [], "no directory is left")
        until(partial(_nothing_runs, engine), "no run is left")
        engine.ok("volume", "prune", "-f")


def _shown_as_it_is(engine: Engine, container: str) -> bool:
    """Between the death of a process and the record of its exit the container is shown as running."""
    status, found = engine.api("GET", f"/containers/{container}/json")
    return status == 404 or not found["State"]["Running"] or alive(found["State"]["Pid"])


def test_state_is_consistent_after_a_stop_of_the_daemon_during_operations(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3})
    for moment in (0.35, 0.6):
        with traffic(engine):
            time.sleep(moment)
            assert engine.stop() == 0, engine.log()
        assert _nothing_runs(engine)
        engine.start()
        assert engine.ok("ps", "-q") == ""


def test_daemon_starts_although_the_runtime_of_a_container_is_missing(fresh: Callable[..., Engine], tmp_path: Path) -> None:
    program = tmp_path / "other-runc"
    shutil.copy(str(shutil.which("runc")), program)
    engine = fresh({"runtimes": {"other": {"path": str(program)}}, "shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "orphan", "--runtime", "other", *SLEEP)
    pid = int(engine.inspect("orphan")["State"]["Pid"])
    zygote, monitor = engine.zygote, engine.monitor("orphan")
    engine.kill()
    for process in (zygote, monitor):
        os.kill(process, signal.SIGKILL)
    engine.configure(json.loads("{}"))
    program.unlink()
    engine.start()
    assert engine.state("orphan") == "exited" and not alive(pid)
    engine.ok("rm", "orphan")
