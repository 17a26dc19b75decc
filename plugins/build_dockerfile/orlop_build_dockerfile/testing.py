"""Fakes of the daemon and of a client, for tests of the solver. They need neither root privileges nor a network.

`FakeBackend` keeps snapshots in a storage driver. The command of a step is a script in a small language, which `FakeBackend`
executes.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import socket
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio

from orlop_build_dockerfile.contracts import (
    Base,
    BuildFailed,
    CacheTarget,
    Credentials,
    Download,
    ImagePart,
    Layer,
    LocalDirectory,
    Resources,
    Session,
    SnapshotUsage,
    Step,
    Transferred,
    Vertex,
)
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.pb.control_pb2 import VertexWarning
from orlop_build_dockerfile.testing_artifacts import FakeArtifacts
from orlop_sdk import Conflict, InvalidParameter, Mount, NotFound, Storage, filecopies
from orlop_sdk.files import copy_tree, delete_tree

__all__ = ["FakeBackend", "FakeBuild", "FakeProgress", "FakeSession", "Llb", "StepLog"]


class StepLog:
    """The steps that were run, and the events for which they wait (`wait NAME`)."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self.scripts: list[str] = []
        self.events: dict[str, trio.Event] = {}
        self.waiting: dict[str, trio.Event] = {}
        self.cancelled: list[str] = []

    def event(self, name: str) -> trio.Event:
        return self.events.setdefault(name, trio.Event())

    def reached(self, name: str) -> trio.Event:
        return self.waiting.setdefault(name, trio.Event())


def _make_mount_point(root: str, target: str) -> list[str]:
    """Make the missing directories, and return their paths. They are removed after the step, as in a real step."""
    made, path = [], root
    for name in target.strip("/").split("/"):
        path = os.path.join(path, name)
        if not os.path.exists(path):
            os.mkdir(path)
            made.append(path)
    return made


