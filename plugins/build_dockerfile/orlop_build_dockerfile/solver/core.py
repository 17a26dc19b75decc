"""Resources that all builds share: the cache, mounted snapshots, running steps, limits."""

from __future__ import annotations

import contextlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import trio

from orlop_build_dockerfile.cache.content import ContentHasher, Selection
from orlop_build_dockerfile.cache.records import Lease, Record, Records
from orlop_build_dockerfile.contracts import Backend, BuildFailed, Settings
from orlop_build_dockerfile.ops.views import Views
from orlop_sdk import OrlopError
from orlop_sdk.files import delete_tree

from .broadcast import Broadcast
from .remembered import Remembered
from .tasks import SharedTasks

if TYPE_CHECKING:
    from .job import SolverJob

__all__ = ["Core", "failure"]

T = TypeVar("T")
_REMEMBERED = 4096
# Maximum bytes of a Dockerfile or a graph that are converted on the event loop, which takes a few milliseconds at most
_SMALL = 4 << 10
_FILES = 64
_CLEANUP = 30.0


def failure(error: OSError) -> BuildFailed:
    """The error of a failed file operation. Its message contains only the path, because users do not know file
    descriptors."""
    path = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    return BuildFailed(f"cannot change files:{path}: {(error.strerror or str(error)).lower()}")


class Core:
    def __init__(self, backend: Backend, settings: Settings, nursery: trio.Nursery) -> None:
        self.backend, self.settings, self._nursery = backend, settings, nursery
        self._first: dict[str, SolverJob] = {}
        self.directory = settings.root
        self.runtime = os.path.join(settings.runtime or settings.root, "steps")
        self.records = Records(backend, settings.root)
        self.views = Views(backend, settings.root)
        self.steps: SharedTasks[Any] = SharedTasks(nursery)
        processors = os.process_cpu_count() if hasattr(os, "process_cpu_count") else os.cpu_count()
        self.running = trio.CapacityLimiter(max(4, processors or 1))
        self.hashing = trio.CapacityLimiter(max(2, processors or 1))
        self.cache_mounts: dict[str, trio.Lock] = {}
        self.broadcasts: dict[str, Broadcast] = {}
        self._digests: Remembered[tuple[str, Selection], list[tuple[str, str]]] = Remembered(_REMEMBERED)
        self.files: Remembered[tuple[str, str], bytes | None] = Remembered(_FILES)
        """Small files that frontends have read, by snapshot and path; None for a missing one. Snapshots do not change."""

    def read(self, snapshot: str) -> contextlib.AbstractAsyncContextManager[int]:
        return self.views.read(snapshot)

    async def digests(self, snapshot: str, wanted: Selection) -> list[tuple[str, str]]:
        """The digests of the selected files in a snapshot. They are kept, because snapshots do not change."""
        if (snapshot, wanted) in self._digests:
            return self._digests[snapshot, wanted]

        async def compute() -> list[tuple[str, str]]:
            async with self.views.read(snapshot) as fd:
                return await self.file_work(lambda: ContentHasher(fd).digest(wanted), self.hashing)

        found: list[tuple[str, str]] = await self.steps.run(("digests", snapshot, wanted), compute)
        self._digests[snapshot, wanted] = found
        return found

    def delete_soon(self, directories: Sequence[str]) -> None:
        """Remove directories. Their names must match the patterns in `cache.strays`, so that the next builder process
        removes them if this process is killed."""
        if directories:
            self._nursery.start_soon(_delete, tuple(directories))

    @staticmethod
    async def compute(size: int, work: Callable[[], T]) -> T:
        """Run work whose time is proportional to an input of `size` bytes. Long work runs on a thread."""
        return work() if size <= _SMALL else await trio.to_thread.run_sync(work)

    async def file_work(self, work: Callable[[], T], limiter: trio.CapacityLimiter | None = None) -> T:
        """Run blocking work on files on a thread. Its errors become `BuildFailed`."""
        try:
            return await trio.to_thread.run_sync(work, limiter=limiter)
        except OSError as error:
            raise failure(error) from error

    @contextlib.asynccontextmanager
    async def active(self, parent: str) -> AsyncIterator[ActiveSnapshot]:
        """A new active snapshot, which is removed at the end unless it was committed."""
        active = ActiveSnapshot(self.backend, await self.backend.prepare(parent), parent)
        try:
            yield active
        finally:
            await active.discard()

    async def shared_step(self, job: SolverJob, key: str, work: Callable[[Lease], Awaitable[Record]]) -> Record:
        """Run a step, unless an equal step is running already, for this or another build. If the step fails because its
        build has ended, the step is run again for the other builds that wait for it. `work` gets the lease for its
        records."""

        async def run() -> Record:
            lease = Lease()
            try:
                return await work(lease)
            finally:
                self._nursery.start_soon(_end_soon, lease)

        while True:
            first = self._first.setdefault(key, job)
            try:
                record: Record = await self.steps.run(("step", key), run)
            except BuildFailed:
                if first is job or not first.closed:
                    raise
            else:
                self.records.use(record, job.lease)
                return record
            finally:
                if self._first.get(key) is job:
                    del self._first[key]


async def _delete(directories: Sequence[str]) -> None:
    with trio.move_on_after(_CLEANUP, shield=True), contextlib.suppress(OSError):
        for directory in directories:
            await trio.to_thread.run_sync(delete_tree, directory)


async def _end_soon(lease: Lease) -> None:
    """End the lease of a step when the waiting builds have added the record to their own leases. The builds are woken
    together, and add the record before their next await."""
    for _ in range(10):
        await trio.lowlevel.checkpoint()
    lease.end()


class ActiveSnapshot:
    def __init__(self, backend: Backend, key: str, parent: str) -> None:
        self._backend, self.key, self.parent = backend, key, parent
        self.committed = ""

    async def commit(self) -> str:
        self.committed = await self._backend.commit(self.key)
        return self.committed

    async def discard(self) -> None:
        if self.committed:
            return
        with trio.move_on_after(_CLEANUP, shield=True), contextlib.suppress(OrlopError):
            await self._backend.remove(self.key)
