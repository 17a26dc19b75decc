"""The frontend's interface: the request of a build, the data that the conversion needs (images, files), and the result.

`frontend.convert(request)` is a generator. It yields tuples of requests for data ("needs"), which may be answered in
parallel. The caller sends a list with the answers, in the same order. If there is no answer to a need, the caller sends
`Failed`. The generator returns a `Converted` or an `OtherFrontend`, and raises `DockerfileError`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Generator, Mapping, Sequence
from typing import TypeAlias

import msgspec

from orlop_build_dockerfile.pb.ops_pb2 import Definition, Platform

__all__ = [
    "Answer",
    "Conversion",
    "Converted",
    "DockerfileError",
    "Failed",
    "FileRange",
    "Need",
    "OtherFrontend",
    "PlatformResult",
    "Position",
    "ReadFiles",
    "Request",
    "ResolveImage",
    "ResolvedImage",
    "Scans",
    "SourceFile",
    "SourceRange",
    "Warned",
    "platform_id",
]


class Request(msgspec.Struct, frozen=True, kw_only=True):
    """A build: the client's FrontendAttrs and FrontendInputs (whose names are "context", "dockerfile" and the names of named
    contexts). `platforms` are the platforms that the host can run; the first is the host's platform. `capabilities` are the
    names of the solver's capabilities ("mergeop"...); None means all except merge and diff. `created` (RFC 3339) is the
    creation time of the image, unless the build sets SOURCE_DATE_EPOCH."""

    options: Mapping[str, str] = {}
    inputs: Mapping[str, Definition] = {}
    platforms: Sequence[str] = ("linux/amd64",)
    session: str = ""
    created: str = ""
    capabilities: frozenset[str] | None = None


class ResolveImage(msgspec.Struct, frozen=True):
    """The digest and configuration of an image. A `name` that begins with "oci-layout://" is "STORE@DIGEST" in a store of
    the client's session. `mode` is "default" (the local image, otherwise the registry), "pull" or "local". `vertex` is the
    name of this step in the progress."""

    name: str
    platform: str
    mode: str
    vertex: str


class ResolvedImage(msgspec.Struct, frozen=True):
    """`name` is the normalized reference; "" means the name in the request. `digest` may be "" if the image has no
    manifest."""

    digest: str
    config: bytes
    name: str = ""


class FileRange(msgspec.Struct, frozen=True):
    """A file. `limit` is the maximum number of bytes; a longer file is truncated."""

    path: str
    limit: int


class ReadFiles(msgspec.Struct, frozen=True):
    """A need: files in the result of a graph. The answer is a list with the content of each file, None for a missing
    file."""

    definition: Definition
    files: tuple[FileRange, ...]


class Failed(msgspec.Struct, frozen=True):
    """The answer to a need that failed. `code` is a gRPC status."""

    message: str
    code: int = 2
    details: tuple[tuple[str, bytes], ...] = ()


Need: TypeAlias = ResolveImage | ReadFiles
Answer: TypeAlias = ResolvedImage | Sequence[bytes | None] | Failed


class Position(msgspec.Struct, frozen=True):
    """A position in a file. Lines count from 1."""

    line: int
    character: int = 0


class SourceRange(msgspec.Struct, frozen=True):
    start: Position
    end: Position


class SourceFile(msgspec.Struct, frozen=True):
    """The file to which messages refer. `definition` is the graph from which it was read."""

    filename: str
    data: bytes
    language: str = "Dockerfile"
    definition: Definition | None = None


class Warned(msgspec.Struct, frozen=True):
    """A finding of a lint check. It is reported on the vertex that loaded the Dockerfile, whose digest is `vertex`."""

    rule: str
    short: str
    detail: tuple[str, ...]
    url: str
    source: SourceFile
    ranges: tuple[SourceRange, ...]
    vertex: str = ""
    level: int = 1


class Scans(msgspec.Struct, frozen=True):
    """Additional file systems for a scanner (SBOM). They are outputs of the graph, identified by the digest of the vertex
    and the index; None for an empty file system. `ignore_cache`: the scanner must be run even if its result is in the
    cache."""

    outputs: Mapping[str, tuple[str, int] | None] = {}
    graph: Definition = Definition()
    ignore_cache: bool = False


class PlatformResult(msgspec.Struct, frozen=True):
    """The result for one platform. `platform` is the image's platform, normalized ("linux/arm64"). `config` is the JSON of
    the image's configuration; its `rootfs.diff_ids` are the diffIDs of the base image, and are replaced when the layers are
    known. `base_config` is the configuration of the base image, if any. A `definition` without operations is an empty file
    system."""

    platform: str
    definition: Definition
    config: bytes
    base_config: bytes = b""
    scans: Scans = Scans()


class Converted(msgspec.Struct, frozen=True):
    """The result of a conversion. `multi_platform`: results are named by platform even if there is only one platform. A
    request for a list of targets, an outline or a lint has no results; its answer is in `metadata`. `syntax` is the frontend
    image in the Dockerfile, which this frontend replaces."""

    results: tuple[PlatformResult, ...]
    warnings: tuple[Warned, ...] = ()
    multi_platform: bool = False
    metadata: Mapping[str, bytes] = {}
    syntax: str = ""

    def result_metadata(self) -> dict[str, bytes]:
        """The metadata of the frontend's result, by BuildKit's names."""
        out = dict(self.metadata)
        for result in self.results:
            suffix = f"/{result.platform}" if self.multi_platform else ""
            out["containerimage.config" + suffix] = result.config
            if result.base_config:
                out["containerimage.base.config" + suffix] = result.base_config
        if self.results:
            platforms = [{"ID": r.platform, "Platform": _platform_json(r.platform)} for r in self.results]
            out["refs.platforms"] = json.dumps({"Platforms": platforms}, separators=(",", ":")).encode()
        return out


class OtherFrontend(msgspec.Struct, frozen=True):
    """The Dockerfile requires another frontend, so the caller must run `image` with these options. `ranges` are the lines
    with the name of the image."""

    image: str
    options: Mapping[str, str]
    source: SourceFile
    ranges: tuple[SourceRange, ...] = ()


class DockerfileError(Exception):
    """The build cannot be converted. `warnings` are the findings before the error. `details` are (type URL, JSON) pairs,
    from which clients show the lines in question."""

    def __init__(
        self,
        message: str,
        *,
        source: SourceFile | None = None,
        ranges: Sequence[SourceRange] = (),
        code: int = 2,
        details: Sequence[tuple[str, bytes]] = (),
    ) -> None:
        super().__init__(message)
        self.message, self.source, self.ranges, self.code = message, source, tuple(ranges), code
        self.warnings: tuple[Warned, ...] = ()
        self._details = tuple(details)

    def located(self, ranges: Sequence[SourceRange]) -> DockerfileError:
        """A copy of this error with these lines, unless the error already has lines."""
        if not self.ranges:
            self.ranges = tuple(ranges)
        return self

    def __str__(self) -> str:
        return self.message

    @property
    def details(self) -> list[tuple[str, bytes]]:
        out = list(self._details)
        if self.source is not None and self.ranges:
            out.append(("github.com/moby/buildkit/errdefs.Source+json", _source_json(self.source, self.ranges)))
        return out


Conversion: TypeAlias = Generator[Sequence[Need], Sequence[Answer], Converted | OtherFrontend]


def platform_id(platform: Platform) -> str:
    """The text of a platform, such as "linux/arm/v7"."""
    return "/".join(part for part in (platform.OS, platform.Architecture, platform.Variant) if part)


def _platform_json(platform: str) -> dict[str, str]:
    os, architecture, *variant = platform.split("/")
    out = {"architecture": architecture, "os": os}
    return out | {"variant": variant[0]} if variant else out


def _source_json(source: SourceFile, ranges: Sequence[SourceRange]) -> bytes:
    def position(at: Position) -> dict[str, int]:
        return {"line": at.line, "character": at.character} if at.character else {"line": at.line}

    info = {"filename": source.filename, "data": base64.b64encode(source.data).decode(), "language": source.language}
    return json.dumps(
        {"info": info, "ranges": [{"start": position(r.start), "end": position(r.end)} for r in ranges]}
    ).encode()
