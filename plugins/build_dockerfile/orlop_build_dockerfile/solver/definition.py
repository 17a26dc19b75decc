"""Decodes a graph of operations (LLB) that a client or a frontend has sent, and checks it.

A vertex is identified by the digest of its operation, and an operation contains the digests of its inputs. So a graph
without missing vertices has no cycle unless SHA-256 is broken. The order is checked nevertheless, because later code relies
on it. The number of bytes, vertices and edges is limited, because each vertex in progress takes some 5 KB of memory.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.pb import ops_pb2

__all__ = ["Graph", "Output", "Vertex", "decode", "file_description", "source_details"]

MAX_BYTES, MAX_VERTICES, MAX_EDGES = 64 << 20, 20_000, 100_000
MAX_ARGUMENTS = 6 << 20  # bytes of arguments and environment with their pointers; Linux's limit (execve(2))
MAX_PATTERNS = 10_000  # limit for a file action, because all patterns are compared with each path
MAX_MODE = 1000  # length of a mode
MAX_MERGED = 1000  # limit for the inputs of a merge; storage drivers support fewer layers
MAX_NAME = 4096
_INVALID = 3  # gRPC's InvalidArgument
_POINTER = 8  # bytes

Output = tuple[str, int]
"""The digest of a vertex, and the number of its output."""


@dataclass(frozen=True, slots=True)
class Vertex:
    digest: str
    op: ops_pb2.Op
    name: str
    inputs: tuple[Output, ...] = ()
    ignore_cache: bool = False
    caps: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Graph:
    """A graph. `head` is the output that the graph makes, None for an empty file system."""

    vertices: Mapping[str, Vertex]
    head: Output | None
    definition: ops_pb2.Definition = field(repr=False)


def _invalid(text: str) -> BuildFailed:
    return BuildFailed(f"failed to load LLB: {text}", code=_INVALID)


def decode(definition: ops_pb2.Definition) -> Graph:
    """Check a definition. Raises `BuildFailed`. Takes about 30 us a vertex."""
    encoded = getattr(definition, "def")
    if not encoded:
        return Graph({}, None, definition)
    if len(encoded) > MAX_VERTICES or sum(map(len, encoded)) > MAX_BYTES:
        raise _invalid(f"the graph is larger than {MAX_VERTICES} vertices or {MAX_BYTES >> 20} MiB")
    ops: dict[str, ops_pb2.Op] = {}
    last = ""
    for raw in encoded:
        last = "sha256:" + hashlib.sha256(raw).hexdigest()
        try:
            ops[last] = ops_pb2.Op.FromString(raw)
        except DecodeError as error:
            raise _invalid(f"vertex {last} is not an operation: {error}") from None
    if sum(len(op.inputs) for op in ops.values()) > MAX_EDGES:
        raise _invalid(f"the graph has more than {MAX_EDGES} edges")
    end = ops[last]
    if end.WhichOneof("op") is not None or len(end.inputs) != 1:
        raise _invalid("the last vertex must have one input and no operation")
    head = (end.inputs[0].digest, end.inputs[0].index)
    reached = _reach(ops, head[0])
    vertices = {digest: _vertex(digest, ops[digest], definition) for digest in reached}
    for vertex in vertices.values():
        for digest, index in vertex.inputs:
            _check_output(vertices[digest], index)
    _check_output(vertices[head[0]], head[1])
    return Graph(vertices, head, definition)


def _reach(ops: Mapping[str, ops_pb2.Op], head: str) -> list[str]:
    """The digests of the vertices below `head`, inputs first. Raises for a missing vertex and for a cycle."""
    done: set[str] = set()
    above: set[str] = set()
    order: list[str] = []
    stack = [(head, False)]
    while stack:
        digest, finished = stack.pop()
        if finished:
            above.discard(digest)
            done.add(digest)
            order.append(digest)
            continue
        if digest in done:
            continue
        if digest in above:
            raise _invalid(f"vertex {digest} is an input of itself")
        if digest not in ops:
            raise _invalid(f"the definition has no vertex {digest[:100]}")
        above.add(digest)
        stack.append((digest, True))
        for entry in ops[digest].inputs:
            if entry.digest in above:
                raise _invalid(f"vertex {entry.digest} is an input of itself")
            if entry.digest not in done:
                stack.append((entry.digest, False))
    return order


def _outputs(op: ops_pb2.Op) -> set[int]:
    if op.HasField("exec"):
        return {mount.output for mount in op.exec.mounts if mount.output >= 0}
    if op.HasField("file"):
        return {action.output for action in op.file.actions if action.output >= 0}
    return {0}


def _check_output(vertex: Vertex, index: int) -> None:
    if index not in _outputs(vertex.op):
        raise _invalid(f"vertex {vertex.digest} has no output {index}")


def _vertex(digest: str, op: ops_pb2.Op, definition: ops_pb2.Definition) -> Vertex:
    kind = op.WhichOneof("op")
    if kind is None:
        raise _invalid(f"vertex {digest} has no operation")
    count = len(op.inputs)
    if kind == "exec":
        _check_exec(digest, op.exec, count)
    elif kind == "file":
        _check_file(digest, op.file, count)
    elif kind == "merge":
        _check_inputs(digest, [each.input for each in op.merge.inputs], count)
        if len(op.merge.inputs) > MAX_MERGED:
            raise _invalid(f"vertex {digest} merges more than {MAX_MERGED} inputs")
    elif kind == "diff":
        _check_inputs(digest, [op.diff.lower.input, op.diff.upper.input], count)
    elif kind == "build":
        _check_inputs(digest, [each.input for each in op.build.inputs.values()], count)
        if any(each.input < 0 for each in op.build.inputs.values()):
            raise _invalid(f"vertex {digest} builds from an empty input")
    elif kind == "source" and count:
        raise _invalid(f"vertex {digest} is a source and has inputs")
    ignore, name, caps = False, "", frozenset[str]()
    if digest in definition.metadata:
        metadata = definition.metadata[digest]
        ignore, name = metadata.ignore_cache, metadata.description.get("llb.customname", "")
        caps = frozenset(metadata.caps)
    inputs = tuple((entry.digest, entry.index) for entry in op.inputs)
    return Vertex(digest, op, (name or _name(op))[:MAX_NAME], inputs, ignore, caps)


def _check_inputs(digest: str, used: Sequence[int], count: int) -> None:
    """Check the inputs of merge, diff and build. -1 means an empty file system."""
    if not used or not all(-1 <= each < count for each in used):
        raise _invalid(f"vertex {digest} has invalid input numbers {list(used)[:10]}: it has {count} inputs")


def _check_exec(digest: str, op: ops_pb2.ExecOp, count: int) -> None:
    if problem := mounts_problem(op, count) or command_problem(op):
        raise _invalid(f"vertex {digest}{problem}")


def mounts_problem(op: ops_pb2.ExecOp, count: int) -> str:
    """What is wrong with the mounts and the network of a command with `count` inputs; "" if they are valid."""
    roots, outputs = 0, set()
    for mount in op.mounts:
        if not -1 <= mount.input < count:
            return f" mounts the invalid input number {mount.input}: it has {count} inputs"
        if "\0" in mount.dest or "\0" in mount.selector:
            return " has a NUL in a path"
        roots += mount.dest == "/"
        if mount.output >= 0:
            if mount.output in outputs or mount.output > len(op.mounts):
                return f" has an invalid output number {mount.output} (used twice, or too large)"
            if mount.mountType != ops_pb2.BIND or mount.readonly:
                return " has an output for a mount whose content is not kept"
            outputs.add(mount.output)
        if mount.mountType == ops_pb2.CACHE and mount.cacheOpt.sharing not in ops_pb2.CacheSharingOpt.values():
            return " has an unknown mode of sharing a cache mount"
    if roots != 1:
        return f" has {roots} root mounts"
    return "" if op.network in ops_pb2.NetMode.values() else " has an unknown network or security mode"


def command_problem(op: ops_pb2.ExecOp) -> str:
    """Like `mounts_problem`, but checks the command itself."""
    if not op.meta.args:
        return " has no command"
    if any("\0" in text for text in (*op.meta.args, *op.meta.env, op.meta.cwd, op.meta.user)):
        return " has a NUL in its command"
    if sum(len(text) + 1 + _POINTER for text in (*op.meta.args, *op.meta.env)) > MAX_ARGUMENTS:
        return ": argument list too long"
    return "" if op.security in ops_pb2.SecurityMode.values() else " has an unknown network or security mode"


def _check_file(digest: str, op: ops_pb2.FileOp, count: int) -> None:
    if not op.actions:
        raise _invalid(f"vertex {digest} has no file action")
    outputs: set[int] = set()
    for number, action in enumerate(op.actions):
        if action.WhichOneof("action") is None:
            raise _invalid(f"vertex {digest} has an unknown file action")
        if any("\0" in path for path in _paths(action)):
            raise _invalid(f"vertex {digest} has a NUL in a path")
        patterns = len(action.copy.include_patterns) + len(action.copy.exclude_patterns)
        if patterns > MAX_PATTERNS or len(action.copy.modeStr) > MAX_MODE:
            raise _invalid(f"vertex {digest} has too many patterns, or too long a mode")
        for index in (action.input, action.secondaryInput):
            if not -1 <= index < count + number:
                raise _invalid(
                    f"vertex {digest} uses the invalid input number {index}: action {number} has {count + number} inputs"
                )
        if action.output >= 0:
            if action.output in outputs or action.output > len(op.actions):
                raise _invalid(f"vertex {digest} has an invalid output number {action.output} (used twice, or too large)")
            outputs.add(action.output)


def _paths(action: ops_pb2.FileAction) -> tuple[str, ...]:
    body = getattr(action, str(action.WhichOneof("action")))
    return tuple(getattr(body, name) for name in ("path", "src", "dest", "oldpath", "newpath") if hasattr(body, name))


def file_description(op: ops_pb2.FileOp) -> str:
    """The description of a file operation, the same as BuildKit's."""
    return ", ".join(map(_action_name, op.actions[:20]))


