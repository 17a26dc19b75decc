"""The service Control, which clients call on /grpc. There is one object for all connections."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing, suppress
from datetime import UTC, datetime
from typing import Any

import trio

from orlop_build_dockerfile.contracts import BuildFailed, CacheRecord, CacheTarget, Export, Job, Result, Settings, Solver
from orlop_build_dockerfile.control.builds import ActiveBuild, Builds
from orlop_build_dockerfile.control.errors import translated
from orlop_build_dockerfile.control.tunnel import Tunnel
from orlop_build_dockerfile.gateway.bridge import Bridge
from orlop_build_dockerfile.gateway.containers import open_containers
from orlop_build_dockerfile.gateway.state import FrontendState
from orlop_build_dockerfile.gateway.worker import Worker
from orlop_build_dockerfile.grpc import Call, Code, Connection, Handler
from orlop_build_dockerfile.history.recorder import Recorder, Recording
from orlop_build_dockerfile.history.service import HistoryService
from orlop_build_dockerfile.history.store import History
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import control_pb2 as pb
from orlop_build_dockerfile.pb import ops_pb2
from orlop_build_dockerfile.session import ClientSession, Sessions

__all__ = ["Control", "client_session"]

_CONTROL = "/moby.buildkit.v1.Control/"
_BUILD = "buildkit-controlapi-buildid"
_HEALTH = "/grpc.health.v1.Health/Check"
_TRACES = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
_SERVING = b"\x08\x01"  # HealthCheckResponse{status: SERVING}


class Control:
    """The service Control. `handlers` are the handlers for a server connection. `settings` contains the entitlements that
    builds may get."""

    def __init__(
        self,
        solver: Solver,
        settings: Settings,
        sessions: Sessions,
        builds: Builds,
        history: History,
        nursery: trio.Nursery,
    ) -> None:
        self._solver, self._settings, self._sessions, self._builds = solver, settings, sessions, builds
        self._recorder, self._history = Recorder(history, nursery), HistoryService(history)
        self._worker = Worker(settings, solver.capabilities)
        methods: dict[str, Handler] = {
            _CONTROL + "Info": self._info,
            _CONTROL + "ListWorkers": self._list_workers,
            _CONTROL + "Solve": self._solve,
            _CONTROL + "Status": self._status,
            _CONTROL + "Session": self._session,
            _CONTROL + "DiskUsage": self._disk_usage,
            _CONTROL + "Prune": self._prune,
            _HEALTH: self._health,
            _TRACES: self._traces,
            **self._history.handlers,
            **Bridge(self._frontend, self._worker).handlers,
        }
        self.handlers: Mapping[str, Handler] = {path: translated(handler) for path, handler in methods.items()}

    # --- the builder

    async def _info(self, call: Call) -> None:
        pb.InfoRequest.FromString(await call.receive_one())
        await call.send(pb.InfoResponse(buildkitVersion=self._worker.version()).SerializeToString())

    async def _list_workers(self, call: Call) -> None:
        request = pb.ListWorkersRequest.FromString(await call.receive_one())
        record = self._worker.record()
        matches = all(_matches(record, text) for text in request.filter)
        await call.send(pb.ListWorkersResponse(record=[record] if matches else []).SerializeToString())

    async def _health(self, call: Call) -> None:
        await call.receive_one()
        await call.send(_SERVING)

    async def _traces(self, call: Call) -> None:
        """Receive traces that clients send about their work. They are not stored."""
        await call.receive_one()
        await call.send(b"")

    async def _disk_usage(self, call: Call) -> None:
        request = pb.DiskUsageRequest.FromString(await call.receive_one())
        records = await self._solver.usage(request.filter)
        await call.send(pb.DiskUsageResponse(record=map(_usage, records)).SerializeToString())

    async def _prune(self, call: Call) -> None:
        request = pb.PruneRequest.FromString(await call.receive_one())
        call.start()
        removed = self._solver.prune(
            request.filter, all=request.all, keep_seconds=request.keepDuration / 1e9, keep_bytes=request.keepBytes
        )
        async with aclosing(removed):
            async for record in removed:
                await call.send(_usage(record).SerializeToString())

    async def _frontend(self, call: Call) -> FrontendState:
        """The frontend in the client that makes the call."""
        ids = call.values(_BUILD)
        if not ids:
            raise BuildFailed(f"the request has no {_BUILD}", code=Code.INVALID_ARGUMENT)
        return (await self._builds.get(ids[0])).frontend

    # --- sessions

    async def _session(self, call: Call) -> None:
        headers = {name: ", ".join(values) for name, values in call.metadata.items()}
        call.start()
        await self._sessions.run(client_session(headers, Connection(Tunnel(call), client=True)))

    # --- builds

    async def _status(self, call: Call) -> None:
        """Send the status of a build in progress, or of a build in the history."""
        request = pb.StatusRequest.FromString(await call.receive_one())
        ended = request.Ref not in self._builds and self._history.has_ended(request.Ref)
        found = self._history.reports(request.Ref) if ended else (await self._builds.get(request.Ref)).reports.read()
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        call.start([("buildkit-current-timestamp", now)])
        async with aclosing(found) as reports:
            async for report in reports:
                await call.send(report)

    async def _solve(self, call: Call) -> None:
        request = pb.SolveRequest.FromString(await call.receive_one())
        exports = self._exports(request)
        entitlements = self._entitlements(request.Entitlements)
        recording = Recording()
        try:
            async with self._builds.open(request.Ref) as build:
                with self._recorder.record(recording, request, build.reports):
                    session = await self._sessions.get(request.Session)
                    build.session, build.entitlements = session, entitlements
                    build.cache_exports = [CacheTarget(each.Type, dict(each.Attrs)) for each in request.Cache.Exports]
                    build.cache_imports = [CacheTarget(each.Type, dict(each.Attrs)) for each in request.Cache.Imports]
                    build.frontend.inputs, build.options = dict(request.FrontendInputs), dict(request.FrontendAttrs)
                    response = await self._run(build, session, request, exports, recording)
        finally:
            await recording.stored()
        await call.send(pb.SolveResponse(ExporterResponse=response).SerializeToString())

    async def _run(
        self,
        build: ActiveBuild,
        session: ClientSession,
        request: pb.SolveRequest,
        exports: Sequence[Export],
        recording: Recording,
    ) -> Mapping[str, str]:
        """Run the build. The build ends when its client's session ends, or when the client cancels the build by another
        call."""
        with build.scope:
            async with nursery() as tasks:
                tasks.start_soon(_end_with, session)
                async with self._solver.open(build) as job, open_containers(job) as containers:
                    build.frontend.begin(job, containers)
                    result, recording.response = await _build(build, job, request, exports)
                    if recording.begun:
                        with suppress(BuildFailed):  # a result that cannot be exported has no provenance
                            recording.provenance = await job.provenance(result)
                tasks.cancel_scope.cancel()
        if build.scope.cancelled_caught:
            raise build.cancelled
        return recording.response

    def _exports(self, request: pb.SolveRequest) -> list[Export]:
        exporters: Sequence[Any] = request.Exporters
        found = [Export(each.Type, dict(each.Attrs), number) for number, each in enumerate(exporters)]
        if not found and request.Exporter:
            found = [Export(request.Exporter, dict(request.ExporterAttrs))]
        for export in found:
            if export.kind not in self._solver.exports:
                raise BuildFailed(f"exporter {export.kind!r} could not be found", code=Code.INVALID_ARGUMENT)
        return found

    def _entitlements(self, wanted: Sequence[str]) -> list[str]:
        for name in wanted:
            kind = "device" if name.startswith("device=") else name
            if kind not in self._settings.entitlements:
                message = f"granting entitlement {name} is not allowed by build daemon configuration"
                raise BuildFailed(message, code=Code.PERMISSION_DENIED)
        return list(wanted)


async def _end_with(session: ClientSession) -> None:
    await session.ended.wait()
    raise BuildFailed("the client has ended its session", code=Code.CANCELLED)


async def _build(
    build: ActiveBuild, job: Job, request: pb.SolveRequest, exports: Sequence[Export]
) -> tuple[Result, Mapping[str, str]]:
    """Get the result from a frontend of the builder or of the client, compute it, and export it. Returns the result, and the
    answers of the exporters."""
    if request.Frontend:
        result = await job.frontend(request.Frontend, dict(request.FrontendAttrs), build.frontend.inputs)
    elif getattr(request.Definition, "def"):
        result = Result({"": await trio.to_thread.run_sync(job.define, request.Definition)})
    else:
        result = await build.frontend.result()
        if not result.refs and "containerimage.config" in result.metadata:
            # An image without files. BuildKit's clients return no reference for an empty file system
            result = Result({"": job.define(ops_pb2.Definition())}, result.metadata)
    async with nursery() as tasks:
        for ref in result.refs.values():
            tasks.start_soon(job.evaluate, ref)
    response = {
        key: value.decode("utf-8", "replace") for key, value in result.metadata.items() if key.startswith("frontend.")
    }
    # A result of `--call` has no files. dockerd exports an empty image in this case
    for export in exports if result.refs else ():
        response.update(await job.export(result, export))
    # Clients write the last reported manifest into the index of their directory, so local exports must be the last
    for target in sorted(build.cache_exports if result.refs else (), key=lambda each: each.kind == "local"):
        response.update(await job.export_cache(result, target))
    return result, response


def client_session(headers: Mapping[str, str], connection: Connection) -> ClientSession:
    """The session that a client offers with these headers (lower-case names; "a, b" for a header that was sent twice)."""
    id = headers.get("x-docker-expose-session-uuid", "")
    if not id:
        raise BuildFailed("the session has no id", code=Code.INVALID_ARGUMENT)
    methods = [each.strip() for each in headers.get("x-docker-expose-session-grpc-method", "").split(",") if each.strip()]
    return ClientSession(id, headers.get("x-docker-expose-session-sharedkey", ""), methods, connection)


def _matches(record: pb.WorkerRecord, text: str) -> bool:
    """Whether a worker matches a filter: "id==ID" or "labels.NAME==VALUE"."""
    name, equal, value = text.partition("==")
    name, value = name.strip(), value.strip().strip('"')
    found = record.ID if name == "id" else record.Labels.get(name.removeprefix("labels.").strip('"'))
    return found == value if equal else found is not None


def _usage(record: CacheRecord) -> pb.UsageRecord:
    found = pb.UsageRecord(
        ID=record.id,
        Mutable=record.mutable,
        InUse=record.in_use,
        Size=record.size,
        UsageCount=record.uses,
        Description=record.description,
        RecordType=record.kind,
        Shared=record.shared,
        Parent=record.parents[0] if record.parents else "",
        Parents=record.parents,
    )
    found.CreatedAt.FromNanoseconds(int(record.created * 1e9))
    if record.last_used:
        found.LastUsedAt.FromNanoseconds(int(record.last_used * 1e9))
    return found
