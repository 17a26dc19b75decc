"""Attach over a websocket, with a common client library, and docker's SDK over TCP."""

from __future__ import annotations

import json
import struct
import threading
from collections.abc import Iterator

import docker
import pytest
import websocket
from tests.integration.engine import Engine, until
from tests.integration.talking import Websockets

from orlop_sdk.testing.ports import free_port

pytestmark = pytest.mark.root

ALL = "stream=1&stdin=1&stdout=1&stderr=1"


@pytest.fixture
def opened() -> Iterator[Websockets]:
    made = Websockets()
    yield made
    made.close()


def said(client: websocket.WebSocket, wanted: bytes) -> bytes:
    data = b""
    while wanted not in data:
        opcode, piece = client.recv_data()
        assert opcode == websocket.ABNF.OPCODE_BINARY, piece
        data += piece
    return data


def test_websocket_passes_input_and_output(engine: Engine, name: str, opened: Websockets) -> None:
    engine.ok(
        "run", "-di", "--name", name, "busybox", "sh", "-c", "while read l; do echo o $l; echo e $l >&2; done; echo end"
    )
    client = opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}")
    client.send("one\n")
    assert b"o one\n" in (both := said(client, b"e one\n") + b"")
    assert not both.startswith(b"\x01\0\0\0")  # never framed
    client.send_binary(b"tw")
    client.send_frame(websocket.ABNF.create_frame(b"o\nthr", websocket.ABNF.OPCODE_BINARY, fin=0))
    client.ping(b"are you there?")
    client.send_frame(websocket.ABNF.create_frame(b"ee\n", websocket.ABNF.OPCODE_CONT, fin=1))
    opcode, piece = client.recv_data(control_frame=True)
    seen = b""
    while opcode != websocket.ABNF.OPCODE_PONG:
        seen += piece
        opcode, piece = client.recv_data(control_frame=True)
    assert piece == b"are you there?"
    if b"e three\n" not in seen:
        seen += said(client, b"e three\n")
    assert b"o two\n" in seen
    engine.ok("kill", name)
    opcode, piece = client.recv_data(control_frame=True)
    while opcode == websocket.ABNF.OPCODE_BINARY:  # the order of the two streams is undefined
        opcode, piece = client.recv_data(control_frame=True)
    assert (opcode, struct.unpack("!H", piece)) == (websocket.ABNF.OPCODE_CLOSE, (1000,))
    client.shutdown()


def test_client_that_closes_its_websocket_ends_the_containers_input_if_stdin_once_is_set(
    engine: Engine, name: str, opened: Websockets
) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "cat; echo end"], "OpenStdin": True, "StdinOnce": True}
    assert engine.api("POST", f"/containers/create?name={name}", body)[0] == 201
    client = opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}")
    engine.ok("start", name)
    client.send("x\n")
    assert said(client, b"x\n") == b"x\n"
    client.close()
    engine.wait_state(name, "exited")
    assert engine.docker("logs", name).out == "x\nend\n"


def test_large_message_and_large_output_pass_unchanged(engine: Engine, name: str, opened: Websockets) -> None:
    body = {"Image": "busybox", "Cmd": ["sh", "-c", "head -c 3000000 | tr x y"], "OpenStdin": True, "StdinOnce": True}
    assert engine.api("POST", f"/containers/create?name={name}", body)[0] == 201
    client = opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}")
    engine.ok("start", f"{name}")
    sending = threading.Thread(target=lambda: client.send_binary(b"x" * 3_000_000))
    sending.start()
    received = bytearray()
    while len(received) < 3_000_000:
        received += client.recv_data()[1]
    sending.join()
    assert received == b"y" * 3_000_000
    client.shutdown()