class FakeBackend(FakeArtifacts):
    """Implements `contracts.Backend`. `images` maps names to (configuration, {path: content})."""

    def __init__(self, storage: Storage) -> None:
        super().__init__()
        self.storage = storage
        self.log = StepLog()
        self.images: dict[str, tuple[dict[str, Any], dict[str, str]]] = {}
        self.made: dict[str, tuple[bytes, list[str]]] = {}
        self.tags: dict[str, str] = {}
        self.parents: dict[str, str] = {}
        self.pulled: list[str] = []
        self.released: list[str] = []
        self.unpacked_for: list[tuple[int, int] | None] = []
        """The owners that archives were unpacked for."""
        self.helpers = 0  # number of copy helpers that were started
        self._pulling = trio.Lock()

    # --- images

    def _find(self, name: str, platform: str) -> Base:
        if name not in self.images:
            raise NotFound(f"No such image: {name}")
        config, files = self.images[name]
        raw = json.dumps(config).encode()
        digest = hashlib.sha256(raw + json.dumps(files, sort_keys=True).encode()).hexdigest()
        return Base(name, f"sha256:{digest}", raw)

    async def resolve(self, name: str, platform: str, *, pull: bool, credentials: Credentials | None) -> Base:
        await trio.lowlevel.checkpoint()
        return self._find(name, platform)

    @asynccontextmanager
    async def base(
        self, name: str, platform: str, *, pull: bool, credentials: Credentials | None
    ) -> AsyncIterator[AsyncIterator[Download | Base]]:
        async def items() -> AsyncIterator[Download | Base]:
            base = self._find(name, platform)
            key = "image-" + base.digest[7:27]
            async with self._pulling:
                if key not in await self.storage.keys():
                    self.pulled.append(name)
                    yield Download("layer", 1, 1, "done")  # noqa: ASYNC119
                    await self.storage.prepare(key + "-new", None)
                    mounts = await self.storage.mounts(key + "-new")
                    for path, content in self.images[name][1].items():
                        full = os.path.join(mounts[0].source, path)
                        os.makedirs(os.path.dirname(full), exist_ok=True)
                        with open(full, "w") as file:
                            file.write(content)
                    await self.storage.commit(key + "-new", key)
            yield Base(base.name, base.digest, base.config, key)

        yield items()

    async def release(self, digest: str) -> None:
        self.released.append(digest)

    # --- snapshots

    async def prepare(self, parent: str) -> str:
        key = f"build-active-{uuid.uuid4().hex}"
        await self.storage.prepare(key, parent or None)
        self.parents[key] = parent
        return key

    async def commit(self, key: str) -> str:
        name = f"build-{uuid.uuid4().hex}"
        await self.storage.commit(key, name)
        self.parents[name] = self.parents.pop(key)
        return name

    async def remove(self, key: str) -> None:
        if key in self.parents.values():
            raise Conflict(f"cannot remove snapshot {key}: it is the parent of another")
        await self.storage.remove(key)
        self.parents.pop(key, None)

    async def mounts(self, key: str, *, readonly: bool) -> Sequence[Mount]:
        return await self.storage.mounts(key, readonly=readonly)

    async def usage(self, key: str) -> SnapshotUsage:
        found = await self.storage.usage(key)
        return SnapshotUsage(found.size, found.inodes)

    async def snapshots(self) -> Sequence[str]:
        keys = await self.storage.keys()
        return [key for key in keys if key.startswith("build-") and not key.startswith("build-active-")]

    async def shared(self) -> Sequence[str]:
        return [key for _, keys in self.made.values() for key in keys]

    async def copy_files(self, connection: int) -> None:
        def serve() -> None:
            with socket.socket(fileno=os.dup(connection)) as given:
                filecopies.serve(given)

        self.helpers += 1
        await trio.to_thread.run_sync(serve)

    async def unpack(self, archive: int, directory: int, owner: tuple[int, int] | None = None) -> None:
        import tarfile

        self.unpacked_for.append(owner)

        def extract() -> None:
            with open(archive, "rb", closefd=False) as file, tarfile.open(fileobj=file, mode="r|*") as members:
                members.extractall(f"/proc/self/fd/{directory}", filter="fully_trusted")  # noqa: S202
                file.read()

        try:
            await trio.to_thread.run_sync(extract)
        except tarfile.TarError as error:
            raise InvalidParameter(f"cannot unpack the archive: {error}") from error

    # --- steps

    async def run(self, step: Step, stdout: int, stderr: int, stdin: int = -1) -> int:
        """Run a script of lines: `write PATH TEXT`, `append PATH TEXT`, `read PATH`, `remove PATH`, `echo TEXT`,
        `wait NAME`, `fail CODE`."""
        root = (await self.storage.mounts(step.root))[0].source
        places = {"/": root}
        points: list[str] = []
        for mount in step.mounts:
            if mount.snapshot:
                source = (await self.storage.mounts(mount.snapshot))[0].source
                places[mount.target] = os.path.join(source, mount.selector.lstrip("/"))
            elif mount.path:
                places[mount.target] = mount.path
            points += _make_mount_point(root, mount.target)
        script = step.args[-1]
        self.log.steps.append(step)
        self.log.scripts.append(script)
        try:
            for line in script.splitlines():
                code = await self._line(places, line.strip(), stdout)
                if code is not None:
                    return code
        except trio.Cancelled:
            self.log.cancelled.append(script)
            raise
        finally:
            for point in reversed(points):
                with contextlib.suppress(OSError):  # the step has put files into the directory
                    os.rmdir(point)
        return 0

    async def _line(self, places: Mapping[str, str], line: str, stdout: int) -> int | None:
        verb, _, rest = line.partition(" ")
        path, _, text = rest.partition(" ")
        if verb in ("write", "append", "read", "remove"):
            target = max((t for t in places if path == t or path.startswith(t.rstrip("/") + "/")), key=len)
            full = os.path.join(places[target], path.removeprefix(target).lstrip("/")) if path != target else places[target]
            if verb == "read":
                with open(full) as file:
                    os.write(stdout, file.read().encode())
            elif verb == "remove":
                delete_tree(full)
            else:
                os.makedirs(os.path.dirname(full), exist_ok=True)
                with open(full, "w" if verb == "write" else "a") as file:
                    file.write(text)
        elif verb == "echo":
            os.write(stdout, rest.encode() + b"\n")
        elif verb == "wait":
            self.log.reached(rest).set()
            await self.log.event(rest).wait()
        elif verb == "fail":
            return int(rest)
        await trio.lowlevel.checkpoint()
        return None

    # --- results

    async def files_of(self, key: str) -> dict[str, str]:
        root = (await self.storage.mounts(key, readonly=True))[0].source
        found = {}
        for directory, _, names in os.walk(root):
            for name in names:
                full = os.path.join(directory, name)
                with open(full) as file:
                    found[os.path.relpath(full, root)] = file.read()
        return found

    async def snapshot_with(self, parent: str, files: Mapping[str, str]) -> str:
        key = await self.prepare(parent)
        root = (await self.storage.mounts(key))[0].source
        for path, content in files.items():
            full = os.path.join(root, path)
            os.makedirs(os.path.dirname(full), exist_ok=True)
            with open(full, "w") as file:
                file.write(content)
        return await self.commit(key)

    async def pack(self, key: str) -> Layer:
        for name, (config, _) in self.images.items():
            if key == "image-" + self._find(name, "").digest[7:27]:
                return Layer(config["rootfs"]["diff_ids"][-1], 0)
        changes = [(change.path, int(change.kind)) for change in await self.storage.changes(key)]
        source = (await self.storage.mounts(key, readonly=True))[0].source
        digest = hashlib.sha256(json.dumps(changes).encode())
        size = 0
        for path, _ in changes:
            full = os.path.join(source, path.lstrip("/"))
            if os.path.isfile(full) and not os.path.islink(full):
                with open(full, "rb") as file:
                    data = file.read()
                digest.update(data)
                size += len(data)
        return Layer(f"sha256:{digest.hexdigest()}", size)

    async def create_images(self, parts: Sequence[ImagePart], names: Sequence[str], index: str = "") -> Sequence[str]:
        ids = []
        for part in parts:
            layers = json.loads(part.config)["rootfs"]["diff_ids"]
            own = [snapshot for snapshot in part.snapshots if snapshot.startswith("build-")]
            packed = [(await self.pack(snapshot)).diff_id for snapshot in own]
            if packed != layers[len(layers) - len(own) :]:
                raise InvalidParameter("cannot make the image: its configuration lists layers that the image does not have")
            ids.append("sha256:" + hashlib.sha256(part.config).hexdigest())
            self.made[ids[-1]] = (part.config, list(part.snapshots))
        self.tags.update(dict.fromkeys(names, ids[0]))
        return ids


