"""A registry whose downloads never finish: it serves a manifest and a configuration, and the first half of each layer."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.registry import Image, image, layer

__all__ = ["stalling"]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wanted: Image
    over: threading.Event

    def do_GET(self) -> None:
        name = self.path.rpartition("/")[2]
        one = self.wanted
        found = {blob.digest: blob for blob in (one.manifest, one.config, *one.layers)} | {"latest": one.manifest}
        if name not in found:
            self._head(200 if self.path == "/v2/" else 404, "application/json", "", 0)
            return
        blob = found[name]
        self._head(200, blob.media_type, blob.digest, len(blob.data))
        if self.command == "HEAD":
            return
        if blob not in one.layers:
            self.wfile.write(blob.data)
            return
        self.wfile.write(blob.data[: len(blob.data) // 2])
        self.wfile.flush()
        self.connection.settimeout(0.05)
        while not self.over.is_set():  # until the client disconnects
            try:
                if not self.connection.recv(1):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
        self.close_connection = True

    do_HEAD = do_GET

    def _head(self, status: int, kind: str, digest: str, size: int) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(size))
        if digest:
            self.send_header("Docker-Content-Digest", digest)
        self.end_headers()

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore errors, because clients disconnect deliberately."""


@contextmanager
def stalling(layers: int = 1) -> Iterator[str]:
    """Run the registry until the end of the block. Yields the name of its image. The daemon keeps one copy of each partial
    layer for the next pull, no matter how many pulls are cancelled."""
    made = image([layer({f"file{number}": os.urandom(256 << 10)}) for number in range(layers)])
    over = threading.Event()
    handler = type("Handler", (_Handler,), {"wanted": made, "over": over})
    with _Server(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}/stalled"
        finally:
            over.set()
            server.shutdown()
            thread.join()
