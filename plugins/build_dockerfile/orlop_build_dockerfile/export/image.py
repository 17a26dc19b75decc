"""The exporter "moby": an image in the daemon's store, made of the snapshots themselves."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Export, Layer, Ref, Result
from orlop_build_dockerfile.contracts import Vertex as Shown
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.ops.source import diff_ids
from orlop_build_dockerfile.solver.values import join_key

from .config import BuiltLayer, complete

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["export_image"]

_PACKING = 2  # layers at once


async def export_image(job: SolverJob, result: Result, export: Export) -> Mapping[str, str]:
    if len(result.refs) != 1:
        raise BuildFailed("exporting an image of several platforms is not supported by this exporter", code=12)
    ((platform, ref),) = result.refs.items()
    snapshot = await job.snapshot(ref)
    config = result.metadata.get("containerimage.config" + (f"/{platform}" if platform else ""), b"")
    names = [_normalized(name.strip()) for name in export.attributes.get("name", "").split(",") if name.strip()]
    digest = "sha256:" + join_key("exporter", job.id, str(export.number), export.kind)
    async with job.build.progress.vertex(digest, "exporting to image", ()) as shown:
        chain = list(job.core.records.chain(snapshot))[::-1]
        layers = await _layers(job, shown, ref, chain)
        epoch = _epoch(export)
        host = (job.core.settings.platforms or ("linux/amd64",))[0]
        document = complete(config, layers, platform=platform or host, epoch=epoch, now=time.time())
        image = await _create(job, shown, document, chain, names)
    answer = {"containerimage.config.digest": image, "containerimage.digest": image}
    if names:
        answer["image.name"] = ",".join(names)
    return answer


def _normalized(name: str) -> str:
    """As clients are told it: with its registry, and without the tag that is implied."""
    try:
        return str(parse_reference(name))
    except ValueError as error:
        raise BuildFailed(f"failed to parse target name {name!r}: {error}", code=3) from None


def _epoch(export: Export) -> int | None:
    text = export.attributes.get("source-date-epoch", "")
    return int(text) if text.isdecimal() and len(text) < 12 else None


async def _layers(job: SolverJob, shown: Shown, ref: Ref, chain: Sequence[str]) -> list[BuiltLayer]:
    """The layers of a chain of snapshots, lowest first, of which the first may be that of an image."""
    shown.status("exporting layers", name="exporting layers")
    records = job.core.records
    own = [snapshot for snapshot in chain if records.of_snapshot(snapshot) is not None]
    packed: dict[str, Layer] = {}
    limiter = trio.CapacityLimiter(_PACKING)

    async def pack(snapshot: str) -> None:
        async with limiter:
            packed[snapshot] = await job.core.backend.pack(snapshot)

    async with nursery() as packing:
        for snapshot in own:
            packing.start_soon(pack, snapshot)
    base = [] if len(own) == len(chain) else await _base_layers(job, chain[0])
    layers = [BuiltLayer(diff_id) for diff_id in base]
    for snapshot in own:
        record = records.of_snapshot(snapshot)
        assert record is not None
        layers.append(BuiltLayer(packed[snapshot].diff_id, record.created, record.description))
    shown.status("exporting layers", name="exporting layers", done=True)
    return layers


async def _base_layers(job: SolverJob, snapshot: str) -> Sequence[str]:
    """The diffIDs of the image whose top layer is `snapshot`."""
    known = job.core.records.base_layers.get(snapshot)
    if known is not None:
        return known
    base = await job.base_of(snapshot)
    if base is None:
        raise BuildFailed(f"cannot export layers: no image of this build has the snapshot {snapshot}")
    return diff_ids(base.config)


async def _create(job: SolverJob, shown: Shown, document: bytes, chain: Sequence[str], names: Sequence[str]) -> str:
    image: str = await job.core.backend.create_image(document, chain, names)
    shown.status(f"writing image {image}", name=f"writing image {image}", done=True)
    for name in names:
        shown.status(f"naming to {name}", name=f"naming to {name}", done=True)
    return image
