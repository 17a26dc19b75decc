"""Calls of a plugin on a real socket: methods, bodies, errors, and plugins that never answer."""

from __future__ import annotations

import http.server
import json
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import trio

from orlop_docker_plugins.address import Address
from orlop_docker_plugins.client import Client
from orlop_docker_plugins.volumes import DockerVolumes
from orlop_sdk import DeadlineExceeded, DriverError, Mount, NotFound, OrlopError, Unavailable, Volume

Answers = dict[str, Any]


class Plugin:
    """A plugin whose answers are in `answers`, by method: an object, or a function that gets the handler."""

    def __init__(self, path: str, address: tuple[str, int] | None = None) -> None:
        self.answers: Answers = {
            "Plugin.Activate": {"Implements": ["VolumeDriver"]},
            "VolumeDriver.Capabilities": {"Capabilities": {"Scope": "Global"}},
        }
        self.calls: list[tuple[str, str]] = []
        plugin = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                method = self.path[1:]
                plugin.calls.append((method, data.decode()))
                answer = plugin.answers.get(method, {})
                if callable(answer):
                    answer(self)
                    return
                body = json.dumps(answer).encode()
                self.send_response(500 if answer.get("Err") else 200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def address_string(self) -> str:
                return ""

            def log_message(self, *args: Any) -> None:
                pass

        class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass

        class TCP(http.server.ThreadingHTTPServer):
            pass

        self.server: Any = TCP(address, Handler) if address else Server(path, Handler)
        self._thread = threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02})
        self._thread.start()
        self.address = (
            Address("tcp://x", "", "127.0.0.1", self.server.server_port) if address else Address(f"unix://{path}", path)
        )

    def driver(self) -> DockerVolumes:
        return DockerVolumes("p", self.address)

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


@pytest.fixture
def plugin() -> Iterator[Plugin]:
    with TemporaryDirectory(dir="/tmp") as made:
        plugin = Plugin(f"{made}/p.sock")
        try:
            yield plugin
        finally:
            plugin.close()


def test_plugin_gets_the_bodies_that_dockerd_sends(plugin: Plugin) -> None:
    plugin.answers |= {
        "VolumeDriver.Get": {"Err": "no such volume"},
        "VolumeDriver.Mount": {"Mountpoint": "/mnt/v"},
        "VolumeDriver.List": {"Volumes": [{"Name": "v"}, {"Name": "u"}]},
    }
    driver = plugin.driver()
    assert driver.capabilities.scope == "global"
    assert plugin.calls == [("Plugin.Activate", ""), ("VolumeDriver.Capabilities", "{}")]
    plugin.calls.clear()

    async def use() -> None:
        assert await driver.create("v", {"k": "v"}) == Volume("v", "", {"k": "v"})
        assert await driver.create("v", {}) == Volume("v", "")
        assert await driver.mount("v", "id") == (Mount("bind", "/mnt/v", "", ("rbind", "rprivate")),)
        await driver.unmount("v", "id")
        await driver.remove("v")
        assert await driver.names() == ["u", "v"]

    trio.run(use)
    assert plugin.calls == [
        ("VolumeDriver.Get", '{"Name":"v"}'),
        ("VolumeDriver.Create", '{"Name":"v","Opts":{"k":"v"}}'),
        ("VolumeDriver.Get", '{"Name":"v"}'),
        ("VolumeDriver.Create", '{"Name":"v","Opts":null}'),
        ("VolumeDriver.Mount", '{"Name":"v","ID":"id"}'),
        ("VolumeDriver.Unmount", '{"Name":"v","ID":"id"}'),
        ("VolumeDriver.Remove", '{"Name":"v"}'),
        ("VolumeDriver.List", "{}"),
    ]


def test_existing_volume_is_used_without_a_create(plugin: Plugin) -> None:
    plugin.answers["VolumeDriver.Get"] = {"Volume": {"Name": "v", "Mountpoint": "/m", "Status": {"a": [1]}}}

    async def use() -> None:
        driver = plugin.driver()
        assert await driver.create("v", {"k": "v"}) == Volume("v", "/m", {}, {"a": [1]})
        assert await driver.get("v") == Volume("v", "/m", {}, {"a": [1]})
        assert [mount.source for mount in await driver.mounts("v")] == ["/m"]
        assert (await driver.usage("v")).size == -1

    trio.run(use)
    assert "VolumeDriver.Create" not in dict(plugin.calls)


def raised(plugin: Plugin, method: str, *arguments: Any) -> OrlopError:
    with pytest.raises(OrlopError) as found:
        trio.run(getattr(plugin.driver(), method), *arguments)
    return found.value


def test_unknown_volume_is_not_found_and_its_removal_succeeds(plugin: Plugin) -> None:
    plugin.answers |= {"VolumeDriver.Get": {"Err": "what?"}, "VolumeDriver.Remove": {"Err": "what?"}}
    assert str(raised(plugin, "get", "v")) == "get v: no such volume"
    trio.run(plugin.driver().remove, "v")
    plugin.answers["VolumeDriver.List"] = {"Volumes": [{"Name": "v"}]}
    assert str(raised(plugin, "get", "v")) == "VolumeDriver.Get: what?"
    assert str(raised(plugin, "remove", "v")) == "VolumeDriver.Remove: what?"
    plugin.answers |= {"VolumeDriver.Get": {}}
    assert isinstance(raised(plugin, "get", "v"), NotFound)


@pytest.mark.parametrize("path", ["", "/", "//", "/.", "relative", "./x", "/a/../b", "/..", "/a\0b"])
def test_mount_point_that_is_no_path_below_root_is_refused(plugin: Plugin, path: str) -> None:
    plugin.answers["VolumeDriver.Mount"] = {"Mountpoint": path}
    assert "is not an absolute path below / without .." in str(raised(plugin, "mount", "v", "id"))


