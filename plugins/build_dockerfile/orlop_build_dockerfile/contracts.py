"""The Protocols between the packages of the builder process, and the values in their calls.

The builder process calls the daemon through `Backend`, and the daemon calls the builder process through `Builder`. A
`Session` is a client. A build reports its steps to a `Progress`.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Protocol

import msgspec
import trio

from orlop_build_dockerfile.artifacts import (
    Archive,
    Artifacts,
    Authorization,
    Blob,
    Challenge,
    Credentials,
    Download,
    ImagePart,
    LayerBlob,
    LayerForm,
    Manifest,
    Prefix,
    Report,
)
from orlop_build_dockerfile.failures import BuildFailed
from orlop_build_dockerfile.processes import Process, Processes, StepContainer, Streams
from orlop_build_dockerfile.steps import Base, Layer, SnapshotUsage, Step, StepMount, Ulimit
from orlop_sdk import Mount

if TYPE_CHECKING:  # orlopd imports this module, and should not import protobuf
    from orlop_build_dockerfile.pb.control_pb2 import VertexWarning
    from orlop_build_dockerfile.pb.fsutil_pb2 import Stat
    from orlop_build_dockerfile.pb.ops_pb2 import Definition, ExecOp, Platform, Range, SourceInfo

__all__ = [
    "Archive",
    "Artifacts",
    "Authorization",
    "Backend",
    "Base",
    "Blob",
    "Build",
    "BuildFailed",
    "Builder",
    "CacheRecord",
    "CacheTarget",
    "Challenge",
    "Client",
    "Credentials",
    "Download",
    "Export",
    "ImagePart",
    "Job",
    "Layer",
    "LayerBlob",
    "LayerForm",
    "LocalDirectory",
    "Manifest",
    "Policy",
    "Prefix",
    "Process",
    "Processes",
    "Progress",
    "Pruned",
    "Ref",
    "Report",
    "Resources",
    "Result",
    "Session",
    "Settings",
    "SnapshotUsage",
    "Solver",
    "Step",
    "StepContainer",
    "StepMount",
    "Streams",
    "Transferred",
    "Ulimit",
    "Vertex",
]


class Backend(Artifacts, Processes, Protocol):
    """The daemon: images, snapshots, containers of steps, and artifacts. Errors are `OrlopError`s with the daemon's
    messages. A cancelled call is undone. All objects that the builder is using (bases, active snapshots, running steps) are
    released when its connection to the daemon ends."""

    async def resolve(self, name: str, platform: str, *, pull: bool, credentials: Credentials | None) -> Base:
        """Find an image's configuration. The registry is asked if `pull` is set or the image is not stored. Downloads no
        layer."""
        ...

    def base(
        self, name: str, platform: str, *, pull: bool, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Download | Base]]:
        """Make sure that the layers of an image are stored. The last item is the `Base`, whose layers are kept until the
        builder releases it."""
        ...

    async def release(self, digest: str) -> None:
        """End one use of a base. The use began with a call of `base`."""
        ...

    async def prepare(self, parent: str) -> str:
        """Make an active snapshot on the committed snapshot `parent`; "" for no parent. Returns the key of the new
        snapshot."""
        ...

    async def commit(self, key: str) -> str:
        """Make a snapshot immutable and durable. Returns the key of the committed snapshot."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot that has no children. It is no error if the snapshot does not exist."""
        ...

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        """The mounts that make a snapshot visible in the builder's mount namespace."""
        ...

    async def usage(self, key: str) -> SnapshotUsage: ...

    async def snapshots(self) -> Sequence[str]:
        """The keys of the builder's committed snapshots."""
        ...

    async def shared(self) -> Sequence[str]:
        """The keys of the builder's snapshots that images have as layers."""
        ...

    async def unpack(self, archive: int, directory: int, owner: tuple[int, int] | None = None) -> None:
        """Unpack a tar, compressed or not, into a directory, in a sandbox. `archive` and `directory` are file
        descriptors. `owner`: (uid, gid) of all files, instead of the archive's."""
        ...

    async def copy_files(self, connection: int) -> None:
        """Run the helper of a large copy (`orlop_sdk.filecopies.serve`) in a process, until the connection ends."""
        ...

    async def run(self, step: Step, stdout: int, stderr: int, stdin: int = -1) -> int:
        """Run a step to its end. Returns its exit code. Cancelling kills the step. The descriptors are blocking pipes;
        without `stdin`, standard input is empty. While the step runs, its root and the snapshots to which it may write must
        not be mounted for writing by another process."""
        ...

    async def pack(self, key: str) -> Layer:
        """The layer of a committed snapshot of the builder: its difference from its parent. It is computed once for each
        snapshot."""
        ...

    async def create_images(self, parts: Sequence[ImagePart], names: Sequence[str], index: str = "") -> Sequence[str]:
        """Make the image of a build, or the images for several platforms. With several platforms, `index` is the digest of
        the index of the images. `pack` must have been called for all new snapshots of the images before. Returns the IDs of
        the images."""
        ...


