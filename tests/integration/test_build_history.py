"""Records of builds, read as newer clients do (`docker buildx history`), and compared with dockerd's records."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio
from tests.integration.building.clients import Client, Clients, build_clients
from tests.integration.engine import Engine
from tests.integration.parity import Side

from orlop_build_dockerfile.grpc import Connection
from orlop_build_dockerfile.pb import content_pb2
from orlop_build_dockerfile.pb import control_pb2 as pb

pytestmark = [pytest.mark.root, pytest.mark.timeout(600)]

LISTEN, READ = "/moby.buildkit.v1.Control/ListenBuildHistory", "/containerd.services.content.v1.Content/Read"
UPGRADE = b"POST /grpc HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"


@pytest.fixture
def clients(shared: Engine, sides: tuple[Side, Side], tmp_path: Path) -> Iterator[Clients]:
    with build_clients(shared, sides, tmp_path) as found:
        yield found


def connected(client: Client) -> socket.socket:
    made = socket.socket(socket.AF_UNIX)
    made.settimeout(60)
    made.connect(client.env["DOCKER_HOST"].removeprefix("unix://"))
    made.sendall(UPGRADE)
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += made.recv(1)
    assert b" 101 " in head
    made.setblocking(False)
    return made


def attachments(client: Client) -> list[tuple[str, pb.Descriptor, Any]]:
    """The attachments of the last record: platform, descriptor and content."""

    async def ask(connection: Connection, method: str, message: bytes) -> list[bytes]:
        async with connection.call(method) as call:
            await call.send(message)
            call.finish_sending()
            found = []
            while (raw := await call.receive()) is not None:
                found.append(raw)
            return found

    async def main() -> list[tuple[str, pb.Descriptor, Any]]:
        stream = trio.SocketStream(trio.socket.from_stdlib_socket(connected(client)))
        connection = Connection(stream, client=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(connection.run)
            events = await ask(connection, LISTEN, pb.BuildHistoryRequest(EarlyExit=True).SerializeToString())
            records = [pb.BuildHistoryEvent.FromString(raw).record for raw in events]
            last = max(records, key=lambda record: record.CompletedAt.ToNanoseconds())
            found = []
            for platform, result in [("", last.Result), *sorted(last.Results.items())]:
                for each in result.Attestations:
                    request = content_pb2.ReadContentRequest(digest=each.digest).SerializeToString()
                    pieces = await ask(connection, READ, request)
                    data = b"".join(content_pb2.ReadContentResponse.FromString(raw).data for raw in pieces)
                    found.append((platform, each, json.loads(data)))
            connection.close()
        return found

    return trio.run(main)


def test_build_record_has_the_same_provenance_as_in_dockerd(clients: Clients) -> None:
    clients.write("file", "x")
    clients.write("Dockerfile", "FROM busybox\nRUN echo a > /b\nCOPY file /\n")
    shapes = []
    for each in clients:
        each.ok("build", "--build-arg", "secret=s", "--label", "a=b", ".")
        found = attachments(each)
        shapes.append([(platform, one.media_type, dict(one.annotations), _shape(data)) for platform, one, data in found])
    assert shapes[1] == shapes[0]
    assert len(shapes[1]) == 1


def _shape(document: Any) -> Any:
    """The parts of a record that do not depend on the engine: the request, and the operations without the names that a
    frontend chooses."""
    steps = [step["op"]["Op"] for step in document["buildConfig"]["llbDefinition"]]
    return {
        "members": sorted(document),
        "invocation": document["invocation"],
        "metadata": sorted(document["metadata"]),
        "completeness": document["metadata"]["completeness"],
        "steps": sorted(next(iter(step)) if step else "" for step in steps),
        "materials": [each["uri"] for each in document["materials"]],
    }
