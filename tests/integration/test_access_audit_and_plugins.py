"""The audit log and Docker's authorization plugins, used with `docker` and curl."""

from __future__ import annotations

import base64
import contextlib
import http.server
import json
import secrets
import signal
import socket
import socketserver
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tests.integration.access_fixture import EngineFixture, serving
from tests.integration.engine import Engine, until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def engine_fixture() -> Iterator[EngineFixture]:
    yield from serving()


def test_audit_log_line_contains_client_object_and_decision(engine_fixture: EngineFixture) -> None:
    engine_fixture.denied("read", "rm", "-f", "web1")
    listener = f"unix://{engine_fixture.engine.home}/read.sock"
    (line,) = until(lambda: engine_fixture.lines(route="/containers/{id}", listener=listener, decision="denied")[-1:])
    assert (line["event"], line["by"], line["status"], line["method"]) == ("call", "role read-only", 403, "DELETE")
    assert line["object"] == {"type": "container", "id": engine_fixture.engine.inspect("web1")["Id"], "name": "web1"}
    assert (line["peer"]["uid"], line["peer"]["gid"]) == (0, 0)
    assert line["peer"]["pid"] > 1
    assert line["path"].endswith("/containers/web1")
    status = engine_fixture.audit.stat()
    assert (stat.S_IMODE(status.st_mode), status.st_uid) == (0o600, 0)


def test_audit_log_records_the_beginning_and_end_of_streams(engine_fixture: EngineFixture) -> None:
    engine_fixture.engine.ok("exec", "web1", "true")
    follower = subprocess.Popen(
        [
            "curl",
            "-sN",
            "--unix-socket",
            engine_fixture.engine.socket,
            "http://d/v1.45/containers/web1/logs?stdout=1&follow=1",
        ],
        stdout=subprocess.PIPE,
    )
    assert follower.stdout is not None
    assert follower.stdout.read(8)
    mine = until(lambda: [line for line in engine_fixture.lines(event="begin") if line["peer"]["pid"] == follower.pid])
    (begun,) = mine
    follower.kill()
    follower.communicate()
    (ended,) = until(lambda: engine_fixture.lines(event="end", id=begun["id"]))
    assert ended["outcome"] == "broken off"
    (hijack,) = until(lambda: engine_fixture.lines(event="end", route="/exec/{id}/start")[-1:])
    assert (hijack["status"], hijack["outcome"], hijack["object"]["name"]) == (101, "complete", "web1")
    assert hijack["seconds"] >= engine_fixture.lines(event="begin", id=hijack["id"])[0]["seconds"]


def test_audit_log_records_requests_for_unknown_routes(engine_fixture: EngineFixture) -> None:
    assert engine_fixture.api("read", "POST", "/no/such")[0] == 404
    assert until(lambda: engine_fixture.lines(path="/v1.45/no/such", status=404))[0].get("route", "") == ""


# --- authorization plugins --------------------------------------------------------------------------------------------


