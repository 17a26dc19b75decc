"""An archive that a client uploads as its context, in a request whose body is the archive.

If the archive is a long plain tar that is only unpacked, its bytes go from the connection to the daemon's unpack worker,
without a copy in the builder. The files stay in a directory until the build ends. In all other cases the archive is stored
as a snapshot with one file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.cache.content import Selection
from orlop_build_dockerfile.contracts import BuildFailed, Streamed
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.values import Made, Value
from orlop_sdk import OrlopError

from .local import Directory

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["StoredUpload", "Upload", "unpacked_upload"]

_PIPE = 1 << 20
_UNPACKING = ops_pb2.FileAction(
    input=-1,
    secondaryInput=0,
    output=0,
    copy=ops_pb2.FileActionCopy(src="/context", dest="/", mode=-1, timestamp=-1, attemptUnpackDockerCompatibility=True),
)


def unpacked_upload(op: ops_pb2.FileOp, inputs: Sequence[Value]) -> Upload | StoredUpload | None:
    """The upload that an operation only unpacks, None for other operations. The Dockerfile frontend unpacks a context with
    such an operation."""
    if len(inputs) == 1 and len(op.actions) == 1 and op.actions[0] == _UNPACKING:
        return inputs[0] if isinstance(inputs[0], Upload | StoredUpload) else None
    return None


class StoredUpload(Made):
    """An upload as a snapshot."""


class Upload:
    """A `Value` with the archive as its file "context". `store` stores it as a snapshot."""

    by_content = False

    def __init__(self, job: SolverJob, streamed: Streamed, store: Callable[[], Awaitable[StoredUpload]]) -> None:
        self._job, self._streamed, self._store = job, streamed, store
        self.head = streamed.head
        """The first bytes of the file."""
        self._lock = trio.Lock()
        self._stored: StoredUpload | None = None
        self._unpacked: Directory | None = None

    async def _value(self) -> StoredUpload:
        async with self._lock:
            if self._unpacked is not None:
                raise BuildFailed("the archive of the context has been unpacked, and is not kept")
            if self._stored is None:
                self._stored = await self._store()
            return self._stored

    async def key(self) -> str:
        return await (await self._value()).key()

    async def snapshot(self) -> str:
        return await (await self._value()).snapshot()

    async def digests(self, wanted: Selection) -> list[tuple[str, str]]:
        return await (await self._value()).digests(wanted)

    @contextlib.asynccontextmanager
    async def view(self) -> AsyncIterator[int]:
        async with (await self._value()).view() as fd:
            yield fd

    async def unpacked(self) -> Directory | None:
        """The files of the archive. Returns None if the archive has been stored; in this case the files are unpacked from
        the snapshot."""
        async with self._lock:
            if self._stored is None and self._unpacked is None:
                self._unpacked = await self._unpack()
            return self._unpacked

    async def _unpack(self) -> Directory:
        core = self._job.core
        place = os.path.join(core.directory, f"unpack-{secrets.token_hex(8)}")
        os.mkdir(place, 0o700)
        self._job.temporary.append(place)
        os.mkdir(os.path.join(place, "tree"), 0o755)
        with contextlib.ExitStack() as opened:
            tree = os.open(os.path.join(place, "tree"), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            opened.callback(os.close, tree)
            reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            opened.callback(os.close, reading)
            os.set_blocking(reading, True)  # the worker's
            with contextlib.suppress(OSError):  # the size exceeds the user's limit for pipes
                fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, _PIPE)
            try:
                async with nursery() as tasks:
                    tasks.start_soon(self._streamed.pour, writing)
                    await core.backend.unpack(reading, tree, self._job.build.session.upload_owner)
                    tasks.cancel_scope.cancel()
            except OrlopError:
                # Read the body to its end, because a client that cannot send its whole request may not read the answer
                await self._streamed.skip()
                raise
        return Directory(self._job, place, "", lasting=False)
