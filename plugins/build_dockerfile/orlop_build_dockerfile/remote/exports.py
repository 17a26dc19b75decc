"""Exports a build to caches: the keys of its steps, and the layers of their results."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from msgspec import structs

from orlop_build_dockerfile.contracts import BuildFailed, CacheTarget, LayerBlob, Manifest, Result
from orlop_build_dockerfile.export.archives import send_blob
from orlop_build_dockerfile.export.compose import artifact, reporter
from orlop_build_dockerfile.export.config import timestamp
from orlop_build_dockerfile.export.options import read_flag, read_form
from orlop_build_dockerfile.solver.values import Made, join_key, registry_of

from . import config
from .buildkit import CacheRecord
from .buildkit_records import Described
from .steps import RemoteSteps, result_key

if TYPE_CHECKING:
    from orlop_build_dockerfile.contracts import LayerForm, Ref
    from orlop_build_dockerfile.contracts import Vertex as Shown
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["export_cache", "steps_of"]


class Steps(NamedTuple):
    """The results of steps, by their digests in caches. Also the records with BuildKit's keys; `result` of such a record is
    one of these digests."""

    made: Mapping[str, Made]
    records: Sequence[CacheRecord]


async def steps_of(job: SolverJob, remote: RemoteSteps, refs: Sequence[Ref], *, everything: bool) -> Steps:
    """The results of the graphs' steps, by their digests in caches. With `everything`, all results; otherwise only layers of
    the graphs' results."""
    kept: set[str] = set()
    for ref in refs:
        kept.update(job.core.records.chain(await job.snapshot(ref)))
    found: dict[str, Made] = {}
    described, results = Described(job, remote.foreign), dict[int, str]()
    for ref in refs:
        graph = job.graph(ref)
        await described.add(graph)
        for vertex in graph.vertices.values():
            made = remote.made.get(vertex.digest)
            if made is None and everything and not vertex.op.HasField("source"):
                made = await remote.find(graph, vertex)
            if not made or not (key := await remote.keys.key(graph, vertex)):
                continue
            for output, value in made.items():
                if not isinstance(value, Made) or not (snapshot := await value.snapshot()):
                    continue
                if everything or snapshot in kept:
                    found[result_key(key, output)] = value
                    numbers = described.numbers.get((vertex.digest, output), ())
                    results.update(dict.fromkeys(numbers, result_key(key, output)))
    return Steps(found, [structs.replace(each, result=results.get(n, "")) for n, each in enumerate(described.records)])


async def inline(job: SolverJob, remote: RemoteSteps, ref: Ref, blobs: Sequence[LayerBlob], chain: Sequence[str]) -> bytes:
    """The inline cache in the configuration of an image: the records of the steps that made its layers."""
    layers = {snapshot: list(blobs[: len(blobs) - len(chain) + number + 1]) for number, snapshot in enumerate(chain)}
    results = []
    steps = await steps_of(job, remote, [ref], everything=False)
    for key, value in steps.made.items():
        snapshot = await value.snapshot()
        if snapshot in layers:
            results.append(config.Result(key, timestamp(value.record.created), layers[snapshot]))
    return config.inline(results, [blob.digest for blob in blobs], steps.records)


async def export_cache(job: SolverJob, remote: RemoteSteps, result: Result, target: CacheTarget) -> Mapping[str, str]:
    """Export a cache. Returns the values for the client. With `ignore-error=true`, an error is only shown on the vertex."""
    if target.kind == "inline":
        return {}  # an inline cache is exported in the image
    attributes = target.attributes
    place = {"registry": "registry", "local": "client directory"}.get(target.kind)
    if place is None:
        raise BuildFailed(f"unknown cache exporter: {target.kind[:100]}", code=3)
    mode = attributes.get("mode", "min")
    if mode not in ("min", "max"):
        raise BuildFailed(f"invalid mode {mode[:100]!r} of a cache export", code=3)
    vertex = "sha256:" + join_key("export cache", job.id, target.kind, *sorted(attributes.values()))
    try:
        async with job.build.progress.vertex(vertex, f"exporting cache to {place}", ()) as shown, artifact(job) as name:
            found = await steps_of(job, remote, list(result.refs.values()), everything=mode == "max")
            return await _export(job, shown, name, found, target)
    except Exception:
        if read_flag(attributes, "ignore-error", False):
            return {}
        raise


async def _export(job: SolverJob, shown: Shown, name: str, steps: Steps, target: CacheTarget) -> Mapping[str, str]:
    attributes = target.attributes
    shown.status("preparing build cache for export", name="preparing build cache for export")
    results = await _results(job, shown, name, steps.made, read_form(attributes))
    if not results:
        shown.status("skipping cache export for empty result", name="skipping cache export for empty result", done=True)
        return {}
    data, layers = config.encode(results, steps.records)
    created = {layer.digest: result.created for result in results for layer in result.layers[-1:]}
    manifest, root, blobs = config.cache_manifest(
        data,
        layers,
        created,
        oci=read_flag(attributes, "oci-mediatypes", True),
        as_image=read_flag(attributes, "image-manifest", False),
    )
    for document in (data, manifest):
        await job.core.backend.put(name, document)
    if target.kind == "registry":
        await _push(job, shown, name, Manifest(root, blobs, {blob.digest: blob.digest[7:19] for blob in blobs[1:]}), target)
    else:
        for blob in (*blobs[1:], blobs[0], root):
            kind = "cache manifest" if blob is root else "config" if blob is blobs[0] else "layer"
            what = f"writing {kind} {blob.digest}"
            shown.status(what, name=what)
            await send_blob(job, name, f"local:{attributes.get('dest', '')}", blob.digest, blob.size)
            shown.status(what, name=what, done=True)
    shown.status("preparing build cache for export", name="preparing build cache for export", done=True)
    told = {"mediaType": root.media_type, "digest": root.digest, "size": root.size}
    return {"cache.manifest": json.dumps(told)}


async def _push(job: SolverJob, shown: Shown, name: str, manifest: Manifest, target: CacheTarget) -> None:
    place = target.attributes.get("ref", "")
    if not registry_of(place):
        raise BuildFailed(f"registry cache exporter requires ref: invalid reference {place[:200]!r}", code=3)
    credentials = await job.build.session.credentials(registry_of(place))
    await job.core.backend.push(name, place, [manifest], credentials, reporter(shown))


async def _results(
    job: SolverJob, shown: Shown, name: str, found: Mapping[str, Made], form: LayerForm
) -> list[config.Result]:
    """The layers of each result. The longest chains come first, so that a chain that is a part of another chain is not
    stored again."""
    chains = {key: list(job.core.records.chain(await value.snapshot()))[::-1] for key, value in found.items()}
    known: dict[str, Sequence[LayerBlob]] = {}
    results = []
    for key in sorted(chains, key=lambda each: -len(chains[each])):
        chain = chains[key]
        if chain[-1] not in known:
            blobs = await job.core.backend.layers(name, chain, form, reporter(shown))
            for number in range(len(chain)):
                known.setdefault(chain[number], blobs[: len(blobs) - len(chain) + number + 1])
        results.append(config.Result(key, timestamp(found[key].record.created), known[chain[-1]]))
    return results
