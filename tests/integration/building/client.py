"""A daemon with the test's builder, and a client that makes it call the backend."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

from tests.integration.engine import Engine, patience

__all__ = ["BuilderClient", "BuildingEngine"]


class BuildingEngine(Engine):
    @property
    def command(self) -> list[str]:
        found = super().command
        at = found.index("-m")
        return [*found[:at], str(Path(__file__).with_name("orlopd.py")), *found[at + 2 :]]

    def builder(self, kind: str = "grpc", path: str = "") -> BuilderClient:
        """`path` is the socket of another listener."""
        return BuilderClient(self, kind, path)


class BuilderClient:
    """A connection that was upgraded. `call` does `send`, and then `receive`, which returns the answer."""

    def __init__(self, engine: Engine, kind: str, path: str = "") -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(patience(60))
        self.socket.connect(path or engine.socket)
        head = f"POST /{kind} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\nX-Test: yes\r\n\r\n"
        # The first call is sent together with the request, so that the daemon reads it together with the head.
        self.socket.sendall(head.encode() + self._encoded(0, "hello", {}))
        self._file = self.socket.makefile("rb")
        self.head = b""
        while not self.head.endswith(b"\r\n\r\n"):
            byte = self._file.read(1)
            assert byte, self.head
            self.head += byte
        assert self.head.startswith(b"HTTP/1.1 101 "), self.head + self._file.read(500)
        self.hello = self.receive()
        self._last = 0

    @staticmethod
    def _encoded(number: int, name: str, args: dict[str, Any]) -> bytes:
        return json.dumps({"id": number, "call": name, "args": args}).encode() + b"\n"

    def send(self, name: str, /, **args: Any) -> None:
        self._last += 1
        self.socket.sendall(self._encoded(self._last, name, args))

    def receive(self) -> dict[str, Any]:
        line = self._file.readline()
        if not line:
            raise EOFError
        found: dict[str, Any] = json.loads(line)
        return found

    def call(self, name: str, /, **args: Any) -> dict[str, Any]:
        self.send(name, **args)
        return self.receive()

    def result(self, name: str, /, **args: Any) -> Any:
        answer = self.call(name, **args)
        assert "error" not in answer, answer
        return answer.get("result", answer)

    def close(self) -> None:
        self._file.close()
        self.socket.close()
