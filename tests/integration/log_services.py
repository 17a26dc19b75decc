"""Services for the tests of log drivers: the collector of Splunk, and a decoder for MessagePack."""

from __future__ import annotations

import http.server
import json
import struct
import threading
import zlib
from typing import Any

__all__ = ["Collector", "unpack"]


class Collector:
    """Splunk's HTTP Event Collector: records events, and answers with `status`."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.status = 200
        recorder = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_OPTIONS(self) -> None:
                self._answer()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) or self._chunks()
                recorder.headers.append(dict(self.headers))
                if recorder.status == 200:
                    text = zlib.decompress(body, 47) if self.headers.get("Content-Encoding") == "gzip" else body
                    recorder.events += documents(text.decode())
                self._answer()

            def _chunks(self) -> bytes:
                found = b""
                while size := int(self.rfile.readline() or b"0", 16):
                    found += self.rfile.read(size)
                    self.rfile.readline()
                return found

            def _answer(self) -> None:
                self.send_response(recorder.status)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, *_: object) -> None:
                pass

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def documents(text: str) -> list[Any]:
    """JSON documents that follow each other without a separator."""
    found, position, decoder = [], 0, json.JSONDecoder()
    while position < len(text):
        document, position = decoder.raw_decode(text, position)
        found.append(document)
        position += len(text[position:]) - len(text[position:].lstrip())
    return found


def unpack(data: bytes) -> list[Any]:
    """MessagePack values that follow each other; strings become `bytes`. Only the types that Fluentd's protocol uses."""
    found, rest = [], data
    while rest:
        value, rest = _unpack(rest)
        found.append(value)
    return found


_SIZES = {0xD9: 1, 0xDA: 2, 0xDB: 4, 0xDE: 2, 0xDF: 4, 0xDC: 2, 0xC4: 1}
_INTEGERS = {0xCC: ">B", 0xCD: ">H", 0xCE: ">I", 0xCF: ">Q", 0xD0: ">b", 0xD1: ">h", 0xD2: ">i", 0xD3: ">q"}


def _unpack(data: bytes) -> tuple[Any, bytes]:
    kind, rest = data[0], data[1:]
    if kind < 0x80:
        return kind, rest
    if kind in _INTEGERS:
        size = struct.calcsize(_INTEGERS[kind])
        return struct.unpack(_INTEGERS[kind], rest[:size])[0], rest[size:]
    if kind == 0xC0:
        return None, rest
    if kind == 0xD7:
        return ("ext", rest[0], rest[1:9]), rest[9:]
    if kind == 0xC7:
        return ("ext", rest[1], rest[2 : 2 + rest[0]]), rest[2 + rest[0] :]
    if kind in _SIZES:
        count, rest = int.from_bytes(rest[: _SIZES[kind]]), rest[_SIZES[kind] :]
    else:
        count = kind & (0x1F if kind & 0xE0 == 0xA0 else 0x0F)
    if kind & 0xE0 == 0xA0 or kind in (0xD9, 0xDA, 0xDB, 0xC4):
        return rest[:count], rest[count:]
    is_map = kind & 0xF0 == 0x80 or kind in (0xDE, 0xDF)
    values = []
    for _ in range(2 * count if is_map else count):
        value, rest = _unpack(rest)
        values.append(value)
    return (dict(zip(values[::2], values[1::2], strict=True)) if is_map else values), rest
