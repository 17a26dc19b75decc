"""Finds the steps of a job in caches that BuildKit has made."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.ops.source import diff_ids, platform_of
from orlop_build_dockerfile.solver.definition import Graph, Output, Vertex
from orlop_build_dockerfile.solver.values import Image

from .buildkit import CacheGraph, Needs, Selector, StepKey, content_key, image_keys, root_key, step_keys
from .contents import content_digest

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

    from .config import CachedLayer

__all__ = ["BuildKitSteps"]

_Outputs = Mapping[int, frozenset[int]]


class BuildKitSteps:
    """Finds the records of a cache that match the vertices of a job. The matches of a vertex are computed only once. Records
    with equal keys and inputs are interchangeable."""

    def __init__(self, job: SolverJob) -> None:
        self._job = job
        self._known: dict[tuple[int, str], dict[int, frozenset[int]]] = {}
        self._contents: dict[tuple[str, tuple[Selector, ...]], str | None] = {}

    async def layers(self, graph: Graph, vertex: Vertex, output: int, cache: CacheGraph) -> Sequence[CachedLayer]:
        """The layers of a step's output; empty if the cache lacks them."""
        if not cache.records:
            return ()
        # Without a lock, because this call may run a step to get its content, and the step calls this method again
        await self._all_below(graph, vertex, cache)
        for number in sorted(self._known[id(cache), vertex.digest].get(output, ())):
            found: Sequence[CachedLayer] = cache.records[number].result or ()
            if found:
                return found
        return ()

    async def _all_below(self, graph: Graph, vertex: Vertex, cache: CacheGraph) -> None:
        """Find the matches of a vertex and of all vertices that it needs. The function is not recursive, because a graph may
        have a depth of 20,000."""
        waiting = [vertex]
        while waiting:
            last = waiting[-1]
            below = [graph.vertices[digest] for digest, _ in last.inputs]
            missing = [each for each in below if (id(cache), each.digest) not in self._known]
            if missing:
                waiting += missing
                continue
            waiting.pop()
            if (id(cache), last.digest) not in self._known:
                self._known[id(cache), last.digest] = await self._matches(graph, last, cache)

    async def _matches(self, graph: Graph, vertex: Vertex, cache: CacheGraph) -> dict[int, frozenset[int]]:
        platform = (self._job.core.settings.platforms or ("linux/amd64",))[0]
        if vertex.op.HasField("source"):
            if not vertex.op.source.identifier.startswith("docker-image://"):
                return {}  # such a source has a key only for its content
            value = await self._job.output(graph, (vertex.digest, 0))
            if not isinstance(value, Image):
                return {}
            # For a stored image, this may be the digest of its configuration
            digest = vertex.op.source.identifier.partition("@")[2]
            names = image_keys(digest, diff_ids(value.base.config), platform_of(vertex) or platform)
            return {0: frozenset(number for name in names for number in cache.find(name))}
        found: dict[int, frozenset[int]] = {}
        for key in await trio.to_thread.run_sync(step_keys, vertex, platform):
            for output, numbers in (await self._of_key(graph, vertex, key, cache)).items():
                found[output] = found.get(output, frozenset()) | numbers
        return found

    async def _of_key(self, graph: Graph, vertex: Vertex, key: StepKey, cache: CacheGraph) -> dict[int, frozenset[int]]:
        outputs = {each: found for each in _outputs(vertex) if cache.find(found := root_key(key.digest, each))}
        if not outputs:
            return {}
        inputs = [
            await self._input(graph, each, needs, cache) for each, needs in zip(vertex.inputs, key.inputs, strict=True)
        ]
        for number in (None, *range(len(inputs))):
            if number is not None:
                if not self._may_match(cache, outputs.values(), inputs, number):
                    continue
                # If the step must be run, this input must be computed anyway, so it is computed now, to look up its content
                inputs[number] |= await self._by_content(graph, vertex.inputs[number], key.inputs[number], cache)
            matches = {each: frozenset(cache.matches(found, inputs)) for each, found in outputs.items()}
            if any(matches.values()):
                return matches
        return {}

    def _may_match(self, cache: CacheGraph, keys: Iterable[str], inputs: Sequence[Mapping[int, str]], number: int) -> bool:
        """Whether a record could match if this input had a certain content."""
        contents = {link: "" for key in keys for each in cache.find(key) for link in cache.contents(each, number)}
        return any(cache.matches(key, [*inputs[:number], contents, *inputs[number + 1 :]]) for key in keys)

    async def _input(self, graph: Graph, wanted: Output, needs: Needs, cache: CacheGraph) -> dict[int, str]:
        """The records of an input that are known before a step is run, each with its selector."""
        found = dict.fromkeys(self._known[id(cache), wanted[0]].get(wanted[1], ()), needs.selector)
        if key := await self.content_of_sent(graph, wanted, needs):
            found.update(dict.fromkeys(cache.find(key), ""))
        return found

    async def content_of_sent(self, graph: Graph, wanted: Output, needs: Needs) -> str | None:
        """The key of the content of an input that a client has sent; None for other inputs."""
        is_sent = graph.vertices[wanted[0]].op.source.identifier.startswith("local://")
        return await self._content(graph, wanted, needs.content) if is_sent and needs.content is not None else None

    async def _by_content(self, graph: Graph, wanted: Output, needs: Needs, cache: CacheGraph) -> dict[int, str]:
        key = await self._content(graph, wanted, needs.content) if needs.content is not None else None
        return dict.fromkeys(cache.find(key), "") if key is not None else {}

    async def _content(self, graph: Graph, wanted: Output, parts: tuple[Selector, ...]) -> str | None:
        if (wanted[0], parts) not in self._contents:
            self._contents[wanted[0], parts] = await self._compute(graph, wanted, parts)
        return self._contents[wanted[0], parts]

    async def _compute(self, graph: Graph, wanted: Output, parts: tuple[Selector, ...]) -> str | None:
        value = await self._job.output(graph, wanted)
        is_sent = graph.vertices[wanted[0]].op.source.identifier.startswith("local://")
        async with value.view() as root:

            def digests() -> list[str | None]:
                return [content_digest(root, part, sent=is_sent) for part in parts]

            found = await self._job.core.file_work(digests, self._job.core.hashing)
        known = [digest for digest in found if digest is not None]
        return content_key(known) if len(known) == len(parts) else None


def _outputs(vertex: Vertex) -> set[int]:
    if vertex.op.HasField("exec"):
        return {mount.output for mount in vertex.op.exec.mounts if mount.output >= 0}
    return {action.output for action in vertex.op.file.actions if action.output >= 0}
