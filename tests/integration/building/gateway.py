"""A frontend in the client: it makes containers, and runs processes in them."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import trio
from tests.integration.building.protocol import BASE, CONTROL, ProtocolClient, graph
from tests.integration.engine import patience

from orlop_build_dockerfile.grpc import Call, RpcError
from orlop_build_dockerfile.pb import control_pb2, ops_pb2
from orlop_build_dockerfile.pb import gateway_pb2 as pb

__all__ = ["BRIDGE", "Frontend", "Processes"]

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"


class Processes:
    """A stream of `ExecProcess`. `out` contains the output of each process, `exits` their exit messages. While `reading` is
    not set, nothing is received."""

    def __init__(self, call: Call) -> None:
        self.call = call
        self.out: dict[str, bytes] = {}
        self.exits: dict[str, pb.ExitMessage] = {}
        self._changed = trio.lowlevel.ParkingLot()

    async def send(self, name: str, **content: Any) -> None:
        await self.call.send(pb.ExecMessage(ProcessID=name, **content).SerializeToString())

    async def start(self, name: str, container: str, *args: str, fds: Sequence[int] = (1, 2), **init: Any) -> None:
        meta = ops_pb2.Meta(args=args)
        await self.send(name, Init=pb.InitMessage(ContainerID=container, Meta=meta, Fds=fds, **init))

    async def receive(self) -> None:
        """Receive until the call ends."""
        while (data := await self.call.receive()) is not None:
            message = pb.ExecMessage.FromString(data)
            name = message.ProcessID
            if message.HasField("File"):
                self.out[name] = self.out.get(name, b"") + message.File.Data
            elif message.HasField("Exit"):
                self.exits[name] = message.Exit
            self._changed.unpark_all()

    async def wait(self, condition: Callable[[], Any]) -> None:
        with trio.fail_after(patience(30)):
            while not condition():
                await self._changed.park()

    async def said(self, name: str, text: bytes) -> None:
        await self.wait(lambda: text in self.out.get(name, b""))

    async def ended(self, name: str) -> pb.ExitMessage:
        await self.wait(lambda: name in self.exits)
        return self.exits[name]


class Frontend:
    """Use `opened`."""

    def __init__(self, client: ProtocolClient, build: str) -> None:
        self.client, self.build = client, build

    @classmethod
    @asynccontextmanager
    async def opened(cls, client: ProtocolClient, session: str, **request: Any) -> AsyncIterator[Frontend]:
        """A build whose frontend is the test, until the end of the block."""
        build = uuid.uuid4().hex
        message = control_pb2.SolveRequest(Ref=build, Session=session, **request)

        async def solve() -> None:
            with suppress(RpcError):
                await client.connection.unary(CONTROL + "Solve", message.SerializeToString())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(solve)
            yield cls(client, build)
            nursery.cancel_scope.cancel()

    async def ask(self, method: str, request: Any, answer: type[Any]) -> Any:
        return await self.client.ask(BRIDGE + method, request, answer, self.build)

    async def base(self) -> str:
        """The reference (`ref`) to the files of busybox."""
        request = pb.SolveRequest(Definition=graph(BASE), allowResultReturn=True, allowResultArrayRef=True)
        return str((await self.ask("Solve", request, pb.SolveResponse)).result.ref.id)

    async def new(self, name: str, ref: str, **request: Any) -> None:
        mounts = [ops_pb2.Mount(dest="/", resultID=ref)]
        await self.ask(
            "NewContainer", pb.NewContainerRequest(ContainerID=name, Mounts=mounts, **request), pb.NewContainerResponse
        )

    async def release(self, name: str) -> None:
        await self.ask("ReleaseContainer", pb.ReleaseContainerRequest(ContainerID=name), pb.ReleaseContainerResponse)

    @asynccontextmanager
    async def processes(self, *, reading: bool = True) -> AsyncIterator[Processes]:
        metadata = [("buildkit-controlapi-buildid", self.build)]
        async with self.client.connection.call(BRIDGE + "ExecProcess", metadata) as call, trio.open_nursery() as nursery:
            found = Processes(call)
            if reading:
                nursery.start_soon(found.receive)
            yield found
            nursery.cancel_scope.cancel()
