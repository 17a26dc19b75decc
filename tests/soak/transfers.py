"""Operations of the soak test that transfer images: pushes, saves and loads, complete and interrupted ones.

Like the operations of `work`, each leaves nothing behind. Each uses a new image, so that the daemon cannot reuse earlier
work: the layer is stored as a plain tar, and compressed by the push.
"""

from __future__ import annotations

import io
import json
import os
import socket
import tarfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from itertools import count

from tests.integration.engine import until
from tests.registry import docker_archive, image, layer
from tests.registry.receiving import Receiving, cut, forget, hang, receiving, refuse

from .work import Scene

__all__ = ["TRANSFERS", "Transfers"]

_SIZE = 3 << 20


class Transfers:
    """A registry, and the daemon of `scene`."""

    def __init__(self, scene: Scene, stack: ExitStack) -> None:
        self.scene = scene
        self._opened: Receiving = stack.enter_context(receiving())
        self._numbers = count()

    @contextmanager
    def _registry(self) -> Iterator[Receiving]:
        """The registry, emptied, and without configured misbehaviour."""
        registry = self._opened
        for held in (registry.blobs, registry.manifests, registry.uploads, registry.requests, registry._scripts):
            held.clear()
        registry.reached.clear()
        registry.gate.clear()
        yield registry
        registry.gate.set()  # hanging requests end

    @contextmanager
    def _image(self, size: int = 100_000) -> Iterator[str]:
        """A new image of the registry, by name, until the end of the block."""
        name = f"{self._opened.host}/soak:latest"
        made = image([layer({f"file{next(self._numbers)}": os.urandom(size)})])
        self._load(docker_archive({name: made}))
        try:
            yield name
        finally:
            status, answer = self.scene.engine.api("DELETE", f"/images/{name}")
            assert status == 200, answer

    def _load(self, data: bytes) -> None:
        kind = {"Content-Type": "application/x-tar"}
        status, answer, _ = self.scene.engine.raw("POST", "/images/load?quiet=1", data, kind)
        assert status == 200 and b"Loaded image" in answer, answer

    def _push(self, name: str) -> bytes:
        status, answer, _ = self.scene.engine.raw("POST", f"/images/{name}/push", {})
        assert status == 200, answer
        return answer

    # --- push ---------------------------------------------------------------------------------------------------------

    def push(self) -> None:
        """Push twice: the second push uploads nothing."""
        with self._registry() as registry, self._image() as name:
            assert b'"aux"' in self._push(name)
            sent = registry.sent()
            assert b'"aux"' in self._push(name) and registry.sent() == sent
            registry.pushed("soak", "latest")

    def push_recovers(self) -> None:
        with self._registry() as registry, self._image(_SIZE) as name:
            registry.script("PATCH", cut(1 << 20), forget(404, "BLOB_UPLOAD_UNKNOWN", "gone"))
            assert b'"aux"' in self._push(name)

    def push_fails(self) -> None:
        with self._registry() as registry, self._image() as name:
            registry.script("PUT", refuse(400, "MANIFEST_INVALID", "no"), path="manifests")
            assert b"manifest invalid: no" in self._push(name)

    def drop_push(self) -> None:
        """The client disconnects while the registry accepts no data. The image can be removed, because the push is
        cancelled."""
        with self._registry() as registry, self._image(_SIZE) as name:
            registry.script("PATCH", hang())
            sock = self.scene.send("POST", f"/images/{name}/push", {})
            assert registry.reached.wait(20), "the upload has begun"
            sock.close()
            until(lambda: registry.asked("DELETE"), "the upload is cancelled")

    # --- save and load ------------------------------------------------------------------------------------------------

    def save_and_load(self) -> None:
        with self._image() as name:
            status, data, _ = self.scene.engine.raw("GET", f"/images/get?names={name}")
            assert status == 200
            with tarfile.open(fileobj=io.BytesIO(data)) as archive:
                assert "manifest.json" in archive.getnames()
            self._load(data)

    def drop_save(self) -> None:
        """Disconnect before the answer, and in the middle of the archive."""
        with self._image(_SIZE) as name:
            self.scene.send("GET", f"/images/get?names={name}").close()
            sock = self.scene.send("GET", f"/images/{name}/get")
            assert sock.recv(4096).startswith(b"HTTP/1.1 200")
            sock.close()

    def save_fails(self) -> None:
        assert self.scene.engine.raw("GET", "/images/get?names=there.example/is:none")[0] == 404

    def load_fails(self) -> None:
        """The load of an image whose first layer matches the configuration and whose second does not."""
        made = image([layer({"a": b"a"}), layer({"b": os.urandom(1000)})])
        other = image([made.layers[0], layer({"c": b"c"})], rootfs=json.loads(made.config.data)["rootfs"])
        status, answer, _ = self.scene.engine.raw(
            "POST", "/images/load?quiet=1", docker_archive({"soak:latest": other}), {"Content-Type": "application/x-tar"}
        )
        assert status == 400 or b"errorDetail" in answer, answer

    def drop_load(self) -> None:
        """The client disconnects in the middle of a layer that is being unpacked."""
        data = docker_archive({"soak:latest": image([layer({"a": os.urandom(_SIZE)})])})
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(self.scene.engine.socket)
        sock.sendall(f"POST /images/load HTTP/1.1\r\nHost: d\r\nContent-Length: {len(data)}\r\n\r\n".encode())
        sock.sendall(data[: _SIZE // 2])
        sock.close()


TRANSFERS: tuple[Callable[[Transfers], None], ...] = (
    Transfers.push,
    Transfers.push_recovers,
    Transfers.push_fails,
    Transfers.drop_push,
    Transfers.save_and_load,
    Transfers.drop_save,
    Transfers.save_fails,
    Transfers.load_fails,
    Transfers.drop_load,
)