class Policy(msgspec.Struct, frozen=True):
    """A rule of garbage collection (`builder.gc.policy` of daemon.json). Sizes are in bytes; 0 means no limit.
    `keep_duration` is in seconds."""

    filters: Sequence[str] = ()
    everything: bool = False
    keep_duration: int = 0
    reserved: int = 0
    maximum: int = 0
    free: int = 0


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that the daemon passes to the builder process at its start. `root` is the builder's directory
    (`<data-root>/build`). `runtime` is a directory below exec-root for data that must not be stored on the disk, such as
    secrets; if it is "", a directory in `root` is used. Both directories exist, with mode 0700, and steps can mount their
    contents. `proxies` are the daemon's proxies, for sources that the builder fetches (HTTP_PROXY, HTTPS_PROXY, NO_PROXY).
    `host_gateway` is the address that replaces `host-gateway` in `--add-host`, "" if there is none. `public_only`: the
    builder fetches sources only from public addresses. If `collect` is false, there is no garbage collection. `policies` are
    applied in order. `entitlements` are the entitlements that a build may request. `platforms` are the platform of the host,
    and then the platforms for which it has emulators. Records of builds are kept for `history_age` seconds, and the last
    `history_entries` records for longer."""

    root: str
    version: str
    runtime: str = ""
    storage: str = ""
    platforms: Sequence[str] = ()
    proxies: Mapping[str, str] = {}
    host_gateway: str = ""
    public_only: bool = False
    collect: bool = True
    policies: Sequence[Policy] = ()
    entitlements: Sequence[str] = ("network.host",)
    history_age: float = 48 * 3600
    history_entries: int = 50


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """A client's connection. For the kinds "grpc" and "session", the daemon has answered the client's request with 101
    before. For the kind "build" (`POST /build`), the builder reads the request's body from the connection, up to its end,
    and writes the body of the answer to it; `query` contains the request's parameters. `headers` has lower-case names, and
    "a, b" for a header that was sent twice. `early` are the bytes that the client has sent already; they come before the
    bytes of the connection."""

    kind: str
    headers: Mapping[str, str]
    early: bytes = b""
    peer: str = ""
    query: Mapping[str, Sequence[str]] = {}


class Pruned(msgspec.Struct, frozen=True):
    ids: Sequence[str]
    size: int


class Builder(Protocol):
    """The builder process, as the daemon calls it. `OrlopError`s are passed on to the daemon's client."""

    async def serve(self, client: Client, connection: trio.SocketStream) -> None:
        """Serve a client until its connection ends, and close the connection. The call is cancelled if the daemon drops the
        connection."""
        ...

    async def usage(self) -> Sequence[CacheRecord]:
        """The records of the build cache."""
        ...

    async def prune(
        self, filters: Mapping[str, Sequence[str]], *, everything: bool, reserved: int, maximum: int, free: int
    ) -> Pruned:
        """`POST /build/prune`. `filters` are filters of the Docker API, such as until=24h. Limits are in bytes; 0 means no
        limit."""
        ...

    async def authorize(self, session: str, host: str, challenge: Challenge) -> Authorization:
        """Ask the client of a session to answer a challenge of the registry `host`."""
        ...

    async def drain(self, reason: str) -> None:
        """End all builds, and send the reason to their clients. Returns when all clients have received the reason."""
        ...

    async def cancel(self, build: str) -> None:
        """`POST /build/cancel`: end the build with this id. It is no error if there is no such build."""
        ...


class LocalDirectory(msgspec.Struct, frozen=True):
    """A request of a build for a directory that the client offers. `name` is "context", "dockerfile" or the name of a named
    context."""

    name: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()


