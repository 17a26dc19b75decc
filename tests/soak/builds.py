"""Operations of the soak test on builds: complete and failing builds, and clients that disconnect during a build.

Like those of `work`, each leaves nothing behind: images are removed and the build cache is pruned.
"""

from __future__ import annotations

import io
import json
import socket
import tarfile
from collections.abc import Callable
from itertools import count

from tests.integration.engine import BUSYBOX, DEADLINE, until

from .work import Scene

__all__ = ["BUILDS", "Builds"]

_HEAD = (
    "POST /build?t=soak:built&nocache=1 HTTP/1.1\r\nHost: d\r\nContent-Type: application/x-tar\r\nContent-Length: {}\r\n\r\n"
)
_UPGRADE = b"POST /%s HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


def _context(*lines: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for name, data in {"Dockerfile": "\n".join([f"FROM {BUSYBOX}", *lines]).encode(), "file": bytes(100_000)}.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return made.getvalue()


class Builds:
    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self._numbers = count()

    def _send(self, context: bytes, size: int) -> socket.socket:
        """A request whose body has `size` bytes according to its head."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(DEADLINE)
        sock.connect(self.scene.engine.socket)
        sock.sendall(_HEAD.format(size).encode() + context)
        return sock

    def _build(self, *lines: str) -> bytes:
        context, said = _context(*lines), b""
        with self._send(context, len(context)) as sock:
            while b"0\r\n\r\n" not in said[-7:]:
                data = sock.recv(65536)
                assert data, said
                said += data
        return said

    def _tidy(self) -> None:
        def pruned() -> bool:
            status, _ = self.scene.engine.api("POST", "/build/prune?all=1")
            assert status == 200
            left = json.loads(self.scene.engine.raw("GET", "/v1.43/system/df?type=build-cache")[1])["BuildCache"]
            return not left

        until(pruned, "an empty build cache")

    def whole(self) -> None:
        """A build with several stages, files from the context and a cache mount. The image is removed."""
        number = next(self._numbers)
        said = self._build(
            f"RUN --mount=type=cache,target=/c echo {number} | tee /c/n > /n",
            f"FROM {BUSYBOX}",
            "COPY file /file",
            "COPY --from=0 /n /n",
        )
        assert b"Successfully tagged soak:built" in said, said
        status, answer = self.scene.engine.api("DELETE", "/images/soak:built")
        assert status == 200, answer
        self._tidy()

    def failing(self) -> None:
        """A step that fails while another step runs."""
        said = self._build("RUN sleep 1000", f"FROM {BUSYBOX}", "RUN sleep 0.2; exit 7", "COPY --from=0 /n /n")
        assert b"returned a non-zero code: 7" in said or b"exit code: 7" in said, said
        self._tidy()

    def drop_upload(self) -> None:
        """A client that disconnects while it sends its context."""
        context = _context("COPY file /file")
        self._send(context[:50_000], len(context)).close()
        self._tidy()

    def drop_step(self) -> None:
        """A client that disconnects while a step runs."""
        context, said = _context("RUN echo begun; sleep 1000"), b""
        with self._send(context, len(context)) as sock:
            while b"begun\\n" not in said:
                data = sock.recv(65536)
                assert data, said
                said += data
        self._tidy()

    def drop_protocol(self) -> None:
        """Clients of BuildKit's protocol that disconnect before and after the first frame."""
        for kind in (b"grpc", b"session"):
            for read in (True, False):
                with socket.socket(socket.AF_UNIX) as sock:
                    sock.settimeout(DEADLINE)
                    sock.connect(self.scene.engine.socket)
                    sock.sendall(_UPGRADE % kind)
                    if read:
                        assert sock.recv(65536)


BUILDS: tuple[Callable[[Builds], None], ...] = (
    Builds.whole,
    Builds.failing,
    Builds.drop_upload,
    Builds.drop_step,
    Builds.drop_protocol,
)
