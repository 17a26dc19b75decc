"""A session inside a call on /grpc (Control/Session): a stream of bytes in messages. Clients that do not use /session use
this call."""

from __future__ import annotations

import trio

from orlop_build_dockerfile.grpc import Call, RpcError
from orlop_build_dockerfile.pb.session_pb2 import Bytes

__all__ = ["Tunnel"]

_CHUNK = 1 << 20


class Tunnel:
    """A `ByteStream` over a call."""

    def __init__(self, call: Call) -> None:
        self._call = call

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            while batch := await self._call.receive_batch():
                if data := b"".join(Bytes.FromString(each).data for each in batch):
                    return data
        except RpcError as error:
            raise trio.BrokenResourceError from error
        return b""

    async def send_all(self, data: bytes) -> None:
        try:
            for start in range(0, len(data), _CHUNK):
                await self._call.send(Bytes(data=data[start : start + _CHUNK]).SerializeToString())
        except RpcError as error:
            raise trio.BrokenResourceError from error

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
