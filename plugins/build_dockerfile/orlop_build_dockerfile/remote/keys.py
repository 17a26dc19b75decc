"""Keys of steps that are the same on every daemon, and known before a step has been run.

The key of a step is computed from its operation and the keys of its inputs. The keys of sources are: for files of the
client, their content; for images, their digests; for other sources, the resolved version. `cache.records` also has keys by
content, which match more often but need stored results.
"""

from __future__ import annotations

import posixpath
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import msgspec
import trio

from orlop_build_dockerfile.cache.content import Selection
from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.ops.execute import exact_parts as parts_of_exec
from orlop_build_dockerfile.ops.files import exact_parts as parts_of_file
from orlop_build_dockerfile.solver.definition import Graph, Vertex
from orlop_build_dockerfile.solver.values import Image, Value, join_key

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["StepKeys"]

_VERSION = "step 1"
_SESSION = "http://buildkit-session/"


class Promised:
    """A value for the output of a step that was not run."""

    by_content = False

    def __init__(self, key: str) -> None:
        self._key = key

    async def key(self) -> str:
        await trio.lowlevel.checkpoint()
        return self._key

    async def snapshot(self) -> str:
        raise BuildFailed("a step was not run")

    async def digests(self, wanted: Selection) -> list[tuple[str, str]]:
        await trio.lowlevel.checkpoint()
        return [(posixpath.basename(wanted.path), join_key(self._key, msgspec.json.encode(wanted)))]

    def view(self) -> AbstractAsyncContextManager[int]:
        raise BuildFailed("a step was not run")


class Contained:
    """A value whose key is computed from its content, so that an unpacked context has the same key as a context that was
    sent as a directory."""

    by_content = True

    def __init__(self, value: Value) -> None:
        self._value = value

    async def key(self) -> str:
        (found,) = await self._value.digests(Selection())
        return join_key("content", found[1])

    async def snapshot(self) -> str:
        return await self._value.snapshot()

    async def digests(self, wanted: Selection) -> list[tuple[str, str]]:
        return await self._value.digests(wanted)

    def view(self) -> AbstractAsyncContextManager[int]:
        return self._value.view()


class StepKeys:
    """The keys of the steps of a job. A key is computed only once."""

    def __init__(self, job: SolverJob) -> None:
        self._job = job
        self._keys: dict[str, str] = {}
        self._lock = trio.Lock()

    async def key(self, graph: Graph, vertex: Vertex) -> str:
        """The key of a step; "" if it has none."""
        found = self._keys.get(vertex.digest)
        if found is None:
            async with self._lock:
                await self._all_below(graph, vertex)
            found = self._keys[vertex.digest]
        return found

    async def _all_below(self, graph: Graph, vertex: Vertex) -> None:
        """Compute the keys of all inputs, direct and indirect. The function is not recursive, because a graph may have a
        depth of 50,000."""
        waiting = [vertex]
        while waiting:
            last = waiting[-1]
            if last.digest in self._keys:
                waiting.pop()
                continue
            missing = [
                graph.vertices[digest]
                for digest, _ in last.inputs
                if digest not in self._keys
                and not graph.vertices[digest].op.HasField("source")
                and not self._is_upload(graph, graph.vertices[digest])
            ]
            if missing:
                waiting += missing
                continue
            self._keys[last.digest] = await self._one(graph, last)
            waiting.pop()

    def _is_upload(self, graph: Graph, vertex: Vertex) -> bool:
        """Whether this is an archive from the client's session, or the unpacked content of such an archive (a frontend
        unpacks it with one operation)."""
        if vertex.op.HasField("file") and len(vertex.inputs) == 1:
            vertex = graph.vertices[vertex.inputs[0][0]]
        return vertex.op.HasField("source") and vertex.op.source.identifier.startswith(_SESSION)

    async def _one(self, graph: Graph, vertex: Vertex) -> str:
        inputs: list[Value] = []
        for digest, index in vertex.inputs:
            below = graph.vertices[digest]
            if self._is_upload(graph, below):
                inputs.append(Contained(await self._job.output(graph, (digest, index))))
                continue
            if not below.op.HasField("source"):
                if not self._keys[digest]:
                    return ""
                inputs.append(Promised(join_key(self._keys[digest], str(index))))
                continue
            value = await self._job.output(graph, (digest, index))
            material = self._job.materials.get(digest)
            if isinstance(value, Image):
                inputs.append(Promised(await value.key()))
            elif value.by_content:
                inputs.append(value)
            elif material is not None:
                inputs.append(Promised(join_key("source", below.op.source.SerializeToString(deterministic=True), *material)))
            else:
                return ""
        kind = vertex.op.WhichOneof("op")
        if kind == "exec":
            return join_key(_VERSION, *await parts_of_exec(vertex.op, inputs, vertex.digest[7:32]))
        if kind == "file":
            return join_key(_VERSION, *await parts_of_file(vertex.op.file, inputs, vertex.digest[7:32]))
        if kind in ("merge", "diff"):
            operation = getattr(vertex.op, kind).SerializeToString(deterministic=True)
            return join_key(_VERSION, kind, operation, *[await value.key() for value in inputs])
        return ""
