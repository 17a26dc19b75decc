"""Containers of frontends. They are like the containers of commands, but a client controls their processes."""

from __future__ import annotations

import uuid
from typing import TYPE_CHECKING

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.processes import Process, Streams
from orlop_build_dockerfile.solver.definition import command_problem

from .execute import environment, make_step, missing_entitlement

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

    from .stepmounts import StepMounts

__all__ = ["MountedContainer"]


class MountedContainer:
    """Implements `processes.StepContainer`. `op` has the network and the hosts of the container."""

    def __init__(self, job: SolverJob, op: ops_pb2.ExecOp, mounts: StepMounts, platform: ops_pb2.Platform) -> None:
        self._job, self._op, self._mounts, self._platform = job, op, mounts, platform
        self._name = uuid.uuid4().hex
        self._check(op)

    def _check(self, op: ops_pb2.ExecOp) -> None:
        """Raise an error if the build lacks an entitlement that the container needs. BuildKit has this check since
        CVE-2024-23653."""
        if missing := missing_entitlement(self._job, op):
            raise BuildFailed(f"{missing} is not allowed", code=Code.PERMISSION_DENIED)

    async def run(self, op: ops_pb2.ExecOp, streams: Streams, client: int) -> int:
        own = ops_pb2.ExecOp(network=self._op.network, security=op.security, secretenv=op.secretenv)
        own.meta.CopyFrom(self._op.meta)
        own.meta.MergeFrom(op.meta)
        self._checked(own)
        step = await make_step(self._job, own, self._mounts, self._platform)
        return await self._job.core.backend.serve(self._name, step, streams, client)

    async def execute(self, process: str, op: ops_pb2.ExecOp, streams: Streams, client: int) -> int:
        self._checked(op)
        request = Process(
            args=tuple(op.meta.args),
            env=await environment(self._job, op),
            cwd=op.meta.cwd or "/",
            user=op.meta.user,
            streams=streams,
        )
        return await self._job.core.backend.execute(self._name, process, request, client)

    def _checked(self, op: ops_pb2.ExecOp) -> None:
        self._check(op)
        if problem := command_problem(op):
            raise BuildFailed(f"the process{problem}", code=Code.INVALID_ARGUMENT)

    async def signal(self, process: str, signal: str) -> None:
        await self._job.core.backend.signal(self._name, process, signal)

    async def resize(self, process: str, rows: int, columns: int) -> None:
        await self._job.core.backend.resize(self._name, process, rows, columns)
