"""Containers that a frontend makes (`NewContainer`), until it releases them or ends.

A container owns its mounts from its creation on. It runs from the start of its first process to the end of this process.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Job, Ref, StepContainer
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import gateway_pb2 as pb
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.definition import mounts_problem
from orlop_sdk import OrlopError

__all__ = ["Container", "Containers", "open_containers"]

log = logging.getLogger("orlop.build")

_MOST = 32  # limit for the containers of a frontend
_MOST_PROCESSES = 64  # limit for the running processes of a frontend
_MOST_MOUNTS = 1000
_NAME = 128
_ENDING = 120.0  # seconds for the processes of a released container to end


class Container:
    """`has_first`: a first process has been requested. `running` is set once this process runs, or once it cannot run any
    more, because the container has ended (`is_over`)."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.has_first = self.is_over = False
        self.running = trio.Event()
        self._inner: StepContainer | None = None
        self._processes: set[trio.CancelScope] = set()
        self._changed = trio.lowlevel.ParkingLot()
        self._released = trio.Event()
        self._gone = trio.Event()

    async def hold(
        self, job: Job, op: ops_pb2.ExecOp, refs: list[Ref], platform: ops_pb2.Platform, task_status: trio.TaskStatus[None]
    ) -> None:
        """Own the container's mounts until the release. Errors of the creation are raised; later ones are logged."""
        try:
            async with job.container(op, refs, platform) as self._inner:
                task_status.started()
                try:
                    await self._released.wait()
                finally:
                    with trio.move_on_after(_ENDING, shield=True):
                        await self._end_processes()
        except (OrlopError, BuildFailed) as error:
            if self._inner is None:
                raise
            log.warning("cannot end container %s of a frontend: %s", self.name, error)
        finally:
            self._released.set()
            self._gone.set()

    async def _end_processes(self) -> None:
        """End the processes, and wait for their end, because until then the mounts are in use."""
        self._released.set()
        for scope in self._processes:
            scope.cancel()
        while self._processes:
            await self._changed.park()

    async def release(self) -> None:
        """Release the container. Returns when nothing is left of it."""
        self._released.set()
        await self._gone.wait()

    @contextmanager
    def process(self) -> Iterator[StepContainer]:
        """Use the container in a `with` block for a process, or for a call about a process. If the container is released,
        the block is cancelled."""
        if self._released.is_set() or self._inner is None:
            raise BuildFailed(f"container {self.name} was released", code=Code.NOT_FOUND)
        scope = trio.CancelScope()
        self._processes.add(scope)
        try:
            with scope:
                yield self._inner
        finally:
            self._processes.discard(scope)
            self._changed.unpark_all()


class Containers:
    """The containers of one frontend, by the names that it has chosen. Made by `open_containers`."""

    def __init__(self, job: Job, tasks: trio.Nursery) -> None:
        self._job, self._tasks = job, tasks
        self._containers: dict[str, Container] = {}
        self._processes = 0

    def count_process(self, change: int) -> None:
        """Count a process that begins (1) or has ended (-1). Raises `BuildFailed` if there are too many."""
        if self._processes + change > _MOST_PROCESSES:
            message = f"a frontend cannot run more than {_MOST_PROCESSES} processes at the same time"
            raise BuildFailed(message, code=Code.RESOURCE_EXHAUSTED)
        self._processes += change

    def get(self, name: str) -> Container:
        found = self._containers.get(name)
        if found is None:
            raise BuildFailed(f'container "{name[:_NAME]}" previously released or not created', code=Code.NOT_FOUND)
        return found

    async def create(self, request: pb.NewContainerRequest, values: Mapping[str, Ref]) -> None:
        """Create a container. `values` maps the names in the mounts of the request to values."""
        name = request.ContainerID
        if not name or len(name) > _NAME:
            raise BuildFailed(f"the name of a container has 1 to {_NAME} characters", code=Code.INVALID_ARGUMENT)
        if name in self._containers:
            raise BuildFailed(f"Container {name} already exists", code=Code.ALREADY_EXISTS)
        if len(self._containers) >= _MOST:
            raise BuildFailed(f"a frontend cannot have more than {_MOST} containers", code=Code.RESOURCE_EXHAUSTED)
        op, refs = _operation(request, values)
        container = self._containers[name] = Container(name)
        try:
            await self._tasks.start(container.hold, self._job, op, refs, request.platform)
        except BaseException:
            del self._containers[name]
            raise

    async def release(self, name: str) -> None:
        container = self.get(name)
        await container.release()
        if self._containers.get(name) is container:
            del self._containers[name]


def _operation(request: pb.NewContainerRequest, values: Mapping[str, Ref]) -> tuple[ops_pb2.ExecOp, list[Ref]]:
    """The container as the operation of a graph, and its inputs. Changes of its mounts are not kept."""
    op = ops_pb2.ExecOp(network=request.Network)
    op.meta.hostname = request.hostname
    op.meta.extraHosts.extend(request.extraHosts)
    if len(request.Mounts) > _MOST_MOUNTS:
        raise BuildFailed(f"a container cannot have more than {_MOST_MOUNTS} mounts", code=Code.INVALID_ARGUMENT)
    names = list(values)
    for mount in request.Mounts:
        own = op.mounts.add()
        own.CopyFrom(mount)
        own.output, own.input = -1, names.index(mount.resultID) if mount.resultID else -1
    if problem := mounts_problem(op, len(names)):
        raise BuildFailed(f"container {request.ContainerID}{problem}", code=Code.INVALID_ARGUMENT)
    return op, [values[name] for name in names]


@asynccontextmanager
async def open_containers(job: Job) -> AsyncIterator[Containers]:
    """The containers of one frontend. After the block, no container is left."""
    async with nursery() as tasks:
        try:
            yield Containers(job, tasks)
        finally:
            tasks.cancel_scope.cancel()
