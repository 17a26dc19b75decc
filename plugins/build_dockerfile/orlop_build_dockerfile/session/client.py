"""Implements `contracts.Session`: calls of the builder to a client, over the connection that the client has opened."""

from __future__ import annotations

import math
import os
import socket
from collections.abc import AsyncIterator, Collection, Mapping
from contextlib import asynccontextmanager

import trio

from orlop_build_dockerfile.contracts import (
    Authorization,
    BuildFailed,
    Challenge,
    Credentials,
    LocalDirectory,
    Transferred,
    Vertex,
)
from orlop_build_dockerfile.grpc import Call, Code, Connection, Headers, RpcError
from orlop_build_dockerfile.nurseries import nursery
from orlop_build_dockerfile.pb import content_pb2
from orlop_build_dockerfile.pb import session_pb2 as pb
from orlop_build_dockerfile.session import content
from orlop_build_dockerfile.session.auth import CREDENTIALS, FETCH_TOKEN, RegistryAuth
from orlop_build_dockerfile.session.packets import encode_metadata
from orlop_build_dockerfile.session.transfer import options, receive_directory, send_directory

__all__ = ["ClientSession"]

DIFF_COPY = "/moby.filesync.v1.FileSync/DiffCopy"
FILE_SEND = "/moby.filesync.v1.FileSend/DiffCopy"
SECRET = "/moby.buildkit.secrets.v1.Secrets/GetSecret"  # noqa: S105 - a method's name
CHECK_AGENT, FORWARD_AGENT = "/moby.sshforward.v1.SSH/CheckAgent", "/moby.sshforward.v1.SSH/ForwardAgent"
PULL = "/moby.upload.v1.Upload/Pull"
HEALTH = "/grpc.health.v1.Health/Check"

_ANSWER = 60.0  # seconds; this is long, because a client may ask its user for a passphrase or run a program for credentials
_CHECK_EVERY, _CHECK_TIMEOUT = 10.0, 30.0
_PROGRESS_EVERY = 0.15  # seconds, the same as in BuildKit
_CHUNK = 1 << 20
_SECRET_LIMIT = 500 << 10  # BuildKit's limit of a secret's size


