"""The services of /grpc as a client calls them, with a solver that each test scripts."""

from __future__ import annotations

import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

from orlop_build_dockerfile.contracts import Base, Build, BuildFailed, CacheRecord, Export, Policy, Ref, Result, Settings
from orlop_build_dockerfile.control.builds import Builds
from orlop_build_dockerfile.control.errors import status_of
from orlop_build_dockerfile.control.service import Control, client_session
from orlop_build_dockerfile.control.tunnel import Tunnel
from orlop_build_dockerfile.grpc import Call, Code, Connection, RpcError
from orlop_build_dockerfile.history.store import History
from orlop_build_dockerfile.pb import control_pb2, gateway_pb2, session_pb2, status_pb2
from orlop_build_dockerfile.pb.fsutil_pb2 import Stat
from orlop_build_dockerfile.pb.ops_pb2 import Definition
from orlop_build_dockerfile.session import Sessions
from orlop_build_dockerfile.session.client import SECRET
from orlop_sdk import NotFound

CONTROL, BRIDGE = "/moby.buildkit.v1.Control/", "/moby.buildkit.v1.frontend.LLBBridge/"
GRAPH = Definition(**{"def": [b"graph"]})


class Value:
    def __init__(self, definition: Definition) -> None:
        self.definition = definition


