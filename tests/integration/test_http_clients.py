"""HTTP as proxies and simple clients use it: HTTP/1.0, `Connection: close`, `Expect: 100-continue`."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.integration.engine import BUSYBOX, Engine, archive
from tests.registry import layer

pytestmark = pytest.mark.root

READS = (
    "/_ping",
    "/version",
    "/info",
    "/containers/json?all=1",
    "/images/json",
    "/networks",
    "/volumes",
    "/system/df",
    "/events?since=1&until=2",
    "/containers/box/json",
    "/containers/box/logs?stdout=1",
    "/containers/box/stats?stream=0&one-shot=1",
    "/containers/box/archive?path=/etc/passwd",
    "/containers/nosuch/json",
)


class Wire:
    """A connection, and the answers on it."""

    def __init__(self, path: str) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(20)
        self.sock.connect(path)
        self.data = b""

    def send(self, data: bytes) -> None:
        self.sock.sendall(data)

    def _more(self) -> bool:
        more = self.sock.recv(65536)
        self.data += more
        return bool(more)

    def head(self) -> tuple[str, int, dict[str, str]]:
        while b"\r\n\r\n" not in self.data:
            assert self._more(), self.data
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        line, *fields = head.decode().split("\r\n")
        version, status = line.split(" ")[:2]
        return version, int(status), {key.lower(): value for key, value in (field.split(": ", 1) for field in fields)}

    def exactly(self, length: int) -> bytes:
        while len(self.data) < length:
            assert self._more(), self.data
        taken, self.data = self.data[:length], self.data[length:]
        return taken

    def body(self, headers: dict[str, str]) -> bytes:
        if "content-length" in headers:
            return self.exactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") != "chunked":
            return self.rest()
        found = b""
        while True:
            while b"\r\n" not in self.data:
                assert self._more()
            line, _, self.data = self.data.partition(b"\r\n")
            piece = self.exactly(int(line, 16) + 2)
            if piece == b"\r\n":
                return found
            found += piece[:-2]

    def rest(self) -> bytes:
        while self._more():
            pass
        return self.exactly(len(self.data))

    def close(self) -> None:
        self.sock.close()


Dial = Callable[[], Wire]


@pytest.fixture
def dial(box: Engine) -> Iterator[Dial]:
    """Connects to the daemon; closes all connections at the end."""
    wires: list[Wire] = []

    def connect() -> Wire:
        wires.append(Wire(box.socket))
        return wires[-1]

    yield connect
    for wire in wires:
        wire.close()


@pytest.fixture
def box(engine: Engine) -> Engine:
    engine.ok("run", "-d", "--name", "box", "-i", "busybox", "sh", "-c", "echo said; mkdir /tmp; cat")
    return engine


@pytest.mark.parametrize(
    ("version", "connection", "kept"),
    [("1.1", "", True), ("1.1", "close", False), ("1.0", "", False), ("1.0", "keep-alive", True), ("1.0", "close", False)],
)
def test_end_of_an_answer_is_marked_as_the_http_version_of_the_client_requires(
    dial: Dial, version: str, connection: str, kept: bool
) -> None:
    """The end of the body is marked in a way that the client's HTTP version supports. The connection is kept or closed, as
    the client requests."""
    for path in READS:
        wire = dial()
        field = f"Connection: {connection}\r\n" if connection else ""
        request = f"GET {path} HTTP/{version}\r\nHost: d\r\n{field}\r\n".encode()
        wire.send(request)
        spoken, status, headers = wire.head()
        assert status == (404 if "nosuch" in path else 200), path
        assert spoken == f"HTTP/{version}", path
        assert version == "1.1" or "transfer-encoding" not in headers, path
        data = wire.body(headers)
        if headers["content-type"].startswith("application/json") and "/events" not in path:
            json.loads(data)
        # Without a length and without chunks, the end of the connection ends the body
        if kept and ("content-length" in headers or version == "1.1"):
            assert headers.get("connection", "") == ("" if version == "1.1" else "keep-alive"), path
            wire.send(request)
            assert wire.head()[1] == status, path
        else:
            assert headers.get("connection", "") in ("", "close"), path
            assert version == "1.0" or headers["connection"] == "close", path
            assert wire.rest() == b"", path
        wire.close()


def test_answer_to_a_head_request_has_no_body(dial: Dial) -> None:
    for version in ("1.0", "1.1"):
        wire = dial()
        wire.send(f"HEAD /_ping HTTP/{version}\r\nHost: d\r\nConnection: keep-alive\r\n\r\n".encode())
        assert wire.head()[1] == 200
        wire.send(f"GET /_ping HTTP/{version}\r\nHost: d\r\nConnection: close\r\n\r\n".encode())
        assert wire.head()[1] == 200
        assert wire.rest() == b"OK"


def test_end_of_a_stream_to_an_http_1_0_client_closes_the_connection(dial: Dial, box: Engine) -> None:
    """nginx proxies with HTTP/1.0 by default, which has no chunks: the end of the connection ends the body."""
    wire = dial()
    wire.send(b"GET /containers/box/logs?stdout=1&follow=1 HTTP/1.0\r\nConnection: close\r\n\r\n")
    assert wire.head()[1] == 200
    assert wire.exactly(13) == b"\1\0\0\0\0\0\0\5said\n"
    waits = dial()
    waits.send(b"POST /containers/box/wait HTTP/1.0\r\nContent-Length: 0\r\n\r\n")
    assert waits.head()[1] == 200
    attached = dial()
    attached.send(b"POST /containers/box/attach?stream=1&stdin=1&stdout=1 HTTP/1.0\r\n\r\n")
    assert attached.head()[1] == 200
    attached.send(b"words\n")
    assert attached.exactly(14) == b"\1\0\0\0\0\0\0\6words\n"
    assert wire.exactly(14) == b"\1\0\0\0\0\0\0\6words\n"
    box.ok("kill", "box")
    assert attached.rest() == b"" and wire.rest() == b""
    assert json.loads(waits.rest()) == {"StatusCode": 137}
    load = dial()
    load.send(b"POST /images/load HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(archive()) + archive())
    assert load.head()[1] == 200
    assert b"Loaded image" in load.rest()


# --- Expect: 100-continue -----------------------------------------------------------------------------------------------

FILES = layer({"tmp/file": b"content"}).data
CONFIG = json.dumps({"Image": BUSYBOX, "Cmd": ["true"]}).encode()
JSON = "Content-Type: application/json\r\n"


@pytest.mark.parametrize("framing", ["length", "chunked"])
@pytest.mark.parametrize(
    ("request_line", "fields", "body", "status"),
    [
        ("POST /containers/create", JSON, CONFIG, 201),
        ("POST /containers/box/exec", JSON, b'{"Cmd": ["true"]}', 201),
        ("POST /images/load", "", archive(), 200),
        ("PUT /containers/box/archive?path=/", "", FILES, 200),
        ("POST /networks/create", JSON, b"no JSON", 400),
        ("POST /images/create?fromSrc=-&repo=imported", "", FILES, 200),
    ],
)
def test_daemon_sends_100_continue_if_it_needs_the_request_body(
    dial: Dial, framing: str, request_line: str, fields: str, body: bytes, status: int
) -> None:
    wire = dial()
    how = f"Content-Length: {len(body)}" if framing == "length" else "Transfer-Encoding: chunked"
    wire.send(f"{request_line} HTTP/1.1\r\nHost: d\r\n{fields}Expect: 100-continue\r\n{how}\r\n\r\n".encode())
    assert wire.head()[:2] == ("HTTP/1.1", 100)
    assert not wire.data
    wire.send(body if framing == "length" else b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body))
    _, found, headers = wire.head()
    assert found == status, wire.body(headers)
    wire.body(headers)
    wire.send(b"GET /_ping HTTP/1.1\r\nHost: d\r\n\r\n")  # the connection is still usable
    assert wire.head()[1] == 200


@pytest.mark.parametrize(
    "request_line",
    [
        "PUT /containers/nosuch/archive?path=/",
        "POST /containers/nosuch/exec",
        "POST /nosuch",
        "POST /containers/nosuch/attach",
    ],
)
def test_daemon_sends_no_100_continue_if_it_does_not_need_the_request_body(dial: Dial, request_line: str) -> None:
    wire = dial()
    fields = f"Host: d\r\n{JSON}Expect: 100-continue\r\nContent-Length: 1000000"
    wire.send(f"{request_line} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
    _, status, headers = wire.head()
    assert status == 404
    assert headers["connection"] == "close"  # because the client may send the body or not
    wire.body(headers)
    assert wire.rest() == b""


def test_attach_and_exec_accept_requests_that_expect_100_continue(dial: Dial, box: Engine) -> None:
    for upgrade, status in (("", 200), ("Connection: Upgrade\r\nUpgrade: tcp\r\n", 101)):
        wire = dial()
        target = "/containers/box/attach?stream=1&stdin=1&stdout=1"
        wire.send(
            f"POST {target} HTTP/1.1\r\nHost: d\r\n{upgrade}Expect: 100-continue\r\nContent-Length: 0\r\n\r\n".encode()
        )
        assert wire.head()[1] == status
        wire.send(b"words\n")
        assert wire.exactly(14) == b"\1\0\0\0\0\0\0\6words\n"
        wire.close()
        made = box.api("POST", "/containers/box/exec", {"Cmd": ["cat"], "AttachStdin": True, "AttachStdout": True})[1]["Id"]
        wire = dial()
        fields = f"Host: d\r\n{JSON}{upgrade}Expect: 100-continue\r\nContent-Length: 2"
        wire.send(f"POST /exec/{made}/start HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        assert wire.head()[1] == 100
        wire.send(b"{}")
        assert wire.head()[1] == status
        wire.send(b"words\n")
        assert wire.exactly(14) == b"\1\0\0\0\0\0\0\6words\n"
        wire.sock.shutdown(socket.SHUT_WR)
        assert wire.rest() == b""


@pytest.mark.parametrize("options", [(), ("--http1.0",), ("-H", "Expect: 100-continue"), ("-H", "Connection: close")])
def test_curl_gets_answers_in_every_mode(box: Engine, tmp_path: Path, options: tuple[str, ...]) -> None:
    """Includes curl's own wait of a second for `100 Continue`."""

    def curl(*arguments: str) -> str:
        command = ["curl", "-sSv", "--max-time", "20", "--unix-socket", box.socket, *options, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        statuses = [line for line in re.findall(r"^< HTTP/1\.[01] (\d+)", done.stderr, re.MULTILINE) if line != "100"]
        assert statuses[-1] in ("200", "201"), done.stderr + done.stdout
        return done.stdout

    (tmp_path / "busybox.tar").write_bytes(archive())
    (tmp_path / "files.tar").write_bytes(FILES)
    assert curl("http://d/_ping") == "OK"
    assert json.loads(curl("http://d/containers/json"))[0]["Names"] == ["/box"]
    assert json.loads(curl("-H", "Content-Type: application/json", "-d", CONFIG.decode(), "http://d/containers/create"))[
        "Id"
    ]
    assert "Loaded image" in curl("--data-binary", f"@{tmp_path}/busybox.tar", "http://d/images/load")
    assert "Loaded image" in curl("-X", "POST", "-T", f"{tmp_path}/busybox.tar", "http://d/images/load")
    curl("-T", f"{tmp_path}/files.tar", "http://d/containers/box/archive?path=/")
    assert curl("http://d/containers/box/logs?stdout=1").endswith("said\n")
