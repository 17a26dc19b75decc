"""A client of BuildKit's protocol. Tests choose its calls, graphs and answers, which may be invalid."""

from __future__ import annotations

import hashlib
import struct
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import trio
from tests.integration.engine import BUSYBOX, Engine, patience

from orlop_build_dockerfile.grpc import Connection, Handler
from orlop_build_dockerfile.pb import control_pb2, ops_pb2

__all__ = ["BASE", "CONTROL", "FILES", "ProtocolClient", "connected", "executing", "filing", "frame", "graph", "upgrade"]

CONTROL = "/moby.buildkit.v1.Control/"
FILES = "/moby.filesync.v1.FileSync/DiffCopy"
BASE = ops_pb2.Op(source=ops_pb2.SourceOp(identifier=f"docker-image://docker.io/library/{BUSYBOX}"))


def upgrade(path: str, headers: Mapping[str, str] | None = None) -> bytes:
    """The request that upgrades a connection to HTTP/2."""
    lines = [f"POST {path} HTTP/1.1", "Host: d", "Connection: Upgrade", "Upgrade: h2c"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in (headers or {}).items()), "", ""]).encode()


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A frame of HTTP/2."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


@asynccontextmanager
async def connected(socket: str, path: str, headers: Mapping[str, str] | None = None) -> AsyncIterator[trio.SocketStream]:
    """A connection that was upgraded."""
    sock = trio.socket.socket(trio.socket.AF_UNIX)
    await sock.connect(socket)
    async with trio.SocketStream(sock) as stream:
        await stream.send_all(upgrade(path, headers))
        head = b""
        while not head.endswith(b"\r\n\r\n"):  # the bytes after the head are HTTP/2
            data = await stream.receive_some(1)
            assert data, head
            head += data
        assert head.startswith(b"HTTP/1.1 101 "), head
        yield stream


class ProtocolClient:
    """Connections of one client: calls of /grpc, and a session. Create it with `opened`."""

    def __init__(self, socket: str, connection: Connection, nursery: trio.Nursery) -> None:
        self._socket, self.connection, self._nursery = socket, connection, nursery

    @classmethod
    @asynccontextmanager
    async def opened(cls, engine: Engine | str, socket: str = "") -> AsyncIterator[ProtocolClient]:
        """`engine`: a daemon of Orlop, or the socket of any daemon."""
        path = socket or (engine if isinstance(engine, str) else engine.socket)
        async with connected(path, "/grpc") as stream, trio.open_nursery() as nursery:
            connection = Connection(stream, client=True)
            nursery.start_soon(connection.run)
            yield cls(path, connection, nursery)
            nursery.cancel_scope.cancel()

    @asynccontextmanager
    async def session(
        self, handlers: Mapping[str, Handler] | None = None, methods: Sequence[str] = (), **headers: str
    ) -> AsyncIterator[str]:
        """Open a session that answers calls by `handlers`. Returns the id of the session."""
        id = uuid.uuid4().hex
        offered = {"X-Docker-Expose-Session-Uuid": id, "X-Docker-Expose-Session-Sharedkey": id, **headers}
        if methods:
            offered["X-Docker-Expose-Session-Grpc-Method"] = ", ".join(methods)
        async with connected(self._socket, "/session", offered) as stream, trio.open_nursery() as nursery:
            nursery.start_soon(Connection(stream, handlers=handlers or {}).run)
            yield id
            nursery.cancel_scope.cancel()

    async def ask(self, method: str, request: Any, answer: type[Any], build: str = "") -> Any:
        metadata = [("buildkit-controlapi-buildid", build)] if build else []
        raw = request if isinstance(request, bytes) else request.SerializeToString()
        return answer.FromString(await self.connection.unary(method, raw, metadata, timeout=patience(60)))

    async def solve(self, definition: ops_pb2.Definition | None, session: str, **request: Any) -> Mapping[str, str]:
        """Build a graph. Raises RpcError."""
        message = control_pb2.SolveRequest(
            **{"Ref": uuid.uuid4().hex, "Session": session, "Definition": definition, **request}
        )
        found = await self.ask(CONTROL + "Solve", message, control_pb2.SolveResponse)
        return dict(found.ExporterResponse)


# --- graphs -----------------------------------------------------------------------------------------------------------


def digest(op: ops_pb2.Op | bytes) -> str:
    raw = op if isinstance(op, bytes) else op.SerializeToString()
    return "sha256:" + hashlib.sha256(raw).hexdigest()


def of(op: ops_pb2.Op | bytes, index: int = 0) -> ops_pb2.Input:
    """An output of an operation, as an input of another."""
    return ops_pb2.Input(digest=digest(op), index=index)


def graph(*ops: ops_pb2.Op | bytes, output: int = 0) -> ops_pb2.Definition:
    """A definition whose result is one of the outputs of the last operation."""
    end = ops_pb2.Op(inputs=[of(ops[-1], output)])
    return ops_pb2.Definition(**{"def": [op if isinstance(op, bytes) else op.SerializeToString() for op in (*ops, end)]})


def executing(
    *args: str, mounts: Sequence[ops_pb2.Mount] = (), inputs: Sequence[ops_pb2.Op] = (), root: bool = True, **op: Any
) -> ops_pb2.Definition:
    """A command in busybox. Input 0 is busybox, and `inputs` are the next inputs. `op` contains `meta` and other fields of
    ExecOp."""
    meta = ops_pb2.Meta(**{"args": args or ("true",), "cwd": "/", **op.pop("meta", {})})
    own = [ops_pb2.Mount(input=0, dest="/", output=0)] if root else []
    made = ops_pb2.Op(inputs=[of(BASE), *map(of, inputs)], exec=ops_pb2.ExecOp(meta=meta, mounts=[*own, *mounts], **op))
    return graph(BASE, *inputs, made)


def filing(*actions: ops_pb2.FileAction, inputs: Sequence[ops_pb2.Op] = ()) -> ops_pb2.Op:
    """File actions."""
    return ops_pb2.Op(inputs=[of(op) for op in inputs], file=ops_pb2.FileOp(actions=actions))
