"""`POST /build`: parameters, the lines of the answer, and the endpoint with a solver that each test scripts."""

from __future__ import annotations

import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from orlop_build_dockerfile.classic import ClassicEndpoint
from orlop_build_dockerfile.classic.output import Renderer, error_line
from orlop_build_dockerfile.classic.request import CONTEXT, parse_request
from orlop_build_dockerfile.classic.session import RequestSession
from orlop_build_dockerfile.classic.steps import Steps
from orlop_build_dockerfile.contracts import Build, BuildFailed, Client, Credentials, Export, Resources, Result
from orlop_build_dockerfile.control.builds import Builds
from orlop_build_dockerfile.nurseries import leading_error
from orlop_build_dockerfile.pb import control_pb2 as pb
from orlop_build_dockerfile.pb.ops_pb2 import Definition
from orlop_build_dockerfile.session import Sessions
from orlop_sdk import InvalidParameter, NotFound

DOCKERFILE = b"# a comment\nFROM busybox AS a\nENV A=b\nRUN echo \\\n  hi\nCOPY f /f\n"
ARCHIVE = b"f".ljust(257, b"\0") + b"ustar".ljust(1000, b"\0")
IMAGE = "sha256:" + "12ab" * 16


def client(headers: Mapping[str, str] | None = None, **query: str | list[str]) -> Client:
    values = {name: value if isinstance(value, list) else [value] for name, value in query.items()}
    return Client(kind="build", headers=headers or {}, query=values)


def graph() -> Definition:
    """A graph as the frontend makes it: each operation has the lines of its instruction."""
    made = Definition()
    made.Source.infos.add(filename="Dockerfile", data=DOCKERFILE, language="Dockerfile")
    for digest, lines in (("from", [2]), ("run", [4, 5]), ("copy", [6])):
        location = made.Source.locations[digest].locations.add(sourceIndex=0)
        for line in lines:
            location.ranges.add(start={"line": line}, end={"line": line})
    return made


# --- parameters -------------------------------------------------------------------------------------------------------


def test_query_parameters_become_frontend_options() -> None:
    request = parse_request(
        client(
            t=["app:1", "docker.io/library/app:1", "127.0.0.1:5000/x"],
            dockerfile="sub/Dockerfile",
            target="a",
            platform="linux/amd64",
            cgroupparent="/p",
            shmsize="1000",
            nocache="1",
            pull="True",
            buildargs='{"A":"1","B":null}',
            labels='{"l":"m"}',
            extrahosts=["h:10.0.0.1", "six:[fd00::1]"],
            ulimits='[{"Name":"nofile","Hard":2,"Soft":1}]',
            networkmode="host",
            memory="100",
            cpuquota="x",
            cachefrom='["c:1"]',
            q="0",
        )
    )
    assert request.options == {
        "context": CONTEXT,
        "filename": "sub/Dockerfile",
        "target": "a",
        "platform": "linux/amd64",
        "cgroup-parent": "/p",
        "shm-size": "1000",
        "no-cache": "",
        "image-resolve-mode": "pull",
        "build-arg:A": "1",
        "label:l": "m",
        "add-hosts": "h=10.0.0.1,six=fd00::1",
        "ulimit": "nofile=1:2",
        "force-network-mode": "host",
    }
    assert request.names == ["docker.io/library/app:1", "127.0.0.1:5000/x:latest"]
    assert request.entitlements == ["network.host"] and not request.quiet
    assert request.resources == Resources(memory=100, editable_files=True)
    assert not parse_request(client(version="2", session="s")).resources.editable_files, "it is a build by BuildKit"
    assert [(each.kind, dict(each.attributes)) for each in request.imports] == [("registry", {"ref": "c:1"})]


