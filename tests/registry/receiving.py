"""A registry in this process that takes pushes and can be told to misbehave.

with receiving() as registry:
    registry.script("PATCH", cut(1000), None)   # one broken upload, then correct answers
"""

from __future__ import annotations

import json
import re
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import parse_qs, urlsplit

from orlop_engine.images import documents

from .build import Blob, Image
from .hostile import Handler, Hostile, serving

Answer = Callable[["PushHandler"], None]


class PushHandler(Handler):
    registry: Receiving

    do_HEAD = do_PUT = do_PATCH = do_DELETE = Handler.do_GET

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None) -> None:
        headers = {**(headers or {}), **self.registry.headers.pop(self.command, {})}
        super().send(
            status, b"" if self.command == "HEAD" else body, headers, length=len(body) if length is None else length
        )

    def body(self, limit: int = 1 << 62) -> bytes:
        """At most `limit` bytes of the request's body."""
        return self.rfile.read(min(limit, int(self.headers.get("Content-Length", "0"))))

    @property
    def query(self) -> dict[str, str]:
        return {key: values[0] for key, values in parse_qs(urlsplit(self.path).query).items()}


@dataclass
class Upload:
    repository: str
    data: bytearray = field(default_factory=bytearray)


class Receiving(Hostile):
    """`blobs` and `manifests` map each repository to its content. `uploads` contains unfinished uploads. If `mounts` is
    true, the registry mounts blobs of other repositories. `headers` maps a method to the headers of the next answer.
    `reached` is set when a request hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.blobs: dict[tuple[str, str], bytes] = {}
        self.manifests: dict[tuple[str, str], Blob] = {}
        self.uploads: dict[str, Upload] = {}
        self.mounts = True
        self.reached = threading.Event()
        self.headers: dict[str, dict[str, str]] = {}
        self._scripts: list[tuple[str, str, list[Answer | None]]] = []
        self._number = 0

    def script(self, method: str, *answers: Answer | None, path: str = "") -> None:
        """Give these answers to the next requests with this method and with `path` in their path; None is the correct
        answer."""
        self._scripts.append((method, path, list(answers)))

    def asked(self, *methods: str) -> list[str]:
        """The requests with these methods: "METHOD path"."""
        return [f"{method} {path}" for method, path, _ in self.requests if method in methods]

    def sent(self) -> int:
        """How many requests contained content of blobs."""
        return sum(
            method in ("PATCH", "PUT") and "/blobs/" in path and headers.get("content-length", "0") != "0"
            for method, path, headers in self.requests
        )

    def pushed(self, repository: str, tag: str) -> Blob:
        """The manifest with this tag. Fails if the repository lacks a blob that the manifest names."""
        manifest = self.manifests[repository, tag]
        document = json.loads(manifest.data)
        for part in (document["config"], *document["layers"]):
            data = self.blobs[repository, part["digest"]]
            assert documents.digest(data) == part["digest"] and len(data) == part["size"]
        return manifest

    def put(self, repository: str, image: Image) -> None:
        """Add the blobs of this image to the repository."""
        for part in (image.config, *image.layers):
            self.blobs[repository, part.digest] = part.data

    def answer(self, handler: Handler) -> None:
        assert isinstance(handler, PushHandler)
        for method, part, answers in self._scripts:
            if answers and method == handler.command and part in handler.path:
                scripted = answers.pop(0)
                if scripted is not None:
                    scripted(handler)
                    return
                break
        self.honest(handler)

    def honest(self, handler: PushHandler) -> None:
        path = urlsplit(handler.path).path
        if path == "/v2/":
            (self.ping or (lambda handler, _: handler.send(200, b"{}")))(handler, None)
        elif match := re.fullmatch(r"/v2/(.+)/blobs/uploads/(\d*)", path):
            self._upload(handler, match[1], match[2])
        elif match := re.fullmatch(r"/v2/(.+)/(blobs|manifests)/([^/]+)", path):
            self._stored(handler, match[1], match[2], match[3])
        else:
            handler.fail(404, "UNSUPPORTED", "no such route")

    def _stored(self, handler: PushHandler, repository: str, kind: str, reference: str) -> None:
        if handler.command == "PUT":
            manifest = Blob(handler.body(), handler.headers["Content-Type"])
            self.manifests[repository, reference] = self.manifests[repository, manifest.digest] = manifest
            handler.send(201, b"", {"Location": handler.path, "Docker-Content-Digest": manifest.digest})
            return
        blob = self.blobs.get((repository, reference))
        found = self.manifests.get((repository, reference)) if kind == "manifests" else blob and Blob(blob, "x/y")
        if not found:
            handler.fail(404, "BLOB_UNKNOWN" if kind == "blobs" else "MANIFEST_UNKNOWN", "not here")
        else:
            handler.send(200, found.data, {"Content-Type": found.media_type, "Docker-Content-Digest": found.digest})

    def _upload(self, handler: PushHandler, repository: str, id: str) -> None:
        if handler.command == "POST":
            mounted = self.blobs.get((handler.query.get("from", ""), handler.query.get("mount", "")))
            if mounted is not None and self.mounts:
                digest = handler.query["mount"]
                self.blobs[repository, digest] = mounted
                handler.send(201, b"", {"Location": f"/v2/{repository}/blobs/{digest}", "Docker-Content-Digest": digest})
                return
            self._number += 1
            id = str(self._number)
            self.uploads[id] = Upload(repository)
            handler.send(202, b"", self.where(id))
            return
        upload = self.uploads.get(id)
        if upload is None:
            handler.body()
            handler.fail(404, "BLOB_UPLOAD_UNKNOWN", "no such upload")
        elif handler.command == "GET":
            handler.send(204, b"", self.where(id))
        elif handler.command == "DELETE":
            del self.uploads[id]
            handler.send(204, b"")
        elif handler.command == "PATCH":
            start = handler.headers.get("Content-Range", f"{len(upload.data)}-").partition("-")[0]
            data = handler.body()
            if int(start) != len(upload.data):
                handler.fail(416, "RANGE_INVALID", "wrong range", self.where(id))
                return
            upload.data += data
            handler.send(202, b"", self.where(id))
        else:
            self._finish(handler, id, upload)

    def _finish(self, handler: PushHandler, id: str, upload: Upload) -> None:
        upload.data += handler.body()
        del self.uploads[id]
        digest = handler.query["digest"]
        if documents.digest(bytes(upload.data)) != digest:
            handler.fail(400, "DIGEST_INVALID", "provided digest did not match uploaded content")
            return
        self.blobs[upload.repository, digest] = bytes(upload.data)
        handler.send(201, b"", {"Location": f"/v2/{upload.repository}/blobs/{digest}", "Docker-Content-Digest": digest})

    def where(self, id: str) -> dict[str, str]:
        upload = self.uploads[id]
        last = max(0, len(upload.data) - 1)
        return {"Location": f"/v2/{upload.repository}/blobs/uploads/{id}?state={len(upload.data)}", "Range": f"0-{last}"}

    def upload_of(self, handler: PushHandler) -> Upload:
        return self.uploads[urlsplit(handler.path).path.rpartition("/")[2]]


def refuse(status: int, code: str = "", message: str = "", **headers: str) -> Answer:
    """An error answer after the request was read. Without `code`, the body of the answer is not JSON."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(handler: PushHandler) -> None:
        handler.body()
        if code:
            handler.fail(status, code, message, named)
        else:
            handler.send(status, b"<html>sorry</html>", named)

    return answer


