"""The layers of steps in provenance with `mode=max`: `layers` of BuildKit's metadata (solver/llbsolver/provenance.go).

For each output of a step ("step3:0"), a list of chains of descriptors, lowest layer first. As in BuildKit, the list only
contains layers that have a blob: the layers of the image itself, and the layers of the images that the build has used.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from orlop_build_dockerfile.contracts import Blob
from orlop_build_dockerfile.ops.source import diff_ids
from orlop_build_dockerfile.solver.definition import Output
from orlop_build_dockerfile.solver.values import Image, Made

from .provenance import METADATA
from .statements import Predicate

if TYPE_CHECKING:
    from orlop_build_dockerfile.contracts import Ref
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["Named", "add_layers", "layers_of_steps"]


class Named(msgspec.Struct, frozen=True):
    """The layers of an image, lowest first. `parts` are the descriptors in its manifest, `diff_ids` the digests without
    compression. `snapshots` are the builder's snapshots, the first of which may contain all layers of a base image."""

    parts: Sequence[Blob]
    diff_ids: Sequence[str]
    snapshots: Sequence[str]

    def of_snapshot(self, snapshot: str) -> Sequence[Blob]:
        if snapshot not in self.snapshots:
            return ()
        above = len(self.snapshots) - self.snapshots.index(snapshot) - 1
        return self.parts[: len(self.parts) - above]

    def of_base(self, diff_ids: Sequence[str]) -> Sequence[Blob]:
        found = list(diff_ids) == list(self.diff_ids[: len(diff_ids)])
        return self.parts[: len(diff_ids)] if found else ()


async def layers_of_steps(
    job: SolverJob, ref: Ref, image: Named, of_other: Callable[[str], Awaitable[Sequence[Blob]]]
) -> dict[Output, Sequence[Blob]]:
    """The layers of the steps of a result's graph. `of_other` returns the layers of the snapshot of another image."""
    found: dict[Output, Sequence[Blob]] = {}
    for vertex in job.graph(ref).vertices.values():
        for index, value in job.made(vertex).items():
            if isinstance(value, Made):
                layers = image.of_snapshot(await value.snapshot())
            elif isinstance(value, Image):
                layers = image.of_base(diff_ids(value.base.config))
                if not layers and value.is_fetched:
                    layers = await of_other(await value.snapshot())
            else:
                continue
            if layers:
                found[vertex.digest, index] = layers
    return found


async def add_layers(predicate: Predicate, layers: Mapping[Output, Sequence[Blob]]) -> Predicate:
    """The provenance with these layers."""
    content = await trio.to_thread.run_sync(_with_layers, predicate.content, layers)
    return msgspec.structs.replace(predicate, content=content)


def _with_layers(content: bytes, layers: Mapping[Output, Sequence[Blob]]) -> bytes:
    """Call this function on a thread, because a graph may be large."""
    document = json.loads(content.decode("utf-8", "surrogateescape"))
    steps = document["buildConfig"]["digestMapping"]
    named = {
        f"{steps[digest]}:{index}": [[_descriptor(blob) for blob in chain]]
        for (digest, index), chain in layers.items()
        if digest in steps
    }
    if named:
        document["metadata"][METADATA]["layers"] = dict(sorted(named.items()))
    return json.dumps(document, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _descriptor(blob: Blob) -> dict[str, Any]:
    return {"mediaType": blob.media_type, "digest": blob.digest, "size": blob.size}