def test_api_version_determines_the_frame_type_and_the_streams_of_a_websocket(
    engine: Engine, name: str, opened: Websockets
) -> None:
    engine.ok("run", "-d", "--name", name, "busybox", "sh", "-c", "echo o; echo e >&2; sleep 600")
    until(lambda: len(engine.docker("logs", name).out + engine.docker("logs", name).err) == 4, "its output")

    def replayed(path: str) -> tuple[set[int], bytes]:
        client, opcodes, data = opened(engine, path), set(), b""
        while True:
            opcode, piece = client.recv_data(control_frame=True)
            if opcode == websocket.ABNF.OPCODE_CLOSE:
                return opcodes, data
            opcodes.add(opcode)
            data += piece

    assert replayed(f"/v1.45/containers/{name}/attach/ws?logs=1&stderr=1") == ({2}, b"e\n")
    opcodes, data = replayed(f"/v1.41/containers/{name}/attach/ws?logs=1")  # in this version, streams cannot be chosen
    assert (opcodes, sorted(data.split())) == ({2}, [b"e", b"o"])
    assert replayed(f"/v1.27/containers/{name}/attach/ws?logs=1")[0] == {1}
    assert replayed(f"/v1.45/containers/{name}/attach/ws") == (set(), b"")


def test_detach_keys_close_the_websocket(engine: Engine, name: str, opened: Websockets) -> None:
    engine.ok("run", "-dit", "--name", name, "busybox", "cat")
    client = opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}&detachKeys=ctrl-a,x")
    client.send("hello\n")
    said(client, b"hello\r\nhello\r\n")
    client.send("\x01x")
    assert client.recv_data(control_frame=True)[0] == websocket.ABNF.OPCODE_CLOSE
    assert engine.state(name) == "running"
    assert engine.events(container=name)[-1] == "detach"


def test_invalid_websocket_requests_are_refused(engine: Engine, name: str, opened: Websockets) -> None:
    assert engine.api("GET", "/v1.45/containers/no-such/attach/ws")[0] == 404
    engine.ok("run", "-d", "--name", name, "busybox", "sleep", "600")
    assert engine.api("GET", f"/v1.45/containers/{name}/attach/ws")[0] == 426
    usual = {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
    assert engine.api("GET", f"/v1.45/containers/{name}/attach/ws", headers=usual)[0] == 400
    engine.ok("pause", name)
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}")
    assert caught.value.status_code == 409
    assert "is paused" in json.loads(caught.value.resp_body or b"{}")["message"]
    engine.ok("unpause", name)
    client = opened(engine, f"/v1.45/containers/{name}/attach/ws?{ALL}")
    client.sock.sendall(b"\x82\x01x")  # not masked
    opcode, piece = client.recv_data(control_frame=True)
    assert (opcode, struct.unpack("!H", piece)) == (websocket.ABNF.OPCODE_CLOSE, (1002,))


class Listening(Engine):
    """An engine with an additional TCP listener, for clients that support only TCP."""

    port = 0

    @property
    def command(self) -> list[str]:
        return [*super().command, "-H", f"tcp://127.0.0.1:{self.port}"]


@pytest.fixture
def listening() -> Iterator[Listening]:
    engine = Listening({"shutdown-timeout": 3})
    engine.port = free_port()
    try:
        engine.start()
        engine.load()
        yield engine
    finally:
        left = engine.close()
    assert not left


def test_docker_py_can_attach_over_tcp(listening: Listening) -> None:
    client = docker.DockerClient(base_url=f"tcp://127.0.0.1:{listening.port}", version="1.45")
    try:
        container = client.containers.create("busybox", ["cat"], stdin_open=True)
        sock = container.attach_socket(params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1}, ws=True)
        container.start()
        sock.send("through the sdk\n")
        assert sock.recv() == b"through the sdk\n"
        sock.close()
    finally:
        client.close()
    url = f"ws://127.0.0.1:{listening.port}/containers/{container.id}/attach/ws"
    with pytest.raises(websocket.WebSocketBadStatusException) as caught:
        websocket.create_connection(url, origin="http://elsewhere")
    assert caught.value.status_code == 403
