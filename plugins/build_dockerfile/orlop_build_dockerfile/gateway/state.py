"""The state of one frontend: names of values, graphs from the client, and the result that the frontend has returned."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

import trio
from google.protobuf.json_format import MessageToDict

from orlop_build_dockerfile.contracts import Build, BuildFailed, Job, Ref, Result
from orlop_build_dockerfile.control.errors import from_status
from orlop_build_dockerfile.gateway.containers import Containers
from orlop_build_dockerfile.grpc import Code
from orlop_build_dockerfile.pb import gateway_pb2
from orlop_build_dockerfile.pb.ops_pb2 import Definition

__all__ = ["FrontendState"]

_WAIT = 5.0  # seconds to wait for the other calls of the same build, as in BuildKit
_REFS = 10_000
_SOLVE = "github.com/moby/buildkit/errdefs.Solve+json"


class FrontendState:
    """A frontend. Messages contain its `name`. `inputs` are graphs from the client."""

    job: Job
    containers: Containers

    def __init__(self, name: str, build: Build) -> None:
        self.name, self.build = name, build
        self.inputs: Mapping[str, Definition] = {}
        self._refs: dict[str, Ref] = {}
        self._kept: dict[str, Ref] = {}
        self._request: gateway_pb2.ReturnRequest | None = None
        self._begun, self._returned = trio.Event(), trio.Event()

    def begin(self, job: Job, containers: Containers) -> None:
        self.job, self.containers = job, containers
        self._begun.set()

    async def begun(self) -> Job:
        """The build's job, once the client's session exists."""
        with trio.move_on_after(_WAIT):
            await self._begun.wait()
            return self.job
        raise BuildFailed(f"build {self.name} has not begun", code=Code.UNAVAILABLE)

    def keep(self, ref: Ref) -> str:
        """Keep a value for the frontend. Returns the name of the value."""
        if len(self._refs) >= _REFS:
            raise BuildFailed(f"the build has more than {_REFS} results", code=Code.RESOURCE_EXHAUSTED)
        name = f"{self.name}-{len(self._refs)}"
        self._refs[name] = ref
        return name

    def value(self, name: str) -> Ref:
        found = self._refs.get(name)
        if found is None:
            raise BuildFailed(f"no such ref: {name[:100]}", code=Code.NOT_FOUND)
        return found

    def mounted(self, name: str) -> Ref:
        """A value for a mount of a container."""
        return self._kept[name] if name in self._kept else self.value(name)

    def explained(self, error: BuildFailed) -> BuildFailed:
        """The error. If a command has failed, the error also gets names for the command's inputs and for the mounts that it
        left."""
        command = error.command
        if command is None or command.owner is not self.job or len(self._kept) > _REFS:
            return error
        found = {"inputIDs": self._keep(command.inputs), "mountIDs": self._keep(command.mounts)}
        detail = (_SOLVE, json.dumps({**found, "op": MessageToDict(command.op)}).encode())
        return BuildFailed(error.message, code=error.code, details=[*error.details, detail])

    def _keep(self, refs: Sequence[Ref | None]) -> list[str]:
        names = [f"{self.name}-kept-{len(self._kept) + number}" if ref else "" for number, ref in enumerate(refs)]
        self._kept.update({name: ref for name, ref in zip(names, refs, strict=True) if ref})
        return names

    def finish(self, request: gateway_pb2.ReturnRequest) -> None:
        """Store the result or the error that the frontend returns."""
        if self._returned.is_set():
            raise BuildFailed(f"build {self.name} has a result already", code=Code.FAILED_PRECONDITION)
        self._request = request
        self._returned.set()

    @property
    def returned(self) -> bool:
        return self._returned.is_set()

    @property
    def failed(self) -> bool:
        """Whether the frontend has returned an error."""
        return self._request is not None and self._request.HasField("error") and self._request.error.code != 0

    async def wait_returned(self) -> None:
        await self._returned.wait()

    async def result(self) -> Result:
        """Wait for the frontend's result. Raises the error that the frontend has returned."""
        await self._returned.wait()
        assert self._request is not None
        if self.failed:
            raise from_status(self._request.error)
        found = self._request.result
        metadata = dict(found.metadata)
        match found.WhichOneof("result"):
            case "ref":
                return Result({"": self.value(found.ref.id)} if found.ref.id else {}, metadata)
            case "refs":
                return Result({name: self.value(ref.id) for name, ref in found.refs.refs.items() if ref.id}, metadata)
            case "refDeprecated":
                return Result({"": self.value(found.refDeprecated)} if found.refDeprecated else {}, metadata)
            case "refsDeprecated":
                return Result({name: self.value(ref) for name, ref in found.refsDeprecated.refs.items() if ref}, metadata)
        return Result({}, metadata)
