"""The Protocols between the packages of the builder process, and the values that pass through them.

`Backend` is the daemon as seen by the builder process, `Session` a client, `Progress` where a build reports what it does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Protocol

import msgspec

from orlop_sdk import Mount

__all__ = [
    "Backend",
    "Base",
    "BuildFailed",
    "Credentials",
    "Download",
    "Layer",
    "LocalDirectory",
    "Progress",
    "Session",
    "SnapshotUsage",
    "Step",
    "StepMount",
    "Transferred",
    "Ulimit",
    "Vertex",
]


class Credentials(msgspec.Struct, frozen=True):
    """`token` is an identity token; with it, `username` may be empty."""

    username: str = ""
    password: str = ""
    token: str = ""


class Download(msgspec.Struct, frozen=True):
    """Progress of one layer of a pull."""

    layer: str
    current: int
    total: int
    what: str  # "resolving", "downloading", "extracting", "done"


class Base(msgspec.Struct, frozen=True):
    """An image that a build starts from. `digest` is that of its manifest for the platform (of its configuration
    if it was made here and has no manifest), `name` the normalized reference, `config` the JSON of its configuration.
    `snapshot` is the committed snapshot of its top layer, "" if the image has none or was only resolved."""

    name: str
    digest: str
    config: bytes
    snapshot: str = ""


class Layer(msgspec.Struct, frozen=True):
    """A layer of an image: the digest and length of its uncompressed tar."""

    diff_id: str
    size: int


class SnapshotUsage(msgspec.Struct, frozen=True):
    size: int
    inodes: int


class StepMount(msgspec.Struct, frozen=True):
    """One mount of a step. Exactly one of `snapshot` (a snapshot's key), `path` (a host path in a directory of the
    builder) and `tmpfs` is set. `selector` is a path inside the snapshot, resolved inside it."""

    target: str
    snapshot: str = ""
    path: str = ""
    tmpfs: bool = False
    tmpfs_size: int = 0
    selector: str = ""
    readonly: bool = False


class Ulimit(msgspec.Struct, frozen=True):
    name: str
    soft: int
    hard: int


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """A command that a build runs in a container. `root` is the key of an active snapshot, or of a committed one when
    `readonly_root`. `network` is "" (a sandbox on the default network), "host" or "none"."""

    root: str
    args: Sequence[str]
    env: Sequence[str] = ()
    cwd: str = "/"
    user: str = ""
    hostname: str = ""
    readonly_root: bool = False
    mounts: Sequence[StepMount] = ()
    network: str = ""
    privileged: bool = False
    extra_hosts: Sequence[tuple[str, str]] = ()
    ulimits: Sequence[Ulimit] = ()
    cgroup_parent: str = ""
    shm_size: int = 0
    memory: int = 0
    memory_swap: int = 0
    cpu_shares: int = 0
    cpu_period: int = 0
    cpu_quota: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    isolation: str = ""
    devices: Sequence[str] = ()
    platform: str = ""
    """ "linux/arm64", for another processor than the host's: the backend refuses what the host cannot run."""


class Backend(Protocol):
    """The daemon: images, snapshots, containers of steps. Errors are `OrlopError`s with the daemon's words. A call that is
    cancelled is undone. Everything that the builder has in use (bases, active snapshots, running steps) is released when
    its connection to the daemon ends."""

    async def resolve(self, name: str, platform: str, *, pull: bool, credentials: Credentials | None) -> Base:
        """Find an image's configuration, at the registry if `pull` or if the image is not here. Downloads no layer."""
        ...

    def base(
        self, name: str, platform: str, *, pull: bool, credentials: Credentials | None
    ) -> AbstractAsyncContextManager[AsyncIterator[Download | Base]]:
        """Make an image's layers exist. The last item is the `Base`, whose layers are kept until the builder releases it."""
        ...

    async def release(self, digest: str) -> None:
        """The base is no longer in use."""
        ...

    async def prepare(self, parent: str) -> str:
        """A new active snapshot on a committed one, or on nothing (""). Returns its key."""
        ...

    async def commit(self, key: str) -> str:
        """Make a snapshot immutable, durably. Returns the key of the committed snapshot."""
        ...

    async def remove(self, key: str) -> None:
        """Remove a snapshot that has no children. No error if there is none."""
        ...

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        """What to mount, in the builder's own mount namespace, to see a snapshot."""
        ...

    async def usage(self, key: str) -> SnapshotUsage: ...

    async def snapshots(self) -> Sequence[str]:
        """The keys of the builder's committed snapshots."""
        ...

    async def unpack(self, archive: int, directory: int) -> None:
        """Unpack a tar, compressed or not, into a directory, in a sandbox. Both are descriptors."""
        ...

    async def run(self, step: Step, stdout: int, stderr: int) -> int:
        """Run a step to its end. Returns its exit code. Cancelling kills it."""
        ...

    async def pack(self, key: str) -> Layer:
        """The layer that a committed snapshot of the builder is on its parent. Computed once for each snapshot."""
        ...

    async def create_image(self, config: bytes, snapshots: Sequence[str], names: Sequence[str]) -> str:
        """Make an image of a configuration and its layers' snapshots, lowest first (a base comes first). `pack` has seen
        each of them. Returns the image's ID."""
        ...

    async def tag(self, image_id: str, name: str) -> None: ...

    async def save(self, image_id: str, names: Sequence[str], archive: int) -> None:
        """Write the image as an archive (OCI layout with Docker's manifest.json) to a descriptor."""
        ...


class LocalDirectory(msgspec.Struct, frozen=True):
    """A directory that the client offers, as a build asks for it. `name` is "context", "dockerfile" or that of a named
    context."""

    name: str
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    follow: Sequence[str] = ()


class Transferred(msgspec.Struct, frozen=True):
    files: int
    size: int


class Session(Protocol):
    """One client, as long as its connection lasts. Calls raise `BuildFailed` when it is gone."""

    id: str
    shared_key: str

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        """Make directory `target` equal to the client's, by sending what differs from its present content."""
        ...

    async def secret(self, id: str) -> bytes | None: ...

    async def credentials(self, host: str) -> Credentials | None: ...

    async def has_ssh_agent(self, id: str) -> bool: ...

    async def ssh_agent(self, id: str, connection: int) -> None:
        """Connect a descriptor with the client's agent, until either end closes."""
        ...

    def upload(self, path: str) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
        """A tar that the client sends as its context (`docker build -`)."""
        ...

    async def send_directory(self, exporter: str, directory: int) -> None: ...

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None: ...


class Vertex(Protocol):
    """One step of a build, as the client shows it."""

    cached: bool

    def log(self, data: bytes, stream: int = 1) -> None: ...

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None: ...

    def warn(self, message: str, *, detail: Sequence[str] = (), url: str = "") -> None: ...


class Progress(Protocol):
    """What a build reports. Several clients may read it, each from the beginning."""

    def vertex(self, digest: str, name: str, inputs: Sequence[str]) -> AbstractAsyncContextManager[Vertex]:
        """A vertex from its start to its end; an exception becomes its error, a cancellation "context canceled"."""
        ...


class BuildFailed(Exception):
    """A build cannot go on. `code` is a gRPC status; `details` are (type URL, JSON) pairs for the client."""

    def __init__(self, message: str, *, code: int = 2, details: Sequence[tuple[str, bytes]] = ()) -> None:
        super().__init__(message)
        self.message, self.code, self.details = message, code, list(details)
