"""The source local: directories of the client. For each shared key, the last transferred directory is kept, so that the next
build receives only changes.

From the transfer to the end of the build, a directory belongs to one build; another build with the same key gets another
directory. So the directory does not change during the build, and steps can read it without a copy.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import AsyncIterator, Sequence
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.cache.content import ContentHasher, KnownFile, Selection
from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import BuildFailed, LocalDirectory, Session
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import join_key
from orlop_sdk.files import copy_tree

from . import paths

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["Directory", "local"]

_SELECTIONS = 1000  # limit for the selections whose digests are kept
_ENCODER = msgspec.msgpack.Encoder()
_DECODER = msgspec.msgpack.Decoder(dict[str, KnownFile])


class _Selections(msgspec.Struct, frozen=True, array_like=True):
    """The digests of a directory's selections, valid for this state of the directory (`Transferred.state`)."""

    state: str
    digests: list[tuple[Selection, list[tuple[str, str]]]]


_SELECTION_DECODER = msgspec.msgpack.Decoder(_Selections)


class Directory:
    """A `Value` that is a directory of the builder: `tree` in `place`. If it is `lasting`, other files in `place` store the
    digests of files, by path, and of selections. They are valid as long as the directory does not change."""

    by_content = True

    def __init__(self, job: SolverJob, place: str, state: str, *, lasting: bool = True) -> None:
        self._job, self._state, self._lasting = job, state, lasting
        self.path = os.path.join(place, "tree")
        self._table, self._selections = os.path.join(place, "digests"), os.path.join(place, "selections")
        self._hashing = trio.Lock()
        self._files: dict[str, KnownFile] | None = None
        self._memo: dict[Selection, list[tuple[str, str]]] = {}
        if state:
            self._memo = self._remembered()

    async def key(self) -> str:
        (found,) = await self.digests(Selection())
        return join_key("content", found[1])

    async def digests(self, wanted: Selection) -> list[tuple[str, str]]:
        # One at a time, because selections overlap, and a later selection uses the digests of earlier selections
        async with self._hashing:
            if wanted not in self._memo:
                self._memo[wanted] = await self._job.core.file_work(lambda: self._hash(wanted), self._job.core.hashing)
                if self._state and len(self._memo) <= _SELECTIONS:
                    await self._job.core.file_work(self._remember)
        return self._memo[wanted]

    def _remembered(self) -> dict[Selection, list[tuple[str, str]]]:
        try:
            with open(self._selections, "rb") as file:
                found = _SELECTION_DECODER.decode(file.read())
        except (OSError, msgspec.DecodeError):
            return {}
        return dict(found.digests) if found.state == self._state else {}

    def _remember(self) -> None:
        _replace(self._selections, _ENCODER.encode(_Selections(self._state, list(self._memo.items()))))

    def _hash(self, wanted: Selection) -> list[tuple[str, str]]:
        files = dict(self._load() if self._files is None else self._files)
        before = len(files)
        with paths.opened(os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)) as root:
            hasher = ContentHasher(root, files)
            found = hasher.digest(wanted)
        if self._lasting and (hasher.changed or before != len(files)):
            self._save(files)
        self._files = files
        return found

    def _load(self) -> dict[str, KnownFile]:
        try:
            with open(self._table, "rb") as file:
                return _DECODER.decode(file.read())
        except (OSError, msgspec.DecodeError):
            return {}

    def _save(self, files: dict[str, KnownFile]) -> None:
        _replace(self._table, _ENCODER.encode(files))

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[int]:
        fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)

    async def snapshot(self) -> str:
        """A copy of the directory as a snapshot, for a graph that changes or returns the directory."""
        core = self._job.core
        key = join_key("local", await self.key())
        record = core.records.find(key)
        if record is None:
            record = await core.shared_step(self._job, key, lambda lease: self._copy(key, lease))
        core.records.use(record, self._job.lease)
        return record.snapshots[0]

    async def _copy(self, key: str, lease: Lease) -> Record:
        core = self._job.core
        async with core.active("") as active:
            async with core.views.write(active.key) as target, self.view() as source:
                await core.file_work(lambda: copy_tree(source, target))
            snapshot = await active.commit()
        return await core.records.add(
            key, {0: (snapshot, "")}, lease, kind="source.local", description="copy of a local source"
        )


def _replace(path: str, data: bytes) -> None:
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def _list(vertex: Vertex, name: str) -> Sequence[str]:
    text = vertex.op.source.attrs.get(name, "")
    if not text:
        return ()
    try:
        return msgspec.json.decode(text, type=list[str])
    except msgspec.DecodeError:
        raise BuildFailed(f"invalid attribute {name} of a local source", code=3) from None


async def local(job: SolverJob, vertex: Vertex, name: str) -> Directory:
    attrs = vertex.op.source.attrs
    wanted = LocalDirectory(
        name,
        include=_list(vertex, "local.includepattern"),
        exclude=_list(vertex, "local.excludepatterns"),
        follow=_list(vertex, "local.followpaths"),
    )
    session: Session = job.build.session
    other = attrs.get("local.session", "")
    if other and other != session.id:
        session = await job.build.other_session(other)
    async with job.build.progress.vertex(vertex.digest, vertex.name, ()) as shown:
        job.shown[vertex.digest] = shown
        job.locals.add(name)
        record = await _take(job, session, wanted, attrs.get("local.sharedkeyhint", name))
        received = await session.receive(wanted, os.path.join(record.path, "tree"), shown)
    return Directory(job, record.path, received.state)


async def _take(job: SolverJob, session: Session, wanted: LocalDirectory, hint: str) -> Record:
    """A directory that no other build uses. If an earlier build with this key has left an unused directory, this directory
    is returned; otherwise a new directory."""
    shared = session.shared_key or session.id
    patterns = json.dumps([list(wanted.include), list(wanted.exclude), list(wanted.follow)])
    key = join_key("directory", shared, hint, wanted.name, patterns)
    records = job.core.records
    number = 0
    while (record := records.find(f"{key}:{number}")) is not None:
        if not record.leases:
            records.use(record, job.lease)
            await job.core.file_work(lambda: os.makedirs(os.path.join(record.path, "tree"), 0o755, exist_ok=True))
            return record
        number += 1
    path = os.path.join(job.core.directory, "contexts", f"{key[:32]}-{number}-{job.id[:8]}")
    os.makedirs(os.path.join(path, "tree"), 0o755)
    os.chmod(os.path.dirname(path), 0o700)
    return await records.add(
        f"{key}:{number}", {}, job.lease, kind="source.local", description=f"local source for {wanted.name}", path=path
    )
