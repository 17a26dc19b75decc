"""The common part of commands and changes of files. It finds the result in the cache, or makes the result once for all
waiting builds."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.solver.broadcast import Broadcast
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Made, Value

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["produce"]


async def produce(
    job: SolverJob,
    vertex: Vertex,
    quick: str | None,
    exact: Callable[[], Awaitable[str]],
    make: Callable[[Shown, str, Lease], Awaitable[Record]],
) -> Mapping[int, Value]:
    """The outputs of a step. `quick` is a key that is known without reading files (None if there is none). `exact` computes
    the key by content. `make` runs the step and records its result under the key in its argument."""
    records = job.core.records
    async with job.build.progress.vertex(vertex.digest, vertex.name, [digest for digest, _ in vertex.inputs]) as shown:
        if not vertex.ignore_cache and quick is not None and (record := records.find(quick)) is not None:
            shown.cached = True
            records.use(record, job.lease)
            return _outputs(job, record)
        key = await exact()
        if not vertex.ignore_cache and (record := records.find(key)) is not None:
            shown.cached = True
            records.use(record, job.lease)
            if quick is not None:
                await records.link(quick, record)
            return _outputs(job, record)
        # A step without the cache must not use the result of an equal step of another build either
        name = f"{key}:{job.id}" if vertex.ignore_cache else key
        async with Broadcast.joined(job.core.broadcasts, name, shown) as all_shown:
            record = await job.core.shared_step(job, name, lambda lease: make(all_shown, key, lease))
        if quick is not None:
            await records.link(quick, record)
        return _outputs(job, record)


def _outputs(job: SolverJob, record: Record) -> Mapping[int, Value]:
    return {output: Made(job.core, record, output) for output in record.snapshots}