class ClientSession:
    """The session of a client. `run` must be running while calls are made. When it has returned, `ended` is set and all
    calls fail. `methods` are the paths that the client supports, empty if the client has not listed them."""

    def __init__(self, id: str, shared_key: str, methods: Collection[str], connection: Connection) -> None:
        self.id, self.shared_key = id, shared_key
        self.upload_owner: tuple[int, int] | None = None
        self.ended = trio.Event()
        self._methods, self._connection = frozenset(methods), connection
        self._auth = RegistryAuth(self._ask)

    async def run(self, early: bytes = b"") -> None:
        """Serve the session until the client ends it or no longer answers."""
        try:
            async with nursery() as tasks:
                tasks.start_soon(self._check_health)
                await self._connection.run(early)
                tasks.cancel_scope.cancel()
        finally:
            self.ended.set()

    def close(self) -> None:
        self._connection.close()

    async def _check_health(self) -> None:
        """End the session if the client is stopped or hangs: such a client keeps its connection open. A PING is not used,
        because grpc-go's servers refuse frequent PINGs."""
        if HEALTH not in self._methods:
            return
        while True:
            await trio.sleep(_CHECK_EVERY)
            try:
                await self._connection.unary(HEALTH, b"", timeout=_CHECK_TIMEOUT)
            except RpcError as error:
                if error.code == Code.DEADLINE_EXCEEDED:
                    self.close()
                    return

    def serves(self, method: str) -> bool:
        return not self._methods or method in self._methods

    @asynccontextmanager
    async def _call(self, method: str, metadata: Headers = ()) -> AsyncIterator[Call]:
        if not self.serves(method):
            raise BuildFailed(f"the client does not offer {method}", code=Code.UNIMPLEMENTED)
        try:
            async with self._connection.call(method, metadata) as call:
                yield call
        except RpcError as error:
            raise self._failure(error) from error

    async def _ask(self, method: str, message: bytes) -> bytes:
        """Make a unary call. Raises RpcError."""
        if not self.serves(method):
            raise RpcError(Code.UNIMPLEMENTED, f"the client does not offer {method}")
        return await self._connection.unary(method, message, timeout=_ANSWER)

    def _failure(self, error: RpcError) -> BuildFailed:
        if error.code == Code.UNAVAILABLE:
            return BuildFailed("the client has ended its session", code=Code.CANCELLED)
        return BuildFailed(error.message, code=error.code)

    # Files

    async def receive(self, wanted: LocalDirectory, target: str, progress: Vertex) -> Transferred:
        tell = _Teller(progress, f"transferring {wanted.name}:")
        async with self._call(DIFF_COPY, options(wanted)) as call:
            result = await receive_directory(call, target, tell)
        tell.finish(result.size)
        return result

    async def send_directory(self, exporter: str, directory: int, *, below: str = "", time: int | None = None) -> None:
        async with self._call(FILE_SEND, [("buildkit-attachable-exporter-id", exporter)]) as call:
            await send_directory(call, directory, lambda sent: None, below=os.fsencode(below), time=time)

    async def send_archive(self, exporter: str, chunks: AsyncIterator[bytes], metadata: Mapping[str, str]) -> None:
        headers = [("buildkit-attachable-exporter-id", exporter)]
        for name, value in metadata.items():
            headers += encode_metadata(f"exporter-md-{name.lower()}", [value])
        async with self._call(FILE_SEND, headers) as call:
            async for chunk in chunks:
                for start in range(0, len(chunk), _CHUNK):
                    await call.send(pb.Bytes(data=chunk[start : start + _CHUNK]).SerializeToString())
            call.finish_sending()
            while await call.receive_batch():
                pass

    @asynccontextmanager
    async def upload(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        headers = [("urlpath", "/" + path.lstrip("/")), ("urlhost", "buildkit-session")]
        async with self._call(PULL, headers) as call:
            call.finish_sending()
            yield _bytes(call)

    async def stream(self) -> None:
        return None

    # Content stores of the client

    async def has_content(self, store: str, digest: str) -> bool:
        try:
            async with self._connection.call(content.INFO, [(content.STORE, store)]) as call:
                await call.send(content_pb2.InfoRequest(digest=digest).SerializeToString())
                call.finish_sending()
                await call.receive_one()
        except RpcError as error:
            if error.code == Code.NOT_FOUND:
                return False
            raise self._failure(error) from error
        return True

    async def write_content(self, store: str, digest: str, size: int, chunks: AsyncIterator[bytes]) -> None:
        try:
            async with self._call(content.WRITE, [(content.STORE, store)]) as call:
                await content.write(call, digest, size, chunks)
        except BuildFailed as error:
            if error.code != Code.ALREADY_EXISTS:
                raise

    @asynccontextmanager
    async def read_content(self, store: str, digest: str) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._call(content.READ, [(content.STORE, store)]) as call:
            yield content.read(call, digest)

    # Secrets

    async def secret(self, id: str) -> bytes | None:
        try:
            answer = await self._ask(SECRET, pb.GetSecretRequest(ID=id).SerializeToString())
        except RpcError as error:
            if error.code in (Code.NOT_FOUND, Code.UNIMPLEMENTED):
                return None
            raise self._failure(error) from error
        data = pb.GetSecretResponse.FromString(answer).data
        if len(data) > _SECRET_LIMIT:
            raise BuildFailed(f"secret {id} is larger than {_SECRET_LIMIT} bytes", code=Code.INVALID_ARGUMENT)
        return data

    async def credentials(self, host: str) -> Credentials | None:
        return Credentials(session=self.id, host=host) if self.serves(CREDENTIALS) or self.serves(FETCH_TOKEN) else None

    async def authorize(self, host: str, challenge: Challenge) -> Authorization:
        """Answer a registry's challenge. Raises `BuildFailed`."""
        try:
            return await self._auth.answer(host, challenge)
        except RpcError as error:
            raise self._failure(error) from error

    # SSH

    async def has_ssh_agent(self, id: str) -> bool:
        try:
            await self._ask(CHECK_AGENT, pb.CheckAgentRequest(ID=id).SerializeToString())
        except RpcError as error:
            if error.code == Code.UNAVAILABLE:
                raise self._failure(error) from error
            return False
        return True

    async def ssh_agent(self, id: str, connection: int) -> None:
        """Connect a stream socket with the client's agent, until one of them closes. The caller closes `connection`."""
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(socket.socket(fileno=os.dup(connection))))
        async with stream, self._call(FORWARD_AGENT, [("buildkit.ssh.id", id)]) as call, nursery() as tasks:
            tasks.start_soon(_forward, stream, call, tasks.cancel_scope)
            async for data in _bytes(call):
                try:
                    await stream.send_all(data)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    break
            tasks.cancel_scope.cancel()


async def _forward(stream: trio.SocketStream, call: Call, scope: trio.CancelScope) -> None:
    try:
        while data := await stream.receive_some(32 << 10):
            await call.send(pb.Bytes(data=bytes(data)).SerializeToString())
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        scope.cancel()
        return
    call.finish_sending()


async def _bytes(call: Call) -> AsyncIterator[bytes]:
    """The bytes in the messages of a call. The generator keeps no resource open between two items, so the caller need not
    close it."""
    while batch := await call.receive_batch():
        data = b"".join(pb.Bytes.FromString(each).data for each in batch)
        if data:
            yield data


class _Teller:
    """Reports the bytes of a transfer, at most once per interval."""

    def __init__(self, vertex: Vertex, status: str) -> None:
        self._vertex, self._status, self._last = vertex, status, -math.inf

    def __call__(self, current: int) -> None:
        now = trio.current_time()
        if now - self._last >= _PROGRESS_EVERY:
            self._last = now
            self._vertex.status(self._status, current=current)

    def finish(self, current: int) -> None:
        self._vertex.status(self._status, current=current, done=True)