class Transferred(msgspec.Struct, frozen=True):
    """The result of a transfer. `state` is a name for the present content of the directory. If two transfers return the same
    name, the content has not changed between them. "" means unknown."""

    files: int
    size: int
    state: str = ""


class Streamed(Protocol):
    """An upload that has not been read from its connection yet. Exactly one of the methods must be called, and only once.
    `head` is its first bytes."""

    head: bytes

    async def pour(self, pipe: int) -> None:
        """Write the whole upload to a pipe, and close the pipe. O_NONBLOCK is set, so that no write blocks."""
        ...

    async def skip(self) -> None:
        """Read the upload, and discard its bytes."""
        ...


class Session(Protocol):
    """A client, until its connection ends. After that, calls raise `BuildFailed`."""

    id: str
    shared_key: str
    upload_owner: tuple[int, int] | None
    """(uid, gid) of all files in an archive that the client uploads, instead of the archive's."""

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        """Make directory `target` equal to the client's directory. Only differences are sent. No other code may change the
        directory. The session keeps a file next to the directory, whose name is `target` with ".list" at the end."""
        ...

    async def secret(self, id: str) -> bytes | None: ...

    async def credentials(self, host: str) -> Credentials | None:
        """The client's credentials for a registry. The client may be asked only when the registry requires them."""
        ...

    async def has_ssh_agent(self, id: str) -> bool: ...

    async def ssh_agent(self, id: str, connection: int) -> None:
        """Connect a file descriptor with the client's agent, until one of them closes."""
        ...

    def upload(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A tar that the client sends as its context (`docker build -`)."""
        ...

    async def stream(self) -> Streamed | None:
        """Like `upload`, but for a long tar that is not compressed and can be read without a copy. Returns None for other
        uploads."""
        ...

    async def send_directory(self, exporter: str, directory: int, *, below: str = "", time: int | None = None) -> None:
        """Send a directory, which becomes the directory `below` in the client's directory if `below` is set. With `time`
        (seconds since 1970), all files get this time."""
        ...

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None: ...

    async def has_content(self, store: str, digest: str) -> bool:
        """Whether a content store of the client has a blob."""
        ...

    async def write_content(self, store: str, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None: ...

    def read_content(self, store: str, digest: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]: ...


class Vertex(Protocol):
    """A step of a build, as the client shows it."""

    cached: bool

    def log(self, data: bytes, stream: int = 1) -> None: ...

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None: ...

    def warn(
        self,
        message: str,
        *,
        detail: Sequence[str] = (),
        url: str = "",
        source: SourceInfo | None = None,
        ranges: Sequence[Range] = (),
    ) -> None: ...


class Progress(Protocol):
    """The reports of a build. Several clients may read them, each from the beginning."""

    def vertex(self, digest: str, name: str, inputs: Sequence[str]) -> AbstractAsyncContextManager[Vertex]:
        """A `with` block that begins with the start of a vertex and ends with its end. An exception in the block becomes the
        error of the vertex. After a cancellation, the error is "context canceled"."""
        ...

    def warn(self, warning: VertexWarning) -> None:
        """Report a warning about a vertex. The vertex may have ended already."""
        ...


class Export(msgspec.Struct, frozen=True):
    """An exporter of a build. `kind` is "moby" (or "image"), "docker", "oci", "local" or "tar". `number` is its position in
    the client's request. The builder sends this number to the client together with files (`Session.send_directory`,
    `send_archive`)."""

    kind: str
    attributes: Mapping[str, str] = {}
    number: int = 0


class Resources(msgspec.Struct, frozen=True):
    """Limits and settings for all steps of a build, as in `Step`. BuildKit's protocol does not contain such limits."""

    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    editable_files: bool = False


class CacheTarget(msgspec.Struct, frozen=True):
    """A place from which a cache is imported, or to which a cache is exported. `kind` is "inline", "registry" or "local"."""

    kind: str
    attributes: Mapping[str, str] = {}


class Build(Protocol):
    """A build, as its client requested it. When the build ends, its work is cancelled. Work for whose result another build
    waits is not cancelled."""

    ref: str
    """The name of the build, which the client has chosen."""
    session: Session
    progress: Progress
    entitlements: Sequence[str]
    """The entitlements that the client has granted: "network.host", "security.insecure", "device", "device=NAME"."""
    resources: Resources
    options: Mapping[str, str]
    """The client's options for the frontend."""
    cache_exports: Sequence[CacheTarget]
    cache_imports: Sequence[CacheTarget]

    async def other_session(self, id: str) -> Session:
        """Wait for another session of the client (`local-sessionid:NAME`)."""
        ...


