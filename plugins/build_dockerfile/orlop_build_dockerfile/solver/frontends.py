"""Frontends make a graph from a client's options. The Dockerfile frontend is a generator that yields requests for the data
that it needs."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import trio

from orlop_build_dockerfile.contracts import BuildFailed, Result
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
    Warned,
)
from orlop_build_dockerfile.dockerfile.llb import head
from orlop_build_dockerfile.pb import ops_pb2

if TYPE_CHECKING:
    from .job import SolverJob

__all__ = ["run_frontend"]


async def run_frontend(
    job: SolverJob, name: str, options: Mapping[str, str], inputs: Mapping[str, ops_pb2.Definition]
) -> Result:
    if name == "gateway.v0":
        from orlop_build_dockerfile.gateway.image import run_image

        return await run_image(job, options, inputs)
    if name != "dockerfile.v0":
        raise BuildFailed(f"frontend {name} is not supported", code=12)
    request = Request(
        options=options,
        inputs=inputs,
        platforms=tuple(job.core.settings.platforms) or ("linux/amd64",),
        session=job.build.session.id,
    )
    converted = await _convert(job, request)
    if isinstance(converted, OtherFrontend):
        return await _other(job, converted, inputs)
    if converted.syntax:
        await _tell_syntax(job, converted.syntax)
    for warning in converted.warnings:
        _warn(job, warning)
    for result in converted.results:
        job.scans[result.platform, head(result.definition)] = result.scans
    refs = {
        (result.platform if converted.multi_platform else ""): job.define(result.definition) for result in converted.results
    }
    return Result(refs=refs, metadata=converted.result_metadata())


async def _tell_syntax(job: SolverJob, image: str) -> None:
    """Show that the frontend image is not run, because Orlop's frontend replaces it."""
    digest = "sha256:" + hashlib.sha256(f"syntax {image}".encode()).hexdigest()
    async with job.build.progress.vertex(digest, f"[internal] frontend {image}", ()) as shown:
        shown.log(f"{image} is not pulled: the Dockerfile frontend is part of Orlop\n".encode())


async def _other(job: SolverJob, wanted: OtherFrontend, inputs: Mapping[str, ops_pb2.Definition]) -> Result:
    """Run the frontend that the Dockerfile requires. An error without lines gets the lines with the name of the frontend."""
    from orlop_build_dockerfile.gateway.image import run_image

    try:
        return await run_image(job, wanted.options, inputs)
    except BuildFailed as error:
        if not any("errdefs.Source" in name for name, _ in error.details):
            located = DockerfileError(error.message, source=wanted.source, ranges=wanted.ranges)
            error.details.extend(located.details)
        raise


async def _convert(job: SolverJob, request: Request) -> Converted | OtherFrontend:
    from orlop_build_dockerfile.dockerfile.frontend import convert

    conversion = convert(request)
    answers: list[Answer] | None = None
    size = sum(map(len, request.options.values()))

    def step() -> Sequence[Need] | Converted | OtherFrontend:
        try:
            return next(conversion) if answers is None else conversion.send(answers)
        except StopIteration as stop:
            value: Converted | OtherFrontend = stop.value
            return value

    try:
        while True:
            # The conversion of a long Dockerfile takes longer than the event loop may be blocked
            size += sum(sum(map(len, filter(None, answer))) for answer in answers or () if isinstance(answer, list))
            needs = await job.core.compute(size, step)
            if isinstance(needs, Converted | OtherFrontend):
                return needs
            answers = await _answers(job, needs)
    except DockerfileError as error:
        for warning in error.warnings:
            _warn(job, warning)
        raise BuildFailed(error.message, code=error.code, details=error.details) from None
    finally:
        conversion.close()


async def _answers(job: SolverJob, needs: Sequence[Need]) -> list[Answer]:
    found: list[Answer] = [Failed("no answer")] * len(needs)

    async def one(number: int, need: Need) -> None:
        try:
            found[number] = await _answer(job, need)
        except BuildFailed as error:
            found[number] = Failed(error.message, error.code, tuple(error.details))

    async with trio.open_nursery() as nursery:
        for number, need in enumerate(needs):
            nursery.start_soon(one, number, need)
    return found


async def _answer(job: SolverJob, need: Need) -> Answer:
    if isinstance(need, ResolveImage):
        base = await job.resolve_image(need.name, need.platform, mode=need.mode, log_name=need.vertex)
        return ResolvedImage(base.digest, base.config, base.name)
    assert isinstance(need, ReadFiles)
    ref = await job.core.compute(need.definition.ByteSize(), lambda: job.define(need.definition))
    contents: list[bytes | None] = []
    for file in need.files:
        try:
            contents.append(await job.read_file(ref, file.path, length=file.limit))
        except BuildFailed as error:
            if error.code != 5:
                raise
            contents.append(None)
    return contents


def _warn(job: SolverJob, warning: Warned) -> None:
    """Show a finding of a lint check on the vertex that loaded the Dockerfile."""
    shown = job.shown.get(warning.vertex)
    if shown is None:
        return
    source = ops_pb2.SourceInfo(filename=warning.source.filename, data=warning.source.data, language=warning.source.language)
    if warning.source.definition is not None:
        source.definition.CopyFrom(warning.source.definition)
    ranges = [
        ops_pb2.Range(
            start=ops_pb2.Position(line=each.start.line, character=each.start.character),
            end=ops_pb2.Position(line=each.end.line, character=each.end.character),
        )
        for each in warning.ranges
    ]
    shown.warn(warning.short, detail=warning.detail, url=warning.url, source=source, ranges=ranges)
