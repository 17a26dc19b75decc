"""docker-registry as a child process, and functions that push images to a registry."""

from __future__ import annotations

import http.client
import re
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import urlsplit

from orlop_sdk.testing.ports import free_port

from .build import Blob, Image

CONFIG = """\
version: 0.1
log:
  level: error
storage:
  filesystem:
    rootdirectory: {root}/data
  delete:
    enabled: true
http:
  addr: {address}
{extra}
"""


@dataclass(frozen=True, slots=True)
class Registry:
    """`host` is the registry part of an image's name: "127.0.0.1:PORT"."""

    host: str
    root: str

    def requests(self) -> list[str]:
        """The requests so far: "METHOD path?query"."""
        with open(f"{self.root}/access") as log:
            return re.findall(r'"([A-Z]+ \S+) HTTP/', log.read())


def _request(host: str, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> tuple[int, str]:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, body, headers or {})
        answer = connection.getresponse()
        text = answer.read()
        if answer.status >= 400:
            raise RuntimeError(f"{method} {path}: {answer.status} {text[:500]!r}")
        return answer.status, answer.headers.get("Location", "")
    finally:
        connection.close()


def _wait(process: subprocess.Popen[bytes], address: tuple[str, int]) -> None:
    deadline = time.monotonic() + 20
    while True:
        if process.poll() is not None:
            raise RuntimeError(f"docker-registry ended with {process.returncode}")
        try:
            socket.create_connection(address, timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)  # poll, because only the open port shows that the process is ready


@contextmanager
def running(*, port: int = 0, extra: str = "", executable: str = "docker-registry") -> Iterator[Registry]:
    """Run docker-registry until the end of the block. `extra` is YAML added to its configuration (auth, tls)."""
    port = port or free_port()
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryDirectory(prefix="orlop-registry-") as root:
        config = f"{root}/config.yml"
        with open(config, "w") as file:
            file.write(CONFIG.format(root=root, address=address, extra=extra))
        with open(f"{root}/access", "wb") as access:
            process = subprocess.Popen(
                [executable, "serve", config], stdin=subprocess.DEVNULL, stdout=access, stderr=subprocess.DEVNULL
            )
        try:
            _wait(process, ("127.0.0.1", port))
            yield Registry(address, root)
        finally:
            process.terminate()
            process.wait(10)


def push_blob(host: str, name: str, blob: Blob) -> None:
    """Start an upload with POST, then send the whole blob with one PUT."""
    _, location = _request(host, "POST", f"/v2/{name}/blobs/uploads/")
    where = urlsplit(location)
    query = f"{where.query}&digest={blob.digest}" if where.query else f"digest={blob.digest}"
    _request(host, "PUT", f"{where.path}?{query}", blob.data, {"Content-Type": "application/octet-stream"})


def push_manifest(host: str, name: str, reference: str, manifest: Blob) -> None:
    _request(host, "PUT", f"/v2/{name}/manifests/{reference}", manifest.data, {"Content-Type": manifest.media_type})


def push(host: str, name: str, tag: str, image: Image) -> str:
    """Push an image; `tag` may be empty (by digest only). Returns the manifest's digest."""
    for part in (*image.layers, image.config):
        push_blob(host, name, part)
    push_manifest(host, name, tag or image.manifest.digest, image.manifest)
    return image.manifest.digest


def push_index(host: str, name: str, tag: str, index: Blob, images: tuple[Image, ...]) -> str:
    for one in images:
        push(host, name, "", one)
    push_manifest(host, name, tag, index)
    return index.digest
