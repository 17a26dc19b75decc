"""Clients of the streaming routes, for all daemons of these tests: raw hijacked connections and websockets."""

from __future__ import annotations

import json
import socket
from typing import Any

import websocket
from tests.integration.engine import Engine, patience

__all__ = ["Hijacked", "Websockets", "exec_in", "frames"]


class Hijacked:
    """A hijacked connection. The constructor sends the request. `head` is the head of the answer; the stream follows it."""

    def __init__(self, engine: Engine, path: str, body: Any = None, *, version: str = "v1.45") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience(10))
        self.socket.connect(engine.socket)
        data = b"" if body is None else json.dumps(body).encode()
        head = f"POST /{version}{path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(data)}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        self.socket.sendall(head.encode() + data)
        self.data = b""
        while b"\r\n\r\n" not in self.data:
            self._more()
        head, _, self.data = self.data.partition(b"\r\n\r\n")
        self.head = head.decode()

    @property
    def status(self) -> int:
        return int(self.head.split()[1])

    def _more(self) -> bool:
        piece = self.socket.recv(65536)
        self.data += piece
        return bool(piece)

    def __del__(self) -> None:
        self.socket.close()

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def end(self) -> None:
        """Half-close: end the input."""
        self.socket.shutdown(socket.SHUT_WR)

    def expect(self, wanted: bytes) -> None:
        while wanted not in self.data:
            assert self._more(), f"no {wanted!r} in {self.data!r}"

    def rest(self) -> bytes:
        """Everything until the daemon closes the stream."""
        while self._more():
            pass
        self.socket.close()
        return self.data

    def stays_open(self, seconds: float = 0.3) -> bool:
        self.socket.settimeout(seconds)
        try:
            while self._more():
                pass
        except TimeoutError:
            return True
        finally:
            self.socket.settimeout(patience(10))
        return False


def frames(data: bytes) -> dict[int, bytes]:
    """The data of a multiplexed stream by stream number. Fails on incomplete frames."""
    found: dict[int, bytes] = {}
    while data:
        size = int.from_bytes(data[4:8], "big")
        assert data[1:4] == bytes(3)
        assert len(data) >= 8 + size
        found[data[0]] = found.get(data[0], b"") + data[8 : 8 + size]
        data = data[8 + size :]
    return found


def exec_in(engine: Engine, container: str, *argv: str, **config: Any) -> str:
    status, made = engine.api("POST", f"/v1.45/containers/{container}/exec", {"Cmd": argv, **config})
    assert status == 201, made
    return str(made["Id"])


class Websockets:
    """Websockets of a real client library over a daemon's unix socket. `close` closes all of them."""

    def __init__(self) -> None:
        self._sockets: list[socket.socket] = []

    def __call__(self, engine: Engine, path: str, **options: Any) -> websocket.WebSocket:
        sock = socket.socket(socket.AF_UNIX)
        self._sockets.append(sock)
        sock.settimeout(patience(10))
        sock.connect(engine.socket)
        return websocket.create_connection(f"ws://localhost{path}", socket=sock, timeout=patience(10), **options)

    def close(self) -> None:
        for sock in self._sockets:
            sock.close()
