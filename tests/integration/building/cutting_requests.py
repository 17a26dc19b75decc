"""`POST /build` with a client that disconnects after a part of its request, or after a line of the answer. Each part and
each line is tried.

`python -m tests.integration.building.cutting --only short long` tries all points with a short and with a long context. The
daemon keeps the short context in memory, and unpacks the long context while it receives it.
"""

from __future__ import annotations

import io
import os
import socket
import sys
import tarfile
from collections.abc import Iterator

from tests.integration.building.cutting import Cutter
from tests.integration.engine import Engine, patience

__all__ = ["CONTEXTS", "RequestCutter"]

CONTEXTS = {"short": 1000, "long": 3 << 20}
"""The size of the file in a context."""
_STEPS = "FROM busybox\nRUN echo one; sleep 0.05; echo two\nCOPY file dir /copied/\nRUN cat /copied/b; ls -l /copied\n"
_PIECES = 24  # parts of the long file


def _archive(size: int) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, data in {"Dockerfile": _STEPS.encode(), "file": os.urandom(size), "dir/b": b"b\n"}.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


class RequestCutter(Cutter):
    """Sends requests, again and again. A cut is the number of a part of the request, or, when all parts are sent, of a line
    of the answer."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self._expected: str | None = None
        """The image of the name, if no later request was sent as a whole."""

    def parts(self, context: str) -> list[bytes]:
        """The parts of the request: two parts of the head, then the chunks, each divided in the middle of its data. Each
        call makes a new context."""
        body = _archive(CONTEXTS[context])
        query = "nocache=1&t=cut:1"
        head = f"POST /v1.43/build?{query} HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\n"
        parts = [head[:20].encode(), head[20:].encode() + b"Transfer-Encoding: chunked\r\n\r\n"]
        size = max(512, len(body) // _PIECES)
        for at in range(0, len(body), size):
            data = body[at : at + size]
            chunk = b"%x\r\n" % len(data) + data + b"\r\n"
            parts += (chunk[: len(chunk) // 2], chunk[len(chunk) // 2 :])
        return [*parts, b"0\r\n\r\n"]

    def cut(self, context: str, last: int = sys.maxsize) -> tuple[bytes, int]:
        """Run one build whose client disconnects at the cut `last`. Returns the data that was read, and the number of
        cuts."""
        parts = self.parts(context)
        self._expected = self._image() if last < len(parts) else None
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(patience(60))
            sock.connect(self.engine.socket)
            for part in parts[:last]:
                sock.sendall(part)
            read = b""
            for number, line in enumerate(_lines(sock) if last > len(parts) else (), len(parts) + 1):
                read += line
                if number == last:
                    break
            return read, len(parts) + read.count(b"\n")

    def sound(self) -> None:
        super().sound()
        assert self._expected in (None, self._image()), "a request that was not sent as a whole made an image"

    def _image(self) -> str:
        status, image = self.engine.api("GET", "/images/cut:1/json")
        return str(image["Id"]) if status == 200 else ""


def _lines(sock: socket.socket) -> Iterator[bytes]:
    """Yields the lines of the answer (head, chunks, end) as they are received."""
    data = b""
    while b"\r\n0\r\n\r\n" not in data:
        if not (more := sock.recv(1)):
            return
        data += more
        if data.endswith(b"\n"):
            yield data[data.rfind(b"\n", 0, -1) + 1 :]
