"""File operations: copy, mkfile, mkdir, rm, symlink, on snapshots."""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import socket
from collections import Counter
from collections.abc import AsyncIterator, Mapping
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.cache.content import Selection
from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Empty, Value, join_key
from orlop_sdk import OrlopError
from orlop_sdk.files import delete_tree

from . import actions, paths
from .copying import Copier, Options
from .owners import resolve_owner
from .patterns import has_wildcard
from .produce import produce
from .upload import Upload, unpacked_upload

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.core import ActiveSnapshot
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["change_files", "exact_parts"]

log = logging.getLogger("orlop.build")

_VERSION = "file 1"
Owner = tuple[int, int] | None


async def change_files(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    op = vertex.op.file
    upload = unpacked_upload(op, inputs)
    if isinstance(upload, Upload):
        async with job.build.progress.vertex(vertex.digest, vertex.name, [digest for digest, _ in vertex.inputs]):
            if (unpacked := await upload.unpacked()) is not None:
                return {0: unpacked}
    owner = None if upload is None else job.build.session.upload_owner
    parts = [_VERSION] if owner is None else [_VERSION, f"owner {owner[0]}:{owner[1]}"]

    async def exact() -> str:
        return join_key(*parts, *await exact_parts(op, inputs, vertex.digest[7:32]))

    quick = None
    if not any(value.by_content for value in inputs):
        quick = join_key(*parts, "quick", op.SerializeToString(deterministic=True), *[await v.key() for v in inputs])

    async def make(shown: Shown, key: str, lease: Lease) -> Record:
        return await _Run(job, vertex, inputs, owner).make(key, lease)

    return await produce(job, vertex, quick, exact, make)


async def exact_parts(op: ops_pb2.FileOp, inputs: list[Value], ref: str) -> list[str | bytes]:
    """The parts of the cache key. For COPY, these are the copied content and the last component of its path."""
    parts: list[str | bytes] = []
    for action in op.actions:
        text = ops_pb2.FileAction()
        text.CopyFrom(action)
        if 0 <= action.input < len(inputs):
            parts.append(await inputs[action.input].key())
        if action.HasField("copy"):
            parts += await _selected(text.copy, action, inputs, ref)
        parts.append(text.SerializeToString(deterministic=True))
    return parts


async def _selected(text: ops_pb2.FileActionCopy, action: ops_pb2.FileAction, inputs: list[Value], ref: str) -> list[str]:
    copy = action.copy
    if action.secondaryInput >= len(inputs):
        return []
    source = inputs[action.secondaryInput] if action.secondaryInput >= 0 else None
    wanted = Selection(
        copy.src,
        follow=copy.followSymlink,
        wildcard=copy.allowWildcard,
        include=tuple(copy.include_patterns),
        exclude=tuple(copy.exclude_patterns),
    )
    found = [] if source is None else await source.digests(wanted)
    if not found and not (copy.allowWildcard and copy.allowEmptyWildcard and has_wildcard(copy.src)):
        raise BuildFailed(
            f'failed to compute cache key: failed to calculate checksum of ref {ref}: "{paths.clean(copy.src)}": not found'
        )
    text.src = ""  # the digests include the last component of the path
    return [part for pair in found for part in pair]


class _Run:
    """One execution of a file operation. If only one action uses the result of an action, it works on the same snapshot. So
    a chain of actions makes one snapshot. All other results are committed."""

    def __init__(self, job: SolverJob, vertex: Vertex, inputs: list[Value], archive_owner: Owner = None) -> None:
        """`archive_owner` becomes the owner of all unpacked files, instead of the owners in the archive."""
        self._job, self._core, self._op, self._inputs = job, job.core, vertex.op.file, inputs
        self._archive_owner = archive_owner
        self._count, self._name = len(inputs), vertex.name
        self._changes = Counter(action.input for action in self._op.actions)
        self._read_from = {action.secondaryInput for action in self._op.actions if action.HasField("copy")}
        self._active: dict[int, ActiveSnapshot] = {}
        self._committed: dict[int, tuple[str, str]] = {}
        self._stack = contextlib.AsyncExitStack()

    async def make(self, key: str, lease: Lease) -> Record:
        async with self._core.running, self._stack:
            for number in range(len(self._op.actions)):
                await self._action(number)
            outputs = {
                (action.output if action.output >= 0 else -1 - number): self._committed[number]
                for number, action in enumerate(self._op.actions)
                if number in self._committed
            }
            return await self._core.records.add(key, outputs, lease, description=self._name[:500])

    def _shared(self, number: int) -> bool:
        """False if the result of an action is used only by one later action, which changes it. Otherwise true."""
        index = self._count + number
        return self._op.actions[number].output >= 0 or index in self._read_from or self._changes[index] != 1

    async def _action(self, number: int) -> None:
        action = self._op.actions[number]
        active = await self._target(action.input)
        self._active[number] = active
        async with contextlib.AsyncExitStack() as stack:
            root = await stack.enter_async_context(self._core.views.write(active.key))
            source = await stack.enter_async_context(self._read(action)) if action.HasField("copy") else -1
            owner = await self._owner(action, root)
            async with nursery() as helpers:
                await self._core.file_work(lambda: self._act(root, source, action, owner, helpers))
        if self._shared(number):
            self._committed[number] = (await active.commit(), active.parent)

    async def _target(self, index: int) -> ActiveSnapshot:
        if index >= self._count:
            number = index - self._count
            if number not in self._committed:
                return self._active[number]
            parent = self._committed[number][0]
        else:
            parent = await self._inputs[index].snapshot() if index >= 0 else ""
        return await self._stack.enter_async_context(self._core.active(parent))

    @contextlib.asynccontextmanager
    async def _read(self, action: ops_pb2.FileAction) -> AsyncIterator[int]:
        index = action.secondaryInput
        if index >= self._count:
            async with self._core.views.read(self._committed[index - self._count][0]) as fd:
                yield fd
        else:
            value = self._inputs[index] if index >= 0 else Empty(self._core)
            async with value.view() as fd:
                yield fd

    async def _owner(self, action: ops_pb2.FileAction, root: int) -> Owner:
        body = getattr(action, str(action.WhichOneof("action")))
        if not (hasattr(body, "owner") and body.HasField("owner")):
            return None
        chown: ops_pb2.ChownOpt = body.owner
        named = [opt.byName.input for opt in (chown.user, chown.group) if opt.HasField("byName")]
        if named and 0 <= named[0] < self._count and named[0] != action.input:
            async with self._inputs[named[0]].view() as fd:
                return await trio.to_thread.run_sync(resolve_owner, fd, chown)
        return await trio.to_thread.run_sync(resolve_owner, root, chown)

    def _act(self, root: int, source: int, action: ops_pb2.FileAction, owner: Owner, helpers: trio.Nursery) -> None:
        if action.HasField("copy"):
            actions.copy(root, source, action.copy, owner, self._unpack, lambda: self._start_helper(helpers))
        elif action.HasField("mkdir"):
            actions.mkdir(root, action.mkdir, owner)
        elif action.HasField("mkfile"):
            actions.mkfile(root, action.mkfile, owner)
        elif action.HasField("symlink"):
            actions.symlink(root, action.symlink, owner)
        else:
            actions.rm(root, action.rm)

    def _start_helper(self, nursery: trio.Nursery) -> socket.socket:
        """See `StartHelper`. The helper is a worker of the daemon."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            trio.from_thread.run_sync(nursery.start_soon, self._help, theirs)
        except BaseException:
            ours.close()
            theirs.close()
            raise
        return ours

    async def _help(self, connection: socket.socket) -> None:
        """If the worker fails, the copy continues without it."""
        with connection:
            try:
                await self._core.backend.copy_files(connection.fileno())
            except OrlopError as error:
                log.warning("a copy continues without a second process: %s", error)

    def _unpack(self, archive: int, directory: int) -> None:
        """Unpack an archive into a snapshot. The daemon's sandbox unpacks it into a directory of the host. Then the files
        are copied into the snapshot, because only this process has mounted the snapshot."""
        place = os.path.join(self._core.directory, f"unpack-{secrets.token_hex(8)}")
        os.mkdir(place, 0o700)
        try:
            with paths.opened(os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as unpacked:
                os.mkdir("tree", 0o755, dir_fd=unpacked)
                with paths.opened(os.open("tree", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=unpacked)) as tree:
                    trio.from_thread.run(self._core.backend.unpack, archive, tree, self._archive_owner)
                    Copier(tree, directory, Options(contents=True, replace=True)).copy("/", "/")
        finally:
            delete_tree(place)