class Ref(Protocol):
    """A value of a graph, computed when it is needed (`Job.evaluate`)."""

    definition: Definition
    """The graph. A client may use it in other graphs (`FrontendInputs`)."""


class Result(msgspec.Struct, frozen=True):
    """The result of a frontend. A result for one platform has its value under the key ""; with several platforms, the keys
    are platforms ("linux/arm64"). `metadata` contains the configurations of images: `containerimage.config`, or
    `containerimage.config/PLATFORM`."""

    refs: Mapping[str, Ref]
    metadata: Mapping[str, bytes] = {}


class CacheRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A record of `docker buildx du`. Times are seconds since 1970. `kind` is "regular", "internal", "source.local",
    "source.git.checkout" or "exec.cachemount". `shared`: the record is a layer of images, so its removal frees no space."""

    id: str
    size: int
    created: float
    last_used: float = 0
    uses: int = 0
    description: str = ""
    kind: str = "regular"
    parents: Sequence[str] = ()
    mutable: bool = False
    in_use: bool = False
    shared: bool = False


class Job(Protocol):
    """The solver's work for one build. Calls raise `BuildFailed`, with the details that clients render."""

    async def frontend(self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Result:
        """Run a frontend: "dockerfile.v0", or "gateway.v0" with the image in option `source`."""
        ...

    def define(self, definition: Definition) -> Ref:
        """The value of a graph that the client has made: the result of its last operation."""
        ...

    async def evaluate(self, ref: Ref, *, keep_failed: bool = False) -> None:
        """Compute the value. `keep_failed`: keep the files of a command that fails (`BuildFailed.command`)."""
        ...

    async def resolve_image(self, name: str, platform: str, *, mode: str, log_name: str) -> Base:
        """Find an image. A `name` that begins with "oci-layout://" is `STORE@DIGEST` in a content store of the session.
        `mode` is "default", "pull" or "local". `log_name` is the name of the vertex, "" for the usual name."""
        ...

    async def read_file(self, ref: Ref, path: str, *, offset: int = 0, length: int = 0) -> bytes:
        """Evaluate the value and read a file in it. With `length` 0, read up to the end of the file."""
        ...

    async def read_directory(self, ref: Ref, path: str, *, pattern: str = "") -> Sequence[Stat]: ...

    async def stat(self, ref: Ref, path: str) -> Stat: ...

    def container(self, op: ExecOp, refs: Sequence[Ref], platform: Platform) -> AbstractAsyncContextManager[StepContainer]:
        """A container with the mounts, network and hosts of `op`, whose inputs are `refs`. Nothing is left of it after the
        block."""
        ...

    async def export(self, result: Result, export: Export) -> Mapping[str, str]:
        """Export the result. Returns values for the client: `containerimage.config.digest`, `containerimage.digest`,
        `image.name`."""
        ...

    async def provenance(self, result: Result) -> Mapping[str, bytes]:
        """The SLSA provenance of each value, by platform: the JSON of a predicate."""
        ...

    async def export_cache(self, result: Result, target: CacheTarget) -> Mapping[str, str]:
        """Export to one of the build's `cache_exports`. Returns a value for the client: `cache.manifest`."""
        ...


class Solver(Protocol):
    """The solver of the builder process. Builds share its work and its cache."""

    capabilities: Mapping[str, str]
    """Maps the operations and options of LLB ("exec.mount.bind") to "" if the solver supports them, otherwise to the reason
    why not."""
    exports: Sequence[str]
    """Kinds of exporters."""

    def open(self, build: Build) -> AbstractAsyncContextManager[Job]: ...

    async def usage(self, filters: Sequence[str]) -> Sequence[CacheRecord]: ...

    def prune(
        self,
        filters: Sequence[str],
        *,
        all: bool,
        keep_seconds: float,
        keep_bytes: int,
        reserved: int = 0,
        free: int = 0,
    ) -> AsyncGenerator[CacheRecord, None]:
        """Remove unused records, and yield them. `all` includes internal and shared records. At least `reserved` bytes are
        kept. At most `keep_bytes` are kept, and fewer if less than `free` bytes remain on the file system. 0 means no limit.
        Callers must close the generator."""
        ...
