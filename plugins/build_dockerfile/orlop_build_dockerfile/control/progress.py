"""Implements `contracts.Progress`: the reports of a build, which are kept until all readers have read them.

Each report is a serialized StatusResponse. Readers get several reports at once, concatenated, because concatenated messages
of protobuf are one message with all their fields. The size of kept reports is limited. Reports that all readers have read
are dropped first, then output.
"""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import asynccontextmanager

import trio
from google.protobuf.timestamp_pb2 import Timestamp

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.control.logs import LogLimit
from orlop_build_dockerfile.nurseries import leading_error
from orlop_build_dockerfile.pb import control_pb2 as pb
from orlop_build_dockerfile.pb.ops_pb2 import Range, SourceInfo

__all__ = ["BuildProgress"]

KEEP = 8 << 20  # bytes kept for later readers
MOST = 32 << 20  # bytes kept for slow readers
_BATCH = 256 << 10


class BuildProgress:
    """The progress of a build. Close it at the end of the build, so that readers end when they have read all reports."""

    def __init__(self) -> None:
        self._reports: list[bytes] = []
        self._dropped = 0  # number of reports that are no longer kept
        self._size = 0
        self._readers: list[_Reader] = []
        self._news = trio.lowlevel.ParkingLot()
        self._closed = False

    def close(self) -> None:
        self._closed = True
        self._news.unpark_all()

    def report(self, report: pb.StatusResponse, *, output: bool = False) -> None:
        """Add a report. With `output`, the report may be dropped if there is too much output."""
        if self._closed or (output and self._size > MOST):
            return
        raw = report.SerializeToString()
        self._reports.append(raw)
        self._size += len(raw)
        if self._size > KEEP:
            self._drop()
        self._news.unpark_all()

    def _drop(self) -> None:
        """Drop reports that all readers have read."""
        if not self._readers:
            return
        read = min(reader.position for reader in self._readers) - self._dropped
        if read > 0:
            self._size -= sum(map(len, self._reports[:read]))
            del self._reports[:read]
            self._dropped += read

    async def read(self) -> AsyncGenerator[bytes, None]:
        """Serialized StatusResponses, from the beginning to the end of the build. The caller must close the iterator."""
        reader = _Reader(self._dropped)
        self._readers.append(reader)
        try:
            while True:
                index = reader.position - self._dropped
                batch, size = [], 0
                while index < len(self._reports) and size < _BATCH:
                    batch.append(self._reports[index])
                    size += len(self._reports[index])
                    index += 1
                if batch:
                    reader.position += len(batch)
                    yield b"".join(batch)
                elif self._closed:
                    return
                else:
                    await self._news.park()
        finally:
            self._readers.remove(reader)

    @asynccontextmanager
    async def vertex(self, digest: str, name: str, inputs: Sequence[str]) -> AsyncIterator[_Vertex]:
        vertex = _Vertex(self, digest, name, inputs)
        vertex.show()
        try:
            yield vertex
        except BaseException as error:
            vertex.error = _words(error)
            raise
        finally:
            vertex.complete()

    def warn(self, warning: pb.VertexWarning) -> None:
        self.report(pb.StatusResponse(warnings=[warning]))


def _words(error: BaseException) -> str:
    """The text of an error. Clients show the text "context canceled" as CANCELED."""
    error = leading_error(error)
    if isinstance(error, trio.Cancelled):
        return "context canceled"
    return error.message if isinstance(error, BuildFailed) else str(error) or type(error).__name__


def _set_now(timestamp: Timestamp) -> None:
    """Like `Timestamp.GetCurrentTime`, but ten times as fast, because a build sets a hundred timestamps."""
    timestamp.seconds, timestamp.nanos = divmod(time.time_ns(), 1_000_000_000)


class _Reader:
    def __init__(self, position: int) -> None:
        self.position = position


class _Vertex:
    """`contracts.Vertex`."""

    def __init__(self, progress: BuildProgress, digest: str, name: str, inputs: Sequence[str]) -> None:
        self.cached = False
        self.error = ""
        self._progress = progress
        self._vertex = pb.Vertex(digest=digest, name=name, inputs=inputs)
        _set_now(self._vertex.started)
        self._began = time.monotonic()
        self._limits: dict[int, LogLimit] = {}
        self._statuses: dict[str, pb.VertexStatus] = {}

    def show(self) -> None:
        self._progress.report(pb.StatusResponse(vertexes=[self._vertex]))

    def complete(self) -> None:
        self._vertex.cached, self._vertex.error = self.cached, self.error
        _set_now(self._vertex.completed)
        self.show()

    def log(self, data: bytes, stream: int = 1) -> None:
        limit = self._limits.setdefault(stream, LogLimit(self._began))
        if not (data := limit.take(data, time.monotonic())):
            return
        entry = pb.VertexLog(vertex=self._vertex.digest, stream=stream, msg=data)
        _set_now(entry.timestamp)
        self._progress.report(pb.StatusResponse(logs=[entry]), output=True)

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None:
        status = self._statuses.get(id)
        if status is None:
            status = self._statuses[id] = pb.VertexStatus(ID=id, vertex=self._vertex.digest)
            _set_now(status.started)
        status.name, status.current, status.total = name, current, total
        _set_now(status.timestamp)
        if done:
            status.completed.CopyFrom(status.timestamp)
        self._progress.report(pb.StatusResponse(statuses=[status]), output=not done)

    def warn(
        self,
        message: str,
        *,
        detail: Sequence[str] = (),
        url: str = "",
        source: SourceInfo | None = None,
        ranges: Sequence[Range] = (),
    ) -> None:
        self._progress.warn(
            pb.VertexWarning(
                vertex=self._vertex.digest,
                level=1,
                short=message.encode("utf-8", "replace"),
                detail=[line.encode("utf-8", "replace") for line in detail],
                url=url,
                info=source,
                ranges=ranges,
            )
        )
