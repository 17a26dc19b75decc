"""A registry in this process that can be told to misbehave.

with serving() as registry:
    registry.add("app", "v1", image)
    registry.misbehave(image.layers[0].digest, truncate(10), flip())   # two wrong answers, then correct ones
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from .build import Blob, Image

Answer = Callable[["Handler", Blob | None], None]


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Hostile

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        self.registry.requests.append((self.command, self.path, {k.lower(): v for k, v in self.headers.items()}))
        try:
            self.registry.answer(self)
        except OSError:
            self.close_connection = True

    do_POST = do_GET

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def fail(self, status: int, code: str, message: str = "", headers: dict[str, str] | None = None) -> None:
        body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self.send(status, body, {"Content-Type": "application/json", **(headers or {})})


class Hostile:
    """`requests` are the paths requested, in order. `ranges`: whether Range is supported. `gate`: ends `stall`."""

    def __init__(self) -> None:
        self.host = ""
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        self.ranges = True
        self.gate = threading.Event()
        self._manifests: dict[tuple[str, str], Blob] = {}
        self._blobs: dict[str, Blob] = {}
        self._bad: dict[str, list[Answer]] = {}
        self.ping: Answer | None = None

    def add(self, name: str, tag: str, image: Image) -> None:
        for part in (image.config, *image.layers):
            self._blobs[part.digest] = part
        self.add_manifest(name, tag, image.manifest)

    def add_manifest(self, name: str, tag: str, manifest: Blob) -> None:
        self._manifests[name, tag] = self._manifests[name, manifest.digest] = manifest

    def misbehave(self, what: str, *answers: Answer) -> None:
        """Give these answers, in order, to the next requests whose path ends with `what` (a digest or a tag)."""
        self._bad[what] = list(answers)

    def paths(self, part: str) -> list[str]:
        return [path for _, path, _ in self.requests if part in path]

    def answer(self, handler: Handler) -> None:
        path = handler.path.partition("?")[0]
        last = path.rpartition("/")[2]
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        item = None
        if match:
            item = self._manifests.get((match[1], match[3])) if match[2] == "manifests" else self._blobs.get(match[3])
        bad = self._bad.get(last)
        if bad:
            bad.pop(0)(handler, item)
        elif path == "/v2/":
            (self.ping or (lambda handler, _: handler.send(200, b"{}")))(handler, None)
        elif tags := re.fullmatch(r"/v2/(.+)/tags/list", path):
            names = sorted(tag for name, tag in self._manifests if name == tags[1] and ":" not in tag)
            handler.send(200, json.dumps({"name": tags[1], "tags": names}).encode())
        elif item is None:
            handler.fail(404, "MANIFEST_UNKNOWN" if match and match[2] == "manifests" else "BLOB_UNKNOWN", "not here")
        else:
            self._honest(handler, item)

    def _honest(self, handler: Handler, item: Blob) -> None:
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        if wanted and self.ranges:
            start = int(wanted[1])
            span = f"bytes {start}-{len(item.data) - 1}/{len(item.data)}"
            handler.send(206, item.data[start:], {"Content-Type": item.media_type, "Content-Range": span})
        else:
            handler.send(200, item.data, {"Content-Type": item.media_type})


def status(code: int, error: str = "", message: str = "", **headers: str) -> Answer:
    """An error answer. Without `error`, the body of the answer is not JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(handler: Handler, _: Blob | None) -> None:
        if error:
            handler.fail(code, error, message, named)
        else:
            handler.send(code, b"<html>sorry</html>", named)

    return answer


def honest(handler: Handler, item: Blob | None) -> None:
    assert item is not None
    handler.registry._honest(handler, item)


def flip() -> Answer:
    """The blob with one wrong byte."""

    def answer(handler: Handler, item: Blob | None) -> None:
        assert item is not None
        data = bytes([item.data[0] ^ 1]) + item.data[1:]
        handler.send(200, data, {"Content-Type": item.media_type})

    return answer


def replace(data: bytes, media_type: str | None = None) -> Answer:
    """Different content of any length."""

    def answer(handler: Handler, item: Blob | None) -> None:
        handler.send(200, data, {"Content-Type": media_type or (item.media_type if item else "text/plain")})

    return answer


def truncate(at: int) -> Answer:
    """Announce the full length, send `at` bytes, close the connection. Supports Range."""

    def answer(handler: Handler, item: Blob | None) -> None:
        assert item is not None
        wanted = re.fullmatch(r"bytes=(\d+)-", handler.headers.get("Range", ""))
        start = int(wanted[1]) if wanted else 0
        headers = {"Content-Type": item.media_type}
        if wanted:
            headers["Content-Range"] = f"bytes {start}-{len(item.data) - 1}/{len(item.data)}"
        handler.send(206 if wanted else 200, item.data[start : start + at], headers, length=len(item.data) - start)
        handler.wfile.flush()
        handler.close_connection = True

    return answer


def stall(after: int) -> Answer:
    """Send `after` bytes, then nothing until the test ends."""

    def answer(handler: Handler, item: Blob | None) -> None:
        assert item is not None
        handler.send(200, item.data[:after], {"Content-Type": item.media_type}, length=len(item.data))
        handler.wfile.flush()
        handler.registry.gate.wait(30)
        handler.close_connection = True

    return answer


def hold(event: threading.Event) -> Answer:
    """Wait for `event`, and then give the correct answer."""

    def answer(handler: Handler, item: Blob | None) -> None:
        event.wait(30)
        honest(handler, item)

    return answer


def endless() -> Answer:
    """Endless data, until the client disconnects."""

    def answer(handler: Handler, item: Blob | None) -> None:
        handler.send_response(200)
        handler.send_header("Content-Type", item.media_type if item else "application/octet-stream")
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        while not handler.registry.gate.is_set():
            handler.wfile.write(piece)

    return answer


def redirect(location: str, code: int = 307) -> Answer:
    def answer(handler: Handler, _: Blob | None) -> None:
        handler.send(code, b"", {"Location": location})

    return answer


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore errors, because tests disconnect deliberately."""


@contextmanager
def serving(
    tls: ssl.SSLContext | None = None, registry: Hostile | None = None, handles: type[Handler] = Handler
) -> Iterator[Hostile]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    registry = registry or Hostile()
    handler = type("BoundHandler", (handles,), {"registry": registry})
    server = _Server(("127.0.0.1", 0), handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.host = f"127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        registry.gate.set()
        server.shutdown()
        server.server_close()
        thread.join(5)
