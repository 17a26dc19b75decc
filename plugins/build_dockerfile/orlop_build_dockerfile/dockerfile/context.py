"""The sources of a build's files: the main context, the Dockerfile (which may be outside of the context), and named
contexts."""

from __future__ import annotations

import base64
import json
import posixpath
import re
from collections.abc import Callable, Iterable

import msgspec

from orlop_build_dockerfile.pb import ops_pb2 as pb

from . import llb, sources
from .archives import begins_archive
from .giturl import parse_git_url
from .goformat import parse_bool, quote
from .ignore import IgnorePatterns, read_ignore_file
from .image import Image
from .interface import (
    Answer,
    DockerfileError,
    Failed,
    FileRange,
    ReadFiles,
    Request,
    ResolvedImage,
    ResolveImage,
    SourceFile,
)
from .limits import MAX_DOCKERFILE
from .options import Options
from .platforms import Platform
from .references import parse_reference
from .together import Steps

__all__ = ["Contexts", "NamedContext", "failure", "follow_paths", "read_files"]

_IGNORE = ".dockerignore"
_IS_HTTP = re.compile(r"https?://")


def failure(answer: Failed, prefix: str = "") -> DockerfileError:
    return DockerfileError(prefix + answer.message, code=answer.code, details=answer.details)


def read_files(output: llb.Output | None, files: Iterable[tuple[str, int]], what: str) -> Steps[list[bytes | None]]:
    """The contents of files in the result of `output`."""
    need = ReadFiles(llb.definition(output), tuple(FileRange(path, limit) for path, limit in files))
    answers: list[Answer] = list((yield (need,)))
    answer = answers[0]
    if isinstance(answer, Failed):
        raise failure(answer, f"{what}: ")
    assert not isinstance(answer, ResolvedImage)
    return list(answer)


def follow_paths(paths: Iterable[str]) -> tuple[str, ...]:
    """The paths that a client must send, if the build uses these paths of the context. An empty result means all paths."""
    found = {path.lstrip("/") for path in paths}
    return () if "" in found else tuple(sorted(found))


class NamedContext(msgspec.Struct, frozen=True):
    """The meaning of `FROM NAME`. `image` is set for an image. `late` completes the operation when the used files are
    known."""

    output: llb.Output | None
    image: Image | None = None
    late: Callable[[tuple[str, ...]], None] | None = None