class FakeJob:
    def __init__(self, build: Build, work: Callable[[Build], Awaitable[None]]) -> None:
        self.build, self._work = build, work
        self.evaluated: list[Ref] = []
        self.exported: list[tuple[Result, Export]] = []

    async def frontend(self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Result:
        if options.get("fail"):
            details = [("github.com/moby/buildkit/errdefs.Source+json", b'{"info":{}}')]
            raise BuildFailed("dockerfile parse error on line 1", code=3, details=details)
        return Result({"": Value(GRAPH)}, {"containerimage.config": json.dumps(dict(options)).encode()})

    def define(self, definition: Definition) -> Ref:
        return Value(definition)

    async def evaluate(self, ref: Ref, *, keep_failed: bool = False) -> None:
        self.evaluated.append(ref)
        await self._work(self.build)

    async def resolve_image(self, name: str, platform: str, *, mode: str, log_name: str) -> Base:
        if "missing" in name:
            raise NotFound(f"{name}: not found")
        return Base(f"docker.io/{name}", "sha256:d", json.dumps([platform, mode, log_name]).encode())

    async def read_file(self, ref: Ref, path: str, *, offset: int = 0, length: int = 0) -> bytes:
        return f"{path} {offset} {length}".encode()

    async def read_directory(self, ref: Ref, path: str, *, pattern: str = "") -> Sequence[Stat]:
        return [Stat(path=path + pattern)]

    async def stat(self, ref: Ref, path: str) -> Stat:
        return Stat(path=path, size=5)

    async def provenance(self, result: Result) -> Mapping[str, bytes]:
        return {platform: b'{"of": "%s"}' % platform.encode() for platform in result.refs}

    async def export(self, result: Result, export: Export) -> Mapping[str, str]:
        self.exported.append((result, export))
        return {"containerimage.digest": "sha256:1"}


class FakeSolver:
    capabilities: Mapping[str, str] = {"exec.mount.bind": "", "mergeop": "not here"}
    exports: Sequence[str] = ("moby", "local")

    def __init__(self) -> None:
        self.jobs: list[FakeJob] = []
        self.open_jobs = 0

    async def work(self, build: Build) -> None:
        """The solver calls this method when a value is evaluated."""

    @asynccontextmanager
    async def open(self, build: Build) -> AsyncIterator[FakeJob]:
        job = FakeJob(build, self.work)
        self.jobs.append(job)
        self.open_jobs += 1
        try:
            yield job
        finally:
            self.open_jobs -= 1

    async def usage(self, filters: Sequence[str]) -> Sequence[CacheRecord]:
        return [CacheRecord(id="r1", size=10, created=1.5, last_used=2, parents=("r0",), description="a step")]

    async def prune(
        self, filters: Sequence[str], *, all: bool, keep_seconds: float, keep_bytes: int, reserved: int = 0, free: int = 0
    ) -> AsyncGenerator[CacheRecord, None]:
        yield CacheRecord(id=f"{list(filters)} {all} {keep_seconds} {keep_bytes}", size=1, created=1)


class Client:
    """A client with a connection, a session, and methods for the usual calls."""

    def __init__(self, connection: Connection, nursery: trio.Nursery, solver: FakeSolver, builds: Builds) -> None:
        self.connection, self.nursery, self.solver, self.builds = connection, nursery, solver, builds

    async def ask(self, method: str, request: Any, answer: type[Any], build: str = "") -> Any:
        metadata = [("buildkit-controlapi-buildid", build)] if build else []
        raw = await self.connection.unary(method, request.SerializeToString(), metadata)
        return answer.FromString(raw)

    async def solve(self, **request: Any) -> dict[str, str]:
        found = control_pb2.SolveRequest(**{"Ref": "b1", "Session": "s1", **request})
        answer = await self.ask(CONTROL + "Solve", found, control_pb2.SolveResponse)
        return dict(answer.ExporterResponse)

    async def status(self, ref: str = "b1") -> list[control_pb2.StatusResponse]:
        async with self.connection.call(CONTROL + "Status") as call:
            await call.send(control_pb2.StatusRequest(Ref=ref).SerializeToString())
            call.finish_sending()
            found = []
            while (raw := await call.receive()) is not None:
                found.append(control_pb2.StatusResponse.FromString(raw))
            assert "buildkit-current-timestamp" in call.headers
            return found

    async def bridge(self, method: str, request: Any) -> Any:
        answer = getattr(gateway_pb2, "PongResponse" if method == "Ping" else method + "Response")
        return await self.ask(BRIDGE + method, request, answer, "b1")


def pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    a, b = socket.socketpair()
    return trio.SocketStream(trio.socket.from_stdlib_socket(a)), trio.SocketStream(trio.socket.from_stdlib_socket(b))


def control_test(
    test: Callable[[Client], Awaitable[None]], tmp_path: Path, *, session: bool = True, clock: Any = None, **options: Any
) -> FakeSolver:
    """Run a test with a client, whose session is open by default."""
    solver = options.pop("solver", None) or FakeSolver()
    settings = Settings(root=str(tmp_path), version="1.2.3", **options)

    async def main() -> None:
        sessions = Sessions()
        near, far = pair()
        client = Connection(near, client=True)
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                builds = Builds(sessions, nursery)
                history = History(str(tmp_path / "history"), settings.history_age, settings.history_entries)
                history.records, history._sizes = history._read()  # no thread, because a MockClock would jump
                control = Control(solver, settings, sessions, builds, history, nursery)
                server = Connection(far, handlers=control.handlers)
                nursery.start_soon(client.run)
                nursery.start_soon(server.run)
                used = Client(client, nursery, solver, builds)
                used.close_session = lambda: None  # type: ignore[attr-defined]
                if session:
                    theirs, ours = pair()
                    found = client_session({"x-docker-expose-session-uuid": "s1"}, Connection(ours, client=True))
                    serving = Connection(theirs)
                    used.close_session = serving.close  # type: ignore[attr-defined]
                    nursery.start_soon(serving.run)
                    nursery.start_soon(sessions.run, found)
                await test(used)
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert solver.open_jobs == 0

    trio.run(main, clock=clock)
    return solver


def test_client_can_run_a_frontend_through_the_gateway(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        answers: list[dict[str, str]] = []
        statuses: list[list[control_pb2.StatusResponse]] = []

        async def solve() -> None:
            exporters = [control_pb2.Exporter(Type="moby", Attrs={"name": "x"})]
            answers.append(await client.solve(Exporters=exporters, Entitlements=["network.host"]))

        async def status() -> None:
            statuses.append(await client.status())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(status)  # the two calls may arrive in any order
            nursery.start_soon(solve)
            pong = await client.bridge("Ping", gateway_pb2.PingRequest())
            assert {c.ID: c.Enabled for c in pong.LLBCaps} == {"exec.mount.bind": True, "mergeop": False}
            request = gateway_pb2.SolveRequest(Frontend="dockerfile.v0", FrontendOpt={"a": "b"}, allowResultReturn=True)
            solved = (await client.bridge("Solve", request)).result
            assert getattr(solved.ref, "def") == GRAPH
            assert solved.metadata["containerimage.config"] == b'{"a": "b"}'
            await client.bridge("Evaluate", gateway_pb2.EvaluateRequest(Ref=solved.ref.id))
            solved.metadata["frontend.x"] = b"y"
            await client.bridge("Return", gateway_pb2.ReturnRequest(result=solved))
        assert answers == [{"containerimage.digest": "sha256:1", "frontend.x": "y"}]
        [job] = client.solver.jobs
        assert len(job.evaluated) == 2
        [(result, export)] = job.exported
        assert export == Export("moby", {"name": "x"}, 0)
        assert result.metadata["containerimage.config"] == b'{"a": "b"}'
        assert list(job.build.entitlements) == ["network.host"]
        assert job.build.session.id == "s1"

    control_test(test, tmp_path)


def test_status_call_streams_progress_until_the_build_ends(tmp_path: Path) -> None:
    class Solver(FakeSolver):
        async def work(self, build: Build) -> None:
            async with build.progress.vertex("sha256:1", "RUN a", []) as vertex:
                vertex.log(b"hello\n")
                vertex.status("extracting", current=5, total=10)
                vertex.status("extracting", current=10, total=10, done=True)
                vertex.warn("do not", detail=["because"], url="u")
            async with build.progress.vertex("sha256:2", "RUN b", ["sha256:1"]) as vertex:
                vertex.cached = True

    async def test(client: Client) -> None:
        found: list[control_pb2.StatusResponse] = []

        async def status() -> None:
            found.extend(await client.status())

        async with trio.open_nursery() as nursery:
            for _ in range(2):
                nursery.start_soon(status)
            await client.solve(Definition=GRAPH, Internal=True)
        late = await client.status()  # the status of a build that has just ended
        merged = control_pb2.StatusResponse()
        for each in late:
            merged.MergeFrom(each)
        assert [(v.name, v.cached, bool(v.completed.seconds)) for v in merged.vertexes] == [
            ("RUN a", False, False),
            ("RUN a", False, True),
            ("RUN b", False, False),
            ("RUN b", True, True),
        ]
        assert merged.logs[0].msg == b"hello\n"
        assert merged.statuses[-1].completed.seconds
        assert (merged.warnings[0].short, merged.warnings[0].detail[0]) == (b"do not", b"because")
        everything = control_pb2.StatusResponse()
        for each in found:
            everything.MergeFrom(each)
        assert len(everything.vertexes) == 8

    control_test(test, tmp_path, solver=Solver())


def test_error_of_a_failed_build_has_details_and_is_reported_for_the_failed_vertex(tmp_path: Path) -> None:
    class Solver(FakeSolver):
        async def work(self, build: Build) -> None:
            async with build.progress.vertex("sha256:1", "RUN false", []):
                details = [("github.com/moby/buildkit/gatewayapi.ExitMessage+json", b'{"Code":1}')]
                raise BuildFailed("process did not complete", details=details)

    async def test(client: Client) -> None:
        statuses: list[control_pb2.StatusResponse] = []

        async def status() -> None:
            statuses.extend(await client.status())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(status)
            with pytest.raises(RpcError, match="process did not complete") as caught:
                await client.solve(Definition=GRAPH, Internal=True)
        assert caught.value.code == 2
        status_ = status_pb2.Status.FromString(caught.value.details)
        assert [(d.type_url, d.value) for d in status_.details] == [
            ("github.com/moby/buildkit/gatewayapi.ExitMessage+json", b'{"Code":1}')
        ]
        merged = control_pb2.StatusResponse()
        for each in statuses:
            merged.MergeFrom(each)
        assert merged.vertexes[-1].error == "process did not complete"

    control_test(test, tmp_path, solver=Solver())


def test_error_returned_by_the_clients_frontend_fails_the_build(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        async def solve() -> None:
            with pytest.raises(RpcError, match="parse error") as caught:
                await client.solve()
            assert b"errdefs.Source+json" in caught.value.details

        async with trio.open_nursery() as nursery:
            nursery.start_soon(solve)
            with pytest.raises(RpcError, match="parse error") as caught:
                request = gateway_pb2.SolveRequest(Frontend="dockerfile.v0", FrontendOpt={"fail": "1"})
                await client.bridge("Solve", request)
            status = status_pb2.Status.FromString(caught.value.details)
            await client.bridge("Return", gateway_pb2.ReturnRequest(error=status))

    control_test(test, tmp_path)


def hanging(cancelled: trio.Event) -> FakeSolver:
    class Solver(FakeSolver):
        async def work(self, build: Build) -> None:
            async with build.progress.vertex("sha256:1", "RUN sleep", []):
                try:
                    await trio.sleep_forever()
                finally:
                    cancelled.set()

    return Solver()


@pytest.mark.parametrize("how", ["cancel", "session", "connection", "api"])
def test_build_is_cancelled_when_call_session_or_connection_ends(tmp_path: Path, how: str) -> None:
    cancelled = trio.Event()

    async def test(client: Client) -> None:
        scope = trio.CancelScope()
        errors: list[RpcError] = []
        statuses: list[control_pb2.StatusResponse] = []

        async def solve() -> None:
            with scope:
                try:
                    await client.solve(Definition=GRAPH, Internal=True)
                except RpcError as error:
                    errors.append(error)

        async def status() -> None:
            try:
                statuses.extend(await client.status())
            except RpcError:
                assert how == "connection"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(solve)
            nursery.start_soon(status)
            await trio.testing.wait_all_tasks_blocked(0.05)
            match how:
                case "cancel":
                    scope.cancel()
                case "session":
                    client.close_session()  # type: ignore[attr-defined]
                case "connection":
                    client.connection.close()
                case "api":
                    client.builds.cancel("b1")
            await cancelled.wait()
        if how in ("session", "api"):
            assert [error.code for error in errors] == [Code.CANCELLED]
        if how != "connection":
            assert statuses[-1].vertexes[-1].error == "context canceled"

    control_test(test, tmp_path, solver=hanging(cancelled))


def test_gateway_answers_requests_for_solves_and_files_and_image_configurations(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        async with trio.open_nursery() as nursery:

            async def solve() -> None:
                await client.solve(FrontendInputs={"in": GRAPH})

            nursery.start_soon(solve)
            solved = await client.bridge("Solve", gateway_pb2.SolveRequest(Definition=GRAPH, Evaluate=True))
            ref = solved.result.ref.id
            assert len(client.solver.jobs[0].evaluated) == 1
            part = gateway_pb2.FileRange(Offset=3, Length=4)
            read = await client.bridge("ReadFile", gateway_pb2.ReadFileRequest(Ref=ref, FilePath="/a", Range=part))
            assert read.Data == b"/a 3 4"
            listed = await client.bridge("ReadDir", gateway_pb2.ReadDirRequest(Ref=ref, DirPath="/d", IncludePattern="*"))
            assert listed.entries[0].path == "/d*"
            found = await client.bridge("StatFile", gateway_pb2.StatFileRequest(Ref=ref, Path="/f"))
            assert found.stat.size == 5
            image = gateway_pb2.ResolveImageConfigRequest(Ref="busybox", LogName="load", ResolveMode="pull")
            image.Platform.OS, image.Platform.Architecture, image.Platform.Variant = "linux", "arm", "v7"
            config = await client.bridge("ResolveImageConfig", image)
            assert json.loads(config.Config) == ["linux/arm/v7", "pull", "load"]
            assert (config.Digest, config.Ref) == ("sha256:d", "docker.io/busybox")
            source = gateway_pb2.ResolveSourceMetaRequest()
            source.Source.identifier = "docker-image://busybox"
            assert (await client.bridge("ResolveSourceMeta", source)).Image.Digest == "sha256:d"
            source.Source.identifier = "docker-image://missing"
            with pytest.raises(RpcError, match="missing: not found") as caught:
                await client.bridge("ResolveSourceMeta", source)
            assert caught.value.code == Code.NOT_FOUND
            inputs = await client.bridge("Inputs", gateway_pb2.InputsRequest())
            assert dict(inputs.Definitions) == {"in": GRAPH}
            with pytest.raises(RpcError, match="no such ref: nothing"):
                await client.bridge("Evaluate", gateway_pb2.EvaluateRequest(Ref="nothing"))
            await client.bridge("Warn", gateway_pb2.WarnRequest(digest="sha256:1", level=1, short=b"careful"))
            await client.bridge("Return", gateway_pb2.ReturnRequest())
            with pytest.raises(RpcError, match="has a result already"):
                await client.bridge("Return", gateway_pb2.ReturnRequest())
        merged = control_pb2.StatusResponse()
        for each in await client.status():
            merged.MergeFrom(each)
        assert merged.warnings[0].short == b"careful"

    control_test(test, tmp_path)


@pytest.mark.parametrize(
    ("request_", "words", "code"),
    [
        ({"Exporter": "oci"}, "could not be found", 3),
        ({"Entitlements": ["security.insecure"]}, "is not allowed by build daemon configuration", 7),
        ({"Ref": ""}, "exists already", 6),
    ],
)
def test_invalid_solve_requests_are_refused(tmp_path: Path, request_: dict[str, Any], words: str, code: int) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(RpcError, match=words) as caught:
            await client.solve(**request_)
        assert caught.value.code == code

    solver = control_test(test, tmp_path, entitlements=("network.host",))
    assert not solver.jobs


def test_requests_with_an_unknown_session_or_build_reference_or_build_id_are_refused(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(RpcError, match="no active session for s1"):
            await client.solve(Definition=GRAPH, Internal=True)
        with pytest.raises(RpcError, match="no such job other"):
            await client.status("other")
        with pytest.raises(RpcError, match="buildid"):
            await client.ask(BRIDGE + "Ping", gateway_pb2.PingRequest(), gateway_pb2.PongResponse)

    control_test(test, tmp_path, session=False, clock=trio.testing.MockClock(autojump_threshold=0))


def test_number_of_results_of_a_build_is_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_build_dockerfile.gateway.state._REFS", 2)

    async def test(client: Client) -> None:
        async with trio.open_nursery() as nursery:

            async def solve() -> None:
                await client.solve()

            nursery.start_soon(solve)
            request = gateway_pb2.SolveRequest(Definition=GRAPH)
            for _ in range(2):
                await client.bridge("Solve", request)
            with pytest.raises(RpcError, match="more than 2 results"):
                await client.bridge("Solve", request)
            await client.bridge("Return", gateway_pb2.ReturnRequest())

    control_test(test, tmp_path)


def test_oversized_error_details_are_omitted() -> None:
    error = BuildFailed("why", details=[("small", b"{}"), ("large", bytes(5 << 20)), ("last", b"{}")])
    assert [each.type_url for each in status_pb2.Status.FromString(status_of(error).details).details] == ["small"]


def test_second_build_with_the_reference_of_a_running_build_is_refused(tmp_path: Path) -> None:
    cancelled = trio.Event()

    async def test(client: Client) -> None:
        async with trio.open_nursery() as nursery:

            async def first() -> None:
                with pytest.raises(RpcError):
                    await client.solve(Definition=GRAPH, Internal=True)

            nursery.start_soon(first)
            await trio.testing.wait_all_tasks_blocked(0.05)
            with pytest.raises(RpcError, match="exists already"):
                await client.solve(Definition=GRAPH, Internal=True)
            client.builds.cancel("b1")

    control_test(test, tmp_path, solver=hanging(cancelled))


def test_finished_builds_are_forgotten_after_a_delay(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        await client.solve(Frontend="dockerfile.v0", Internal=True)
        assert len(client.builds) == 1
        await trio.sleep(11)
        assert len(client.builds) == 0
        await client.solve(Frontend="dockerfile.v0", Internal=True)

    control_test(test, tmp_path, clock=trio.testing.MockClock(autojump_threshold=0))


def test_closing_builder_ends_its_builds_with_the_reason_in_the_error(tmp_path: Path) -> None:
    running = trio.Event()

    async def work(build: Build) -> None:
        running.set()
        await trio.sleep_forever()

    async def test(client: Client) -> None:
        client.solver.work = work

        async def close() -> None:
            await running.wait()
            client.builds.close("shutting down")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(close)
            with pytest.raises(RpcError, match="shutting down") as caught:
                await client.solve(Frontend="dockerfile.v0", Internal=True)
        assert caught.value.code == Code.UNAVAILABLE
        with pytest.raises(RpcError, match="shutting down"):
            await client.solve(Frontend="dockerfile.v0", Internal=True)

    control_test(test, tmp_path)


def test_control_service_lists_workers_and_disk_usage_and_prunes_the_cache(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        listed = await client.ask(CONTROL + "ListWorkers", control_pb2.ListWorkersRequest(), control_pb2.ListWorkersResponse)
        [worker] = listed.record
        assert (worker.platforms[0].OS, worker.platforms[0].Architecture) == ("linux", "arm64")
        assert dict(worker.Labels) == {
            "org.mobyproject.buildkit.worker.moby.host-gateway-ip": "172.17.0.1",
            "org.mobyproject.buildkit.worker.snapshotter": "overlay2",
        }
        assert (worker.GCPolicy[0].keepDuration, worker.GCPolicy[0].keepBytes) == (5 * 10**9, 7)
        assert (tmp_path / "worker-id").read_text() == worker.ID
        other = control_pb2.ListWorkersRequest(filter=["id==other"])
        assert not (await client.ask(CONTROL + "ListWorkers", other, control_pb2.ListWorkersResponse)).record
        info = await client.ask(CONTROL + "Info", control_pb2.InfoRequest(), control_pb2.InfoResponse)
        assert info.buildkitVersion.version == "v1.2.3"
        usage = await client.ask(CONTROL + "DiskUsage", control_pb2.DiskUsageRequest(), control_pb2.DiskUsageResponse)
        [record] = usage.record
        assert (record.ID, record.Parent, record.CreatedAt.ToNanoseconds()) == ("r1", "r0", 1_500_000_000)
        prune = control_pb2.PruneRequest(filter=["type==regular"], all=True, keepDuration=3 * 10**9, keepBytes=9)
        removed = await client.ask(CONTROL + "Prune", prune, control_pb2.UsageRecord)
        assert removed.ID == "['type==regular'] True 3.0 9"
        assert await client.connection.unary("/grpc.health.v1.Health/Check", b"") == b"\x08\x01"
        assert await client.connection.unary("/opentelemetry.proto.collector.trace.v1.TraceService/Export", b"x") == b""

    policy = Policy(keep_duration=5, reserved=7)
    options = {"platforms": ("linux/arm64",), "host_gateway": "172.17.0.1", "policies": (policy,)}
    control_test(test, tmp_path, **options)


def test_malformed_request_fails_with_invalid_argument(tmp_path: Path) -> None:
    async def test(client: Client) -> None:
        with pytest.raises(RpcError, match="malformed") as caught:
            await client.connection.unary(CONTROL + "Solve", b"\xff\xff")
        assert caught.value.code == Code.INVALID_ARGUMENT

    control_test(test, tmp_path)


def test_session_in_a_control_stream_serves_secrets(tmp_path: Path) -> None:
    class Solver(FakeSolver):
        async def work(self, build: Build) -> None:
            assert await build.session.secret("x") == b"s3cret"
            self.done = True

    async def secret(call: Call) -> None:
        await call.receive_one()
        await call.send(session_pb2.GetSecretResponse(data=b"s3cret").SerializeToString())

    async def test(client: Client) -> None:
        headers = [("x-docker-expose-session-uuid", "s1"), ("x-docker-expose-session-grpc-method", SECRET)]
        async with client.connection.call(CONTROL + "Session", headers) as call, trio.open_nursery() as nursery:
            nursery.start_soon(Connection(Tunnel(call), handlers={SECRET: secret}).run)
            await client.solve(Definition=GRAPH, Internal=True)
            nursery.cancel_scope.cancel()

    solver: Any = Solver()
    control_test(test, tmp_path, solver=solver, session=False)
    assert solver.done
