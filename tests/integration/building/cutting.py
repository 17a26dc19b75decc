"""Builds whose client disconnects after a message: each message is tried. A proxy between the real client and the daemon
counts messages in both directions, and closes all connections of the client after the message with a given number.

`python -m tests.integration.building.cutting [--every N] [--only NAME...]` cuts a build after each of its messages, and
requests of the classic endpoint after each of their parts (`cutting_requests`).
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.integration.engine import Engine, Result, until

__all__ = ["EXPORTS", "Cutter", "CuttingProxy"]

_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_DOCKERFILE = """FROM busybox
RUN --mount=type=secret,id=s cat /run/secrets/s && echo made > /made
COPY file tree /copied/
"""
EXPORTS = ("image", "tar")


class CuttingProxy:
    """Listens at `path`. `seen` is the number of messages of all connections so far: frames of HTTP/2, and single reads of
    HTTP/1. After message number `last`, all connections are closed."""

    def __init__(self, path: str, target: str, last: int) -> None:
        self._target, self._last = target, last
        self.seen = 0
        self._lock = threading.Lock()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(path)
        self._listener.listen(64)
        self._path = path
        self._start(self._accept)

    def _start(self, function: Any, *args: Any) -> None:
        thread = threading.Thread(target=function, args=args)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        self._cut()
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        os.unlink(self._path)

    def _cut(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._listener, suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                daemon = socket.socket(socket.AF_UNIX)
                self._sockets += (client, daemon)
                daemon.connect(self._target)
                self._start(self._pump, client, daemon)
                self._start(self._pump, daemon, client)

    def _pump(self, source: socket.socket, sink: socket.socket) -> None:
        with suppress(OSError):
            for message in _messages(source):
                with self._lock:
                    self.seen += 1
                    number = self.seen
                if number <= self._last:
                    sink.sendall(message)  # without the lock, because the call may wait for the other direction
                if number >= self._last:
                    self._cut()
                    return
        for sock, end in ((sink, socket.SHUT_WR), (source, socket.SHUT_RD)):
            with suppress(OSError):
                sock.shutdown(end)


def _messages(sock: socket.socket) -> Iterator[bytes]:
    """Yields all messages. A connection uses HTTP/1 up to its first HTTP/2 frame. This is the client's preface, or the first
    frame that the daemon sends after its 101."""
    buffer, frames = b"", False
    while data := sock.recv(1 << 18):
        buffer += data
        if not frames:
            head, mark, rest = buffer.partition(b"\r\n\r\n")
            if not (buffer.startswith(b"POST /") and b"Upgrade: h2c" in head) and not buffer.startswith(b"HTTP/1.1 101"):
                yield buffer
                buffer = b""
                continue
            if not mark:
                continue
            yield head + mark
            buffer, frames = rest, True
        if buffer.startswith(_PREFACE):
            yield _PREFACE
            buffer = buffer[len(_PREFACE) :]
        while len(buffer) >= 9 and len(buffer) >= (size := 9 + int.from_bytes(buffer[:3], "big")):
            yield buffer[:size]
            buffer = buffer[size:]


class Cutter:
    """Builds repeatedly in one engine."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._context = engine.home / "cut"
        for name, text in {"Dockerfile": _DOCKERFILE, "file": "file\n", "tree/a/b": "b\n", "secret": "secret\n"}.items():
            path = self._context / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)

    def build(self, export: str, last: int = sys.maxsize) -> tuple[Result, int]:
        """Run one build. Returns the number of its messages."""
        path = str(self.engine.home / "cut.sock")
        output = {"image": "type=image,name=cut:1", "tar": f"type=tar,dest={self.engine.home / 'cut.tar'}"}[export]
        options = ("--progress=plain", "--no-cache", f"--secret=id=s,src={self._context / 'secret'}", "-o", output)
        proxy = CuttingProxy(path, self.engine.socket, last)
        try:
            argv = ("docker", "-H", f"unix://{path}", "buildx", "build", *options, str(self._context))
            return self.engine.run(argv, seconds=60), proxy.seen
        finally:
            proxy.close()

    def cut(self, export: str, last: int = sys.maxsize) -> tuple[bytes, int]:
        """The output of a client that has lost its connections after message `last`, and the number of messages."""
        result, count = self.build(export, last)
        assert result.code == 0 or last <= count, result.err
        return result.stdout, count

    def sound(self) -> None:
        """Assert that nothing runs, that nothing is leased, and that every other snapshot belongs to a record of the
        cache."""
        engine = self.engine
        until(lambda: os.listdir(engine.exec_root / "run") == [], "no step runs")
        until(lambda: not [each for each in self._cache() if each["InUse"]], "no record of the cache is in use")
        until(lambda: engine.api("GET", "/orlop/check")[1]["findings"] == [], "the check finds nothing")
        until(lambda: not self._temporary(), "no temporary file is left")

    def _temporary(self) -> list[Path]:
        found = (self.engine.data_root / "build").glob("*")
        return [path for path in found if path.name.startswith(("view-", "unpack-"))]

    def _cache(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.engine.api("GET", "/system/df?type=build-cache")[1]["BuildCache"] or []
        return found

    def pruned(self) -> None:
        """Prune, and assert that no object of the builds is left."""
        self.engine.docker("rmi", "cut:1")
        self.engine.ok("builder", "prune", "-af")
        assert self._cache() == []
        self.sound()
        root = self.engine.data_root / "build"
        left = [path for name in ("contexts", "cachemounts") for path in Path(root).glob(f"{name}/*")]
        assert left == []


def main(argv: Sequence[str]) -> int:
    from tests.integration.building.cutting_requests import CONTEXTS, RequestCutter

    parser = argparse.ArgumentParser(prog="cutting", description=__doc__, allow_abbrev=False)
    parser.add_argument("--every", type=int, default=1, metavar="N", help="only every N-th message")
    parser.add_argument("--only", nargs="+", choices=[*EXPORTS, *CONTEXTS], help="only these exports and contexts")
    options = parser.parse_args(argv)
    engine = Engine({"shutdown-timeout": 3})
    failed = 0
    try:
        engine.start()
        engine.load()
        builds, requests = Cutter(engine), RequestCutter(engine)
        for name in options.only or (*EXPORTS, *CONTEXTS):
            failed += _cut_everywhere(name, requests if name in CONTEXTS else builds, options.every)
        builds.pruned()
    finally:
        left = engine.close()
    print(f"{failed} failed{''.join(f'{chr(10)}left: {each}' for each in left)}")
    return 1 if failed or left else 0


def _cut_everywhere(name: str, cutter: Cutter, every: int) -> int:
    """Returns the number of points after which something is left."""
    failed = 0
    cutter.cut(name)
    count = cutter.cut(name)[1]
    for last in range(1, count + 1, every):
        print(f"\r\033[K{name} {last} of {count}, {failed} failed", end="", flush=True)
        try:
            cutter.cut(name, last)
            cutter.sound()
        except (AssertionError, OSError, subprocess.TimeoutExpired) as error:
            failed += 1
            print(f"\nFAILED {name} {last}: {error}", flush=True)
    print(f"\r\033[K{name}: {count} messages", flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
