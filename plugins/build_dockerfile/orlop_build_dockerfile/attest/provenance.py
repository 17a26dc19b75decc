"""SLSA provenance 0.2 of a result, in BuildKit's form (solver/llbsolver/provenance).

`mode=min` contains the sources; `mode=max` also contains the graph, the Dockerfile and all options. The values of options
are not hidden, so everybody who can read the image can read them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import trio

from orlop_build_dockerfile.export.config import timestamp
from orlop_build_dockerfile.pb import ops_pb2

from .gojson import go_json
from .statements import SLSA, Predicate, purl

if TYPE_CHECKING:
    from orlop_build_dockerfile.export.compose import Target
    from orlop_build_dockerfile.solver.definition import Graph
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["METADATA", "provenance"]

_BUILD_TYPE = "https://mobyproject.org/buildkit@v1"
METADATA, _HERMETIC = f"{_BUILD_TYPE}#metadata", f"{_BUILD_TYPE}#hermetic"
_OF_HOST = ("cgroup-parent", "image-resolve-mode", "platform", "cache-imports")
_CREDENTIALS = re.compile(r"(?<=://)([^/@\s]*)@")


async def provenance(job: SolverJob, target: Target, attributes: Mapping[str, str]) -> Predicate:
    document = await trio.to_thread.run_sync(_document, job, target, attributes)
    return Predicate(SLSA, document, names_layers=_is_whole(attributes))


def _is_whole(attributes: Mapping[str, str]) -> bool:
    return attributes.get("mode", "max") != "min"


def _document(job: SolverJob, target: Target, attributes: Mapping[str, str]) -> bytes:
    """Call this function on a thread, because a graph may be large."""
    graph = job.graph(target.ref)
    frontend, options = job.request
    arguments = _arguments(options)
    sources = _Sources(job, graph, target.platform)
    whole = _is_whole(attributes)
    place = _context(arguments, sources)
    vcs = {key[4:]: _redacted(arguments.pop(key)) for key in sorted(arguments) if key.startswith("vcs:")}
    complete = bool(frontend)
    if not whole:
        complete = complete and not any(map(_is_given, arguments))
        arguments = {key: value for key, value in arguments.items() if not _is_given(key)}
    parameters: dict[str, Any] = {"frontend": frontend, "args": arguments}
    if whole:
        parameters.update(secrets=sources.secrets, ssh=sources.ssh)
    parameters["locals"] = [{"name": name} for name in sorted(sources.locals)]
    found: dict[str, Any] = {
        "builder": {"id": attributes.get("builder-id", "")},
        "buildType": _BUILD_TYPE,
        "materials": sources.materials,
        "invocation": {
            "configSource": place,
            "parameters": {key: value for key, value in parameters.items() if value},
            "environment": {"platform": (job.core.settings.platforms or ("linux/amd64",))[0]},
        },
        "metadata": {
            "buildInvocationID": job.id,
            "buildStartedOn": timestamp(job.started),
            "buildFinishedOn": timestamp(job.now()),
            "completeness": {"parameters": complete, "environment": True, "materials": not sources.incomplete},
            "reproducible": attributes.get("reproducible", "") in ("1", "true"),
            METADATA: {"vcs": vcs} if vcs else {},
            **({_HERMETIC: True} if not sources.incomplete and not sources.network else {}),
        },
    }
    if whole:
        steps, numbers = _steps(graph.definition)
        found["buildConfig"] = {"llbDefinition": steps, "digestMapping": _mapping(numbers)}
        if source := _source(graph.definition, numbers):
            found["metadata"][METADATA]["source"] = source
    return json.dumps(found, indent=2, ensure_ascii=False).encode("utf-8", "surrogateescape")


def _is_given(key: str) -> bool:
    return key.startswith(("build-arg:", "label:"))


def _redacted(text: str) -> str:
    return _CREDENTIALS.sub("xxxxx:xxxxx@", text)


def _arguments(options: Mapping[str, str]) -> dict[str, str]:
    """The options that determine the result. Options for this host or for attestations are omitted."""
    found = {}
    for key, value in sorted(options.items()):
        if key in _OF_HOST or key.startswith(("attest:", "local-sessionid:")):
            continue
        is_context = key in ("context", options.get("contextkey") or "context") or key.startswith("context:")
        found[key] = _redacted(value) if is_context else value
    return found


def _context(arguments: dict[str, str], sources: _Sources) -> dict[str, Any]:
    """The context of the Dockerfile. This function removes it from the arguments."""
    place: dict[str, Any] = {}
    if address := arguments.pop(arguments.get("contextkey") or "context", ""):
        place["uri"] = address
        for each in sources.materials:
            if each["uri"] == address:
                place["digest"] = each["digest"]
    if name := arguments.pop("filename", ""):
        place["entryPoint"] = name
    return place


class _Sources:
    """The sources of a graph's vertices."""

    def __init__(self, job: SolverJob, graph: Graph, platform: str) -> None:
        self.materials: list[dict[str, Any]] = []
        self.secrets: list[dict[str, Any]] = []
        self.ssh: list[dict[str, Any]] = []
        self.locals = set(job.locals)
        self.network = False
        for vertex in graph.vertices.values():
            if vertex.op.HasField("source"):
                self._source(job, vertex.digest, vertex.op)
            elif vertex.op.HasField("exec"):
                self._exec(vertex.op.exec)
        for name, digest, of in job.resolved_images:
            if of in ("", platform) and digest:
                self._add(purl(name.partition("@")[0], of or platform), digest)
        self.materials.sort(key=lambda each: str(each["uri"]))
        self.incomplete = bool(self.locals)

    def _add(self, uri: str, digest: str) -> None:
        algorithm, _, value = digest.partition(":")
        found = {"uri": uri, "digest": {algorithm: value}}
        if found not in self.materials:
            self.materials.append(found)

    def _source(self, job: SolverJob, digest: str, op: ops_pb2.Op) -> None:
        scheme, _, rest = op.source.identifier.partition("://")
        if scheme == "local":
            self.locals.add(rest)
        elif digest in job.materials:
            self._add(*job.materials[digest])

    def _exec(self, op: ops_pb2.ExecOp) -> None:
        self.network = self.network or op.network != ops_pb2.NONE
        for mount in op.mounts:
            if mount.mountType == ops_pb2.SECRET:
                _note(self.secrets, mount.secretOpt.ID, mount.secretOpt.optional)
            elif mount.mountType == ops_pb2.SSH:
                _note(self.ssh, mount.SSHOpt.ID, mount.SSHOpt.optional)
        for secret in op.secretenv:
            _note(self.secrets, secret.ID, secret.optional)


