"""The calls about the history: list and watch, pin and delete, and the content that records refer to."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator, Mapping

import trio

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Call, Code, Handler
from orlop_build_dockerfile.history.recorder import read_frames
from orlop_build_dockerfile.history.store import COMPLETE, STARTED, History
from orlop_build_dockerfile.pb import content_pb2
from orlop_build_dockerfile.pb import control_pb2 as pb

__all__ = ["HistoryService"]

_CONTROL = "/moby.buildkit.v1.Control/"
_CONTENT = "/containerd.services.content.v1.Content/"
_CHUNK = 1 << 20


class HistoryService:
    """`handlers` are the handlers of a server connection, by path."""

    def __init__(self, history: History) -> None:
        self._history = history
        self.handlers: Mapping[str, Handler] = {
            _CONTROL + "ListenBuildHistory": self._listen,
            _CONTROL + "UpdateBuildHistory": self._update,
            _CONTENT + "Info": self._info,
            _CONTENT + "Read": self._read,
        }

    async def _listen(self, call: Call) -> None:
        request = pb.BuildHistoryRequest.FromString(await call.receive_one())
        call.start()
        history = self._history

        def wanted(record: pb.BuildHistoryRecord) -> bool:
            return not request.Ref or record.Ref == request.Ref

        with history.listening() as events:
            active = [each for each in history.active.values() if wanted(each)]
            for record in active:
                await call.send(pb.BuildHistoryEvent(type=STARTED, record=record).SerializeToString())
            if not request.ActiveOnly:
                complete = sorted(filter(wanted, history.records.values()), key=lambda each: -each.CreatedAt.ToNanoseconds())
                for record in complete[: request.Limit or None]:
                    await call.send(pb.BuildHistoryEvent(type=COMPLETE, record=record).SerializeToString())
            if request.EarlyExit:
                return
            async for event in events:
                if wanted(event.record):
                    await call.send(event.SerializeToString())
            raise BuildFailed("the client does not read the events of the history", code=Code.RESOURCE_EXHAUSTED)

    async def _update(self, call: Call) -> None:
        request = pb.UpdateBuildHistoryRequest.FromString(await call.receive_one())
        if request.Delete:
            await self._history.delete(request.Ref)
        elif not request.Finalize:  # `Finalize` has no effect, because complete records have their traces
            await self._history.pin(request.Ref, request.Pinned)
        await call.send(pb.UpdateBuildHistoryResponse().SerializeToString())

    async def _info(self, call: Call) -> None:
        request = content_pb2.InfoRequest.FromString(await call.receive_one())
        info = content_pb2.Info(digest=request.digest, size=self._history.size(request.digest))
        await call.send(content_pb2.InfoResponse(info=info).SerializeToString())

    async def _read(self, call: Call) -> None:
        request = content_pb2.ReadContentRequest.FromString(await call.receive_one())
        size = self._history.size(request.digest)
        offset, end = request.offset, min(size, request.offset + request.size) if request.size > 0 else size
        if offset < 0:
            raise BuildFailed(f"invalid offset {offset}", code=Code.OUT_OF_RANGE)
        call.start()
        fd = await trio.to_thread.run_sync(os.open, self._history.blob(request.digest), os.O_RDONLY | os.O_CLOEXEC)
        try:
            while offset < end:
                data = await trio.to_thread.run_sync(os.pread, fd, min(_CHUNK, end - offset), offset)
                if not data:
                    break
                await call.send(content_pb2.ReadContentResponse(offset=offset, data=data).SerializeToString())
                offset += len(data)
        finally:
            os.close(fd)

    def has_ended(self, ref: str) -> bool:
        """Whether the build has ended and its reports are in the history."""
        return ref in self._history.records and ref not in self._history.active

    async def reports(self, ref: str) -> AsyncGenerator[bytes, None]:
        """The reports of a build that has ended."""
        frames = read_frames(self._history.blob(self._history.records[ref].logs.digest))
        while (frame := await trio.to_thread.run_sync(next, frames, None)) is not None:
            yield frame
