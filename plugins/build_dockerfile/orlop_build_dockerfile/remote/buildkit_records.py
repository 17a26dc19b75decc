"""Describes the steps of a job by BuildKit's keys, for exported caches. The records of a step name the records of its
inputs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.ops.source import diff_ids, platform_of
from orlop_build_dockerfile.solver.definition import Graph, Vertex
from orlop_build_dockerfile.solver.values import Image

from .buildkit import CacheRecord, StepKey, image_keys, root_key, step_keys

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

    from .buildkit_steps import BuildKitSteps

__all__ = ["Described"]

_Numbers = Mapping[int, list[int]]


class Described:
    """The records of the steps of some graphs. The records of a step come after the records of its inputs. `numbers` maps
    each output of a step to the numbers of its records. A step has no record if its key is not known, or if one of its
    inputs has no record."""

    def __init__(self, job: SolverJob, steps: BuildKitSteps) -> None:
        self._job, self._steps = job, steps
        self.records: list[CacheRecord] = []
        self.numbers: dict[tuple[str, int], list[int]] = {}
        self._known: dict[str, _Numbers] = {}
        self._plain: dict[str, int] = {}

    async def add(self, graph: Graph) -> None:
        for vertex in graph.vertices.values():  # inputs first
            if vertex.digest not in self._known:
                self._known[vertex.digest] = await self._describe(graph, vertex)

    def _add(self, record: CacheRecord) -> int:
        """Add a record, and return its number. A record without inputs is added only once, because BuildKit ignores all such
        records with the same digest except the last."""
        if not record.inputs and record.digest in self._plain:
            return self._plain[record.digest]
        self.records.append(record)
        if not record.inputs:
            self._plain[record.digest] = len(self.records) - 1
        return len(self.records) - 1

    async def _describe(self, graph: Graph, vertex: Vertex) -> _Numbers:
        platform = (self._job.core.settings.platforms or ("linux/amd64",))[0]
        if vertex.op.HasField("source"):
            if not vertex.op.source.identifier.startswith("docker-image://"):
                return {}
            value = await self._job.output(graph, (vertex.digest, 0))
            known = diff_ids(value.base.config) if isinstance(value, Image) else ()
            digest = vertex.op.source.identifier.partition("@")[2]
            names = image_keys(digest, known, platform_of(vertex) or platform)
            return {0: [self._add(CacheRecord(name)) for name in names]}
        found: dict[int, list[int]] = {}
        for key in await trio.to_thread.run_sync(step_keys, vertex, platform):
            inputs = await self._inputs(graph, vertex, key)
            if inputs is not None:
                for output in _outputs(vertex):
                    found.setdefault(output, []).append(self._add(CacheRecord(root_key(key.digest, output), inputs)))
        self.numbers.update({(vertex.digest, output): numbers for output, numbers in found.items()})
        return found

    async def _inputs(self, graph: Graph, vertex: Vertex, key: StepKey) -> list[list[tuple[int, str]]] | None:
        """The records of each input; None if an input has no record."""
        inputs: list[list[tuple[int, str]]] = []
        for wanted, needs in zip(vertex.inputs, key.inputs, strict=True):
            links = [(number, needs.selector) for number in self._known[wanted[0]].get(wanted[1], ())]
            if content := await self._steps.content_of_sent(graph, wanted, needs):
                links.append((self._add(CacheRecord(content)), ""))
            if not links:
                return None
            inputs.append(links)
        return inputs


def _outputs(vertex: Vertex) -> set[int]:
    if vertex.op.HasField("exec"):
        return {mount.output for mount in vertex.op.exec.mounts if mount.output >= 0}
    return {action.output for action in vertex.op.file.actions if action.output >= 0}
