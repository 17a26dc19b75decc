"""Operating a daemon: metrics, debug dumps, OOM scores, event streams, and shutdown."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.integration.engine import BUSYBOX, Engine, UnixConnection, alive, parent_of, until

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

Fresh = Callable[..., Engine]


# --- metrics ----------------------------------------------------------------------------------------------------------


def scrape(port: int, accept: str = "", path: str = "/metrics") -> tuple[int, str, str]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers={"Accept": accept} if accept else {})
        answer = connection.getresponse()
        return answer.status, answer.getheader("Content-Type") or "", answer.read().decode()
    finally:
        connection.close()


def samples(text: str) -> dict[str, float]:
    rows = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {name: float(value) for name, _, value in rows}


def test_metrics_contain_the_numbers_of_requests_and_container_actions(fresh: Fresh) -> None:
    port = free_port()
    engine = fresh(config={"metrics-addr": f"127.0.0.1:{port}", "bridge": "none", "shutdown-timeout": 2})
    engine.ok("run", "-d", "--network", "none", "--name", "runs", BUSYBOX, "sleep", "1000")
    engine.ok("run", "--rm", "--network", "none", BUSYBOX, "true")
    engine.ok("create", "--network", "none", "--name", "made", BUSYBOX)
    engine.ok("rm", "made")
    assert engine.docker("start", "nobody").code == 1
    assert engine.docker("pull", f"127.0.0.1:{free_port()}/nothing").code == 1
    stream = engine.background("events")
    status, kind, text = scrape(port)
    assert (status, kind) == (200, "text/plain; version=0.0.4; charset=utf-8")

    def listeners() -> float:
        return samples(scrape(port)[2])["engine_daemon_events_subscribers_total"]

    until(lambda: listeners() == 1, "the stream of events is counted")
    stream.kill()
    until(lambda: listeners() == 0, "the stream of events is gone")
    found = samples(text)
    action = "engine_daemon_container_actions_seconds"
    assert [found[f'{action}_count{{action="{name}"}}'] for name in ("create", "start", "delete")] == [3, 2, 1]
    assert found[f'{action}_bucket{{action="start",le="10"}}'] == 2
    assert 0 < found[f'{action}_sum{{action="start"}}'] < 10
    states = [found[f'engine_daemon_container_states_containers{{state="{name}"}}'] for name in ("running", "stopped")]
    assert states == [1, 0]
    assert found["engine_daemon_engine_cpus_cpus"] == len(os.sched_getaffinity(0))
    assert found["engine_daemon_engine_memory_bytes"] > 1 << 20
    assert found["engine_daemon_events_total"] > 10
    assert found['orlop_api_requests_total{method="POST",route="/containers/{id}/start",code="404"}'] == 1
    assert found['orlop_api_requests_total{method="POST",route="/containers/{id}/start",code="204"}'] == 2
    assert found['orlop_api_request_seconds_count{method="POST",route="/containers/{id}/start"}'] == 3
    assert found['orlop_actions_failed_total{kind="image",action="pull"}'] == 1
    assert found["orlop_monitors"] == 1
    assert 0 < found["orlop_store_transactions_total"] <= found["orlop_store_commits_total"]
    assert found["process_resident_memory_bytes"] > 1 << 20
    assert abs(found["process_start_time_seconds"] - time.time()) < 120
    assert any(re.match(r'engine_daemon_engine_info\{.*graphdriver="overlay2".*\}', name) for name in found)

    status, kind, text = scrape(port, "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2")
    assert (status, kind) == (200, "application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert text.endswith("\n# EOF\n")
    assert "# TYPE engine_daemon_events counter\n" in text
    assert scrape(port, path="/containers/json")[0] == 404
    assert f"metrics are at http://127.0.0.1:{port}/metrics" in engine.log()


def test_daemon_warns_of_a_public_metrics_address_and_reports_an_address_in_use(fresh: Fresh) -> None:
    port = free_port()
    engine = fresh(config={"metrics-addr": f"0.0.0.0:{port}", "bridge": "none"})
    assert f"metrics-addr: anyone who can reach 0.0.0.0:{port} can read" in engine.log()
    assert scrape(port)[0] == 200
    engine.stop()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        engine.configure({"metrics-addr": f"127.0.0.1:{taken.getsockname()[1]}", "bridge": "none"})
        done = subprocess.run(engine.command, capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "failed to start daemon: cannot serve metrics on 127.0.0.1" in done.stderr
        assert "Traceback" not in done.stderr


# --- debugging --------------------------------------------------------------------------------------------------------


def reload(engine: Engine, **config: object) -> None:
    told = engine.log().count("configuration reloaded")
    engine.configure({"shutdown-timeout": 3, **config})
    assert engine.process is not None
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: engine.log().count("configuration reloaded") > told, "the reload")


@contextlib.contextmanager
def debugging(engine: Engine) -> Iterator[None]:
    reload(engine, debug=True)
    try:
        yield
    finally:
        reload(engine)


def test_debug_routes_exist_only_if_debug_is_enabled(engine: Engine, name: str) -> None:
    assert engine.api("GET", "/debug/tasks") == (404, {"message": "page not found"})
    engine.ok("run", "-d", "--name", name, "--network", "none", BUSYBOX, "sleep", "1000")
    with debugging(engine):
        status, tasks = engine.api("GET", "/debug/tasks")
        assert status == 200
        assert b"_watch_signals" in tasks
        assert b"thread store" in tasks

        status, found = engine.api("GET", "/v1.43/debug/vars")
        assert status == 200
        assert found["pid"] == engine.process.pid if engine.process else False
        assert found["uptime_seconds"] > 0
        assert found["monitors"] == found["containers"]["running"] == 1
        assert found["actions"]["container start"] >= 1
        assert found["zygote"] == engine.zygote
        assert found["memory"]["resident"] > 1 << 20

        assert engine.api("GET", "/debug/locks") == (200, [])
        restarting = engine.background("restart", "-t", "3", name)

        def held() -> dict[str, Any] | None:
            rows = engine.api("GET", "/debug/locks")[1]
            return next((row for row in rows if any("stop_locked" in frame for frame in row["at"])), None)

        lock = until(held, "the lock is held")
        assert (lock["name"], lock["waiting"]) == (name, 0)
        assert 0 <= lock["held_seconds"] < 5
        restarting.wait(10)
        assert engine.api("GET", "/debug/locks") == (200, [])

        status, page, kind = engine.raw("GET", "/debug/pprof/")
        assert (status, kind) == (200, "text/html; charset=utf-8")
        for link in re.findall(r'href="([a-z]+)"', page.decode()):
            assert engine.api("GET", f"/debug/pprof/{link}")[0] == 200
        assert b"--data-root\0" in engine.api("GET", "/debug/pprof/cmdline")[1]
        assert engine.api("GET", "/debug/pprof/heap")[0] == 404
        assert engine.api("GET", "/debug/pprof/profile?seconds=0")[0] == 400
        status, profile = engine.api("GET", "/debug/pprof/profile?seconds=1")
        assert status == 200
        assert re.search(rb"^\S.*daemon\.py:run;\S* \d+$", profile, re.MULTILINE)
    assert engine.api("GET", "/debug/vars")[0] == 404


# --- OOM scores -------------------------------------------------------------------------------------------------------


def oom_score(pid: int) -> int:
    return int(Path(f"/proc/{pid}/oom_score_adj").read_text())


def spared() -> int:
    """The OOM score that a daemon gets on this host: without CAP_SYS_RESOURCE, its score cannot be lowered."""
    script = "echo -500 2>/dev/null > /proc/$$/oom_score_adj; cat /proc/$$/oom_score_adj"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=True)
    return int(done.stdout)


def test_only_the_daemon_has_a_lower_oom_score(engine: Engine, name: str) -> None:
    def scores(container: str) -> list[int]:
        init = engine.inspect(container)["State"]["Pid"]
        return [oom_score(pid) for pid in (engine.zygote, parent_of(init), init)]

    assert engine.process is not None
    assert oom_score(engine.process.pid) == spared()
    engine.ok("run", "-d", "--name", name, "--network", "none", BUSYBOX, "sleep", "1000")
    assert scores(name) == [0, 0, 0]
    # The next zygote is forked from a daemon whose score is already lowered
    old = engine.zygote
    os.kill(old, signal.SIGKILL)
    until(lambda: not alive(old) and len(engine.children("orlop-zygote")) == 1, "another zygote")
    until(lambda: oom_score(engine.zygote) == 0, "its score")
    engine.ok("run", "-d", "--name", f"{name}b", "--network", "none", BUSYBOX, "sleep", "1000")
    assert scores(f"{name}b") == [0, 0, 0]
    engine.ok("run", "-d", "--name", f"{name}c", "--oom-score-adj", "300", "--network", "none", BUSYBOX, "sleep", "1000")
    assert scores(f"{name}c") == [0, 0, 300]


# --- priority ---------------------------------------------------------------------------------------------------------


def priorities(pid: int) -> set[int]:
    """The nice values of all threads of a process; empty if the process has ended."""
    try:
        return {os.getpriority(os.PRIO_PROCESS, int(thread)) for thread in os.listdir(f"/proc/{pid}/task")}
    except OSError:
        return set()


def test_daemon_has_a_higher_priority_only_during_its_start(fresh: Fresh) -> None:
    usual = os.getpriority(os.PRIO_PROCESS, 0)
    engine = fresh(config={"bridge": "none"})
    engine.ok("run", "-d", "--name", "started", "--restart", "always", "--network", "none", BUSYBOX, "sleep", "1000")
    engine.stop()  # without live-restore the container ends, and the next boot starts it
    seen: set[int] = set()
    watching = threading.Event()

    def watch() -> None:
        while not watching.is_set():
            if engine.process is not None:
                seen.update(priorities(engine.process.pid))
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        engine.start()
    finally:
        watching.set()
        watcher.join()
    assert min(seen) == min(usual, -10)
    assert engine.process is not None
    until(lambda: engine.state("started") == "running", "the container")
    init = engine.inspect("started")["State"]["Pid"]
    for pid in (engine.process.pid, engine.zygote, parent_of(init), init):
        assert priorities(pid) == {usual}, Path(f"/proc/{pid}/comm").read_text()
    # A zygote that is started again while the daemon has another priority does not inherit it
    os.setpriority(os.PRIO_PROCESS, engine.process.pid, usual - 5)
    old = engine.zygote
    os.kill(old, signal.SIGKILL)
    until(lambda: not alive(old) and len(engine.children("orlop-zygote")) == 1, "another zygote")
    until(lambda: priorities(engine.zygote) == {usual}, "its priority")


# --- events -----------------------------------------------------------------------------------------------------------


def test_only_a_slow_reader_of_events_loses_events(engine: Engine, name: str) -> None:
    """A label makes each event large, so that the buffers between daemon and client fill quickly."""
    engine.ok("run", "-d", "--name", name, "--label", f"big={'x' * 8000}", "--network", "none", BUSYBOX, "sleep", "1000")
    filters = ("--filter", f"container={name}", "--filter", "event=kill", "--format", "{{json .}}")

    def listeners() -> int:
        return int(engine.api("GET", "/info")[1]["NEventsListener"])

    before = listeners()  # other tests may have left listeners on the shared daemon
    slow = engine.background("events", *filters)
    quick = engine.background("events", *filters)
    seen: list[str] = []
    assert quick.stdout is not None
    reader = threading.Thread(target=lambda: seen.extend(json.loads(line)["Action"] for line in quick.stdout or ()))
    reader.start()
    until(lambda: listeners() == before + 2, "both listen")
    slow.send_signal(signal.SIGSTOP)

    sent = 1500
    connection = UnixConnection(engine.socket)
    for _ in range(sent):
        connection.request("POST", f"/containers/{name}/kill?signal=CONT", headers={"Content-Length": "0"})
        answer = connection.getresponse()
        assert answer.status == 204, answer.read()
        answer.read()
    connection.close()
    until(lambda: len(seen) == sent, "the quick one has them all")

    slow.send_signal(signal.SIGCONT)
    assert slow.stdout is not None
    got, lost = 0, 0
    for line in slow.stdout:
        event = json.loads(line)
        if event["Action"] == "events-lost":
            assert event["Type"] == "daemon"
            lost += int(event["Actor"]["Attributes"]["count"])
        else:
            got += 1
        if got + lost == sent:
            break
    assert lost > 0
    assert got > 1024
    for process in (slow, quick):
        process.terminate()
    reader.join(10)


# --- shutdown ---------------------------------------------------------------------------------------------------------

SAYS = "trap 'echo {0}; exit {1}' {0}; echo ready; while :; do sleep 0.1; done"


def test_shutdown_stops_containers_concurrently_with_their_own_signals_and_timeouts(fresh: Fresh) -> None:
    engine = fresh(config={"bridge": "none", "shutdown-timeout": 1, "live-restore": False})
    common = ("run", "-d", "--network", "none")
    engine.ok(*common, "--name", "term", "--stop-timeout", "9", BUSYBOX, "sh", "-c", SAYS.format("TERM", 3))
    engine.ok(*common, "--name", "usr1", "--stop-signal", "USR1", BUSYBOX, "sh", "-c", SAYS.format("USR1", 4))
    engine.ok(*common, "--name", "deaf", "--stop-timeout", "2", BUSYBOX, "sleep", "1000")
    engine.ok(*common, "--name", "deaf2", "--stop-timeout", "2", BUSYBOX, "sleep", "1000")
    slow = "trap 'sleep 1.5; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
    engine.ok(*common, "--name", "never", "--stop-timeout", "-1", BUSYBOX, "sh", "-c", slow)
    for container in ("term", "usr1", "never"):
        until(lambda name=container: "ready" in engine.ok("logs", name), "its trap is set")
    events = engine.background("events")
    until(lambda: engine.api("GET", "/info")[1]["NEventsListener"] == 1, "a listener")

    began = time.monotonic()
    assert engine.stop() == 0
    assert 1.9 < time.monotonic() - began < 4.5
    # The stream ends properly, so the client exits without an error
    assert (events.wait(5), events.communicate()[1]) == (0, b"")
    assert "stopped; 0 containers are left running" in engine.log()
    engine.start()
    codes = {name: engine.inspect(name)["State"]["ExitCode"] for name in ("term", "usr1", "deaf", "deaf2", "never")}
    assert codes == {"term": 3, "usr1": 4, "deaf": 137, "deaf2": 137, "never": 5}
    assert engine.ok("logs", "usr1").endswith("USR1")


def test_second_signal_to_the_daemon_ends_its_wait_for_containers(fresh: Fresh) -> None:
    """A container with an infinite stop timeout delays the shutdown until a second signal."""
    engine = fresh(config={"bridge": "none", "shutdown-timeout": 1})
    engine.ok("run", "-d", "--network", "none", "--stop-timeout", "-1", "--name", "deaf", BUSYBOX, "sleep", "1000")
    process = engine.process
    assert process is not None
    process.send_signal(signal.SIGTERM)
    until(lambda: "SIGTERM: shutting down" in engine.log(), "it stops")
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1.5)
    began = time.monotonic()
    assert engine.stop() == 0
    assert time.monotonic() - began < 3
    assert "forced shutdown: 1 containers still run" in engine.log()
    # The next boot stops the container, like one left by a crash, without an infinite wait
    engine.start()
    engine.docker("kill", "deaf")
