"""A bill of materials. The image of a scanner is run on the result, and writes in-toto statements (buildkit
docs/attestations/ sbom-protocol.md)."""

from __future__ import annotations

import json
import posixpath
from typing import TYPE_CHECKING, Any

import msgspec
import trio
from google.protobuf.message import DecodeError

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.dockerfile.interface import Scans
from orlop_build_dockerfile.dockerfile.llb import Inputs, Output, Vertex, definition, head, imported, imported_outputs
from orlop_build_dockerfile.dockerfile.platforms import parse_platform
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.pb import ops_pb2

from .statements import SPDX, Predicate

if TYPE_CHECKING:
    from collections.abc import Mapping

    from orlop_build_dockerfile.contracts import Base
    from orlop_build_dockerfile.export.compose import Target
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["scan"]

_SOURCE, _EXTRAS, _DESTINATION = "/run/src/core/sbom", "/run/src/extras", "/run/out/"
_MOST = 100  # limit for the number of statements


class _Statement(msgspec.Struct):
    predicate_type: str = msgspec.field(name="predicateType", default="")
    subject: tuple[msgspec.Raw, ...] = ()
    predicate: msgspec.Raw = msgspec.Raw(b"{}")


async def scan(job: SolverJob, target: Target, attributes: Mapping[str, str]) -> list[Predicate]:
    """Run the scanner, unless its result is in the cache, and read the statements that it has written. Attributes other than
    "generator" become variables of the scanner."""
    scans = job.scans.get((target.platform, head(target.ref.definition)), Scans())
    try:
        scanner = str(parse_reference(attributes.get("generator", "")).tagged())
        host = parse_platform((job.core.settings.platforms or ("linux/amd64",))[0]).normalized()
        graph = imported(target.ref.definition)
        extras = _extras(scans)
    except (ValueError, DecodeError) as error:
        raise BuildFailed(
            f"failed to parse sbom scanner {attributes.get('generator', '')[:100]!r}: {error}", code=3
        ) from None
    if graph is None:
        return []
    base = await job.resolve_image(scanner, host.full, mode="default", log_name="")
    op = _operation(base, scanner, attributes)
    source = ops_pb2.Op(source=ops_pb2.SourceOp(identifier=f"docker-image://{_pinned(scanner, base)}"))
    inputs = Inputs()
    for each in (Output(Vertex(source)), graph):
        inputs.add(each)
    if extras:
        op.exec.meta.env.append(f"BUILDKIT_SCAN_SOURCE_EXTRAS={_EXTRAS}")
    for name, output in extras:
        mount = ops_pb2.Mount(input=inputs.add(output), dest=f"{_EXTRAS}/sbom-{name}", output=-1, readonly=True)
        op.exec.mounts.append(mount)
    for message in (source, op):
        message.platform.CopyFrom(host.message())
        message.constraints.SetInParent()
    name = f"[{target.platform}] generating sbom using {scanner}"
    step = Vertex(op, inputs.outputs, name=name, ignore_cache=scans.ignore_cache)
    ref = await trio.to_thread.run_sync(job.define, definition(Output(step, 1)))
    return [await _read(job, ref, entry.path) for entry in (await job.read_directory(ref, "/"))[:_MOST]]


def _extras(scans: Scans) -> list[tuple[str, Output | None]]:
    """The additional file systems, by name; None for an empty file system."""
    outputs = imported_outputs(scans.graph, filter(None, scans.outputs.values()))
    made = iter(outputs)
    return [(name, next(made) if output else None) for name, output in scans.outputs.items()]


def _pinned(scanner: str, base: Base) -> str:
    return f"{scanner}@{base.digest}" if base.digest and "@" not in scanner else scanner


def _operation(base: Base, scanner: str, attributes: Mapping[str, str]) -> ops_pb2.Op:
    try:
        config = json.loads(base.config).get("config") or {}
        args = [*(config.get("Entrypoint") or ()), *(config.get("Cmd") or ())]
        env = [*(config.get("Env") or ())]
        cwd = config.get("WorkingDir") or "/"
    except (ValueError, AttributeError, TypeError) as error:
        raise BuildFailed(f"cannot read the configuration of scanner {scanner}: {error}") from None
    if not args:
        raise BuildFailed(f"scanner {scanner} does not have cmd")
    env += [f"BUILDKIT_SCAN_DESTINATION={_DESTINATION}", f"BUILDKIT_SCAN_SOURCE={_SOURCE}"]
    env += [f"BUILDKIT_SCAN_{key}={value}" for key, value in sorted(attributes.items()) if key != "generator"]
    meta = ops_pb2.Meta(args=args, env=env, cwd=cwd)
    mounts = [
        ops_pb2.Mount(input=0, dest="/", output=0),
        ops_pb2.Mount(input=-1, dest="/tmp", output=-1, mountType=ops_pb2.TMPFS),
        ops_pb2.Mount(input=1, dest=_SOURCE, output=-1, readonly=True),
        ops_pb2.Mount(input=-1, dest=_DESTINATION, output=1),
    ]
    return ops_pb2.Op(exec=ops_pb2.ExecOp(meta=meta, mounts=mounts))


async def _read(job: SolverJob, ref: Any, path: str) -> Predicate:
    data = await job.read_file(ref, posixpath.join("/", path))
    try:
        found = msgspec.json.decode(data, type=_Statement)
    except msgspec.MsgspecError as error:
        raise BuildFailed(f"cannot decode in-toto statement {path}: {error}") from None
    if found.predicate_type != SPDX:
        raise BuildFailed(f"bundle entry {found.predicate_type[:200]} does not match required predicate type {SPDX}")
    return Predicate(SPDX, bytes(found.predicate), found.subject or None)