@pytest.mark.parametrize(
    ("output", "export"),
    [
        ("", Export("moby", {"name": "docker.io/library/a:latest"})),
        (
            '[{"Type":"image","Attrs":{"push":"true"}}]',
            Export("image", {"push": "true", "name": "docker.io/library/a:latest"}),
        ),
        ('[{"Type":"local","Attrs":{"dest":"x"}}]', Export("local", {"dest": "x"})),
        ('[{"Type":"cacheonly"}]', None),
    ],
)
def test_outputs_become_exports(output: str, export: Export | None) -> None:
    assert parse_request(client(t="a", version="2", session="s", outputs=output)).export == export


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"t": "AAA"}, r"invalid reference format: repository name \(library/AAA\) must be lowercase"),
        ({"t": f"a@sha256:{'0' * 64}"}, "build tag cannot contain a digest"),
        ({"buildargs": "zz"}, "error reading build args: "),
        ({"buildargs": '{"a":1}'}, "error reading build args: "),
        ({"labels": "[]"}, "error reading labels: "),
        ({"ulimits": "{}"}, "error reading ulimits: "),
        ({"cachefrom": "{}"}, "error reading cache-from: "),
        ({"squash": "1"}, "squash is only supported with experimental mode"),
        ({"outputs": "[{}]"}, "outputs are only supported by BuildKit"),
        ({"outputs": "[{},{}]", "version": "2", "session": "s"}, "multiple outputs not supported"),
        ({"outputs": "{}", "version": "2", "session": "s"}, "error reading outputs: "),
        ({"remote": "zzz"}, r"remoteURL \(zzz\) could not be recognized as URL"),
        ({"networkmode": "mine"}, "network mode 'mine' is not supported"),
        ({"extrahosts": "h"}, "bad format for add-host: 'h'"),
        ({"isolation": "hyperv"}, "invalid isolation: hyperv"),
        ({"securityopt": '["label=x"]'}, "does not support setting security options"),
    ],
)
def test_invalid_parameters_are_refused(query: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse_request(client(**query))


@pytest.mark.parametrize("url", ["https://host/x.tar", "git@host:a.git", "github.com/a/b"])
def test_parameter_remote_becomes_the_build_context(url: str) -> None:
    assert parse_request(client(remote=url)).options["context"] in (url, f"https://{url}")


def test_registry_credentials_are_read_from_the_header() -> None:
    config = {
        "https://index.docker.io/v1/": {"username": "u", "password": "p"},
        "host:5000": {"auth": base64.b64encode(b"a:b:c").decode()},
        "token": {"identitytoken": "t"},
        "bad": {"auth": "%"},
    }
    header = base64.urlsafe_b64encode(json.dumps(config).encode()).decode().rstrip("=")
    assert parse_request(client({"x-registry-config": header})).credentials == {
        "docker.io": Credentials("u", "p"),
        "host:5000": Credentials("a", "b:c"),
        "token": Credentials("", "", "t"),
    }
    for damaged in ("!", base64.b64encode(b"[]").decode()):
        assert parse_request(client({"x-registry-config": damaged})).credentials == {}


# --- lines ------------------------------------------------------------------------------------------------------------


def report(**fields: Any) -> bytes:
    raw: bytes = pb.StatusResponse(**fields).SerializeToString()
    return raw


def vertex(digest: str, *, cached: bool = False, ended: bool = False, name: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {"digest": digest, "cached": cached, "name": name, "started": {"seconds": 1}}
    return found | ({"completed": {"seconds": 2}} if ended else {})


def shown(renderer: Renderer, raw: bytes) -> list[Any]:
    return [json.loads(line) for line in renderer.render(raw)]


def texts(renderer: Renderer, raw: bytes) -> str:
    return "".join(line["stream"] for line in shown(renderer, raw))


def test_build_steps_are_printed_in_the_order_of_the_dockerfile() -> None:
    renderer = Renderer()
    assert shown(renderer, report(vertexes=[vertex("0", name="[internal] load build definition from Dockerfile")])) == []
    assert not renderer.begun
    shown(renderer, report(vertexes=[vertex("1", name="[internal] load metadata for docker.io/library/busybox")]))
    assert renderer.begun
    renderer.steps = Steps.of(graph())
    assert texts(renderer, report(vertexes=[vertex("from")])) == "Step 1/4 : FROM busybox AS a\n"
    assert texts(renderer, report(vertexes=[vertex("from", ended=True, cached=True)])) == " ---> Using cache\n"
    assert texts(renderer, report(vertexes=[vertex("run")])) == "Step 2/4 : ENV A=b\nStep 3/4 : RUN echo   hi\n"
    logs = [{"vertex": "run", "msg": b"hi\n", "stream": 1}, {"vertex": "run", "msg": b"err\xff\n", "stream": 2}]
    assert texts(renderer, report(logs=logs)) == "hi\n\x1b[91merr\ufffd\n\x1b[0m"
    assert texts(renderer, report(vertexes=[vertex("run", ended=True)])) == ""
    assert "".join(json.loads(line)["stream"] for line in renderer.finish()) == "Step 4/4 : COPY f /f\n"
    assert list(renderer.finish()) == []


def test_answer_reports_the_downloads_of_base_images() -> None:
    renderer = Renderer()
    renderer.steps = Steps.of(graph())
    statuses = [
        {"ID": "sha256:" + "a" * 64, "vertex": "from", "name": "downloading", "current": 1, "total": 2},
        {"ID": "x", "vertex": "from", "name": "done"},
        {"ID": "transferring context", "vertex": "0", "name": "transferring", "total": 5},
    ]
    assert shown(renderer, report(statuses=statuses)) == [
        {"status": "Downloading", "id": "a" * 12, "progressDetail": {"current": 1, "total": 2}},
        {"status": "Done", "id": "x", "progressDetail": {}},
    ]


def test_error_messages_are_the_same_as_those_of_the_classic_builder() -> None:
    message = 'process "/bin/sh -c exit 3" did not complete successfully: exit code: 3'
    detail = ("github.com/moby/buildkit/gatewayapi.ExitMessage+json", b'{"Code":3}')
    assert json.loads(error_line(BuildFailed(message, details=[detail]))) == {
        "errorDetail": {"code": 3, "message": "The command '/bin/sh -c exit 3' returned a non-zero code: 3"},
        "error": "The command '/bin/sh -c exit 3' returned a non-zero code: 3",
    }
    message = 'failed to compute cache key: failed to calculate checksum of ref x: "/nosuch": not found'
    assert json.loads(error_line(BuildFailed(message, code=5)))["error"] == (
        "COPY failed: file not found in build context or excluded by .dockerignore: stat nosuch: file does not exist"
    )
    assert json.loads(error_line(BuildFailed("other")))["error"] == "other"


# --- the endpoint -----------------------------------------------------------------------------------------------------


class Value:
    definition = graph()


class FakeJob:
    def __init__(self, build: Build, work: Callable[[Build], Awaitable[None]]) -> None:
        self._build, self._work = build, work

    async def frontend(self, name: str, options: Mapping[str, str], inputs: Mapping[str, Definition]) -> Result:
        if error := options.get("build-arg:FAIL"):
            raise BuildFailed(error)
        if error := options.get("build-arg:NOIMAGE"):
            async with self._build.progress.vertex("m", "[internal] load metadata for x", ()):
                raise BuildFailed(error)
        return Result({"": Value()})

    async def evaluate(self, ref: Any) -> None:
        async with self._build.progress.vertex("from", "[1/2] FROM busybox", ()) as vertex:
            vertex.cached = True
        await self._work(self._build)

    async def export(self, result: Result, export: Export) -> Mapping[str, str]:
        if export.kind != "moby":
            return {}
        return {"containerimage.config.digest": IMAGE, "image.name": export.attributes["name"]}


class FakeSolver:
    capabilities: Mapping[str, str] = {}
    exports: Sequence[str] = ("moby", "local")

    def __init__(self, work: Callable[[Build], Awaitable[None]]) -> None:
        self._work = work
        self.open_jobs = 0

    def open(self, build: Build) -> Any:
        @asynccontextmanager
        async def opened() -> Any:
            self.open_jobs += 1
            try:
                yield FakeJob(build, self._work)
            finally:
                self.open_jobs -= 1

        return opened()


async def nothing(build: Build) -> None:
    pass


def built(
    asked: Client,
    *,
    work: Callable[[Build], Awaitable[None]] = nothing,
    body: bytes = ARCHIVE,
    during: Callable[[Builds], Awaitable[None]] | None = None,
) -> str:
    """Build, and return the answer that the client gets."""

    async def main() -> str:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_all(body)
        await ours.send_eof()
        solver = FakeSolver(work)
        found = bytearray()

        async def read() -> None:
            async for piece in ours:
                found.extend(piece)

        async with trio.open_nursery() as nursery:
            sessions = Sessions()
            builds = Builds(sessions, nursery)
            endpoint = ClassicEndpoint(solver, sessions, builds)  # type: ignore[arg-type]
            nursery.start_soon(read)
            if during is not None:
                nursery.start_soon(during, builds)
            try:
                await endpoint.serve(asked, theirs)  # type: ignore[arg-type]
            finally:
                await theirs.aclose()
                await trio.testing.wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
        assert solver.open_jobs == 0
        return found.decode()

    try:
        return trio.run(main)
    except BaseExceptionGroup as group:
        raise leading_error(group) from None


def test_build_reads_the_uploaded_context_and_prints_the_image() -> None:
    taken = []

    async def work(build: Build) -> None:
        async with build.session.upload("context") as pieces:
            taken.extend([piece async for piece in pieces])
        async with build.progress.vertex("run", "[2/2] RUN", ()) as vertex:
            vertex.log(b"hi\n")

    lines = [json.loads(line) for line in built(client(t="app"), work=work).splitlines()]
    assert b"".join(taken) == ARCHIVE
    text = "".join(line.get("stream", "") for line in lines)
    assert text == (
        "Step 1/4 : FROM busybox AS a\n ---> Using cache\nStep 2/4 : ENV A=b\nStep 3/4 : RUN echo   hi\nhi\n"
        "Step 4/4 : COPY f /f\nSuccessfully built 12ab12ab12ab\nSuccessfully tagged app:latest\n"
    )
    assert {"aux": {"ID": IMAGE}} in lines


def test_quiet_build_prints_only_the_image_id() -> None:
    assert built(client(q="1", t="app")) == json.dumps({"stream": f"{IMAGE}\n"}, separators=(",", ":")) + "\n"


def test_failure_before_the_first_line_of_output_is_an_http_error() -> None:
    with pytest.raises(InvalidParameter, match="dockerfile parse error on line 1: unknown instruction: FOO"):
        built(client(buildargs='{"FAIL":"dockerfile parse error on line 1: unknown instruction: FOO"}'))
    with pytest.raises(InvalidParameter, match="Cannot locate specified Dockerfile: D"):
        built(client(buildargs='{"FAIL":"failed to read dockerfile: open D: no such file or directory"}'))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Cannot locate specified Dockerfile: Dockerfile"),
        (bytes(10240), "Cannot locate specified Dockerfile: Dockerfile"),
        (b"FROM busybox\n" * 100, "the body of the request is not a tar archive"),
    ],
)
def test_request_body_that_is_no_tar_archive_is_refused(body: bytes, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        built(client(), body=body)
    assert "Successfully built" in built(client(remote="https://host/x.tar"), body=b"")


def test_failure_after_the_first_line_of_output_is_an_error_line() -> None:
    found = built(client(buildargs='{"NOIMAGE":"x: not found"}'))
    assert json.loads(found) == {"errorDetail": {"message": "x: not found"}, "error": "x: not found"}

    async def work(build: Build) -> None:
        raise BuildFailed("no", code=5)

    lines = built(client(), work=work).splitlines()
    assert json.loads(lines[-1])["error"] == "no"
    assert "Step 1/4" in lines[0]


def test_build_can_be_cancelled_by_its_id() -> None:
    working = trio.Event()

    async def work(build: Build) -> None:
        working.set()
        await trio.sleep_forever()

    async def cancel(builds: Builds) -> None:
        await working.wait()
        await trio.testing.wait_all_tasks_blocked()
        builds.cancel("b1")

    lines = built(client(buildid="b1"), work=work, during=cancel).splitlines()
    assert json.loads(lines[-1])["error"] == "context canceled"


def test_second_build_with_the_id_of_a_running_build_is_refused() -> None:
    working = trio.Event()

    async def work(build: Build) -> None:
        working.set()
        await trio.sleep_forever()

    async def again(builds: Builds) -> None:
        await working.wait()
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BuildFailed, match="exists already"):
            async with builds.open("b1"):
                pass
        builds.cancel("b1")

    assert "context canceled" in built(client(buildid="b1"), work=work, during=again)


