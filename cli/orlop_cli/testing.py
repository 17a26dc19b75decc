"""A fake daemon for tests of clients. It answers requests on a unix socket with bytes recorded from a real daemon.

Replies are sent unchanged, and every request is kept, so that the test can inspect it.
"""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable
from typing import Any, NamedTuple

TYPE_CHECKING = False  # like typing.TYPE_CHECKING, but without the time of importing typing
if TYPE_CHECKING:
    from types import TracebackType


RAW_STREAM = b"Content-Type: application/vnd.docker.raw-stream\r\n"
UPGRADED = b"HTTP/1.1 101 UPGRADED\r\n" + RAW_STREAM + b"Connection: Upgrade\r\nUpgrade: tcp\r\n\r\n"


class Request(NamedTuple):
    """A received request: `target` still has its version and query."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def path(self) -> str:
        """The path without version and query."""
        path = self.target.partition("?")[0]
        head, _, rest = path.lstrip("/").partition("/")
        return "/" + rest if head[:1] == "v" and head[1:].replace(".", "").isdigit() else path


Script = Callable[[socket.socket, Request], None]


def answer(body: Any = None, status: int = 200, headers: dict[str, str] | None = None) -> bytes:
    """An answer with a JSON body, as dockerd frames it."""
    data = b"" if body is None else json.dumps(body).encode() + b"\n"
    lines = [f"HTTP/1.1 {status} X", "Api-Version: 1.45", "Content-Type: application/json", f"Content-Length: {len(data)}"]
    if status in (204, 304):
        lines.pop()
    lines += [f"{name}: {value}" for name, value in (headers or {}).items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + data


def chunked(pieces: list[bytes], headers: dict[str, str] | None = None) -> bytes:
    """A chunked answer."""
    lines = ["HTTP/1.1 200 OK", "Api-Version: 1.45", "Transfer-Encoding: chunked"]
    lines += [f"{name}: {value}" for name, value in (headers or {"Content-Type": "application/json"}).items()]
    body = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body + b"0\r\n\r\n"


def frame(stream: int, payload: bytes) -> bytes:
    """A frame of a multiplexed stream."""
    return bytes((stream, 0, 0, 0)) + len(payload).to_bytes(4, "big") + payload


class RecordedDaemon:
    """Serves until the `with` block ends. `on()` adds an answer for a method and path. The last added answer is tried first.
    An answer with `times` is used only so many times. A request without a matching answer gets dockerd's 404."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.host = f"unix://{path}"
        self.requests: list[Request] = []
        self.closing = threading.Event()  # replies that wait should stop when this is set
        self._rules: list[list[Any]] = []
        self._lock = threading.Lock()
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def on(self, method: str, path: str, reply: bytes | Script, times: int = -1) -> None:
        """Add an answer. `reply` is sent unchanged; if it is a function, it is called with the connection, which is closed
        when the function returns."""
        with self._lock:
            self._rules.insert(0, [method, path, reply, times])

    def seen(self) -> list[str]:
        """`METHOD /path` of all requests so far."""
        return [f"{request.method} {request.path}" for request in self.requests]

    def find(self, method: str, path: str) -> Request:
        """The first request to a path. Raises AssertionError if there was none."""
        for request in self.requests:
            if (request.method, request.path) == (method, path):
                return request
        raise AssertionError(f"no {method} {path} in {self.seen()}")

    def __enter__(self) -> RecordedDaemon:
        self._listener.bind(self.path)
        self._listener.listen(64)
        self._spawn(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.closing.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in list(self._connections):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # the connection is closed already
        for thread in self._threads:
            thread.join(5)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            self._spawn(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            buffer = b""
            try:
                while True:
                    request, buffer = _read_request(connection, buffer)
                    if request is None:
                        return
                    reply = self._match(request)
                    if not isinstance(reply, bytes):
                        reply(connection, request)
                        return
                    connection.sendall(reply)
            except OSError:
                return  # the client has disconnected

    def _match(self, request: Request) -> bytes | Script:
        with self._lock:
            self.requests.append(request)
            for rule in self._rules:
                if rule[0] == request.method and rule[1] == request.path and rule[3] != 0:
                    rule[3] -= 1
                    found: bytes | Script = rule[2]
                    return found
        return answer({"message": "page not found"}, 404)


def _read_request(connection: socket.socket, buffer: bytes) -> tuple[Request | None, bytes]:
    while b"\r\n\r\n" not in buffer:
        data = connection.recv(65536)
        if not data:
            return None, b""
        buffer += data
    head, buffer = buffer.split(b"\r\n\r\n", 1)
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    if headers.get("transfer-encoding") == "chunked":
        body, buffer = _read_chunks(connection, buffer)
    else:
        size = int(headers.get("content-length", 0))
        while len(buffer) < size:
            buffer += connection.recv(65536)
        body, buffer = buffer[:size], buffer[size:]
    return Request(method, target, headers, body), buffer


def _read_chunks(connection: socket.socket, buffer: bytes) -> tuple[bytes, bytes]:
    body = b""
    while True:
        while b"\r\n" not in buffer:
            buffer += connection.recv(65536)
        line, buffer = buffer.split(b"\r\n", 1)
        size = int(line, 16)
        while len(buffer) < size + 2:
            buffer += connection.recv(65536)
        body, buffer = body + buffer[:size], buffer[size + 2 :]
        if not size:
            return body, buffer
