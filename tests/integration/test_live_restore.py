"""Live restore: if any part of Orlop is restarted, upgraded or killed, containers keep running. Without live-restore, they
stop with the daemon. The next daemon records the exits that happened while no daemon was running."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.engine import RUNTIME, Engine, alive, own_address, patience, until

import orlop_kernel
from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

SLEEP = ("busybox", "sleep", "600")
LIVE = {"live-restore": True, "shutdown-timeout": 3}


@pytest.fixture
def live(fresh: Callable[..., Engine]) -> Engine:
    return fresh(LIVE)


def test_container_survives_a_restart_of_the_daemon_unchanged(live: Engine) -> None:
    container = live.ok("run", "-d", "--name", "cc", "-v", "data:/data", *SLEEP)
    before = live.inspect("cc")
    live.stop()
    assert alive(before["State"]["Pid"])
    live.start()
    after = live.inspect("cc")
    assert after["Id"] == container
    for key in ("State", "Mounts", "RestartCount", "NetworkSettings"):
        assert after[key] == before[key]
    assert live.ok("exec", "cc", "echo", "well") == "well"
    assert live.ok("ps", "--format", "{{.Names}}") == "cc"
    assert live.docker("volume", "rm", "data").code == 1  # still in use
    live.ok("stop", "-t", "0", "cc")
    assert live.inspect("cc")["State"]["ExitCode"] == 137
    live.ok("rm", "cc")
    live.ok("volume", "rm", "data")


def test_container_survives_a_kill_of_the_daemon(live: Engine) -> None:
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    pid = live.inspect("cc")["State"]["Pid"]
    live.kill()
    live.start()
    assert live.inspect("cc")["State"]["Pid"] == pid
    assert live.ok("exec", "cc", "hostname") == live.inspect("cc")["Id"][:12]
    live.ok("restart", "-t", "0", "cc")
    assert live.inspect("cc")["State"]["Pid"] != pid
    live.ok("rm", "-f", "cc")


def test_container_is_adopted_as_soon_as_its_silent_monitor_answers(live: Engine) -> None:
    """A monitor that waits for a stalled disk does not answer. Its container is listed, and usable once the monitor
    answers."""
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    live.ok("run", "-d", "--name", "ended", *SLEEP)
    pid, monitor = live.inspect("cc")["State"]["Pid"], live.monitor("cc")
    others = live.monitor("ended")
    live.kill()
    for stopped in (monitor, others):
        os.kill(stopped, signal.SIGSTOP)
    live.start()
    assert live.inspect("cc")["State"]["Pid"] == pid and alive(pid)
    assert live.ok("run", "--rm", "busybox", "echo", "next") == "next"
    until(
        lambda: f"container cc: cannot adopt it: its monitor (pid {monitor}) is stopped" in live.log(),
        "the reason in the log",
    )
    failed = live.docker("exec", "cc", "echo", "well")
    assert failed.code and f"its monitor (pid {monitor}) is stopped; `kill -CONT {monitor}` resumes it" in failed.out
    os.kill(others, signal.SIGKILL)
    until(lambda: live.state("ended") == "exited", "the end of the one whose monitor died")
    os.kill(monitor, signal.SIGCONT)
    until(lambda: live.docker("exec", "cc", "echo", "well").out == "well\n", "its monitor's answer")
    live.ok("stop", "-t", "0", "cc")
    assert live.inspect("cc")["State"]["ExitCode"] == 137
    live.ok("rm", "cc", "ended")


@pytest.mark.parametrize("when", ["at boot", "later"])
@pytest.mark.parametrize("command", [("kill", "cc"), ("stop", "-t", "1", "cc"), ("rm", "-f", "cc")])
def test_container_with_a_suspended_monitor_can_be_stopped_and_removed(
    live: Engine, when: str, command: tuple[str, ...]
) -> None:
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    pid, monitor = live.inspect("cc")["State"]["Pid"], live.monitor("cc")
    if when == "at boot":
        live.kill()
    os.kill(monitor, signal.SIGSTOP)
    if when == "at boot":
        live.start()
    live.ok(*command)
    until(lambda: not alive(pid) and not alive(monitor), "the end of both")
    if command[0] != "rm":
        assert (live.state("cc"), live.inspect("cc")["State"]["ExitCode"]) == ("exited", 137)
        live.ok("start", "cc")
        live.ok("rm", "-f", "cc")


@pytest.fixture
def slow(fresh: Callable[..., Engine], tmp_path: Path) -> Engine:
    """An engine whose runtime is slow to delete a container."""
    runtime = tmp_path / "slow-runtime"
    runtime.write_text(
        f'#!/bin/sh\nfor word; do [ "$word" = delete ] && sleep {patience(4)}; done\n'
        f'exec {shutil.which(RUNTIME or "runc")} "$@"\n'
    )
    runtime.chmod(0o755)
    return fresh({**LIVE, "runtimes": {"slow": {"path": str(runtime)}}, "default-runtime": "slow"})


def test_an_exit_that_was_recorded_is_not_recorded_again(slow: Engine) -> None:
    """The daemon is killed after it has answered a stop, while the runtime deletes the container."""
    slow.ok("run", "-d", "--name", "cc", "--restart", "on-failure", *SLEEP)
    monitor = slow.monitor("cc")
    slow.ok("stop", "-t", "0", "cc")
    slow.kill()
    assert alive(monitor)
    killed = f"{time.time():.6f}"
    slow.start()
    assert slow.state("cc") == "exited"
    until(lambda: not alive(monitor), "the end of its monitor")
    assert (slow.state("cc"), slow.inspect("cc")["State"]["ExitCode"]) == ("exited", 137)
    assert slow.ok("events", "--since", killed, "--until", str(int(time.time()) + 1), "--filter", "event=die") == ""
    slow.ok("start", "cc")
    slow.ok("rm", "-f", "cc")


def test_container_runs_again_if_the_daemon_was_killed_during_its_restart(slow: Engine) -> None:
    slow.ok("run", "-d", "--name", "cc", "--restart", "unless-stopped", *SLEEP)
    restarting = slow.background("restart", "-t", "0", "cc")
    until(lambda: slow.state("cc") == "exited", "the first half")
    slow.kill()
    assert restarting.wait(patience(10)) == 1
    slow.start()
    until(lambda: slow.state("cc") == "running", "the second half, at boot")
    slow.ok("rm", "-f", "cc")


def test_killed_zygote_is_replaced_and_containers_keep_running(live: Engine) -> None:
    """A daemon whose zygote is killed starts another zygote."""
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    pid = live.inspect("cc")["State"]["Pid"]
    first = live.zygote
    os.kill(first, signal.SIGKILL)
    until(lambda: not alive(first), "the zygote's end")
    assert live.state("cc") == "running"
    assert live.ok("exec", "cc", "echo", "well") == "well"
    assert live.ok("run", "--rm", "busybox", "echo", "next") == "next"
    assert alive(pid)
    live.restart()
    assert live.inspect("cc")["State"]["Pid"] == pid
    live.ok("rm", "-f", "cc")


def test_container_survives_a_kill_of_daemon_and_zygote(live: Engine) -> None:
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    pid, zygote = live.inspect("cc")["State"]["Pid"], live.zygote
    os.kill(zygote, signal.SIGKILL)
    live.kill()
    live.start()
    assert live.inspect("cc")["State"]["Pid"] == pid
    live.ok("stop", "-t", "0", "cc")
    live.ok("rm", "cc")


def test_container_whose_monitor_dies_with_the_daemon_is_recorded_as_exited(live: Engine) -> None:
    """Daemon, zygote and monitor are killed together: the container cannot be adopted, so it is killed and recorded as
    exited."""
    live.ok("run", "-d", "--name", "cc", *SLEEP)
    live.ok("run", "-d", "--name", "again", "--restart", "always", *SLEEP)
    monitors = [live.monitor(name) for name in ("cc", "again")]
    pids = [live.inspect(name)["State"]["Pid"] for name in ("cc", "again")]
    os.kill(live.zygote, signal.SIGKILL)
    for monitor in monitors:
        os.kill(monitor, signal.SIGKILL)
    live.kill()
    live.start()
    assert not any(map(alive, pids))
    state = live.inspect("cc")["State"]
    assert (state["Status"], state["Pid"]) == ("exited", 0)
    assert state["ExitCode"] != 0
    live.wait_state("again", "running")
    live.ok("start", "cc")
    assert live.ok("exec", "cc", "echo", "well") == "well"
    live.ok("rm", "-f", "cc", "again")


@pytest.mark.parametrize("end", ["stop", "kill"])
def test_log_contains_output_that_was_written_while_no_daemon_was_running(live: Engine, end: str) -> None:
    script = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); echo line $i; done; echo complete; sleep 600"
    live.ok("run", "-d", "--name", "cc", "busybox", "sh", "-c", script)
    path = Path(live.inspect("cc")["LogPath"])
    until(lambda: path.stat().st_size > 1000, "the first lines")
    getattr(live, end)()
    until(lambda: b"complete" in _end_of(path), "the last line is written, without a daemon")
    live.start()
    lines = live.ok("logs", "cc").splitlines()
    assert lines == [*(f"line {n}" for n in range(1, 60001)), "complete"]
    live.ok("rm", "-f", "cc")


def _end_of(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 200))
        return file.read()


def test_log_has_no_gap_across_restarts_of_the_daemon(live: Engine) -> None:
    script = "i=0; while :; do i=$((i+1)); echo $i; [ $((i % 500)) != 0 ] || sleep 0.01; done"
    live.ok("run", "-d", "--name", "cc", "busybox", "sh", "-c", script)
    for end in (live.stop, live.kill, live.stop):
        end()
        live.start()
    live.ok("kill", "cc")
    lines = [int(line) for line in live.ok("logs", "cc").split()]
    assert lines == list(range(1, len(lines) + 1))
    assert len(lines) > 5000
    live.ok("rm", "cc")


def test_daemon_records_exits_that_happened_while_no_daemon_was_running(live: Engine) -> None:
    until_go = "until [ -e /go/go ]; do sleep 0.02; done"
    second = f"[ -e /go/second ] && exec sleep 600; {until_go}; touch /go/second; exit 9"

    def run(name: str, script: str, *flags: str) -> None:
        live.ok("run", "-d", "--name", name, "-v", "go:/go", *flags, "busybox", "sh", "-c", script)

    for code in (0, 3, 77):
        run(f"c{code}", f"{until_go}; exit {code}")
    run("killed", "exec sleep 600")
    run("removed", until_go, "--rm")
    run("again", second, "--restart", "on-failure")
    pids = {name: live.inspect(name)["State"]["Pid"] for name in ("c0", "c3", "c77", "killed", "removed", "again")}
    go = Path(live.inspect("c0")["Mounts"][0]["Source"])
    live.kill()
    (go / "go").touch()
    os.kill(pids["killed"], signal.SIGKILL)
    until(lambda: not any(map(alive, pids.values())), "all ended")
    live.start()
    for code in (0, 3, 77):
        state = live.inspect(f"c{code}")["State"]
        assert (state["Status"], state["ExitCode"]) == ("exited", code)
        assert state["FinishedAt"] > state["StartedAt"]
    assert live.inspect("killed")["State"]["ExitCode"] == 137
    until(lambda: live.docker("inspect", "removed").code == 1, "--rm is kept")
    live.wait_state("again", "running")
    live.ok("rm", "-f", "c0", "c3", "c77", "killed", "again")


def test_daemon_of_a_new_version_adopts_containers(live: Engine, tmp_path: Path) -> None:
    live.ok("run", "-d", "--name", "cc", "--restart", "always", *SLEEP)
    pid = live.inspect("cc")["State"]["Pid"]
    live.stop()
    source = Path(orlop_kernel.__file__).parent
    shutil.copytree(source, tmp_path / "orlop_kernel", ignore=shutil.ignore_patterns("__pycache__"))
    init = tmp_path / "orlop_kernel" / "__init__.py"
    init.write_text(init.read_text().replace(orlop_kernel.__version__, "99.1.0"))
    live.start(pythonpath=str(tmp_path))
    assert live.api("GET", "/version")[1]["Version"] == "99.1.0"
    assert live.inspect("cc")["State"]["Pid"] == pid
    assert live.ok("exec", "cc", "echo", "well") == "well"
    live.stop()
    live.start()  # start the present version again
    assert live.inspect("cc")["State"]["Pid"] == pid
    live.ok("rm", "-f", "cc")


class Caller:
    """Sends requests to a published port in a loop; records failures."""

    def __init__(self, url: str) -> None:
        self.url, self.answers, self.failures = url, 0, []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    failures: list[str]

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with urllib.request.urlopen(self.url, timeout=5) as answer:
                    assert answer.read() == b"served\n"
                self.answers += 1
            except (OSError, AssertionError) as error:
                self.failures.append(f"{time.time()}: {error!r}")
            time.sleep(0.005)

    def __enter__(self) -> Caller:
        self._thread.start()
        until(lambda: self.answers, "the first answer")
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@contextlib.contextmanager
def served(engine: Engine, port: int) -> Iterator[None]:
    page = "mkdir /www; echo served > /www/index.html; exec httpd -f -h /www"
    engine.ok("run", "-d", "--name", "web", "-p", f"{port}:80", "busybox", "sh", "-c", page)
    yield
    engine.ok("rm", "-f", "web")


def test_published_port_answers_while_the_daemon_restarts(live: Engine) -> None:
    port = free_port()
    address = own_address()
    with served(live, port):
        until(lambda: live.run(["curl", "-sf", f"http://127.0.0.1:{port}/"]).out == "served\n", "the server is up")
        with Caller(f"http://127.0.0.1:{port}/") as loopback, Caller(f"http://{address}:{port}/") as outside:
            for end in (live.stop, live.kill):
                end()
                counts = loopback.answers, outside.answers
                until(lambda counts=counts: loopback.answers > counts[0] + 3 and outside.answers > counts[1] + 3, "answers")
                live.start()
                counts = loopback.answers, outside.answers
                until(lambda counts=counts: loopback.answers > counts[0] + 3 and outside.answers > counts[1] + 3, "answers")
        assert loopback.failures == []
        assert outside.failures == []


# --- without live-restore -----------------------------------------------------------------------------------------------


def test_stop_of_the_daemon_stops_containers(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3})
    script = "trap 'echo bye; exit 4' TERM; echo ready; while :; do sleep 0.05; done"
    for name, policy in (("none", "no"), ("always", "always"), ("unless", "unless-stopped"), ("failure", "on-failure")):
        engine.ok("run", "-d", "--name", name, "--restart", policy, "busybox", "sh", "-c", script)
    engine.ok("run", "-d", "--name", "stopped-always", "--restart", "always", "--stop-timeout", "0", *SLEEP)
    engine.ok("run", "-d", "--name", "stopped-unless", "--restart", "unless-stopped", "--stop-timeout", "0", *SLEEP)
    engine.ok("stop", "stopped-always", "stopped-unless")
    for name in ("none", "always", "unless", "failure"):
        until(lambda name=name: engine.ok("logs", name) == "ready", "ready")
    pids = [engine.inspect(name)["State"]["Pid"] for name in ("none", "always", "unless", "failure")]
    assert engine.stop() == 0
    assert not any(map(alive, pids))
    assert engine.leaks() == []
    engine.start()
    for name in ("always", "unless", "failure", "stopped-always"):
        engine.wait_state(name, "running")
    state = engine.inspect("none")["State"]
    assert (state["Status"], state["ExitCode"]) == ("exited", 4)
    assert engine.ok("logs", "none") == "ready\nbye"
    assert engine.state("stopped-unless") == "exited"


def test_daemon_without_live_restore_stops_containers_that_run_since_before_its_crash(fresh: Callable[..., Engine]) -> None:
    engine = fresh({"shutdown-timeout": 3})
    engine.ok("run", "-d", "--name", "cc", "--stop-timeout", "0", *SLEEP)
    engine.ok("run", "-d", "--name", "again", "--stop-timeout", "0", "--restart", "always", *SLEEP)
    pids = [engine.inspect(name)["State"]["Pid"] for name in ("cc", "again")]
    engine.kill()
    engine.start()
    until(lambda: not any(map(alive, pids)), "what the crash left is stopped")
    engine.wait_state("cc", "exited")
    engine.wait_state("again", "running")
    assert engine.inspect("again")["State"]["Pid"] not in pids


def test_starting_daemon_starts_containers_in_the_order_of_their_dependencies(fresh: Callable[..., Engine]) -> None:
    """A starting daemon starts a container after the containers to which it is linked or whose network it uses."""
    engine = fresh({"shutdown-timeout": 3})
    options = ("-d", "--restart", "always", "--stop-timeout", "0")
    for number in range(3):
        engine.ok("run", *options, "--name", f"db{number}", *SLEEP)
        engine.ok("run", *options, "--name", f"web{number}", "--link", f"db{number}:data", *SLEEP)
        engine.ok("run", *options, "--name", f"side{number}", "--network", f"container:db{number}", *SLEEP)
    assert engine.stop() == 0
    engine.start()
    for number in range(3):
        for name in ("db", "web", "side"):
            engine.wait_state(f"{name}{number}", "running")


def test_a_renamed_container_is_found_by_its_name_after_a_restart(live: Engine) -> None:
    live.ok("network", "create", "net")
    live.ok("run", "-d", "--name", "old", "--network", "net", *SLEEP)
    live.ok("run", "-d", "--name", "asks", "--network", "net", *SLEEP)
    live.ok("rename", "old", "new")
    live.stop()
    live.start()
    live.ok("exec", "asks", "ping", "-c", "1", "new")
    assert live.docker("exec", "asks", "ping", "-c", "1", "old").code != 0


def test_container_paused_by_a_commit_is_resumed_after_a_kill_of_the_daemon(live: Engine) -> None:
    live.ok("run", "-d", "--name", "cc", "busybox", "sh", "-c", "head -c 300000000 /dev/urandom >/big; echo ok; sleep 600")
    until(lambda: live.ok("logs", "cc") == "ok", "there is something to commit")
    commit = live.background("commit", "cc", "image")
    until(lambda: live.state("cc") == "paused", "it is paused")
    live.kill()
    commit.wait(timeout=patience(10))
    live.start()
    live.wait_state("cc", "running")  # the row changes first, because the daemon may crash again
    until(lambda: live.docker("exec", "cc", "echo", "well").out == "well\n", "it is thawed")


def test_container_of_a_killed_monitor_is_recorded_as_exited_and_restarted_by_its_policy(engine: Engine, name: str) -> None:
    engine.ok("run", "-d", "--name", name, *SLEEP)
    engine.ok("run", "-d", "--name", f"{name}r", "--restart", "always", *SLEEP)
    waiting = engine.background("wait", name)
    first = {one: engine.inspect(one)["State"]["Pid"] for one in (name, f"{name}r")}
    for one in first:
        os.kill(engine.monitor(one), signal.SIGKILL)
    engine.wait_state(name, "exited")
    assert not alive(first[name])
    assert engine.inspect(name)["State"]["ExitCode"] in (137, 255)
    assert waiting.communicate(timeout=patience(10))[0].strip() in (b"137", b"255")
    until(lambda: engine.inspect(f"{name}r")["State"]["Pid"] not in (0, first[f"{name}r"]), "it runs again")
    assert engine.ok("exec", f"{name}r", "echo", "well") == "well"
    engine.ok("start", name)
    assert engine.state(name) == "running"


def test_a_second_daemon_on_the_same_roots_is_refused(engine: Engine) -> None:
    result = engine.run([*engine.command[:-1], f"unix://{engine.home}/second.sock"])
    assert result.code == 1
    assert engine.process is not None
    assert f"process with PID {engine.process.pid} is still running" in result.err
    assert engine.docker("ps").code == 0
