"""Graphs of operations, and their encoding (BuildKit's LLB).

A `Vertex` is an operation. Its message refers to inputs by their index, and `Inputs` assigns these indexes. `definition`
computes digests when it encodes a graph. Earlier this is not possible, because some vertices are completed late: only at the
end is it known which files of the context are used.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence

from orlop_build_dockerfile.pb import ops_pb2 as pb

from .interface import SourceFile, SourceRange
from .platforms import Platform

__all__ = [
    "Inputs",
    "Output",
    "Vertex",
    "definition",
    "file_op",
    "head",
    "imported",
    "imported_outputs",
    "internal",
    "outputs_graph",
    "set_platform",
]


class Vertex:
    """An operation. `op` is complete except for its inputs. Clients show `name`."""

    __slots__ = ("_digest", "description", "ignore_cache", "inputs", "name", "op", "ranges")

    def __init__(
        self,
        op: pb.Op,
        inputs: Sequence[Output] = (),
        *,
        name: str = "",
        description: Mapping[str, str] | None = None,
        ranges: Sequence[SourceRange] = (),
        ignore_cache: bool = False,
    ) -> None:
        self.op, self.inputs, self.name = op, inputs, name
        self.description = dict(description or {})
        self.ranges, self.ignore_cache = ranges, ignore_cache

    def output(self, index: int = 0) -> Output:
        return Output(self, index)


class Output:
    """An output of a vertex: a file system."""

    __slots__ = ("index", "vertex")

    def __init__(self, vertex: Vertex, index: int = 0) -> None:
        self.vertex, self.index = vertex, index


class Inputs:
    """The inputs of an operation that is being made, without duplicates."""

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self._known: dict[tuple[int, int], int] = {}

    def add(self, output: Output | None) -> int:
        """The index of an input; -1 for an empty file system."""
        if output is None:
            return -1
        key = (id(output.vertex), output.index)
        if key not in self._known:
            self._known[key] = len(self.outputs)
            self.outputs.append(output)
        return self._known[key]


def internal(name: str) -> str:
    return f"[internal] {name}"


def file_op() -> pb.Op:
    """An operation on files. It has no platform, because its result is the same for all platforms."""
    op = pb.Op()
    op.constraints.SetInParent()
    return op


def set_platform(op: pb.Op, platform: Platform) -> pb.Op:
    op.platform.CopyFrom(platform.message())
    op.constraints.SetInParent()
    return op


class _Written:
    def __init__(self) -> None:
        self.digests: dict[int, str] = {}
        self.known: set[str] = set()
        self.result = pb.Definition()
        self.locations: dict[str, list[Sequence[SourceRange]]] = {}

    def write(self, vertex: Vertex) -> None:
        op = pb.Op()
        op.CopyFrom(vertex.op)
        sources = [(self.digests[id(source.vertex)], source.index) for source in vertex.inputs]
        once = list(dict.fromkeys(sources))
        if len(once) < len(sources):
            _renumber(op, [once.index(source) for source in sources], len(once))
        for source, index in once:
            op.inputs.append(pb.Input(digest=source, index=index))
        data = op.SerializeToString(deterministic=True)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        self.digests[id(vertex)] = digest
        if vertex.ranges and vertex.ranges not in self.locations.setdefault(digest, []):
            self.locations[digest].append(vertex.ranges)
        if digest not in self.known:
            self.known.add(digest)
            _append(self.result, data)
        metadata = self.result.metadata[digest]
        metadata.ignore_cache |= vertex.ignore_cache
        for key, value in vertex.description.items():
            metadata.description[key] = value
        if vertex.name:  # as in BuildKit, the last of several equal operations determines the name
            metadata.description["llb.customname"] = vertex.name


def _renumber(op: pb.Op, numbers: Sequence[int], count: int) -> None:
    """Renumber inputs after equal inputs were joined. `numbers` contains the new index of each input, `count` is the new
    number of inputs. Numbers beyond the inputs refer to an operation's own actions."""

    def new(index: int) -> int:
        return index if index < 0 else numbers[index] if index < len(numbers) else index - len(numbers) + count

    for mount in op.exec.mounts if op.HasField("exec") else ():
        mount.input = new(mount.input)
    for source in op.merge.inputs if op.HasField("merge") else ():
        source.input = new(source.input)
    for action in op.file.actions if op.HasField("file") else ():
        action.input, action.secondaryInput = new(action.input), new(action.secondaryInput)
        for name in ("copy", "mkfile", "mkdir"):
            owner = getattr(action, name).owner if action.HasField(name) else pb.ChownOpt()
            for user in (owner.user, owner.group):
                if user.HasField("byName"):
                    user.byName.input = new(user.byName.input)