async def _pieces(data: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(data), 1000):
        yield data[at : at + 1000]
        await trio.lowlevel.checkpoint()


class FakeSession:
    """Implements `contracts.Session`. `directories` are the directories of the client, by name. Patterns are not applied."""

    def __init__(self, directories: Mapping[str, str], *, shared_key: str = "") -> None:
        self.id, self.shared_key = uuid.uuid4().hex, shared_key
        self.upload_owner: tuple[int, int] | None = None
        self.directories = directories
        self.secrets: dict[str, bytes] = {}
        self.received: list[LocalDirectory] = []
        self.state = ""
        """The value that transfers return as `Transferred.state`."""
        self.sent: dict[str, bytes] = {}
        self.uploads: dict[str, bytes] = {}
        self.contents: dict[str, dict[str, bytes]] = {}

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        self.received.append(wanted)
        if wanted.name not in self.directories:
            raise BuildFailed(f"no local source {wanted.name}")
        delete_tree(target)
        os.mkdir(target, 0o755)
        source, copy = (os.open(each, os.O_RDONLY) for each in (self.directories[wanted.name], target))
        try:
            await trio.to_thread.run_sync(copy_tree, source, copy)
        finally:
            os.close(source)
            os.close(copy)
        return Transferred(1, 1, self.state)

    async def secret(self, id: str) -> bytes | None:
        return self.secrets.get(id)

    async def credentials(self, host: str) -> Credentials | None:
        return None

    async def has_ssh_agent(self, id: str) -> bool:
        return False

    async def ssh_agent(self, id: str, connection: int) -> None:
        raise BuildFailed("no agent")

    @asynccontextmanager
    async def upload(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if path not in self.uploads:
            raise BuildFailed("nothing to upload")
        yield _pieces(self.uploads[path])

    async def stream(self) -> None:
        return None

    async def send_directory(self, exporter: str, directory: int, *, below: str = "", time: int | None = None) -> None:
        for name in os.listdir(directory):
            with open(name, "rb", opener=lambda path, flags: os.open(path, flags, dir_fd=directory)) as file:
                self.sent[os.path.join(below, name)] = file.read()

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        self.sent[exporter] = b"".join([chunk async for chunk in chunks])

    async def has_content(self, store: str, digest: str) -> bool:
        return digest in self.contents.get(store, {})

    async def write_content(self, store: str, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        data = b"".join([chunk async for chunk in chunks])
        assert (len(data), "sha256:" + hashlib.sha256(data).hexdigest()) == (size, digest)
        self.contents.setdefault(store, {})[digest] = data

    @asynccontextmanager
    async def read_content(self, store: str, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        if not await self.has_content(store, digest):
            raise BuildFailed("not found", code=5)
        yield _pieces(self.contents[store][digest])


class FakeVertex:
    def __init__(self, name: str) -> None:
        self.name, self.cached, self.error = name, False, ""
        self.logged = b""
        self.statuses: list[str] = []
        self.warnings: list[str] = []

    def log(self, data: bytes, stream: int = 1) -> None:
        self.logged += data

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None:
        self.statuses.append(id)

    def warn(self, message: str, **options: Any) -> None:
        self.warnings.append(message)


class FakeProgress:
    """Implements `contracts.Progress`."""

    def __init__(self) -> None:
        self.vertices: list[FakeVertex] = []
        self.warnings: list[VertexWarning] = []

    @asynccontextmanager
    async def vertex(self, digest: str, name: str, inputs: Sequence[str]) -> AsyncIterator[Vertex]:
        made = FakeVertex(name)
        self.vertices.append(made)
        try:
            yield made
        except BaseException as error:
            made.error = str(error) or type(error).__name__
            raise

    def warn(self, warning: VertexWarning) -> None:
        self.warnings.append(warning)

    def cached(self) -> dict[str, bool]:
        return {vertex.name: vertex.cached for vertex in self.vertices}

    def log_of(self, name: str) -> bytes:
        return b"".join(vertex.logged for vertex in self.vertices if vertex.name == name)


class FakeBuild:
    """Implements `contracts.Build`."""

    def __init__(self, session: Session, *, entitlements: Sequence[str] = ()) -> None:
        self.ref, self.session = uuid.uuid4().hex, session
        self.progress = FakeProgress()
        self.entitlements = entitlements
        self.resources = Resources()
        self.options: Mapping[str, str] = {}
        self.cache_exports: Sequence[CacheTarget] = ()
        self.cache_imports: Sequence[CacheTarget] = ()

    async def other_session(self, id: str) -> Session:
        raise BuildFailed(f"no session {id}")


Output = tuple[str, int]


class Llb:
    """Makes graphs."""

    def __init__(self) -> None:
        self._ops: dict[str, bytes] = {}
        self._metadata: dict[str, ops_pb2.OpMetadata] = {}

    def add(self, op: ops_pb2.Op, inputs: Sequence[Output] = (), *, name: str = "", ignore_cache: bool = False) -> str:
        for digest, index in inputs:
            op.inputs.add(digest=digest, index=index)
        raw = op.SerializeToString(deterministic=True)
        digest = "sha256:" + hashlib.sha256(raw).hexdigest()
        self._ops[digest] = raw
        description = {"llb.customname": name} if name else {}
        self._metadata[digest] = ops_pb2.OpMetadata(ignore_cache=ignore_cache, description=description)
        return digest

    def image(self, name: str) -> Output:
        source = ops_pb2.SourceOp(identifier=f"docker-image://{name}")
        return self.add(ops_pb2.Op(source=source, platform=ops_pb2.Platform(OS="linux", Architecture="amd64"))), 0

    def local(self, name: str = "context") -> Output:
        return self.add(ops_pb2.Op(source=ops_pb2.SourceOp(identifier=f"local://{name}"))), 0

    def run(
        self,
        root: Output,
        script: str,
        *,
        mounts: Sequence[tuple[Output | None, ops_pb2.Mount]] = (),
        ignore_cache: bool = False,
        **options: Any,
    ) -> Output:
        op = ops_pb2.ExecOp(meta=ops_pb2.Meta(args=["script", script], cwd="/", **options))
        inputs = [root]
        op.mounts.add(input=0, dest="/", output=0)
        for source, mount in mounts:
            made = op.mounts.add()
            made.CopyFrom(mount)
            made.input = -1
            if source is not None:
                made.input = len(inputs)
                inputs.append(source)
        return self.add(ops_pb2.Op(exec=op), inputs, name=script, ignore_cache=ignore_cache), 0

    def copy(self, root: Output | None, source: Output, src: str, dest: str, **options: Any) -> Output:
        copied = {"mode": -1, "followSymlink": True, "dirCopyContents": True, "createDestPath": True, "timestamp": -1}
        copy = ops_pb2.FileActionCopy(src=src, dest=dest, **{**copied, **options})
        inputs = [source] if root is None else [root, source]
        first = -1 if root is None else 0
        action = ops_pb2.FileAction(input=first, secondaryInput=len(inputs) - 1, output=0, copy=copy)
        return self.add(ops_pb2.Op(file=ops_pb2.FileOp(actions=[action])), inputs, name=f"copy {src} {dest}"), 0

    def files(self, root: Output | None, *actions: ops_pb2.FileAction) -> Output:
        """A file operation with a chain of actions. The result of the last action is the output."""
        inputs = [] if root is None else [root]
        for number, action in enumerate(actions):
            action.input = (0 if root is not None else -1) if number == 0 else len(inputs) + number - 1
            action.secondaryInput = -1
            action.output = 0 if number == len(actions) - 1 else -1
        return self.add(ops_pb2.Op(file=ops_pb2.FileOp(actions=actions)), inputs, name="files"), 0

    def define(self, output: Output) -> ops_pb2.Definition:
        digest, index = output
        end = ops_pb2.Op(inputs=[ops_pb2.Input(digest=digest, index=index)]).SerializeToString()
        made = ops_pb2.Definition()
        getattr(made, "def").extend([*self._ops.values(), end])
        for name, metadata in self._metadata.items():
            made.metadata[name].CopyFrom(metadata)
        return made
