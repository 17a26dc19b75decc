"""Content stores of the client: caches and OCI layouts in its directories (containerd's Content service)."""

from __future__ import annotations

from collections.abc import AsyncIterator

from orlop_build_dockerfile.contracts import BuildFailed
from orlop_build_dockerfile.grpc import Call, Code, RpcError
from orlop_build_dockerfile.pb import content_pb2 as pb

__all__ = ["INFO", "READ", "STORE", "WRITE", "read", "write"]

_SERVICE = "/containerd.services.content.v1.Content/"
INFO, READ, WRITE = _SERVICE + "Info", _SERVICE + "Read", _SERVICE + "Write"
STORE = "buildkit-attachable-store-id"
_CHUNK = 1 << 20


async def write(call: Call, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
    """Write a blob with a call of `WRITE`. Raises `RpcError`, but not for a blob that the client already has."""
    offset = await _exchange(call, pb.WriteContentRequest(action=pb.STAT, ref=digest, total=size, expected=digest))
    if offset:
        raise BuildFailed(f"the client has a part of {digest} already: another transfer is running, or was interrupted")
    async for chunk in chunks:
        for start in range(0, len(chunk), _CHUNK):
            piece = chunk[start : start + _CHUNK]
            request = pb.WriteContentRequest(
                action=pb.WRITE, ref=digest, total=size, expected=digest, offset=offset, data=piece
            )
            written = await _exchange(call, request)
            offset += len(piece)
            if written != offset:
                raise BuildFailed(f"the client has written {written} of {offset} bytes of {digest}")
    commit = pb.WriteContentRequest(action=pb.COMMIT, ref=digest, total=size, expected=digest, offset=offset)
    try:
        await _exchange(call, commit)
    except RpcError as error:
        if error.code != Code.ALREADY_EXISTS:
            raise
        return
    call.finish_sending()
    while await call.receive_batch():
        pass


async def _exchange(call: Call, request: pb.WriteContentRequest) -> int:
    await call.send(request.SerializeToString())
    answer = await call.receive()
    if answer is None:
        raise RpcError(Code.UNAVAILABLE, "the client has ended the transfer")
    return pb.WriteContentResponse.FromString(answer).offset


async def read(call: Call, digest: str) -> AsyncIterator[bytes]:
    """The content of a blob, read with a call of `READ`. The generator keeps no resource open between two items, so the
    caller need not close it."""
    await call.send(pb.ReadContentRequest(digest=digest).SerializeToString())
    call.finish_sending()
    while batch := await call.receive_batch():
        yield b"".join(pb.ReadContentResponse.FromString(each).data for each in batch)
