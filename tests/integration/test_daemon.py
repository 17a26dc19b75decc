"""A real daemon process, with its own roots and socket: boot, requests, reload, refused configurations, shutdown, stored
state."""

from __future__ import annotations

import base64
import http.client
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
from tests.unit.test_boot_imports import LATER

pytestmark = pytest.mark.root


class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str) -> None:
        super().__init__("localhost", timeout=20)
        self.path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(self.path)


class Orlopd:
    """One daemon on temporary roots; `start` may be called again after `stop`."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.socket = str(home / "s.sock")
        self.config = home / "daemon.json"
        self.config.write_text('{"labels": ["ship=first"]}')
        self.process: subprocess.Popen[str] | None = None
        self.lines: list[str] = []

    def command(self, *flags: str) -> list[str]:
        own = ["--data-root", str(self.home / "data"), "--exec-root", str(self.home / "run"), "-H", f"unix://{self.socket}"]
        return [sys.executable, "-m", "orlop_kernel", *own, "--config-file", str(self.config), "--bridge", "none", *flags]

    def start(self, *flags: str) -> None:
        self.process = subprocess.Popen(self.command(*flags), stderr=subprocess.PIPE, text=True)
        self.wait_for("is ready after")

    def wait_for(self, text: str) -> str:
        assert self.process
        assert self.process.stderr
        for line in self.process.stderr:
            self.lines.append(line)
            if text in line:
                return line
        raise AssertionError(f"the daemon ended without {text!r}:\n" + "".join(self.lines))

    def stop(self) -> int:
        assert self.process
        assert self.process.stderr
        self.process.send_signal(signal.SIGTERM)
        self.lines += self.process.stderr.readlines()
        status = self.process.wait(20)
        self.process.stderr.close()
        self.process = None
        return status

    def request(self, method: str, path: str, body: Any = None, **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        connection = UnixConnection(self.socket)
        try:
            if body is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, path, json.dumps(body) if body is not None else None, headers)
            response = connection.getresponse()
            return response, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        response, body = self.request("GET", path)
        assert response.status == 200, body
        return json.loads(body)


def mounts_below(path: Path) -> list[str]:
    with open("/proc/self/mountinfo") as file:
        return [line.split()[4] for line in file if line.split()[4].startswith(str(path))]


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Orlopd]:
    daemon = Orlopd(tmp_path)
    yield daemon
    if daemon.process:
        daemon.stop()
    assert mounts_below(tmp_path) == []


def test_daemon_imports_the_modules_of_most_operations_after_its_first_answer(daemon: Orlopd) -> None:
    command = daemon.command()
    daemon.command = lambda *flags: [command[0], "-X", "importtime", *command[1:], *flags]  # type: ignore[method-assign]
    daemon.start()
    found = {line.rpartition("|")[2].strip() for line in daemon.lines if line.startswith("import time:")}
    assert found > {"trio", "orlop_engine.service", "orlop_api_docker.containers"}
    assert not found & LATER, found & LATER
    daemon.wait_for(" orlop_engine.containers.entry_limits\n")
    assert daemon.get("/containers/json") == []


def test_daemon_starts_answers_requests_and_leaves_nothing_after_its_stop(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    assert (daemon.home / "run" / "orlop.pid").read_text() == f"{daemon.process.pid}\n"
    assert os.stat(daemon.socket).st_mode & 0o777 in (0o600, 0o660)
    response, body = daemon.request("GET", "/_ping")
    assert (response.status, body) == (200, b"OK")
    assert response.headers["Cache-Control"] == "no-cache, no-store, must-revalidate"
    assert response.headers["Swarm"] == "inactive"
    response, body = daemon.request("HEAD", "/_ping")
    assert (response.status, body) == (200, b"")
    assert response.headers["Api-Version"]
    assert daemon.stop() == 0
    assert not os.path.exists(daemon.socket)
    assert not (daemon.home / "run" / "orlop.pid").exists()
    assert mounts_below(daemon.home) == []
    assert "Traceback" not in "".join(daemon.lines)


def test_docker_py_reads_version_and_info(daemon: Orlopd) -> None:
    daemon.start()
    client = docker.DockerClient(base_url=f"unix://{daemon.socket}")
    try:
        version, info = client.version(), client.info()
    finally:
        client.close()
    assert version["Os"] == "linux"
    assert version["Components"][0]["Name"] == "Engine"
    assert version["Components"][1]["Name"] == "runc"
    assert version["Components"][1]["Version"] not in ("", "unknown")
    assert version["MinAPIVersion"] == "1.24"
    assert info["DockerRootDir"] == str(daemon.home / "data")
    assert info["Labels"] == ["ship=first"]
    assert info["Containers"] == info["Images"] == 0
    assert info["ID"] == (daemon.home / "data" / "engine-id").read_text()
    assert info["NCPU"] >= 1
    assert info["Swarm"]["LocalNodeState"] == "inactive"
    assert {"json-file", "none"} <= set(info["Plugins"]["Log"])
    assert any(item["Distribution"] for item in info["OrlopDrivers"])


def test_disk_usage_of_an_empty_daemon_is_zero(daemon: Orlopd) -> None:
    daemon.start()
    everything = daemon.get("/v1.43/system/df")
    assert everything == {"LayersSize": 0, "Images": [], "Containers": [], "Volumes": [], "BuildCache": []}
    only = daemon.get("/v1.43/system/df?type=image&type=volume")
    assert (only["Images"], only["Containers"], only["Volumes"]) == ([], None, [])
    response, body = daemon.request("GET", "/v1.43/system/df?type=ship")
    assert response.status == 400
    assert b"unknown object type: ship" in body


def test_login_to_an_unreachable_registry_fails(daemon: Orlopd) -> None:
    daemon.start()
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{unused.getsockname()[1]}"
        response, body = daemon.request("POST", "/auth", {"username": "u", "password": "p", "serveraddress": address})
    assert response.status == 500
    assert b"connection refused" in body
    assert b'"p"' not in body


def test_reload_applies_a_valid_configuration_and_ignores_an_invalid_one(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    daemon.config.write_text('{"labels": ["ship=second"], "mtu": 1400, "debug": true}')
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("needs a restart of the daemon: mtu")
    assert "applied: debug, labels" in daemon.wait_for("configuration reloaded")
    assert daemon.get("/info")["Labels"] == ["ship=second"]
    daemon.config.write_text('{"labels": ["ship=third"], "debug": "loud"}')
    daemon.process.send_signal(signal.SIGHUP)
    assert "debug: loud: expected true or false" in daemon.wait_for("the current one stays in use")
    assert daemon.get("/info")["Labels"] == ["ship=second"]
    _, body = daemon.request("GET", f"/events?since=1&until={time.time():.3f}")
    (event,) = [json.loads(line) for line in body.splitlines()]
    assert (event["Type"], event["Action"]) == ("daemon", "reload")
    assert event["Actor"]["Attributes"]["labels"] == '["ship=second"]'
    assert event["Actor"]["Attributes"]["name"] == socket.gethostname()


def test_stored_events_survive_a_restart_of_the_daemon(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for("configuration reloaded")
    daemon.get("/info")  # after this answer, the event is being written
    before = daemon.request("GET", f"/events?since=1&until={time.time():.3f}")[1]
    assert daemon.stop() == 0
    daemon.start()
    after = daemon.request("GET", f"/events?since=1&until={time.time():.3f}")[1]
    assert before.count(b"\n") == 1
    assert after == before


def test_open_event_stream_does_not_delay_the_stop_of_the_daemon(daemon: Orlopd) -> None:
    daemon.start()
    connection = UnixConnection(daemon.socket)
    connection.request("GET", "/events")
    response = connection.getresponse()
    assert response.status == 200
    began = time.monotonic()
    assert daemon.stop() == 0
    assert time.monotonic() - began < 2
    assert response.read() == b""
    connection.close()


def test_a_second_daemon_on_the_same_roots_is_refused(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    flags = ["--pidfile", str(daemon.home / "other.pid")]
    second = subprocess.run(daemon.command(*flags), capture_output=True, text=True, timeout=30)
    assert second.returncode == 1
    assert f"process with PID {daemon.process.pid} is still running" in second.stderr
    assert "Traceback" not in second.stderr
    assert daemon.get("/info")["Containers"] == 0


def test_start_on_another_engines_data_root_is_refused_and_changes_nothing(daemon: Orlopd) -> None:
    """The refused start does not create a database in the other engine's data root."""
    data = daemon.home / "data"
    (data / "containers" / "theirs").mkdir(parents=True)
    for _ in range(2):
        done = subprocess.run(daemon.command(), capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert "it contains data of another engine (containers) and no orlop.db" in done.stderr
        assert [path.name for path in data.rglob("*")] == ["containers", "theirs"]


def test_daemon_starts_after_the_previous_daemon_was_killed(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    assert daemon.process.stderr
    identity = daemon.get("/info")["ID"]
    daemon.process.kill()
    daemon.process.wait(20)
    daemon.process.stderr.close()
    daemon.start()
    assert daemon.get("/info")["ID"] == identity


def test_wrong_storage_driver_is_reported_in_one_line(daemon: Orlopd) -> None:
    done = subprocess.run(daemon.command("-s", "nosuch"), capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert 'cannot find storage driver "nosuch"' in done.stderr
    assert "overlay2" in done.stderr
    assert "Traceback" not in done.stderr
    assert mounts_below(daemon.home) == []


def test_wrong_log_driver_or_option_is_reported_in_one_line(daemon: Orlopd) -> None:
    for flags, text in (
        (["--log-driver", "nosuch"], 'error looking up logging plugin nosuch: plugin "nosuch" not found'),
        (["--log-opt", "max-sise=1m"], "unknown log opt 'max-sise' for json-file log driver"),
    ):
        done = subprocess.run(daemon.command(*flags), capture_output=True, text=True, timeout=30)
        assert done.returncode == 1
        assert text in done.stderr
        assert "Traceback" not in done.stderr
    assert mounts_below(daemon.home) == []


def test_daemon_writes_a_list_of_its_tasks_to_a_file_on_sigusr1(daemon: Orlopd) -> None:
    daemon.start()
    assert daemon.process
    daemon.process.send_signal(signal.SIGUSR1)
    path = daemon.wait_for("tasks written to ").split("tasks written to ")[1].strip()
    assert "_watch_signals" in Path(path).read_text()


class LockedRegistry(http.server.BaseHTTPRequestHandler):
    """Answers `GET /v2/`, but only for the user anna with the password secret."""

    def do_GET(self) -> None:
        allowed = self.headers.get("Authorization") == "Basic " + base64.b64encode(b"anna:secret").decode()
        self.send_response(200 if allowed else 401)
        self.send_header("WWW-Authenticate", 'Basic realm="ship"')
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: object) -> None:
        pass


def test_blocked_event_loop_is_logged_if_configured(daemon: Orlopd, monkeypatch: pytest.MonkeyPatch) -> None:
    daemon.start()
    daemon.get("/info")
    daemon.stop()
    assert "event loop blocked" not in "".join(daemon.lines)
    monkeypatch.setenv("ORLOP_LOOP_WATCHDOG", "1")  # milliseconds; some step takes longer
    daemon.start()
    daemon.get("/info")
    daemon.stop()
    assert "warn  event loop blocked for " in "".join(daemon.lines)


def test_login_sends_the_password_to_the_registry_for_verification(daemon: Orlopd) -> None:
    daemon.start()
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), LockedRegistry) as registry:
        threading.Thread(target=registry.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{registry.server_port}"
        right = {"username": "anna", "password": "secret", "serveraddress": address}
        response, body = daemon.request("POST", "/auth", right)
        assert (response.status, json.loads(body)["Status"]) == (200, "Login Succeeded")
        response, body = daemon.request("POST", "/auth", {**right, "password": "guess"})
        assert response.status == 401
        assert b"guess" not in body
        registry.shutdown()
