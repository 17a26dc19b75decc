"""Executes the graphs of one build: each vertex once, independent vertices concurrently."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import logging
import os
import stat
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from orlop_build_dockerfile.cache.records import Lease
from orlop_build_dockerfile.contracts import Base, Build, BuildFailed, CacheTarget, Export, Ref, Result, StepContainer
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.ops import paths
from orlop_build_dockerfile.ops.patterns import Matcher
from orlop_build_dockerfile.ops.upload import StoredUpload, Upload
from orlop_build_dockerfile.pb.fsutil_pb2 import Stat
from orlop_build_dockerfile.pb.ops_pb2 import Definition, ExecOp, Platform
from orlop_sdk import OrlopError, linux

from .core import Core, failure
from .definition import Graph, Output, Vertex, decode, source_details
from .tasks import SharedTasks
from .values import Empty, Image, Made, Value, registry_of

if TYPE_CHECKING:
    from orlop_build_dockerfile.dockerfile.interface import Scans
    from orlop_build_dockerfile.ops.layout_source import Layout
    from orlop_build_dockerfile.remote.steps import RemoteSteps

__all__ = ["GraphRef", "SolverJob", "ValueRef"]

_log = logging.getLogger("orlop.build")

_VERTEX_ERROR = "github.com/moby/buildkit/errdefs.Vertex+json"
_LAYOUT = "oci-layout://"
_FILE_LIMIT = 64 << 20
_LIST_LIMIT = 100_000
_SMALL_FILE = 16 << 10  # maximum bytes of a file that is kept in memory


Operation = Callable[["SolverJob", Vertex, list[Value]], Awaitable[Mapping[int, Value]]]


class GraphRef:
    """Implements `contracts.Ref`."""

    def __init__(self, definition: Definition, graph: Graph) -> None:
        self.definition, self.graph = definition, graph


class ValueRef:
    """Implements `contracts.Ref` for a value that no graph computes."""

    def __init__(self, value: Value) -> None:
        self.definition, self.value = Definition(), value


class SolverJob:
    """Implements `contracts.Job`."""

    def __init__(self, core: Core, build: Build, nursery: trio.Nursery) -> None:
        self.core, self.build = core, build
        self.id = uuid.uuid4().hex
        self.lease = Lease()
        self.cleanups = contextlib.AsyncExitStack()
        self.temporary: list[str] = []
        """Directories that are removed when the build has ended."""
        self.uploads: SharedTasks[StoredUpload | Upload] = SharedTasks(nursery, keep=True)
        self._outputs: SharedTasks[Mapping[int, Value]] = SharedTasks(nursery, keep=True)
        self._bases: SharedTasks[Base] = SharedTasks(nursery, keep=True)
        self._resolved: SharedTasks[Base] = SharedTasks(nursery, keep=True)
        self._layouts: SharedTasks[Layout] = SharedTasks(nursery, keep=True)
        self._held: list[str] = []
        self._remote: RemoteSteps | None = None
        self.closed = False
        self.keeps_failed, self.kept_failed = False, 0
        """Whether the files of a failed command are kept until the end of the build, and of how many commands they are."""
        self.frontends = 0
        """The number of running frontends that are images."""
        self.images: list[Image] = []
        self.started = self.now()
        self.request: tuple[str, Mapping[str, str]] = ("", {})
        """The frontend that made the result, and its options."""
        self.materials: dict[str, tuple[str, str]] = {}
        """Digest of a source's vertex -> address and digest of the source."""
        self.locals: set[str] = set()
        """The names of the client's directories that the build has used. Only the frontend has used some of them."""
        self.resolved_images: list[tuple[str, str, str]] = []
        """Name, digest and platform of all resolved images."""
        self.scans: dict[tuple[str, str], Scans] = {}
        """Further file systems for a scanner, by the platform of a result and the digest of its last vertex."""
        self.shown: dict[str, Shown] = {}
        """The vertices of local sources, by digest. Findings of lint checks are shown on the vertex that has loaded the
        Dockerfile."""

    @property
    def remote(self) -> RemoteSteps | None:
        """Caches outside of the daemon; None if the build uses none."""
        build = self.build
        if self._remote is None and (build.cache_imports or build.cache_exports):
            from orlop_build_dockerfile.remote.steps import RemoteSteps

            self._remote = RemoteSteps(self)
        return self._remote

    async def close(self) -> None:
        self.closed = True
        # End these tasks first, because they use objects that are released below
        for tasks in (self._outputs, self._bases, self._resolved, self.uploads):
            await tasks.aclose()
        await self.cleanups.aclose()
        for digest in self._held:
            with contextlib.suppress(OrlopError):
                await self.core.backend.release(digest)
        self.lease.end()
        self.core.delete_soon(self.temporary)

    # --- graphs

    def define(self, definition: Definition) -> GraphRef:
        return GraphRef(definition, decode(definition))

    def now(self) -> float:
        return time.time()

    def graph(self, ref: Ref) -> Graph:
        return ref.graph if isinstance(ref, GraphRef) else decode(ref.definition)

    async def value(self, ref: Ref) -> Value:
        """The value of a reference. Its layers may not exist yet."""
        if isinstance(ref, ValueRef):
            return ref.value
        graph = self.graph(ref)
        if graph.head is None:
            return Empty(self.core)
        return await self.output(graph, graph.head)

    async def evaluate(self, ref: Ref, *, keep_failed: bool = False) -> None:
        self.keeps_failed = self.keeps_failed or keep_failed
        await self.snapshot(ref)

    async def snapshot(self, ref: Ref) -> str:
        with _translated():
            return await (await self.value(ref)).snapshot()

    async def output(self, graph: Graph, wanted: Output) -> Value:
        vertex = graph.vertices[wanted[0]]
        key = (vertex.digest, vertex.ignore_cache)
        made = await self._outputs.run(key, lambda: self._vertex(graph, vertex))
        if wanted[1] not in made:
            raise BuildFailed(f"vertex {vertex.digest} has no output {wanted[1]}")
        return made[wanted[1]]

    def made(self, vertex: Vertex) -> Mapping[int, Value]:
        """The outputs of a vertex, if this build has evaluated the vertex."""
        return self._outputs.result((vertex.digest, vertex.ignore_cache)) or {}

    async def _vertex(self, graph: Graph, vertex: Vertex) -> Mapping[int, Value]:
        if self.remote is None:
            return await self._made(graph, vertex)
        made = await self.remote.find(graph, vertex) or await self._made(graph, vertex)
        self.remote.note(vertex, made)
        return made

    async def _made(self, graph: Graph, vertex: Vertex) -> Mapping[int, Value]:
        inputs = await self._inputs(graph, vertex)
        kind = str(vertex.op.WhichOneof("op"))
        try:
            with _translated():
                return await _operation(kind)(self, vertex, inputs)
        except BuildFailed as error:
            if not any(name == _VERTEX_ERROR for name, _ in error.details):
                error.details.append((_VERTEX_ERROR, json.dumps({"digest": vertex.digest}).encode()))
                error.details += source_details(graph.definition, vertex.digest)
            raise

    async def _inputs(self, graph: Graph, vertex: Vertex) -> list[Value]:
        found: dict[Output, Value] = {}

        async def one(wanted: Output) -> None:
            found[wanted] = await self.output(graph, wanted)

        different = list(dict.fromkeys(vertex.inputs))
        if len(different) == 1:
            await one(different[0])
        elif different:
            async with _first_error(), trio.open_nursery() as nursery:
                for wanted in different:
                    nursery.start_soon(one, wanted)
        return [found[wanted] for wanted in vertex.inputs]

    # --- images

    async def resolve_image(self, name: str, platform: str, *, mode: str, log_name: str) -> Base:
        """See `contracts.Job`. The digest of an image that was made on this host is "", because it has no manifest, and
        frontends make references from digests."""
        vertex = log_name or f"[internal] load metadata for {name}"
        digest = "sha256:" + uuid.uuid4().hex * 2

        async def resolve() -> Base:
            async with self.build.progress.vertex(digest, vertex, ()):
                with _translated(name):
                    base = await self.resolve(name, platform, mode)
                local = base.digest == "sha256:" + hashlib.sha256(base.config).hexdigest()
                return msgspec.structs.replace(base, digest="") if local else base

        return await self._resolved.run(("metadata", name, platform, mode), resolve)

    async def resolve(self, name: str, platform: str, mode: str) -> Base:
        """Find an image, only once for each build, so that the whole build uses the same image even if the tag moves
        meanwhile. A name that begins with "oci-layout://" is `STORE@DIGEST` in a content store of the client."""
        if name.startswith(_LAYOUT):
            return (await self.layout(name.removeprefix(_LAYOUT), platform)).base

        async def ask() -> Base:
            credentials = await self.build.session.credentials(registry_of(name))
            base = await self.core.backend.resolve(name, platform, pull=mode == "pull", credentials=credentials)
            self.resolved_images.append((name, base.digest, platform))
            return base

        return await self._resolved.run((name, platform, mode == "pull"), ask)

    async def layout(self, place: str, platform: str) -> Layout:
        """An image in a content store of the client. It is read only once for each build."""
        from orlop_build_dockerfile.ops.layout_source import read_layout

        return await self._layouts.run((place, platform), lambda: read_layout(self, place, platform))

    async def base(self, key: tuple[str, ...], work: Callable[[], Awaitable[Base]]) -> Base:
        """An image with its layers. `work`, which runs only once for equal keys, ensures that the layers are kept until the
        build ends."""
        return await self._bases.run(key, work)

    def hold(self, digest: str) -> None:
        """Register a base image, which is released at the daemon when the build ends. It is released once for each call of
        `hold`."""
        self._held.append(digest)

    async def base_of(self, snapshot: str) -> Base | None:
        """The image of this build whose top layer is the snapshot; None if there is none."""
        for image in self.images:
            if await image.snapshot() == snapshot:
                return await image.fetched()
        return None

    # --- files of results

    @contextlib.asynccontextmanager
    async def _view(self, ref: Ref) -> AsyncIterator[int]:
        async with (await self.value(ref)).view() as fd:
            yield fd

    async def read_file(self, ref: Ref, path: str, *, offset: int = 0, length: int = 0) -> bytes:
        with _translated():
            return await self.read_value(await self.value(ref), path, offset=offset, length=length)

    async def read_value(self, value: Value, path: str, *, offset: int = 0, length: int = 0) -> bytes:
        """See `read_file`."""
        if isinstance(value, Upload) and paths.clean(path) == "/context" and 0 < offset + length <= len(value.head):
            return value.head[offset : offset + length]
        known, files = ("", path), self.core.files
        if isinstance(value, Made):
            known = (await value.snapshot(), path)
        if known not in files:
            async with value.view() as root:
                data, is_whole = await trio.to_thread.run_sync(_read, root, path, offset, length)
            if not is_whole:
                return data or b""
            if not known[0]:
                return _part(path, data, offset, length)
            files[known] = data
        return _part(path, files[known], offset, length)

    async def read_directory(self, ref: Ref, path: str, *, pattern: str = "") -> Sequence[Stat]:
        def read(root: int) -> list[Stat]:
            try:
                with paths.opened(paths.open_directory(root, path)) as fd:
                    names = sorted(os.listdir(fd))
                    if pattern:
                        matcher = Matcher([pattern])
                        names = [name for name in names if matcher.match(name)]
                    if len(names) > _LIST_LIMIT:
                        raise BuildFailed(f"read {path}: the directory has more than {_LIST_LIMIT} entries")
                    return [_stat(fd, name) for name in names]
            except OSError as error:
                raise _missing("open", path, error) from None

        with _translated():
            async with self._view(ref) as root:
                return await trio.to_thread.run_sync(read, root)

    async def stat(self, ref: Ref, path: str) -> Stat:
        def read(root: int) -> Stat:
            try:
                with paths.opened(linux.open_in_root(root, paths.clean(path), os.O_PATH)) as fd:
                    found = _stat(fd, "")
                    found.path = os.path.basename(os.readlink(f"/proc/self/fd/{fd}")) or "/"
                    return found
            except OSError as error:
                raise _missing("lstat", path, error) from None

        with _translated():
            async with self._view(ref) as root:
                return await trio.to_thread.run_sync(read, root)

    # --- frontends and exporters

    async def frontend(self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Result:
        from .frontends import run_frontend

        # The first one counts, because a frontend may call another frontend
        self.request = self.request if self.request[0] else (name, options)
        return await run_frontend(self, name, options, inputs)

    @contextlib.asynccontextmanager
    async def container(self, op: ExecOp, refs: Sequence[Ref], platform: Platform) -> AsyncIterator[StepContainer]:
        from orlop_build_dockerfile.ops.containers import MountedContainer
        from orlop_build_dockerfile.ops.stepmounts import StepMounts

        async with contextlib.AsyncExitStack() as stack:
            with _translated():
                inputs = [await self.value(ref) for ref in refs]
                mounts = await stack.enter_async_context(StepMounts(self, op, inputs, platform))
            yield MountedContainer(self, op, mounts, platform)

    async def export(self, result: Result, export: Export) -> Mapping[str, str]:
        from orlop_build_dockerfile.export import run_export

        with _translated():
            async with _first_error():
                return await run_export(self, result, export)

    async def provenance(self, result: Result) -> Mapping[str, bytes]:
        from orlop_build_dockerfile.attest.provenance import provenance
        from orlop_build_dockerfile.export.compose import targets

        return {each.key: (await provenance(self, each, {})).content for each in targets(self, result)}

    async def export_cache(self, result: Result, target: CacheTarget) -> Mapping[str, str]:
        from orlop_build_dockerfile.remote.exports import export_cache

        assert self.remote is not None
        with _translated():
            async with _first_error():
                return await export_cache(self, self.remote, result, target)


def _operation(kind: str) -> Operation:
    from orlop_build_dockerfile.ops.execute import execute
    from orlop_build_dockerfile.ops.files import change_files
    from orlop_build_dockerfile.ops.layers import diff, merge
    from orlop_build_dockerfile.ops.nested import build
    from orlop_build_dockerfile.ops.source import source

    table: dict[str, Operation] = {
        "source": source,
        "exec": execute,
        "file": change_files,
        "merge": merge,
        "diff": diff,
        "build": build,
    }
    return table[kind]


@contextlib.contextmanager
def _translated(name: str = "") -> Any:
    """Converts errors of the daemon, of files and of values that the client chose to errors of the build."""
    try:
        yield
    except OrlopError as error:
        raise BuildFailed(f"{name}: {error}" if name else str(error)) from error
    except OSError as error:
        raise failure(error) from error
    except ValueError as error:  # a path or a pattern is invalid
        _log.debug("invalid value", exc_info=error)
        raise BuildFailed(str(error), code=3) from error


@contextlib.asynccontextmanager
async def _first_error() -> AsyncIterator[None]:
    """Raises, instead of a nursery's group, the error of the first task that failed."""
    try:
        yield
    except BaseExceptionGroup as group:
        found: BaseException = group
        while isinstance(found, BaseExceptionGroup):
            found = next((e for e in found.exceptions if not _is_cancelled(e)), found.exceptions[0])
        raise found from None


def _is_cancelled(error: BaseException) -> bool:
    if isinstance(error, BaseExceptionGroup):
        return all(map(_is_cancelled, error.exceptions))
    return isinstance(error, trio.Cancelled)


def _missing(verb: str, path: str, error: OSError) -> BuildFailed:
    code = 5 if isinstance(error, FileNotFoundError | NotADirectoryError) else 2
    return BuildFailed(f"{verb} {path}: {(error.strerror or str(error)).lower()}", code=code)


def _read(root: int, path: str, offset: int, length: int) -> tuple[bytes | None, bool]:
    """Returns a part of a file, and whether this part is the whole content. A small file is returned as a whole. None if
    there is no file."""
    try:
        with paths.opened(linux.open_in_root(root, paths.clean(path), os.O_RDONLY | os.O_NONBLOCK)) as fd:
            info = os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise BuildFailed(f"read {path}: is not a regular file")
            if info.st_size <= _SMALL_FILE:
                return os.pread(fd, _SMALL_FILE, 0), True
            wanted = min(length or info.st_size, info.st_size - offset)
            if wanted > _FILE_LIMIT:
                raise BuildFailed(f"read {path}: the file is larger than {_FILE_LIMIT >> 20} MiB")
            return os.pread(fd, max(wanted, 0), offset), False
    except FileNotFoundError:
        return None, True
    except OSError as error:
        raise _missing("open", path, error) from None


def _part(path: str, data: bytes | None, offset: int, length: int) -> bytes:
    if data is None:
        raise BuildFailed(f"open {path}: {os.strerror(errno.ENOENT).lower()}", code=5)
    return data[offset : offset + length] if length else data[offset:]


_TYPES = {stat.S_IFDIR: 1 << 31, stat.S_IFLNK: 1 << 27, stat.S_IFIFO: 1 << 25, stat.S_IFSOCK: 1 << 24}


def go_mode(mode: int) -> int:
    """Convert `st_mode` to Go's `os.FileMode`."""
    kind = stat.S_IFMT(mode)
    bits = _TYPES.get(kind, 0)
    if kind in (stat.S_IFBLK, stat.S_IFCHR):
        bits = 1 << 26 | (1 << 21 if kind == stat.S_IFCHR else 0)
    bits |= (1 << 23 if mode & stat.S_ISUID else 0) | (1 << 22 if mode & stat.S_ISGID else 0)
    return bits | (1 << 20 if mode & stat.S_ISVTX else 0) | mode & 0o777


def _stat(parent: int, name: str) -> Stat:
    """The stat of an entry of a directory; "" means the directory itself."""
    info = os.stat(name, dir_fd=parent, follow_symlinks=False) if name else os.fstat(parent)
    link = os.readlink(name, dir_fd=parent) if stat.S_ISLNK(info.st_mode) else ""
    return Stat(
        path=name,
        mode=go_mode(info.st_mode),
        uid=info.st_uid,
        gid=info.st_gid,
        size=0 if stat.S_ISDIR(info.st_mode) else info.st_size,
        modTime=info.st_mtime_ns,
        linkname=link,
    )
