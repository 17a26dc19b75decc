"""The service LLBBridge. A frontend refers to values of graphs by names (`FrontendState.keep`)."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio

from orlop_build_dockerfile.contracts import BuildFailed, CacheTarget, Job, Ref, Result
from orlop_build_dockerfile.gateway.processes import ProcessStream
from orlop_build_dockerfile.gateway.state import FrontendState
from orlop_build_dockerfile.gateway.worker import Worker, platform_text
from orlop_build_dockerfile.grpc import Call, Handler
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import control_pb2
from orlop_build_dockerfile.pb import gateway_pb2 as pb

__all__ = ["Bridge"]

_BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
_IMAGE, _LAYOUT = "docker-image://", "oci-layout://"


class Bridge:
    """The service. `handlers` are the handlers of a server connection, by path. `find` returns the frontend that has made a
    call."""

    def __init__(self, find: Callable[[Call], Awaitable[FrontendState]], worker: Worker) -> None:
        self._find, self._worker = find, worker
        self.handlers: Mapping[str, Handler] = {
            _BRIDGE + "Ping": self._ping,
            _BRIDGE + "Solve": self._solve,
            _BRIDGE + "Evaluate": self._evaluate,
            _BRIDGE + "ResolveImageConfig": self._resolve_image,
            _BRIDGE + "ResolveSourceMeta": self._resolve_source,
            _BRIDGE + "ReadFile": self._read_file,
            _BRIDGE + "ReadDir": self._read_directory,
            _BRIDGE + "StatFile": self._stat,
            _BRIDGE + "Inputs": self._inputs,
            _BRIDGE + "NewContainer": self._new_container,
            _BRIDGE + "ReleaseContainer": self._release_container,
            _BRIDGE + "ExecProcess": self._exec_process,
            _BRIDGE + "Warn": self._warn,
            _BRIDGE + "Return": self._return,
        }

    async def _job(self, call: Call) -> tuple[FrontendState, Job]:
        frontend = await self._find(call)
        return frontend, await frontend.begun()

    async def _ping(self, call: Call) -> None:
        await call.receive_one()
        await self._find(call)
        await call.send(self._worker.pong().SerializeToString())

    async def _solve(self, call: Call) -> None:
        request = pb.SolveRequest.FromString(await call.receive_one())
        frontend, job = await self._job(call)
        imports = [_cache_target(each) for each in request.CacheImports]
        build = frontend.build
        build.cache_imports = [*build.cache_imports, *(each for each in imports if each not in build.cache_imports)]
        if request.Frontend:
            inputs = dict(request.FrontendInputs)
            result = await job.frontend(request.Frontend, dict(request.FrontendOpt), inputs)
        elif getattr(request.Definition, "def"):
            result = Result({"": await trio.to_thread.run_sync(job.define, request.Definition)})
        else:
            result = Result({})
        if request.Evaluate:
            async with nursery() as tasks:
                for ref in result.refs.values():
                    tasks.start_soon(_evaluated, frontend, job, ref)
        await call.send(pb.SolveResponse(result=_result(frontend, result)).SerializeToString())

    async def _evaluate(self, call: Call) -> None:
        request = pb.EvaluateRequest.FromString(await call.receive_one())
        frontend, job = await self._job(call)
        await _evaluated(frontend, job, frontend.value(request.Ref))
        await call.send(pb.EvaluateResponse().SerializeToString())

    async def _resolve_image(self, call: Call) -> None:
        request = pb.ResolveImageConfigRequest.FromString(await call.receive_one())
        _, job = await self._job(call)
        base = await job.resolve_image(
            request.Ref,
            platform_text(request.Platform),
            mode=request.ResolveMode or "default",
            log_name=request.LogName,
        )
        answer = pb.ResolveImageConfigResponse(Digest=base.digest, Config=base.config, Ref=base.name)
        await call.send(answer.SerializeToString())

    async def _resolve_source(self, call: Call) -> None:
        """Resolve a source. Sources other than images are returned unchanged, and checked when they are fetched."""
        request = pb.ResolveSourceMetaRequest.FromString(await call.receive_one())
        _, job = await self._job(call)
        answer = pb.ResolveSourceMetaResponse(Source=request.Source)
        identifier = request.Source.identifier
        name = identifier.removeprefix(_IMAGE)
        if identifier.startswith(_LAYOUT):
            name = f"{_LAYOUT}{request.Source.attrs.get('oci.store', '')}@{identifier.rpartition('@')[2]}"
        if identifier.startswith((_IMAGE, _LAYOUT)):
            base = await job.resolve_image(
                name,
                platform_text(request.Platform),
                mode=request.ResolveMode or request.Source.attrs.get("image.resolvemode", "") or "default",
                log_name=request.LogName,
            )
            answer.Image.Digest, answer.Image.Config = base.digest, base.config
        await call.send(answer.SerializeToString())

    async def _read_file(self, call: Call) -> None:
        request = pb.ReadFileRequest.FromString(await call.receive_one())
        frontend, job = await self._job(call)
        part = request.Range
        data = await job.read_file(
            frontend.value(request.Ref), request.FilePath, offset=max(0, part.Offset), length=max(0, part.Length)
        )
        await call.send(pb.ReadFileResponse(Data=data).SerializeToString())

    async def _read_directory(self, call: Call) -> None:
        request = pb.ReadDirRequest.FromString(await call.receive_one())
        frontend, job = await self._job(call)
        entries = await job.read_directory(frontend.value(request.Ref), request.DirPath, pattern=request.IncludePattern)
        await call.send(pb.ReadDirResponse(entries=entries).SerializeToString())

    async def _stat(self, call: Call) -> None:
        request = pb.StatFileRequest.FromString(await call.receive_one())
        frontend, job = await self._job(call)
        stat = await job.stat(frontend.value(request.Ref), request.Path)
        await call.send(pb.StatFileResponse(stat=stat).SerializeToString())

    async def _inputs(self, call: Call) -> None:
        await call.receive_one()
        frontend, _ = await self._job(call)
        await call.send(pb.InputsResponse(Definitions=frontend.inputs).SerializeToString())

    async def _new_container(self, call: Call) -> None:
        request = pb.NewContainerRequest.FromString(await call.receive_one())
        frontend, _ = await self._job(call)
        values = {each.resultID: frontend.mounted(each.resultID) for each in request.Mounts if each.resultID}
        await frontend.containers.create(request, values)
        await call.send(pb.NewContainerResponse().SerializeToString())

    async def _release_container(self, call: Call) -> None:
        request = pb.ReleaseContainerRequest.FromString(await call.receive_one())
        frontend, _ = await self._job(call)
        await frontend.containers.release(request.ContainerID)
        await call.send(pb.ReleaseContainerResponse().SerializeToString())

    async def _exec_process(self, call: Call) -> None:
        call.start()
        frontend, _ = await self._job(call)
        await ProcessStream(call, frontend.containers).run()

    async def _warn(self, call: Call) -> None:
        request = pb.WarnRequest.FromString(await call.receive_one())
        frontend = await self._find(call)
        frontend.build.progress.warn(
            control_pb2.VertexWarning(
                vertex=request.digest,
                level=request.level,
                short=request.short,
                detail=request.detail,
                url=request.url,
                info=request.info if request.HasField("info") else None,
                ranges=request.ranges,
            )
        )
        await call.send(pb.WarnResponse().SerializeToString())

    async def _return(self, call: Call) -> None:
        request = pb.ReturnRequest.FromString(await call.receive_one())
        frontend = await self._find(call)
        frontend.finish(request)
        await call.send(pb.ReturnResponse().SerializeToString())


async def _evaluated(frontend: FrontendState, job: Job, ref: Ref) -> None:
    try:
        await job.evaluate(ref, keep_failed=True)
    except BuildFailed as error:
        raise frontend.explained(error) from error


def _cache_target(entry: control_pb2.CacheOptionsEntry) -> CacheTarget:
    return CacheTarget(entry.Type, dict(entry.Attrs))


def _result(frontend: FrontendState, result: Result) -> pb.Result:
    """A result with names of values. The graph of the values is sent too, because clients use it as an input of other
    builds."""
    answer = pb.Result(metadata=result.metadata)
    for platform, ref in result.refs.items():
        named = pb.Ref(id=frontend.keep(ref))
        getattr(named, "def").CopyFrom(ref.definition)
        if platform:
            answer.refs.refs[platform].CopyFrom(named)
        else:
            answer.ref.CopyFrom(named)
    if not result.refs:
        answer.ref.SetInParent()
    return answer