def forget(status: int, code: str, message: str) -> Answer:
    """Like `refuse`, but also drop the upload."""

    def answer(handler: PushHandler) -> None:
        handler.registry.uploads.pop(urlsplit(handler.path).path.rpartition("/")[2])
        refuse(status, code, message)(handler)

    return answer


def reply(status: int, *, length: int = 0, **headers: str) -> Answer:
    """An answer without a body. If the request is a HEAD, the answer may contain a length."""

    def answer(handler: PushHandler) -> None:
        handler.body()
        handler.send(status, b"", {name.replace("_", "-"): value for name, value in headers.items()}, length=length)

    return answer


def cut(after: int) -> Answer:
    """Take `after` bytes of the body, then close the connection."""

    def answer(handler: PushHandler) -> None:
        data = handler.body(after)
        if handler.command == "PATCH":
            handler.registry.upload_of(handler).data += data
        handler.close_connection = True

    return answer


def carried_out_and_cut() -> Answer:
    """Process the request, and close the connection without an answer."""

    def answer(handler: PushHandler) -> None:
        sending = handler.wfile
        handler.wfile = open("/dev/null", "wb")  # noqa: SIM115 - closed below
        handler.registry.honest(handler)
        handler.wfile.close()
        handler.wfile = sending
        handler.close_connection = True

    return answer


def hang() -> Answer:
    """Read nothing and answer nothing, until the test ends."""

    def answer(handler: PushHandler) -> None:
        handler.registry.reached.set()
        handler.registry.gate.wait(30)
        handler.close_connection = True

    return answer


def lie(**headers: str) -> Answer:
    """The correct answer with other headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}

    def answer(handler: PushHandler) -> None:
        handler.registry.headers[handler.command] = named
        handler.registry.honest(handler)

    return answer


@contextmanager
def receiving(tls: ssl.SSLContext | None = None) -> Iterator[Receiving]:
    """Serve on a free port of 127.0.0.1 until the block ends."""
    with serving(tls, Receiving(), PushHandler) as registry:
        assert isinstance(registry, Receiving)
        yield registry