def big(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(100):
        handler.wfile.write(b" " * (1 << 20))


def cut(handler: Any) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b"{} ")


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        ({"Err": "no"}, DriverError, "^VolumeDriver.Mount: no$"),
        (lambda handler: handler.send_error(404), DriverError, "VolumeDriver.Mount: <!DOCTYPE"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n{"), DriverError, "cannot be read"),
        (lambda handler: handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n[]"), DriverError, "cannot be read"),
        (lambda handler: handler.wfile.write(b'HTTP/1.1 200 OK\r\n\r\n{"Err": "late"}'), DriverError, "^late$"),
        (lambda handler: handler.wfile.write(b"\xff\r\n\r\n"), Unavailable, "does not answer VolumeDriver.Mount"),
        (lambda handler: None, Unavailable, 'volume plugin "p" at unix:///.*/p.sock does not answer VolumeDriver.Mount'),
        (cut, Unavailable, "does not answer VolumeDriver.Mount: IncompleteRead"),
        (big, DriverError, "larger than 4 MiB"),
    ],
    ids=["error", "status", "text", "list", "error-200", "garbage", "close", "cut", "big"],
)
def test_wrong_answers_are_errors(plugin: Plugin, answer: Any, kind: type[OrlopError], message: str) -> None:
    plugin.answers["VolumeDriver.Mount"] = answer
    with pytest.raises(kind, match=message):
        trio.run(plugin.driver().mount, "v", "id")


@pytest.mark.parametrize("implements", [None, [], ["authz"]])
def test_plugin_of_another_kind_is_refused(plugin: Plugin, implements: list[str] | None) -> None:
    plugin.answers["Plugin.Activate"] = {"Implements": implements}
    with pytest.raises(DriverError, match=r"does not implement VolumeDriver, but (nothing|authz)"):
        plugin.driver()


@pytest.mark.parametrize("answer", [{"Err": "no"}, {}, {"Capabilities": {"Scope": "galaxy"}}])
def test_plugin_without_a_known_scope_is_local(plugin: Plugin, answer: Any) -> None:
    plugin.answers["VolumeDriver.Capabilities"] = answer
    assert plugin.driver().capabilities.scope == "local"


def test_plugin_that_has_ended_is_unavailable(plugin: Plugin) -> None:
    driver = plugin.driver()
    plugin.close()
    with pytest.raises(Unavailable, match=r"p\.sock does not answer VolumeDriver\.List: "):
        trio.run(driver.names)


def test_plugin_at_a_tcp_address_is_called() -> None:
    plugin = Plugin("", ("127.0.0.1", 0))
    try:
        plugin.answers["VolumeDriver.List"] = {"Volumes": [{"Name": "v"}]}
        assert trio.run(plugin.driver().names) == ["v"]
    finally:
        plugin.close()


def hang(handler: Any) -> None:
    handler.rfile.read()  # until the client closes the connection


def drip(handler: Any) -> None:
    handler.send_response(200)
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.01)


@pytest.mark.parametrize("answer", [hang, drip])
def test_cancelled_call_ends_its_thread_and_its_connection(plugin: Plugin, answer: Callable[[Any], None]) -> None:
    """Without the end of the connection, each call of a plugin that hangs would keep a thread, and finally all threads of
    the driver."""
    plugin.answers["VolumeDriver.Mount"] = answer

    async def use() -> None:
        driver = plugin.driver()
        for _ in range(3):
            with trio.move_on_after(0.05) as scope:
                await driver.mount("v", "id")
            assert scope.cancelled_caught
        with trio.fail_after(20):
            while driver._client._threads.borrowed_tokens:  # noqa: ASYNC110 - threads end without an event
                await trio.sleep(0.01)

    trio.run(use)


@pytest.mark.parametrize("answer", [hang, drip])
def test_blocking_call_ends_at_its_deadline(plugin: Plugin, answer: Callable[[Any], None]) -> None:
    plugin.answers["Plugin.Activate"] = answer
    client = Client("p", plugin.address)
    with pytest.raises(DeadlineExceeded, match=r"gave no answer to Plugin\.Activate in 0\.1 s"):
        client.call_blocking("Plugin.Activate", b"", dict, 0.1)


def test_call_waits_while_the_plugin_accepts_no_connection() -> None:
    """The plugin's backlog is full for a moment, because many containers end at once."""
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"
    with TemporaryDirectory(dir="/tmp") as made, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{made}/p.sock")
        listener.listen(0)
        with socket.socket(socket.AF_UNIX) as first:
            first.connect(f"{made}/p.sock")

            def serve() -> None:
                listener.accept()[0].close()
                connection, _ = listener.accept()
                with connection:
                    connection.recv(10_000)
                    connection.sendall(answer)

            late = threading.Timer(0.2, serve)
            late.start()
            try:
                assert Client("p", Address("", f"{made}/p.sock")).call_blocking("Plugin.Activate", b"", dict, 30) == {}
            finally:
                late.join()


def test_plugin_that_accepts_no_connections_does_not_block_the_call() -> None:
    with TemporaryDirectory(dir="/tmp") as made, socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{made}/p.sock")
        listener.listen(0)
        clients = [socket.socket(socket.AF_UNIX) for _ in range(2)]
        try:
            clients[0].connect(f"{made}/p.sock")
            with pytest.raises(DeadlineExceeded, match=r"Plugin\.Activate"):
                Client("p", Address("", f"{made}/p.sock")).call_blocking("Plugin.Activate", b"", dict, 0.1)
        finally:
            for client in clients:
                client.close()
