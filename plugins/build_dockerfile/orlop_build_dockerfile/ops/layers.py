"""Operations on layers: merge applies the layers of several values in order, and diff makes a layer from the difference of
two values.

A layer of a value is a snapshot of the build cache, on its parent. The image below a value is treated as one layer. Storage
drivers cannot change the parent of a layer, so the files of a layer are copied. A layer that diff has made has no parent;
its record lists the paths that the layer deletes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, NamedTuple

from orlop_build_dockerfile.cache.records import Lease, Record
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Empty, Value, join_key

from .changes import Changes, apply_changes, find_changes
from .produce import produce

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.core import Core
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["diff", "merge"]

_MERGE, _DIFF = "merge 1", "diff 1"
_DELETED = "deleted:"  # key prefix: "deleted:" and a snapshot; the value is a JSON list of the paths that its layer deletes


class _Layer(NamedTuple):
    snapshot: str
    parent: str
    deleted: Sequence[str]


def _input(job: SolverJob, inputs: Sequence[Value], index: int) -> Value:
    return inputs[index] if index >= 0 else Empty(job.core)


async def merge(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    values = [_input(job, inputs, each.input) for each in vertex.op.merge.inputs]
    if len(values) == 1:
        return {0: values[0]}

    async def exact() -> str:
        return join_key(_MERGE, *[await value.key() for value in values])

    return await produce(job, vertex, None, exact, lambda _, key, lease: _merge(job.core, values, key, lease))


async def _merge(core: Core, values: Sequence[Value], key: str, lease: Lease) -> Record:
    below = await values[0].snapshot()
    layers = [layer for value in values[1:] for layer in await _layers(core, value)]
    made: list[tuple[str, str]] = []
    async with core.running:
        for layer in layers or [_Layer("", "", ())]:  # a record needs a new snapshot, even if there are no layers
            async with core.active(below) as active:
                await _apply(core, layer, active.key)
                snapshot = await active.commit()
            made.append((snapshot, below))
            below = snapshot
    outputs = {number - len(made) + 1: each for number, each in enumerate(made)}  # the last snapshot is output 0
    return await core.records.add(key, outputs, lease, description="merge")


async def _layers(core: Core, value: Value) -> list[_Layer]:
    """The layers of a value, lowest first."""
    found = []
    for snapshot in core.records.chain(await value.snapshot()):
        record = core.records.of_snapshot(snapshot)
        deleted = json.loads(record.extra.get(_DELETED + snapshot, "[]")) if record is not None else []
        found.append(_Layer(snapshot, core.records.parent(snapshot) or "", deleted))
    return found[::-1]


async def _apply(core: Core, layer: _Layer, active: str) -> None:
    async with AsyncExitStack() as stack:
        upper = await stack.enter_async_context(core.views.read(layer.snapshot))
        lower = await stack.enter_async_context(core.views.read(layer.parent)) if layer.parent else -1
        target = await stack.enter_async_context(core.views.write(active))

        def work() -> None:
            changes = find_changes(lower, upper) if lower >= 0 else None
            apply_changes(upper, target, changes, layer.deleted)

        await core.file_work(work)


async def diff(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    op = vertex.op.diff
    lower, upper = _input(job, inputs, op.lower.input), _input(job, inputs, op.upper.input)
    if isinstance(lower, Empty):
        return {0: upper}

    async def exact() -> str:
        return join_key(_DIFF, await lower.key(), await upper.key())

    return await produce(job, vertex, None, exact, lambda _, key, lease: _diff(job.core, lower, upper, key, lease))


async def _diff(core: Core, lower: Value, upper: Value, key: str, lease: Lease) -> Record:
    async with core.running, core.active("") as active:
        async with lower.view() as before, upper.view() as after, core.views.write(active.key) as target:

            def work() -> Changes:
                changes = find_changes(before, after)
                apply_changes(after, target, Changes(changes.changed, [], changes.above))
                return changes

            changes = await core.file_work(work)
        snapshot = await active.commit()
    extra = {_DELETED + snapshot: json.dumps(changes.deleted)} if changes.deleted else {}
    return await core.records.add(key, {0: (snapshot, "")}, lease, description="diff", extra=extra)
