"""Frontends that are images (`gateway.v0`). The program of the image runs in a container, and calls LLBBridge on its
standard output and input. Its environment contains the client's options (BUILDKIT_FRONTEND_OPT_n), the session and the
workers.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Mapping
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import msgspec
import trio

from orlop_build_dockerfile.contracts import Base, BuildFailed, Result, Step, Vertex
from orlop_build_dockerfile.control.errors import translated
from orlop_build_dockerfile.dockerfile.goformat import quote
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.gateway.bridge import Bridge
from orlop_build_dockerfile.gateway.containers import open_containers
from orlop_build_dockerfile.gateway.state import FrontendState
from orlop_build_dockerfile.gateway.worker import Worker
from orlop_build_dockerfile.grpc import Call, Code, Connection
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.pb.control_pb2 import WorkerRecord
from orlop_build_dockerfile.solver.capabilities import CAPABILITIES

if TYPE_CHECKING:
    from orlop_build_dockerfile.solver.job import SolverJob

__all__ = ["run_image"]

_MOST = 8  # limit of the frontends of one build that run at the same time, because a frontend may start another frontend
_ENDING = 5.0  # seconds for the program to end after it has returned its result
_STDERR = 4096  # bytes of standard error in the message of a failure
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


class _ImageConfig(msgspec.Struct, rename="pascal"):
    entrypoint: list[str] | None = None
    env: list[str] | None = None
    working_dir: str = ""
    labels: dict[str, str] | None = None


class _Document(msgspec.Struct):
    config: _ImageConfig = msgspec.field(default_factory=_ImageConfig)


async def run_image(job: SolverJob, options: Mapping[str, str], inputs: Mapping[str, ops_pb2.Definition]) -> Result:
    """Run the image in the option `source`, and return its result."""
    if not options.get("source"):
        raise BuildFailed("no source specified for gateway", code=Code.INVALID_ARGUMENT)
    name = _normalized(options["source"])
    base = await job.resolve_image(name, "", mode="default", log_name=f"resolve image config for docker-image://{name}")
    config = _read(base, name)
    _check_capabilities(config.labels or {}, options, inputs)
    if job.frontends >= _MOST:
        raise BuildFailed(f"a build cannot run more than {_MOST} frontends at the same time", code=Code.RESOURCE_EXHAUSTED)
    job.frontends += 1
    try:
        snapshot = await job.snapshot(job.define(_source(base, name)))
        state = FrontendState(f"{job.build.ref}-{uuid.uuid4().hex[:12]}", job.build)
        state.inputs = inputs
        async with open_containers(job) as containers:
            state.begin(job, containers)
            await _run(job, name, config, options, snapshot, state)
        return await state.result()
    finally:
        job.frontends -= 1


def _normalized(image: str) -> str:
    try:
        return str(parse_reference(image).tagged())
    except ValueError as error:
        raise BuildFailed(f"invalid frontend {image!r}: {error}", code=Code.INVALID_ARGUMENT) from None


def _read(base: Base, name: str) -> _ImageConfig:
    try:
        return msgspec.json.decode(base.config, type=_Document).config
    except msgspec.DecodeError as error:
        raise BuildFailed(f"cannot read the configuration of frontend {name}: {error}") from None


def _names(text: str) -> set[str]:
    """The names in a list of capabilities: "name+how,name"."""
    return {each.partition("+")[0] for each in text.split(",")} - {""}


def _check_capabilities(
    labels: Mapping[str, str], options: Mapping[str, str], inputs: Mapping[str, ops_pb2.Definition]
) -> None:
    """Raise `BuildFailed` if the frontend lacks a capability that the client requires. The client then builds without this
    capability."""
    wanted = _names(options.get("frontend.caps", ""))
    if inputs:
        wanted.add("moby.buildkit.frontend.inputs")
    for missing in sorted(wanted - _names(labels.get("moby.buildkit.frontend.caps", ""))):
        detail = ("github.com/moby/buildkit/errdefs.FrontendCap+json", json.dumps({"name": missing}).encode())
        raise BuildFailed(f"unsupported frontend capability {missing}", code=Code.UNIMPLEMENTED, details=[detail])


def _source(base: Base, name: str) -> ops_pb2.Definition:
    """A graph that consists only of the image."""
    pinned = f"{name}@{base.digest}" if base.digest and "@" not in name else name
    source = ops_pb2.Op(source=ops_pb2.SourceOp(identifier=f"docker-image://{pinned}")).SerializeToString()
    made = ops_pb2.Definition()
    digest = "sha256:" + hashlib.sha256(source).hexdigest()
    end = ops_pb2.Op(inputs=[ops_pb2.Input(digest=digest, index=0)]).SerializeToString()
    getattr(made, "def").extend([source, end])
    return made


async def _run(
    job: SolverJob, name: str, config: _ImageConfig, options: Mapping[str, str], snapshot: str, state: FrontendState
) -> None:
    """Run the program to its end. Raises an error if the program fails. If the program has returned an error before, nothing
    is raised, because the returned error is more specific."""
    worker = Worker(job.core.settings, CAPABILITIES)
    args = tuple(config.entrypoint or ("/run",))
    digest = "sha256:" + uuid.uuid4().hex * 2
    async with (
        job.core.active(snapshot) as active,
        job.build.progress.vertex(digest, f"[internal] frontend {name}", ()) as shown,
    ):
        step = Step(
            root=active.key,
            args=args,
            env=(*(config.env or ()), *_environment(job, worker, options)),
            cwd=config.working_dir or "/",
            network="none" if _is_true((config.labels or {}).get("moby.buildkit.frontend.network.none", "")) else "",
            **msgspec.structs.asdict(job.build.resources),
        )
        code, said = await _serve(job, step, worker, state, shown)
        if code and not state.failed:
            message = f"frontend {name}: process {quote(' '.join(args))} did not complete successfully: exit code: {code}"
            raise BuildFailed(f"{message}: {said}" if said else message)
        if not state.returned:
            raise BuildFailed(f"frontend {name} has ended without a result" + (f": {said}" if said else ""))


def _is_true(text: str) -> bool:
    return text in ("1", "t", "T", "TRUE", "true", "True")


def _environment(job: SolverJob, worker: Worker, options: Mapping[str, str]) -> list[str]:
    found = [f"BUILDKIT_FRONTEND_OPT_{number}={key}={value}" for number, (key, value) in enumerate(options.items())]
    return [
        *(each for each in found if "\0" not in each),
        f"BUILDKIT_SESSION_ID={job.build.session.id}",
        f"BUILDKIT_WORKERS={json.dumps([_worker_json(worker.record())], separators=(',', ':'))}",
        "BUILDKIT_EXPORTEDPRODUCT=orlop",
    ]


def _worker_json(record: WorkerRecord) -> dict[str, Any]:
    platforms = []
    for each in record.platforms:
        platform = {"architecture": each.Architecture, "os": each.OS}
        platforms.append(platform | {"variant": each.Variant} if each.Variant else platform)
    version = record.BuildkitVersion
    return {
        "ID": record.ID,
        "Labels": dict(record.Labels),
        "Platforms": platforms,
        "GCPolicy": None,
        "BuildkitVersion": {"Package": version.package, "Version": version.version, "Revision": version.revision},
    }


async def _serve(job: SolverJob, step: Step, worker: Worker, state: FrontendState, shown: Vertex) -> tuple[int, str]:
    """Serve the program on its standard streams until it ends. Returns its exit code, and the end of its standard error."""

    async def find(call: Call) -> FrontendState:
        return state

    async def health(call: Call) -> None:
        await call.receive_one()
        await call.send(_SERVING)

    handlers = {path: translated(handler) for path, handler in Bridge(find, worker).handlers.items()}
    handlers["/grpc.health.v1.Health/Check"] = health
    said, all_shown = bytearray(), trio.Event()

    async def show(reader: trio.lowlevel.FdStream) -> None:
        async for data in reader:
            shown.log(bytes(data), 2)
            said.extend(data)
            del said[:-_STDERR]
        all_shown.set()

    code = 0
    async with AsyncExitStack() as stack:
        ours, theirs = _pipes(stack)
        async with nursery() as tasks:
            connection = Connection(trio.StapledStream(ours[2], ours[0]), handlers=handlers)
            tasks.start_soon(connection.run)
            tasks.start_soon(show, ours[1])
            with trio.CancelScope() as scope:
                tasks.start_soon(_end_soon, state, scope)
                try:
                    code = await job.core.backend.run(step, *theirs)
                finally:
                    while theirs:
                        os.close(theirs.pop())
            with trio.move_on_after(1):  # a process that the frontend has left behind may keep the pipe open
                await all_shown.wait()
            tasks.cancel_scope.cancel()
    return code, bytes(said).decode("utf-8", "replace").strip()


async def _end_soon(state: FrontendState, scope: trio.CancelScope) -> None:
    """Kill a program that continues to run after it has returned its result."""
    await state.wait_returned()
    await trio.sleep(_ENDING)
    scope.cancel()


def _pipes(stack: AsyncExitStack) -> tuple[list[trio.lowlevel.FdStream], list[int]]:
    """The builder's ends and the program's ends of the pipes for standard output, error and input."""
    ours, theirs = [], list[int]()

    def close() -> None:
        while theirs:
            os.close(theirs.pop())

    stack.callback(close)
    for number in range(3):
        read, write = os.pipe2(os.O_CLOEXEC)
        mine, other = (read, write) if number < 2 else (write, read)
        theirs.append(other)
        stream = trio.lowlevel.FdStream(mine)
        ours.append(stream)
        stack.push_async_callback(stream.aclose)
    return ours, theirs
