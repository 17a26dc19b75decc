"""The files of failed commands: buildx runs a shell on them (`debug --on=error`)."""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.failures import FailedCommand
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.values import Kept, Value
from orlop_sdk import OrlopError

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

    from .stepmounts import StepMounts

__all__ = ["keep_failed"]

log = logging.getLogger("orlop.build")

_MOST = 16  # failed commands of a build whose files are kept
_REMOVAL = 30.0  # seconds


async def keep_failed(job: SolverJob, op: ops_pb2.Op, inputs: list[Value], mounts: StepMounts) -> FailedCommand | None:
    """Keep the files that a failed command has written, until the end of the build. Returns None if they cannot be kept."""
    from orlop_build_dockerfile.solver.job import ValueRef

    async def remove(key: str) -> None:
        with trio.move_on_after(_REMOVAL, shield=True), suppress(OrlopError):
            await job.core.backend.remove(key)

    if job.kept_failed >= _MOST:
        return None
    job.kept_failed += 1
    written = {}
    try:
        for dest, active in mounts.written.items():
            written[dest] = await active.commit()
            job.cleanups.push_async_callback(remove, written[dest])
    except OrlopError as error:
        log.warning("cannot keep the files of a failed command: %s", error)
        return None
    before = [ValueRef(inputs[mount.input]) if mount.input >= 0 else None for mount in op.exec.mounts]
    after = [
        ValueRef(Kept(job.core, written[mount.dest])) if mount.dest in written else ref
        for mount, ref in zip(op.exec.mounts, before, strict=True)
    ]
    return FailedCommand(job, op, before, after)