def _note(found: list[dict[str, Any]], id: str, optional: bool) -> None:
    entry: dict[str, Any] = {"id": id, **({"optional": True} if optional else {})}
    if entry not in found:
        found.append(entry)


def _steps(definition: ops_pb2.Definition) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """The operations that the last operation needs, inputs first, and their numbers by digest."""
    ops = {"sha256:" + hashlib.sha256(raw).hexdigest(): ops_pb2.Op.FromString(raw) for raw in getattr(definition, "def")}
    steps, numbers = [], dict[str, int]()
    for number, digest in enumerate(_inputs_first(ops)):
        op = ops[digest]
        inputs = [f"step{numbers.get(each.digest, 0)}:{each.index}" for each in op.inputs]
        del op.inputs[:]
        for key in ("local.session", "local.unique"):
            op.source.attrs.pop(key, None) if op.HasField("source") else None
        numbers[digest] = number
        steps.append({"id": f"step{number}", "op": _op(op), **({"inputs": inputs} if inputs else {})})
    return steps, numbers


def _inputs_first(ops: Mapping[str, ops_pb2.Op]) -> list[str]:
    """The digests in BuildKit's order: depth first from the last operation, the first input before the second."""
    order = dict[str, None]()
    waiting = [(digest, False) for digest in list(ops)[-1:]]
    while waiting:
        digest, entered = waiting.pop()
        if entered:
            order[digest] = None
        elif digest not in order and digest in ops:
            waiting.append((digest, True))
            waiting += [(each.digest, False) for each in reversed(ops[digest].inputs)]
    return list(order)


def _op(op: ops_pb2.Op) -> dict[str, Any]:
    return {"Op": None, **go_json(op)}


def _mapping(numbers: Mapping[str, int]) -> dict[str, str]:
    return {digest: f"step{number}" for digest, number in numbers.items()}


def _source(definition: ops_pb2.Definition, numbers: Mapping[str, int]) -> dict[str, Any]:
    infos = []
    for info in definition.Source.infos:
        steps, inner = _steps(info.definition)
        infos.append(
            {
                "filename": info.filename,
                "language": info.language,
                "data": base64.b64encode(info.data).decode(),
                **({"llbDefinition": steps, "digestMapping": _mapping(inner)} if steps else {}),
            }
        )
    locations = {
        f"step{numbers[digest]}": go_json(found)
        for digest, found in definition.Source.locations.items()
        if digest in numbers
    }
    return {"locations": locations, "infos": infos} if infos else {}
