"""Writes the reports of a build to a file while the build runs. Each report is a StatusResponse after its length (4 bytes,
little endian; BuildKit's media type application/vnd.buildkit.status.v0)."""

from __future__ import annotations

import hashlib
import os
import struct
from collections.abc import Callable, Iterator, Mapping
from contextlib import aclosing, contextmanager, suppress

import trio

from orlop_build_dockerfile.attest.statements import SLSA
from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.control.errors import failed, status_of
from orlop_build_dockerfile.control.progress import BuildProgress
from orlop_build_dockerfile.export.documents import IN_TOTO
from orlop_build_dockerfile.history.store import History
from orlop_build_dockerfile.history.trace import spans
from orlop_build_dockerfile.pb import control_pb2 as pb
from orlop_build_dockerfile.pb.status_pb2 import Status

__all__ = ["LOGS", "Recorder", "Recording", "read_frames"]

LOGS, TRACE = "application/vnd.buildkit.status.v0", "application/vnd.buildkit.otlp.json.v0"
_LENGTH = struct.Struct("<I")
_MOST_LOG = 16 << 20  # bytes for each build; further output is not kept
_MOST_VERTICES = 20_000
_STORING = 10.0  # seconds that a client waits for its record


class Recording:
    """The record of one build. `response` is the answer of its exporters. `provenance` contains a predicate for each
    platform."""

    def __init__(self) -> None:
        self.response: Mapping[str, str] = {}
        self.provenance: Mapping[str, bytes] = {}
        self.error: BuildFailed | None = None
        self.begun = False
        self.ended, self._stored = trio.Event(), trio.Event()

    async def stored(self) -> None:
        """Wait until the record can be listed, if the build leaves a record."""
        if self.begun:
            with trio.move_on_after(_STORING):
                await self._stored.wait()

    def set_stored(self) -> None:
        self._stored.set()


class _Steps:
    def __init__(self) -> None:
        self.vertices: dict[str, pb.Vertex] = {}
        self.warnings = 0

    def see(self, report: pb.StatusResponse) -> None:
        self.warnings += len(report.warnings)
        for vertex in report.vertexes:
            if vertex.digest in self.vertices or len(self.vertices) < _MOST_VERTICES:
                self.vertices[vertex.digest] = vertex

    def count(self, record: pb.BuildHistoryRecord) -> None:
        completed = [each for each in self.vertices.values() if each.HasField("completed")]
        record.numTotalSteps = len(self.vertices)
        record.numCompletedSteps = len(completed)
        record.numCachedSteps = sum(each.cached for each in completed)
        record.numWarnings = self.warnings


class Recorder:
    """Records builds. Tasks of `nursery` complete the records, because a client may disconnect before."""

    def __init__(self, history: History, nursery: trio.Nursery) -> None:
        self._history, self._nursery = history, nursery

    @contextmanager
    def record(self, recording: Recording, request: pb.SolveRequest, reports: BuildProgress) -> Iterator[None]:
        """Record a build during the block, and until `reports` are closed. Builds that the client marks as internal leave no
        record."""
        if not request.Internal:
            recording.begun = True
            record = _begin(request)
            self._history.start(record)
            self._nursery.start_soon(self._follow, recording, record, reports)
        try:
            yield
        except BaseException as error:
            cancelled = isinstance(error, trio.Cancelled)
            recording.error = BuildFailed("context canceled", code=1) if cancelled else failed(error)
            raise
        finally:
            recording.ended.set()

    async def _follow(self, recording: Recording, record: pb.BuildHistoryRecord, reports: BuildProgress) -> None:
        path = self._history.new_path()
        steps, digest = _Steps(), hashlib.sha256()
        try:
            with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb", buffering=0) as file:
                await self._write(file.write, digest.update, steps, reports)
            await recording.ended.wait()
            record.CompletedAt.GetCurrentTime()
            record.ExporterResponse.update(recording.response)
            if recording.error is not None:
                record.error.CopyFrom(_status(recording.error))
            steps.count(record)
            record.logs.CopyFrom(await self._history.take_blob(path, digest.hexdigest(), LOGS))
            if trace := spans(record, steps.vertices.values()):
                record.trace.CopyFrom(await self._history.add_blob(trace, TRACE))
            for platform, predicate in recording.provenance.items():
                await self._attach(record, platform, predicate)
            await self._history.complete(record)
        except OSError as error:
            self._history.failed_to_write(error)
        finally:
            self._history.abandon(record)
            with suppress(OSError):
                os.unlink(path)
            recording.set_stored()

    async def _attach(self, record: pb.BuildHistoryRecord, platform: str, predicate: bytes) -> None:
        """Add the provenance of one result, as `docker buildx history inspect attachment` expects it."""
        if len(predicate) > _MOST_LOG:
            return
        about = record.Results[platform] if platform else record.Result
        attachment = about.Attestations.add()
        attachment.CopyFrom(await self._history.add_blob(predicate, IN_TOTO))
        attachment.annotations["in-toto.io/predicate-type"] = SLSA

    async def _write(
        self, write: Callable[[bytes], object], hashed: Callable[[bytes], object], steps: _Steps, reports: BuildProgress
    ) -> None:
        size = 0
        async with aclosing(reports.read()) as batches:
            async for batch in batches:
                report = pb.StatusResponse.FromString(batch)
                steps.see(report)
                if size + len(batch) > _MOST_LOG:
                    report.ClearField("logs")
                    report.ClearField("statuses")
                    batch = report.SerializeToString()
                    if size > 2 * _MOST_LOG:
                        continue
                frame = _LENGTH.pack(len(batch)) + batch
                size += len(frame)
                hashed(frame)
                await trio.to_thread.run_sync(write, frame)


def _begin(request: pb.SolveRequest) -> pb.BuildHistoryRecord:
    record = pb.BuildHistoryRecord(
        Ref=request.Ref,
        Frontend=request.Frontend,
        FrontendAttrs=dict(request.FrontendAttrs),
        Exporters=list(request.Exporters),
    )
    if not record.Exporters and request.Exporter:
        record.Exporters.add(Type=request.Exporter, Attrs=dict(request.ExporterAttrs))
    record.CreatedAt.GetCurrentTime()
    return record


def _status(error: BuildFailed) -> Status:
    status = status_of(error)
    if status.details:
        return Status.FromString(status.details)
    return Status(code=int(status.code), message=status.message)


def read_frames(path: str) -> Iterator[bytes]:
    """The reports in a file."""
    with open(path, "rb") as file:
        while len(head := file.read(_LENGTH.size)) == _LENGTH.size:
            (length,) = _LENGTH.unpack(head)
            if length > 4 * _MOST_LOG:
                return
            yield file.read(length)