def definition(output: Output | None, source: SourceFile | None = None) -> pb.Definition:
    """The graph that makes `output`. Operations come after their inputs; the last operation refers to the output. The graph
    is empty if there is no output."""
    if output is None:
        return pb.Definition()
    written = _Written()
    for vertex in _in_order(output.vertex):
        written.write(vertex)
    last = pb.Op(inputs=[pb.Input(digest=written.digests[id(output.vertex)], index=output.index)])
    data = last.SerializeToString(deterministic=True)
    _append(written.result, data)
    digest = "sha256:" + hashlib.sha256(data).hexdigest()
    written.result.metadata[digest].SetInParent()
    if source is not None:
        _add_source(written, source)
    return written.result


def outputs_graph(outputs: Iterable[Output]) -> tuple[pb.Definition, list[tuple[str, int]]]:
    """The operations that make several outputs, and the digest and index of each output. Unlike in `definition`, the last
    operation does not refer to an output."""
    written = _Written()
    found = []
    for output in outputs:
        for vertex in _in_order(output.vertex, written.digests):
            written.write(vertex)
        found.append((written.digests[id(output.vertex)], output.index))
    return written.result, found


def head(graph: pb.Definition) -> str:
    """The digest of the operation that makes the result; "" for an empty file system."""
    operations = getattr(graph, "def")
    if not operations:
        return ""
    last = pb.Op()
    last.ParseFromString(operations[-1])
    return last.inputs[0].digest if last.inputs else ""


def _append(result: pb.Definition, data: bytes) -> None:
    getattr(result, "def").append(data)


def _in_order(last: Vertex, known: Iterable[int] = ()) -> Iterable[Vertex]:
    """The vertices, sorted so that each vertex comes after its inputs, without vertices whose `id` is in `known`. The
    function is not recursive, because a graph may be 50,000 deep."""
    seen: set[int] = set(known)
    stack: list[tuple[Vertex, int]] = [] if id(last) in seen else [(last, 0)]
    seen.add(id(last))
    while stack:
        vertex, at = stack.pop()
        if at < len(vertex.inputs):
            stack.append((vertex, at + 1))
            needed = vertex.inputs[at].vertex
            if id(needed) not in seen:
                seen.add(id(needed))
                stack.append((needed, 0))
        else:
            yield vertex


def _add_source(written: _Written, source: SourceFile) -> None:
    info = written.result.Source.infos.add(filename=source.filename, data=source.data, language=source.language)
    if source.definition is not None:
        info.definition.CopyFrom(source.definition)
    for digest, all_ranges in written.locations.items():
        for ranges in all_ranges:
            location = written.result.Source.locations[digest].locations.add(sourceIndex=0)
            for item in ranges:
                added = location.ranges.add()
                added.start.line, added.start.character = item.start.line, item.start.character
                added.end.line, added.end.character = item.end.line, item.end.character


def imported(graph: pb.Definition) -> Output | None:
    """The output of a graph that a client or another frontend has made. Raises `ValueError` if the graph is invalid."""
    operations, last = _vertices(graph)
    if last is None or not last.inputs:
        return None
    return operations[last.inputs[0].digest].output(last.inputs[0].index)


def imported_outputs(graph: pb.Definition, outputs: Iterable[tuple[str, int]]) -> list[Output]:
    """The outputs of a graph that `outputs_graph` has made."""
    operations, _ = _vertices(graph)
    return [operations[digest].output(index) for digest, index in outputs]


def _vertices(graph: pb.Definition) -> tuple[dict[str, Vertex], pb.Op | None]:
    """The operations of a graph by digest, and the last operation."""
    operations: dict[str, Vertex] = {}
    last: pb.Op | None = None
    for data in getattr(graph, "def"):
        op = pb.Op()
        op.ParseFromString(data)
        digest = "sha256:" + hashlib.sha256(data).hexdigest()
        try:
            inputs = [operations[source.digest].output(source.index) for source in op.inputs]
        except KeyError as error:
            raise ValueError(f"an input of a graph is missing: {error}") from None
        last = pb.Op()
        last.CopyFrom(op)
        del op.inputs[:]
        metadata = graph.metadata[digest] if digest in graph.metadata else pb.OpMetadata()
        description = dict(metadata.description)
        name = description.pop("llb.customname", "")
        operations[digest] = Vertex(op, inputs, name=name, description=description, ignore_cache=metadata.ignore_cache)
    return operations, last
