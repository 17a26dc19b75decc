"""The answer of `POST /build`: lines of JSON, made from the progress reports of a build. This module does no I/O.

The lines are the same as those of dockerd's classic builder, but without the IDs of intermediate images and containers,
because Orlop does not make these objects.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import control_pb2 as pb

from .steps import Steps

__all__ = ["Renderer", "error_line", "image_line", "result_lines", "trace_line"]

_EXCLUDED = "COPY failed: file not found in build context or excluded by .dockerignore"
_PULLING = ("downloading", "extracting", "done")
_encode = msgspec.json.encode
_EXIT = "gatewayapi.ExitMessage+json"
_FAILED = re.compile(r'process "(.*)" did not complete successfully: exit code: \d+', re.DOTALL)
_MISSING = re.compile(r'.*failed to calculate checksum of ref.*: "/?(.*)": not found', re.DOTALL)


def _line(**fields: Any) -> bytes:
    return _encode(fields) + b"\n"


def stream(text: str) -> bytes:
    return _line(stream=text)


class Renderer:
    """Converts reports to lines. `steps` are known once the frontend has converted the Dockerfile."""

    def __init__(self) -> None:
        self.steps = Steps([], {})
        self.begun = False
        """Whether the lookup of an image has begun. Failures after this are not errors of the request."""
        self._begun: set[str] = set()
        self._ended: set[str] = set()

    def render(self, report: bytes) -> Iterator[bytes]:
        status = pb.StatusResponse.FromString(report)
        for vertex in status.vertexes:
            yield from self._vertex(vertex)
        for entry in status.statuses:
            if entry.vertex in self.steps.places and entry.name in _PULLING:
                yield _line(
                    status=entry.name.capitalize(),
                    id=entry.ID.removeprefix("sha256:")[:12],
                    progressDetail={"current": entry.current, "total": entry.total} if entry.total else {},
                )
        for log in status.logs:
            yield from self._titles(log.vertex)
            text = log.msg.decode("utf-8", "replace")
            yield stream(f"\x1b[91m{text}\x1b[0m" if log.stream == 2 else text)
        for warning in status.warnings:
            yield stream(f"[Warning] {warning.short.decode('utf-8', 'replace')}\n")

    def _vertex(self, vertex: pb.Vertex) -> Iterator[bytes]:
        if vertex.digest not in self._begun:
            self._begun.add(vertex.digest)
            self.begun = self.begun or vertex.name.startswith("[internal] load metadata for ")
            yield from self._titles(vertex.digest)
        if vertex.HasField("completed") and vertex.digest not in self._ended:
            self._ended.add(vertex.digest)
            if vertex.cached and vertex.digest in self.steps.places and not vertex.name.startswith("[internal]"):
                yield stream(" ---> Using cache\n")

    def _titles(self, digest: str) -> Iterator[bytes]:
        return (stream(f"{title}\n") for title in self.steps.until(digest))

    def finish(self) -> Iterator[bytes]:
        return (stream(f"{title}\n") for title in self.steps.rest())


def result_lines(image: str, names: list[str], *, quiet: bool) -> Iterator[bytes]:
    """The last lines of a successful build. Clients search the output for "Successfully built" and for the last ID."""
    if quiet:
        yield stream(f"{image}\n")
        return
    yield _line(aux={"ID": image})
    yield stream(f"Successfully built {image.removeprefix('sha256:')[:12]}\n")
    for name in names:
        yield stream(f"Successfully tagged {name}\n")


def trace_line(report: bytes) -> bytes:
    """A report for clients that use BuildKit's protocol of version=2."""
    return _line(id="moby.buildkit.trace", aux=base64.b64encode(report).decode())


def image_line(image: str) -> bytes:
    """The result for clients that use BuildKit's protocol of version=2."""
    return _line(id="moby.image.id", aux={"ID": image})


def error_line(error: BuildFailed) -> bytes:
    """The line for a failure after the answer has begun. If the classic builder has a message for this failure, the line
    contains this message."""
    message, detail = error.message, {}
    for kind, value in error.details:
        if kind.endswith(_EXIT):
            detail["code"] = json.loads(value)["Code"]
    if "code" in detail and (match := _FAILED.fullmatch(message)):
        message = f"The command '{match[1]}' returned a non-zero code: {detail['code']}"
    elif match := _MISSING.fullmatch(message):
        message = f"{_EXCLUDED}: stat {match[1]}: file does not exist"
    return _line(errorDetail={**detail, "message": message}, error=message)