class Plugin:
    """A plugin on a unix socket in Docker's plugin directory. `decide` returns the verdict."""

    def __init__(self, decide: Callable[[str, dict[str, Any]], dict[str, Any]], implements: str = "authz") -> None:
        self.name = f"orlop-test-{secrets.token_hex(4)}"
        self.asked: list[tuple[str, dict[str, Any]]] = []
        plugin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                method, question = self.path[1:], json.loads(data or b"{}")
                plugin.asked.append((method, question))
                answer = {"Implements": [implements]} if method == "Plugin.Activate" else decide(method, question)
                body = json.dumps(answer).encode()
                self.send_response(answer.pop("status", 200))
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return "unix"

            def log_message(self, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingUnixStreamServer):
            daemon_threads = True
            opened: ClassVar[list[Any]] = []

            def process_request(self, request: Any, client_address: Any) -> None:
                self.opened.append(request)
                super().process_request(request, client_address)

        self._made = [path for path in (Path("/run/docker"), Path("/run/docker/plugins")) if not path.exists()]
        for path in self._made:
            path.mkdir()
        self._path = Path(f"/run/docker/plugins/{self.name}.sock")
        self._server = Server(str(self._path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
        for connection in self._server.opened:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self._path.unlink(missing_ok=True)
        for path in reversed(self._made):
            with contextlib.suppress(OSError):
                path.rmdir()

    def questions(self, method: str, uri: str) -> list[dict[str, Any]]:
        return [asked for name, asked in self.asked if name == f"AuthZPlugin.{method}" and uri in asked["RequestUri"]]


def _no_volumes(method: str, question: dict[str, Any]) -> dict[str, Any]:
    if question["RequestMethod"] == "POST" and question["RequestUri"].endswith("/volumes/create"):
        name = json.loads(base64.b64decode(question["RequestBody"]))["Name"]
        return {"Allow": name != "forbidden", "Msg": f"no volume {name}"}
    if "break" in question["RequestUri"]:
        return {"status": 500, "Err": "it broke"}
    if method == "AuthZPlugin.AuthZRes" and "/hide" in question["RequestUri"]:
        return {"Allow": False, "Msg": "not for you"}
    return {"Allow": True}


def test_authorization_plugins_decide_about_every_request(engine_fixture: EngineFixture) -> None:
    """A reload enables and disables the plugins, on all listeners."""
    engine = engine_fixture.engine
    first, second = Plugin(_no_volumes), Plugin(lambda method, question: {"Allow": True})
    try:
        _reload(engine, {**engine_fixture.config, "authorization-plugins": [first.name, second.name]})
        assert engine.ok("info", "-f", "{{json .Plugins.Authorization}}") == json.dumps(
            [first.name, second.name], separators=(",", ":")
        )
        said = engine.docker("volume", "create", "forbidden")
        assert f"authorization denied by plugin {first.name}: no volume forbidden" in said.err
        assert not second.questions("AuthZReq", "/volumes/create")
        assert engine.ok("volume", "create", "welcome") == "welcome"
        (asked,) = second.questions("AuthZReq", "/volumes/create")
        assert json.loads(base64.b64decode(asked["RequestBody"]))["Name"] == "welcome"
        assert asked["RequestHeaders"]["Content-Type"] == "application/json"
        (told,) = second.questions("AuthZRes", "/volumes/create")
        assert told["ResponseStatusCode"] == 201
        assert json.loads(base64.b64decode(told["ResponseBody"]))["Name"] == "welcome"
        assert engine_fixture.ok("read", "volume", "ls", "-q") == "welcome"
        engine.ok("volume", "rm", "welcome")

        assert engine.ok("run", "--rm", "busybox", "echo", "through") == "through"
        (hijack,) = second.questions("AuthZRes", "/attach")
        assert hijack["ResponseStatusCode"] == 101
        assert engine.api("GET", "/volumes/break") == (
            500,
            {"message": f"plugin {first.name} failed with error: AuthZPlugin.AuthZReq: it broke"},
        )
        engine.ok("volume", "create", "hide")
        assert engine.api("GET", "/volumes/hide") == (
            403,
            {"message": f"authorization denied by plugin {first.name}: not for you"},
        )
        large = json.dumps({"Name": "x", "Labels": {"a": "b" * (4 << 20)}}).encode()
        status, answer = engine.api("POST", "/volumes/create", large)
        assert (status, answer["message"]) == (
            500,
            "request body too large for authorization plugin: size exceeds 4194304 bytes",
        )

        first.close()
        status, answer = engine.api("GET", "/_ping")
        assert (status, f"plugin {first.name} failed with error" in answer["message"]) == (500, True)
        denied = until(lambda: engine_fixture.lines(decision="denied", by=f"plugin {first.name}", path="/_ping"))
        assert "cannot reach unix:///run/docker/plugins/" in denied[-1]["reason"]
        _reload(
            engine,
            {**engine_fixture.config, "authorization-plugins": ["no-such-plugin"]},
            'authorization plugin "no-such-plugin" not found',
        )
        assert engine.api("GET", "/_ping")[0] == 500
    finally:
        first.close()
        second.close()
        _reload(engine, engine_fixture.config)
    engine.ok("volume", "rm", "hide")


def _reload(engine: Engine, config: dict[str, Any], said: str = "configuration reloaded") -> None:
    engine.configure(config)
    before = engine.log().count(said)
    assert engine.process
    engine.process.send_signal(signal.SIGHUP)
    until(lambda: engine.log().count(said) > before, f"the reload: {said}")
