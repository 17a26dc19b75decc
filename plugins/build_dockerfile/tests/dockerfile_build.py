"""Runs the Dockerfile frontend on files in memory, and shows graphs as text."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from orlop_build_dockerfile.dockerfile import frontend
from orlop_build_dockerfile.dockerfile.interface import (
    Answer,
    Converted,
    DockerfileError,
    Failed,
    Need,
    OtherFrontend,
    ReadFiles,
    Request,
    ResolvedImage,
    ResolveImage,
)
from orlop_build_dockerfile.pb import ops_pb2 as pb

LAYERS = {"type": "layers", "diff_ids": ["sha256:" + "1" * 64]}
BUSYBOX: dict[str, Any] = {
    "architecture": "amd64",
    "os": "linux",
    "config": {"Env": ["PATH=/bin"], "Cmd": ["sh"]},
    "rootfs": LAYERS,
    "history": [{"created_by": "base"}],
}


def image(**config: object) -> dict[str, Any]:
    return {**BUSYBOX, "config": {**BUSYBOX["config"], **config}}


class Outside:
    """Images by their normalized names, and files of the client's directories. Records the requests."""

    def __init__(self, files: Mapping[str, str | bytes], images: Mapping[str, dict[str, Any]] | None = None) -> None:
        self.files = {name: data.encode() if isinstance(data, str) else data for name, data in files.items()}
        self.images = {"docker.io/library/busybox:latest": BUSYBOX, **(images or {})}
        self.asked: list[Need] = []

    def answer(self, need: Need) -> Answer:
        self.asked.append(need)
        if isinstance(need, ReadFiles):
            return [None if file.path not in self.files else self.files[file.path][: file.limit] for file in need.files]
        if need.name not in self.images:
            return Failed(f"failed to resolve source metadata for {need.name}: not found", 5)
        config = json.dumps(self.images[need.name]).encode()
        return ResolvedImage("sha256:" + hashlib.sha256(config).hexdigest(), config)

    @property
    def resolved(self) -> list[str]:
        return [need.name for need in self.asked if isinstance(need, ResolveImage)]


def run(request: Request, outside: Outside) -> Converted | OtherFrontend:
    conversion = frontend.convert(request)
    answers: Sequence[Answer] | None = None
    while True:
        try:
            needs = conversion.send(answers) if answers is not None else next(conversion)
        except StopIteration as stop:
            result: Converted | OtherFrontend = stop.value
            return result
        answers = [outside.answer(need) for need in needs]


def build(
    dockerfile: str | bytes,
    options: Mapping[str, str] | None = None,
    *,
    images: Mapping[str, dict[str, Any]] | None = None,
    files: Mapping[str, str | bytes] | None = None,
    **request: Any,
) -> Converted:
    outside = Outside({"Dockerfile": dockerfile, **(files or {})}, images)
    found = run(Request(options=options or {}, **request), outside)
    assert isinstance(found, Converted), found
    return found


def failing(dockerfile: str, options: Mapping[str, str] | None = None, **more: Any) -> DockerfileError:
    try:
        build(dockerfile, options, **more)
    except DockerfileError as error:
        return error
    raise AssertionError("converted")


def config(converted: Converted) -> dict[str, Any]:
    value: dict[str, Any] = json.loads(converted.results[0].config)
    return value


def operations(definition: pb.Definition) -> list[tuple[str, pb.Op]]:
    """The digests and operations of a graph, without the last operation, which only refers to the result."""
    found = []
    for data in getattr(definition, "def"):
        op = pb.Op()
        op.ParseFromString(data)
        found.append(("sha256:" + hashlib.sha256(data).hexdigest(), op))
    return found[:-1]


def names(converted: Converted, result: int = 0) -> list[str]:
    definition = converted.results[result].definition
    return [definition.metadata[digest].description["llb.customname"] for digest, _ in operations(definition)]


def graph(converted: Converted, result: int = 0) -> str:
    """One line for each operation: its number, name, inputs and attributes."""
    definition = converted.results[result].definition
    numbers: dict[str, int] = {}
    lines = []
    for digest, op in operations(definition):
        numbers[digest] = len(numbers)
        inputs = [f"{numbers[source.digest]}.{source.index}" for source in op.inputs]
        lines.append(f"{numbers[digest]} ({' '.join(inputs)}) {_operation(op)}")
    return "\n".join(lines)


def _operation(op: pb.Op) -> str:
    if op.HasField("source"):
        attributes = [f"{key}={value}" for key, value in sorted(op.source.attrs.items())]
        return " ".join(["source", op.source.identifier, *attributes])
    if op.HasField("exec"):
        return f"exec {list(op.exec.meta.args)} " + " ".join(_mount(mount) for mount in op.exec.mounts)
    if op.HasField("merge"):
        return "merge " + " ".join(str(source.input) for source in op.merge.inputs)
    return "file " + "; ".join(_action(action) for action in op.file.actions)


def _mount(mount: pb.Mount) -> str:
    kind = pb.MountType.Name(mount.mountType).lower()
    flags = ("!" if mount.readonly else "") + (f"@{mount.selector}" if mount.selector else "")
    return f"{kind}:{mount.input}{flags}->{mount.dest}" + (f"={mount.output}" if mount.output >= 0 else "")


def _action(action: pb.FileAction) -> str:
    where = f"[{action.input},{action.secondaryInput}->{action.output}] "
    if action.HasField("copy"):
        return where + f"copy {action.copy.src} {action.copy.dest}"
    if action.HasField("mkfile"):
        return where + f"mkfile {action.mkfile.path} {action.mkfile.data!r}"
    return where + f"mkdir {action.mkdir.path}"