class Contexts:
    def __init__(self, request: Request, options: Options) -> None:
        self._request, self._options = request, options
        raw = options.raw
        self.filename = raw.get("filename") or "Dockerfile"
        self._local_dockerfile = "dockerfilekey" in raw
        self._dockerfile_name = raw.get("dockerfilekey", "dockerfile")
        self._context_key = raw.get("contextkey", "context")
        self._main: llb.Output | None = None
        self._dockerfile: llb.Output | None = None
        self.is_local = True
        self.can_merge = request.capabilities is not None and "mergeop" in request.capabilities
        self._ignore: bytes | None = None
        self._ignore_name = _IGNORE

    def _session(self, name: str) -> str:
        return self._options.local_sessions.get(name, self._request.session)

    def detect(self) -> Steps[None]:
        """Find out the kind of the main context."""
        location = self._options.raw.get(self._context_key, "")
        keep = parse_bool(self._options.raw.get("build-arg:BUILDKIT_CONTEXT_KEEP_GIT_DIR", "")) or False
        if location and (git := git_context(location, keep)):
            self._main = self._dockerfile = git
        elif _IS_HTTP.match(location):
            yield from self._http(location)
        else:
            if not self._local_dockerfile and "dockerfile" in self._request.inputs:
                self._dockerfile = _input(self._request.inputs["dockerfile"])
            if "context" in self._request.inputs:
                self._main = _input(self._request.inputs["context"])
        self.is_local = self._main is None
        subdirectory = self._options.raw.get("contextsubdir")
        if subdirectory and self._main is not None:
            self._main = _copied(self._main, subdirectory, contents=True)

    def _http(self, location: str) -> Steps[None]:
        output = sources.http(location, "context", llb.internal("load remote build context"))
        (head,) = yield from read_files(output, [("context", 1024)], "failed to read downloaded context")
        if head is not None and begins_archive(head):
            output = _copied(output, "/context", contents=False)
        else:
            self.filename = "context"
        self._main = self._dockerfile = output

    def read_dockerfile(self) -> Steps[SourceFile]:
        output = None if self._local_dockerfile else self._dockerfile
        name = self.filename
        directory, base = posixpath.split(name)
        candidates = [name, f"{name}{_IGNORE}"]
        if base == "Dockerfile":
            candidates.append(posixpath.join(directory, "dockerfile"))
        if output is None:
            output = sources.local(
                self._dockerfile_name,
                self._session(self._dockerfile_name),
                self._dockerfile_name,
                llb.internal(f"load build definition from {name}"),
                follow=candidates,
                all_files=True,
            )
        wanted = [(path, MAX_DOCKERFILE + 1) for path in candidates]
        found = yield from read_files(output, wanted, "failed to read dockerfile")
        text = found[0] if found[0] is not None else found[2] if len(found) > 2 else None
        if text is None:
            raise DockerfileError(f"failed to read dockerfile: open {name}: no such file or directory")
        if len(text) > MAX_DOCKERFILE:
            raise DockerfileError(f"{name} exceeds maximum allowed size of {MAX_DOCKERFILE} bytes", code=8)
        if found[1] is not None:
            self._ignore, self._ignore_name = found[1], f"{name}{_IGNORE}"
        return SourceFile(name, text, "Dockerfile", llb.definition(output))

    def ignore_patterns(self) -> Steps[list[str]]:
        """The patterns of files that the client omits from the main context."""
        if not self.is_local:
            return []
        if self._ignore is None:
            output = sources.local(
                self._context_key,
                self._session(self._context_key),
                f"{self._context_key}-{_IGNORE}",
                llb.internal(f"load {_IGNORE}"),
                follow=[_IGNORE],
                all_files=True,
            )
            (found,) = yield from read_files(output, [(_IGNORE, MAX_DOCKERFILE + 1)], "failed to read dockerignore patterns")
            self._ignore = found or b""
        return _patterns(self._ignore, self._ignore_name)

    def main_context(self, patterns: list[str]) -> tuple[llb.Output, Callable[[tuple[str, ...]], None] | None]:
        """The main context, and a function that completes it once the used paths are known."""
        if self._main is not None:
            return self._main, None
        name = self._context_key
        vertex = llb.Vertex(pb.Op(), name=llb.internal("load build context"))

        def complete(paths: tuple[str, ...]) -> None:
            vertex.op = sources.local_op(name, self._session(name), name, follow=paths, exclude=patterns)

        complete(())
        return vertex.output(), complete

    def named(self, name: str, platform: Platform) -> str | None:
        """The key of a named context; None if there is no such context."""
        try:
            familiar = parse_reference(name).familiar.removesuffix(":latest")
        except ValueError as error:
            raise DockerfileError(f"invalid context name {name}: {error}") from None
        for key in (f"{familiar}::{platform.normalized().full}", familiar):
            if f"context:{key}" in self._options.raw:
                return key
        return None

    def load(self, key: str, platform: Platform) -> Steps[NamedContext]:
        """Load the context in the option `context:KEY`."""
        try:
            return (yield from self._load(key, platform))
        except ValueError as error:
            raise DockerfileError(f"invalid context {key}: {error}") from None

    def _load(self, key: str, platform: Platform) -> Steps[NamedContext]:
        location = self._options.raw[f"context:{key}"]
        kind, colon, rest = location.partition(":")
        if not colon:
            raise DockerfileError(f"invalid context specifier {location} for {key}")
        if kind == "docker-image":
            return (yield from self._image_context(key, rest.removeprefix("//"), platform))
        if kind == "oci-layout":
            return (yield from self._layout_context(key, rest.removeprefix("//"), platform))
        if kind == "local":
            return (yield from self._local_context(key, rest))
        if kind == "input":
            return self._input_context(key, rest)
        if kind in ("http", "https", "git") or kind.startswith("git@"):
            if git := git_context(location, keep_git_dir=False):
                return NamedContext(git)
            if kind in ("http", "https"):
                return NamedContext(sources.http(location, "context", f"[context {key}] {location}"))
            raise DockerfileError(f"invalid git context {location}")
        raise DockerfileError(f"unsupported context source {kind} for {key}")

    def _image_context(self, key: str, name: str, platform: Platform) -> Steps[NamedContext]:
        if name == "scratch":
            return NamedContext(None)
        try:
            reference = parse_reference(name).tagged()
        except ValueError as error:
            raise DockerfileError(str(error)) from None
        mode = self._options.resolve_mode
        need = ResolveImage(str(reference), str(platform), mode, f"[context {key}] load metadata for {name}")
        found, image = resolved((yield (need,))[0])
        if found.name:
            reference = parse_reference(found.name)
        if found.digest:
            reference = reference.with_digest(found.digest)
        return NamedContext(sources.image(str(reference), platform, mode, f"[context {key}] {name}"), image)

    def _layout_context(self, key: str, name: str, platform: Platform) -> Steps[NamedContext]:
        store, at, digest = name.partition("@")
        if not at:
            raise DockerfileError(f"oci-layout reference {quote(name)} has no digest")
        dummy = str(msgspec.structs.replace(parse_reference(key.partition("::")[0]), tag="").with_digest(digest))
        store = store.rpartition(":")[0] if ":" in store.rpartition("/")[2] else store
        need = ResolveImage(
            f"oci-layout://{store}@{digest}", str(platform), "local", f"[context {key}] load metadata for {dummy}"
        )
        _, image = resolved((yield (need,))[0])
        vertex = f"[context {key}] OCI load from client"
        return NamedContext(sources.oci_layout(dummy, self._request.session, store, platform, vertex), image)

    def _local_context(self, key: str, name: str) -> Steps[NamedContext]:
        session = self._session(name)
        hint = f"context:{key}-"
        output = sources.local(
            name, session, hint + _IGNORE, f"[context {key}] load {_IGNORE}", follow=[_IGNORE], all_files=True
        )
        (found,) = yield from read_files(output, [(_IGNORE, MAX_DOCKERFILE + 1)], f"failed to load context {key}")
        patterns = _patterns(found or b"", _IGNORE)
        hint += self._options.raw.get(f"sharedkey:localdir:{key}", "")
        vertex = llb.Vertex(pb.Op(), name=f"[context {key}] load from client")

        def complete(paths: tuple[str, ...]) -> None:
            vertex.op = sources.local_op(name, session, hint, follow=paths, exclude=patterns)

        complete(())
        return NamedContext(vertex.output(), late=complete)

    def _input_context(self, key: str, name: str) -> NamedContext:
        if name not in self._request.inputs:
            raise DockerfileError(f"invalid input {name} for {key}")
        output = _input(self._request.inputs[name])
        metadata = self._options.raw.get(f"input-metadata:{name}")
        if metadata is None:
            return NamedContext(output)
        try:
            config = json.loads(metadata).get("containerimage.config")
            return NamedContext(output, Image.parsed(base64.b64decode(config)) if config else None)
        except (ValueError, AttributeError, TypeError, RecursionError) as error:
            raise DockerfileError(f"failed to parse input metadata {metadata[:500]}: {error}") from None