def test_session_of_a_build_request_offers_only_context_and_credentials() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        await ours.send_eof()
        session = RequestSession("s", theirs, {"host": Credentials("u")})
        assert await session.secret("x") is None and not await session.has_ssh_agent("")
        assert await session.credentials("host") == Credentials("u") and await session.credentials("other") is None
        async with session.upload("context") as pieces:
            assert [piece async for piece in pieces] == []
        with pytest.raises(BuildFailed, match="only once"):
            async with session.upload("context"):
                pass

    trio.run(main)


@pytest.mark.parametrize(
    ("output", "has_image"), [("", True), ('[{"Type":"local"}]', False), ('[{"Type":"cacheonly"}]', False)]
)
def test_image_id_is_reported_only_if_the_output_of_the_build_is_an_image(output: str, has_image: bool) -> None:
    async def main() -> str:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            sessions = Sessions()
            sessions._open["s"] = RequestSession("s", theirs, {})  # type: ignore[assignment,arg-type]
            endpoint = ClassicEndpoint(FakeSolver(nothing), sessions, Builds(sessions, nursery))  # type: ignore[arg-type]
            asked = client(version="2", session="s", remote="client-session", outputs=output)
            await endpoint.serve(asked, theirs)  # type: ignore[arg-type]
            await theirs.aclose()
            nursery.cancel_scope.cancel()
        return b"".join([bytes(piece) async for piece in ours]).decode()

    assert ("moby.image.id" in trio.run(main)) == has_image


def test_build_with_an_unknown_session_returns_404() -> None:
    async def main() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:
            sessions = Sessions()
            endpoint = ClassicEndpoint(FakeSolver(nothing), sessions, Builds(sessions, nursery))  # type: ignore[arg-type]
            with pytest.raises(NotFound, match="no active session for s9"):
                await endpoint.serve(client(version="2", session="s9", remote="client-session"), theirs)  # type: ignore[arg-type]
            nursery.cancel_scope.cancel()
        await ours.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
