"""Layers of caches and of OCI layouts as snapshots.

Each layer becomes a record, so a layer is fetched only once, even if it belongs to several steps.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.contracts import LayerBlob
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.export.compose import artifact, reporter
from orlop_build_dockerfile.ops.source import diff_ids
from orlop_build_dockerfile.solver.values import join_key

from .config import CachedLayer
from .imports import Source

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["snapshot_of"]


async def snapshot_of(
    job: SolverJob, source: Source, layers: Sequence[CachedLayer], description: str, shown: Shown
) -> tuple[str, Record | None]:
    """The snapshot of the highest of these layers and its record, after missing layers were fetched. The record is None if
    stored images have all layers."""
    chain = [layer.diff_id for layer in layers]
    count, parent = await _base(job, chain)
    records, record = job.core.records, None
    keys = [_key(chain[: number + 1], chain[:count]) for number in range(len(chain))]
    while count < len(chain) and (known := records.find(keys[count])) is not None:
        records.use(known, job.lease)
        record, parent, count = known, known.snapshots[0], count + 1
    if count == len(chain):
        return parent, record
    async with artifact(job) as name:
        await source.fetch(name, [layer.blob for layer in layers[count:]], reporter(shown))
        for number in range(count, len(chain)):
            below, layer = parent, layers[number]

            async def make(lease: Lease, layer: CachedLayer = layer, below: str = below, key: str = keys[number]) -> Record:
                blob = LayerBlob(layer.blob.digest, layer.blob.size, "", layer.diff_id)
                snapshot = await job.core.backend.unpack_layer(name, below, blob)
                return await records.add(key, {0: (snapshot, below)}, lease, description=description)

            record = await job.core.shared_step(job, keys[number], make)
            parent = record.snapshots[0]
    return parent, record


def _key(chain: Sequence[str], base: Sequence[str]) -> str:
    """The key of a layer, which covers all layers below it, including the layers of an image."""
    return join_key("layers", str(len(base)), hashlib.sha256(" ".join(chain).encode()).digest())


async def _base(job: SolverJob, chain: Sequence[str]) -> tuple[int, str]:
    """The number of the lowest layers that are in a stored image, and the snapshot of the highest of these layers. An image
    of the build is pulled if necessary."""
    for image in job.images:
        below = diff_ids(image.base.config)
        if below and tuple(chain[: len(below)]) == below:
            found = await image.fetched()
            return len(below), found.snapshot
    prefix = await job.core.backend.prefix(chain)
    if prefix.count:
        job.hold(prefix.name)
        if job.core.records.of_snapshot(prefix.snapshot) is None:
            job.core.records.base_layers[prefix.snapshot] = tuple(chain[: prefix.count])
    return prefix.count, prefix.snapshot