def resolved(answer: Answer) -> tuple[ResolvedImage, Image]:
    """The values in the answer to `ResolveImage`."""
    if isinstance(answer, Failed):
        raise failure(answer)
    assert isinstance(answer, ResolvedImage)
    try:
        return answer, Image.parsed(answer.config)
    except ValueError as error:
        raise DockerfileError(f"failed to parse image config: {error}") from None


def git_context(location: str, keep_git_dir: bool) -> llb.Output | None:
    try:
        url = parse_git_url(location)
    except ValueError as error:
        raise DockerfileError(str(error)) from None
    if url is None:
        return None
    name = llb.internal(f"load git source {location}")
    keep = keep_git_dir or bool(url.keep_git_dir)
    return sources.git(url, name, keep_git_dir=keep, checksum=url.checksum, submodules=url.submodules is not False)


def _input(graph: pb.Definition) -> llb.Output | None:
    try:
        return llb.imported(graph)
    except Exception as error:
        raise DockerfileError(f"failed to parse frontend input: {error}") from None


def _copied(output: llb.Output, path: str, *, contents: bool) -> llb.Output:
    """A part of a context, or the files of an archive."""
    op = llb.file_op()
    copy = op.file.actions.add(input=-1, secondaryInput=0, output=0).copy
    copy.src = posixpath.normpath(posixpath.join("/", path))
    copy.dest, copy.mode, copy.timestamp = "/", -1, -1
    copy.dirCopyContents = contents
    copy.attemptUnpackDockerCompatibility = not contents
    return llb.Vertex(op, [output], name=llb.internal("load build context")).output()


def _patterns(data: bytes, name: str) -> list[str]:
    if len(data) > MAX_DOCKERFILE:
        raise DockerfileError(f"{name} exceeds maximum allowed size of {MAX_DOCKERFILE} bytes", code=8)
    patterns = read_ignore_file(data)
    try:
        IgnorePatterns(patterns)
    except ValueError as error:
        raise DockerfileError(f"failed parsing {name}: {error}") from None
    return patterns
