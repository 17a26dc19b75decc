"""The operation build: executes a graph that another operation has made."""

from __future__ import annotations

from collections.abc import Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING

import trio
from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.solver.definition import Vertex
from orlop_build_dockerfile.solver.values import Value

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["build"]

# BuildKit's constants (solver/pb/const.go)
_LLB_BUILDER = -1
_INPUT = _FILE = "buildkit.llb.definition"
_FILE_NAME = "llbbuild.filename"
_DEEPEST = 16  # limit for the levels of graphs that steps of other graphs have made
_depth: ContextVar[int] = ContextVar("_depth", default=0)


async def build(job: SolverJob, vertex: Vertex, inputs: list[Value]) -> Mapping[int, Value]:
    op = vertex.op.build
    if op.builder != _LLB_BUILDER:
        raise BuildFailed("only LLB builder is currently allowed", code=3)
    if _INPUT not in op.inputs:
        raise BuildFailed(f"no {_INPUT} input found", code=3)
    depth = _depth.get() + 1
    if depth > _DEEPEST:
        raise BuildFailed(f"a graph cannot make graphs that are nested deeper than {_DEEPEST}")
    name = op.attrs.get(_FILE_NAME, _FILE)
    data = await job.read_value(inputs[op.inputs[_INPUT].input], name)
    try:
        definition = await trio.to_thread.run_sync(ops_pb2.Definition.FromString, data)
    except DecodeError as error:
        raise BuildFailed(f"failed to parse the graph in {name}: {error}", code=3) from None
    token = _depth.set(depth)  # inherited by the tasks that execute the graph
    try:
        return {0: await job.value(await trio.to_thread.run_sync(job.define, definition))}
    finally:
        _depth.reset(token)
