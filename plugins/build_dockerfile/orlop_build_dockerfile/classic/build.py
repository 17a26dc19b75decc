"""Runs a build for a client of `POST /build`."""

from __future__ import annotations

import re
import uuid
from contextlib import aclosing

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Client, Job, Solver
from orlop_build_dockerfile.control.builds import ActiveBuild, Builds
from orlop_build_dockerfile.dockerfile.references import parse_reference
from orlop_build_dockerfile.gateway.containers import open_containers
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb.ops_pb2 import Definition
from orlop_build_dockerfile.session import Sessions
from orlop_sdk import Forbidden, InvalidParameter, NotFound, OrlopError, Unavailable

from .output import Renderer, error_line, image_line, result_lines, trace_line
from .request import CONTEXT, ClassicRequest, parse_request
from .session import RequestSession
from .steps import Steps

__all__ = ["ClassicEndpoint"]

_LAST = 5.0  # seconds for a slow client to receive the last reports
# Maximum bytes of a graph with its Dockerfile that are parsed on the event loop, which takes some milliseconds
_SMALL = 16 << 10
_ERRORS: dict[int, type[OrlopError]] = {5: NotFound, 7: Forbidden, 14: Unavailable}
_PLATFORM = re.compile(r"failed to parse target platform [^:]*: (.*)", re.DOTALL)
_NO_DOCKERFILE = re.compile(r"failed to read dockerfile: open (.*): no such file or directory", re.DOTALL)


class ClassicEndpoint:
    """The classic endpoint. The request's body is read from `connection`, up to its end, and the body of the answer is
    written to `connection`. A failure before the beginning of the answer is an `OrlopError`, which determines the status.
    Later failures are lines of the answer."""

    def __init__(self, solver: Solver, sessions: Sessions, builds: Builds) -> None:
        self._solver, self._sessions, self._builds = solver, sessions, builds

    async def serve(self, client: Client, connection: trio.SocketStream) -> None:
        request = parse_request(client)
        answer, renderer = _Answer(connection), Renderer()
        try:
            self._check(request)
            async with self._builds.open(request.id or uuid.uuid4().hex) as build:
                await self._prepare(build, request, connection)
                with build.scope:
                    await self._run(build, request, answer, renderer)
                if build.scope.cancelled_caught:
                    raise build.cancelled
        except BuildFailed as error:
            if not answer.begun and not renderer.begun:
                raise _refusal(error) from error
            await answer.send(error_line(error))

    def _check(self, request: ClassicRequest) -> None:
        if request.export is not None and request.export.kind not in self._solver.exports:
            raise BuildFailed(f"exporter {request.export.kind[:100]!r} could not be found", code=3)

    async def _prepare(self, build: ActiveBuild, request: ClassicRequest, connection: trio.SocketStream) -> None:
        if request.session:
            build.session = await self._sessions.get(request.session)
        else:
            session = build.session = RequestSession(uuid.uuid4().hex, connection, request.credentials)
            if request.options["context"] == CONTEXT:
                await session.check_archive()
        build.entitlements, build.resources = request.entitlements, request.resources
        build.cache_imports = request.imports

    async def _run(self, build: ActiveBuild, request: ClassicRequest, answer: _Answer, renderer: Renderer) -> None:
        async with self._solver.open(build) as job, open_containers(job) as containers:
            build.frontend.begin(job, containers)
            async with nursery() as tasks:
                shown = trio.Event()
                tasks.start_soon(_show, build, request, answer, renderer, shown)
                try:
                    image = await _image(job, request, renderer)
                finally:
                    build.reports.close()
                    # The output that explains a failure is shown before the failure
                    with trio.move_on_after(_LAST, shield=True):
                        await shown.wait()
        if request.session:
            if image:
                await answer.send(image_line(image))
            return
        if not request.quiet:
            for line in renderer.finish():
                await answer.send(line)
        names = [parse_reference(name).familiar for name in request.names]
        for line in result_lines(image, names, quiet=request.quiet):
            await answer.send(line)


class _Answer:
    """The body of the answer. `begun`: the status and a part of the body have been sent."""

    def __init__(self, connection: trio.SocketStream) -> None:
        self._connection, self._lock = connection, trio.Lock()
        self.begun = False

    async def send(self, line: bytes) -> None:
        self.begun = True
        async with self._lock:
            try:
                await self._connection.send_all(line)
            except trio.BrokenResourceError:
                raise Unavailable("the client of the build has disconnected") from None


async def _show(build: ActiveBuild, request: ClassicRequest, answer: _Answer, renderer: Renderer, shown: trio.Event) -> None:
    """Send the progress of the build, until the build ends."""
    try:
        async with aclosing(build.reports.read()) as reports:
            async for report in reports:
                lines = [trace_line(report)] if request.session else renderer.render(report)
                for line in lines:
                    if not request.quiet:
                        await answer.send(line)
    finally:
        shown.set()


async def _image(job: Job, request: ClassicRequest, renderer: Renderer) -> str:
    """Build and export the result. Returns the ID of the image, "" if the output is not an image."""
    result = await job.frontend("dockerfile.v0", request.options, {})
    for ref in result.refs.values():
        renderer.steps = await _steps(ref.definition)
        await job.evaluate(ref)
    if request.export is None:
        return ""
    return (await job.export(result, request.export)).get("containerimage.config.digest", "")


async def _steps(definition: Definition) -> Steps:
    if definition.ByteSize() <= _SMALL:
        return Steps.of(definition)
    return await trio.to_thread.run_sync(Steps.of, definition)


def _refusal(error: BuildFailed) -> OrlopError:
    if match := _NO_DOCKERFILE.search(error.message):
        return InvalidParameter(f"Cannot locate specified Dockerfile: {match[1]}")
    if match := _PLATFORM.fullmatch(error.message):
        return InvalidParameter(match[1])
    return _ERRORS.get(error.code, InvalidParameter)(error.message)