def _action_name(action: ops_pb2.FileAction) -> str:
    kind = str(action.WhichOneof("action"))
    body = getattr(action, kind)
    if kind == "copy":
        return f"copy {body.src} {body.dest}"
    return f"{kind} {body.newpath if kind == 'symlink' else body.path}"


def _name(op: ops_pb2.Op) -> str:
    """The name of a vertex without a name, the same as BuildKit's."""
    if op.HasField("source"):
        return op.source.identifier
    if op.HasField("exec"):
        return " ".join(op.exec.meta.args)
    if op.HasField("file"):
        return file_description(op.file)
    return str(op.WhichOneof("op"))


def source_details(definition: ops_pb2.Definition, digest: str) -> list[tuple[str, bytes]]:
    """The details of an error of a vertex, from which clients show the lines of the Dockerfile."""
    if digest not in definition.Source.locations:
        return []
    found = []
    for location in definition.Source.locations[digest].locations:
        if not 0 <= location.sourceIndex < len(definition.Source.infos):
            continue
        info = definition.Source.infos[location.sourceIndex]
        text = {"filename": info.filename, "data": base64.b64encode(info.data).decode(), "language": info.language}
        value = {"info": text, "ranges": list(_ranges(location.ranges))}
        found.append(("github.com/moby/buildkit/errdefs.Source+json", json.dumps(value).encode()))
    return found


def _ranges(ranges: Iterable[ops_pb2.Range]) -> Iterable[dict[str, dict[str, int]]]:
    for each in ranges:
        yield {
            "start": {"line": each.start.line, "character": each.start.character},
            "end": {"line": each.end.line, "character": each.end.character},
        }
