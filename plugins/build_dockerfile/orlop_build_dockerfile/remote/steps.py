"""Imports and exports of remote caches for a job: finds results before steps are run, and keeps the results that are
exported."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.solver.definition import Graph, Vertex
from orlop_build_dockerfile.solver.values import Made, Value, join_key
from orlop_sdk import OrlopError

from .buildkit_steps import BuildKitSteps
from .chains import snapshot_of
from .imports import Imported, load
from .keys import StepKeys

if TYPE_CHECKING:
    from orlop_build_dockerfile.cache.records import Record
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["RemoteSteps", "result_key"]

_HERE = "remote "  # prefix of the keys of outputs; a result key follows the prefix


def result_key(key: str, output: int) -> str:
    """The digest of a step's output in caches."""
    return "sha256:" + join_key("result", key, str(output))


class RemoteSteps:
    """The steps of a job whose build imports or exports caches. `made`: the results of steps, by the digests of their
    vertices."""

    def __init__(self, job: SolverJob) -> None:
        self._job, self.keys = job, StepKeys(job)
        self.made: dict[str, Mapping[int, Value]] = {}
        self._imported: list[Imported] | None = None
        self._loading = trio.Lock()
        self.foreign = BuildKitSteps(job)
        self._fresh: dict[str, bool] = {}
        self._shown: set[str] = set()

    def _is_fresh(self, graph: Graph, vertex: Vertex) -> bool:
        """Whether the step, or a step that it needs, must be run without the cache. If so, steps above it are not looked up
        by keys that do not depend on its result."""
        waiting = [vertex]
        while waiting:
            last = waiting[-1]
            below = [graph.vertices[digest] for digest, _ in last.inputs]
            missing = [each for each in below if each.digest not in self._fresh]
            if last.digest in self._fresh or not missing:
                waiting.pop()
                self._fresh.setdefault(last.digest, last.ignore_cache or any(self._fresh[each.digest] for each in below))
            else:
                waiting += missing
        return self._fresh[vertex.digest]

    async def find(self, graph: Graph, vertex: Vertex) -> Mapping[int, Value] | None:
        """The result of a step, if a cache has it. In this case the steps that it needs are not run."""
        if not _outputs(vertex) or self._is_fresh(graph, vertex):
            return None
        imported = await self._all_imported()
        if not any(each.found.results for each in imported):
            return None  # no cache has results, so executing step by step is faster
        try:
            key = await self.keys.key(graph, vertex)
        except BuildFailed:
            return None  # the step raises the error when it is run
        if not key:
            return None
        found: dict[int, Value] = {}
        for output in sorted(_outputs(vertex)):
            value = await self._output(graph, vertex, key, output, imported)
            if value is None:
                return None
            found[output] = value
        return found or None

    async def _all_imported(self) -> list[Imported]:
        async with self._loading:
            if self._imported is None:
                self._imported = []
                async with nursery() as tasks:
                    for target in self._job.build.cache_imports:
                        tasks.start_soon(self._load, target)
            return self._imported

    async def _load(self, target: object) -> None:
        assert self._imported is not None
        self._imported += await load(self._job, target)  # type: ignore[arg-type]

    async def _output(self, graph: Graph, vertex: Vertex, key: str, output: int, imported: list[Imported]) -> Value | None:
        records, name = self._job.core.records, result_key(key, output)
        if (record := records.find(_HERE + name)) is not None:
            records.use(record, self._job.lease)
            await self._show(graph, vertex)
            return self._value(record, output)
        for each in imported:
            layers = each.found.results.get(name) or await self.foreign.layers(graph, vertex, output, each.found.graph)
            if not layers:
                continue
            try:
                async with self._job.build.progress.vertex(
                    vertex.digest, vertex.name, [digest for digest, _ in vertex.inputs]
                ) as shown:
                    self._shown.add(vertex.digest)
                    shown.cached = True
                    _, record = await snapshot_of(self._job, each.source, layers, vertex.name, shown)
            except (BuildFailed, OrlopError):
                continue  # the cache has lost these layers, so try another cache, or run the step
            if record is not None:
                await records.link(_HERE + name, record)
                await self._show(graph, vertex)
                return self._value(record, output)
        return None

    def _value(self, record: Record, output: int) -> Made:
        return Made(self._job.core, record, output if output in record.snapshots else 0)

    async def _show(self, graph: Graph, vertex: Vertex) -> None:
        """Show a step, and the steps that it needs, as cached. Every step is shown only once."""
        waiting, order, seen = [vertex], list[Vertex](), set[str]()
        while waiting:
            last = waiting.pop()
            if last.digest in seen or last.digest in self.made or last.op.HasField("source"):
                continue
            seen.add(last.digest)
            if last.digest not in self._shown:
                order.append(last)
            waiting += [graph.vertices[digest] for digest, _ in last.inputs]
        self._shown |= seen
        for each in reversed(order):
            inputs = [digest for digest, _ in each.inputs]
            async with self._job.build.progress.vertex(each.digest, each.name, inputs) as shown:
                shown.cached = True

    def note(self, vertex: Vertex, made: Mapping[int, Value]) -> None:
        """Keep the result of a step, whether it was run or found in a cache."""
        if _outputs(vertex):
            self.made[vertex.digest] = made


def _outputs(vertex: Vertex) -> set[int]:
    """The outputs of a step that caches contain. A source has no such outputs."""
    if vertex.op.HasField("exec"):
        return {mount.output for mount in vertex.op.exec.mounts if mount.output >= 0}
    if vertex.op.HasField("file"):
        return {action.output for action in vertex.op.file.actions if action.output >= 0}
    return {0} if vertex.op.HasField("merge") or vertex.op.HasField("diff") else set()
