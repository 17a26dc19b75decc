"""Clients that violate BuildKit's protocol, against a live daemon: HTTP/2, gRPC, sessions and their content.

The daemon ends the connection or the call. Memory and time are bounded, other clients build meanwhile, and nothing is left.
"""

from __future__ import annotations

import os
import socket
import struct
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress

import hpack
import pytest
import trio
from tests.crash.builds import builder
from tests.integration.building.protocol import CONTROL, FILES, ProtocolClient, executing, frame, upgrade
from tests.integration.engine import Engine, patience, until
from tests.integration.test_build_hostile_graphs import ESCAPED, attack, copied, engine, source

from orlop_build_dockerfile.grpc import Call, Handler, RpcError
from orlop_build_dockerfile.pb import fsutil_pb2, ops_pb2, session_pb2

__all__ = ["engine"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = 0, 1, 3, 4, 6, 7, 8, 9
END_STREAM, END_HEADERS = 1, 4
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HELLO = PREFACE + frame(SETTINGS, 0, 0)
FLOOD = 20_000

# --- HTTP/2 -----------------------------------------------------------------------------------------------------------


def request(path: str, *more: tuple[str, str]) -> bytes:
    """A block of headers. It does not use the dynamic table, so it may be sent any number of times."""
    fields = [(":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "d")]
    fields += [("content-type", "application/grpc"), ("te", "trailers"), *more]
    encoder = hpack.Encoder()
    encoder.header_table_size = 0
    return encoder.encode(fields)


INFO = request(CONTROL + "Info")
SOLVE = request(CONTROL + "Solve")
LARGE = request("/x", ("x", "y" * 8000))


def call(stream: int, headers: bytes, *data: bytes) -> bytes:
    return frame(HEADERS, END_HEADERS, stream, headers) + b"".join(frame(DATA, 0, stream, each) for each in data)


def unary(headers: bytes, message: bytes) -> Iterator[bytes]:
    return iter([call(1, headers), frame(DATA, END_STREAM, 1, message)])


def each_stream(count: int) -> Iterator[int]:
    yield from range(1, 2 * count, 2)


def resets() -> Iterator[bytes]:
    """CVE-2023-44487."""
    for stream in each_stream(FLOOD):
        yield call(stream, SOLVE) + frame(RST_STREAM, 0, stream, struct.pack(">I", 8))


def reset_by_mistake() -> Iterator[bytes]:
    """Each frame makes the server reset a stream (CVE-2025-8671)."""
    for stream in each_stream(FLOOD):
        yield call(stream, SOLVE) + frame(WINDOW_UPDATE, 0, stream, bytes(4))


def endless_headers() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, SOLVE)
    for number in range(FLOOD):
        yield frame(CONTINUATION, 0, 1, hpack.Encoder().encode([(f"x-{number}", "y" * 100)]))


def empty_continuations() -> Iterator[bytes]:
    yield frame(HEADERS, 0, 1, SOLVE)
    for _ in range(FLOOD):
        yield frame(CONTINUATION, 0, 1)


def beyond_the_window() -> Iterator[bytes]:
    yield call(1, SOLVE, struct.pack(">BI", 0, 15 << 20))
    yield call(3, SOLVE)
    for _ in range(4000):
        yield frame(DATA, 0, 3, bytes(16384))


def partial_messages() -> Iterator[bytes]:
    """Many incomplete messages of 16 MB."""
    for stream in each_stream(100):
        yield call(stream, SOLVE, struct.pack(">BI", 0, 15 << 20))
    for _ in range(800):
        for stream in each_stream(100):
            yield frame(DATA, 0, stream, bytes(16384))


ATTACKS: dict[str, Callable[[], Iterator[bytes]]] = {
    "no HTTP/2": lambda: iter([b"GET / HTTP/1.1\r\nHost: d\r\n\r\n" * 100]),
    "noise": lambda: (os.urandom(1 << 16) for _ in range(20)),
    "streams that are reset": resets,
    "streams that the server resets": reset_by_mistake,
    "a flood of SETTINGS": lambda: (frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 1 << 16)) for _ in range(FLOOD)),
    "a flood of PING": lambda: (frame(PING, 0, 0, bytes(8)) for _ in range(FLOOD)),
    "a flood of empty DATA": lambda: iter([call(1, SOLVE), *[frame(DATA, 0, 1)] * FLOOD]),
    "a flood of WINDOW_UPDATE": lambda: (frame(WINDOW_UPDATE, 0, 0, struct.pack(">I", 1 << 16)) for _ in range(FLOOD)),
    "frames of no known type": lambda: (frame(0x42, 0xFF, 0, bytes(100)) for _ in range(FLOOD)),
    "a table of headers of 4 GB": lambda: iter([frame(SETTINGS, 0, 0, struct.pack(">HI", 1, (1 << 32) - 1)), call(1, INFO)]),
    "a window of nothing": lambda: iter([frame(SETTINGS, 0, 0, struct.pack(">HI", 4, 0)), call(1, INFO, bytes(5))]),
    "large headers": lambda: (call(stream, LARGE) for stream in each_stream(500)),
    "many headers": lambda: (call(stream, SOLVE + b"\x00\x01a\x01b" * 3000) for stream in each_stream(500)),
    "headers without an end": endless_headers,
    "headers that do not go on": empty_continuations,
    "streams without an end": lambda: (call(stream, SOLVE) for stream in each_stream(FLOOD)),
    "data beyond the window": beyond_the_window,
    "parts of large messages": partial_messages,
    "a message of 4 GB": lambda: iter([call(1, SOLVE, struct.pack(">BI", 0, (1 << 32) - 1), bytes(1 << 14))]),
    "a message of no type": lambda: iter([call(1, SOLVE, struct.pack(">BI", 7, 4) + b"abcd")]),
    "a wrong wire type": lambda: unary(SOLVE, struct.pack(">BI", 0, 4) + b"\x0b\x0b\x0b\x0b"),
    "two messages": lambda: unary(INFO, bytes(10)),
    "no message": lambda: unary(INFO, b""),
    "half a message": lambda: unary(SOLVE, struct.pack(">BI", 0, 4) + b"ab"),
    "a method that there is not": lambda: unary(request("/x.Y/" + "z" * 1000), bytes(5)),
    "a deadline that is none": lambda: unary(request(CONTROL + "Info", ("grpc-timeout", "-1x")), bytes(5)),
    "a deadline that is over": lambda: unary(request(CONTROL + "Info", ("grpc-timeout", "1n")), bytes(5)),
    "a session in itself": lambda: iter([call(1, request(CONTROL + "Session"), bytes(5), b"\0\0\0\0\4abcd")]),
    "more after the end": lambda: iter([frame(GOAWAY, 0, 0, bytes(8)), call(1, INFO, bytes(5))]),
    "nothing": lambda: iter([]),
}


def send(path: str, pieces: Iterator[bytes], greeting: bytes) -> bytes:
    """Send until the server closes the connection or stops reading. Returns the last bytes of the server's answer."""
    seen = b""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(patience(1))
        sock.connect(path)
        sock.sendall(greeting)
        with suppress(OSError):  # includes a timeout, if the server does not read
            batch = b""
            for piece in pieces:
                batch += piece
                if len(batch) > 1 << 16:
                    sock.sendall(batch)
                    batch = b""
                    with suppress(BlockingIOError):
                        seen = (seen + sock.recv(1 << 20, socket.MSG_DONTWAIT))[-(1 << 16) :]
            sock.sendall(batch)
            sock.settimeout(0.1)
            while data := sock.recv(1 << 20):
                seen = (seen + data)[-(1 << 16) :]
    return seen


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.parametrize("kind", ["grpc", "session"])
def test_hostile_http2_connection_does_not_affect_other_clients(engine: Engine, kind: str) -> None:
    """Each attack is tried on /grpc, where the client makes calls, and on /session, where the daemon makes calls to the
    client."""
    headers = {"X-Docker-Expose-Session-Uuid": "hostile", "X-Docker-Expose-Session-Sharedkey": "h"}
    head = upgrade(f"/{kind}", headers)
    slow: dict[str, float] = {}

    async def work(client: ProtocolClient, session: str) -> None:
        pid = builder(engine)
        before = descriptors(pid)
        for name, make in ATTACKS.items():
            preface = b"" if name == "no HTTP/2" else HELLO if kind == "grpc" else frame(SETTINGS, 0, 0)
            began = time.monotonic()
            await trio.to_thread.run_sync(send, engine.socket, make(), head + preface)
            if time.monotonic() - began > patience(10):
                slow[name] = time.monotonic() - began
            with trio.fail_after(patience(20)):
                await client.ask(CONTROL + "Info", b"", ops_pb2.Definition)
        await trio.to_thread.run_sync(until, lambda: descriptors(pid) <= before + 2, f"{before} descriptors")

    attack(engine, work)
    assert slow == {}


# --- sessions ---------------------------------------------------------------------------------------------------------

STAT, REQ, PACKET_DATA, FIN, ERR = range(5)
DIRECTORY, LINK, DEVICE = 1 << 31, 1 << 27, 1 << 26
SECRET, CREDENTIALS = "/moby.buildkit.secrets.v1.Secrets/GetSecret", "/moby.filesync.v1.Auth/Credentials"
SEND = "/moby.filesync.v1.FileSend/DiffCopy"


def packet(kind: int, number: int = 0, data: bytes = b"", **entry: object) -> bytes:
    made = fsutil_pb2.Packet(type=kind, ID=number, data=data)
    if entry:
        made.stat.CopyFrom(fsutil_pb2.Entry(**entry))  # type: ignore[arg-type]
    return made.SerializeToString()


def listing(*entries: Mapping[str, object], end: bool = True) -> list[bytes]:
    return [*(packet(STAT, **entry) for entry in entries), *([packet(STAT)] if end else [])]


def sending(*packets: bytes, forever: bool = False) -> Mapping[str, Handler]:
    """A directory of the client that consists of these packets. The last packet is repeated without end."""

    async def send(call: Call) -> None:
        await call.send(*packets)
        while forever:
            await call.send(*[packets[-1]] * 100)
        while await call.receive() is not None:
            pass

    return {FILES: send}


def answering(method: str, *messages: bytes) -> Mapping[str, Handler]:
    async def answer(call: Call) -> None:
        await call.receive()
        await call.send(*messages)

    return {method: answer}


async def silent(call: Call) -> None:
    await trio.sleep_forever()


def file(path: str = "f", size: int = 1, **fields: object) -> dict[str, object]:
    return {"path": path.encode(), "mode": 0o644, "size": size, **fields}


def link(path: str, target: str) -> dict[str, object]:
    return {"path": path.encode(), "mode": LINK | 0o777, "linkname": target.encode()}


CONTEXT = source("local://x")
REMOTE = source("docker-image://127.0.0.1:1/none:1")  # for which the client is asked for credentials
SECRETS = executing(
    "true",
    mounts=[ops_pb2.Mount(input=-1, dest="/s", output=-1, mountType=ops_pb2.SECRET, secretOpt=ops_pb2.SecretOpt(ID="s"))],
)
BIG = b"x" * (15 << 20)

SESSIONS: dict[str, tuple[ops_pb2.Definition, Mapping[str, Handler]]] = {
    "no directory": (CONTEXT, {}),
    "noise": (CONTEXT, sending(b"\xff" * 100)),
    "an unknown packet": (CONTEXT, sending(packet(77))),
    "a message beyond the limit": (CONTEXT, sending(bytes(17 << 20))),
    "an error of 15 MB": (CONTEXT, sending(packet(ERR, data=BIG))),
    "the end at the beginning": (CONTEXT, sending(packet(FIN))),
    "a file above": (CONTEXT, sending(*listing(file(f"../../..{ESCAPED}")))),
    "an absolute file": (CONTEXT, sending(*listing(file(ESCAPED)))),
    "NUL in a name": (CONTEXT, sending(*listing(file("a\0b")))),
    "a name of a megabyte": (CONTEXT, sending(*listing(file("a" * 1_000_000)))),
    "through a link": (CONTEXT, sending(*listing(link("l", "/tmp"), file("l/orlop-escaped")))),
    "through a loop of links": (CONTEXT, sending(*listing(link("a", "b"), link("b", "a"), file("a/x")))),
    "a hard link above": (CONTEXT, sending(*listing(file("h", linkname=b"../../etc/passwd")))),
    "a hard link to nothing": (CONTEXT, sending(*listing(file("h", linkname=b"none")))),
    "the same file twice": (CONTEXT, sending(*listing(file("a"), file("a")))),
    "out of order": (CONTEXT, sending(*listing(file("b"), file("a")))),
    "a file type that there is not": (CONTEXT, sending(*listing({"path": b"a", "mode": 0xFFFFFFFF}))),
    "a whiteout": (CONTEXT, sending(*listing({"path": b"a", "mode": DEVICE | 1 << 21}))),
    "a negative size": (CONTEXT, sending(*listing(file(size=-1)))),
    "time below time": (CONTEXT, sending(*listing(file(modTime=-(1 << 63))))),
    "data that nobody asked for": (CONTEXT, sending(packet(PACKET_DATA, 7, b"x"))),
    "a file after the list": (CONTEXT, sending(*listing(), *listing(file()))),
    "the end before the data": (CONTEXT, sending(*listing(file()), packet(FIN))),
    "a secret of noise": (SECRETS, answering(SECRET, b"\xff\xff\xff")),
    "no secret": (SECRETS, answering(SECRET)),
    "two secrets": (SECRETS, answering(SECRET, b"", b"")),
    "a secret of 15 MB": (SECRETS, answering(SECRET, session_pb2.GetSecretResponse(data=BIG).SerializeToString())),
    "credentials of noise": (REMOTE, answering(CREDENTIALS, b"\xff\xff\xff")),
}
ENDLESS: dict[str, tuple[ops_pb2.Definition, Mapping[str, Handler]]] = {
    "silence about files": (CONTEXT, {FILES: silent}),
    "silence about secrets": (SECRETS, {SECRET: silent}),
    "silence about credentials": (REMOTE, {CREDENTIALS: silent}),
    "a list without end of nothing": (CONTEXT, sending(*listing(file("a"), end=False))),
    "endless data": (CONTEXT, sending(*listing(file()), packet(PACKET_DATA, 0, b"x" * 32768), forever=True)),
    "data of a size that lies": (CONTEXT, sending(*listing(file(size=1 << 60)), packet(PACKET_DATA, 0, b"x"))),
}


def test_build_with_a_hostile_client_session_fails(engine: Engine) -> None:
    found: dict[str, str] = {}

    async def work(client: ProtocolClient, session: str) -> None:
        for name, (definition, handlers) in SESSIONS.items():
            async with client.session(handlers) as own:
                with trio.move_on_after(patience(15)) as scope:
                    try:
                        await client.solve(definition, own)
                        found[name] = "was built"
                    except RpcError as error:
                        if not error.message.strip() or len(error.message) > 10_000:
                            found[name] = f"{error.code} {error.message[:300]!r}"
            if scope.cancelled_caught:
                found[name] = "takes too long"
        assert found == {}
        for name, (definition, handlers) in ENDLESS.items():  # until the session ends
            async with trio.open_nursery() as nursery, client.session(handlers) as own:
                nursery.start_soon(_fails, client, definition, own, name)
                await trio.sleep(0.5)

    attack(engine, work)


async def _fails(client: ProtocolClient, definition: ops_pb2.Definition, session: str, name: str) -> None:
    with pytest.raises(RpcError), trio.fail_after(patience(20)):
        answer = await client.solve(definition, session)
        pytest.fail(f"{name} was built: {answer}")


def test_build_fails_if_its_client_is_a_hostile_receiver_of_the_result(engine: Engine) -> None:
    """Clients that receive a directory or an archive: they request missing files, or do not read."""

    async def asks(call: Call) -> None:
        await call.send(packet(REQ, 1 << 31))
        await trio.sleep_forever()

    async def asks_twice(call: Call) -> None:
        await call.send(packet(REQ, 0), packet(REQ, 0))
        await trio.sleep_forever()

    async def fails(call: Call) -> None:
        await call.send(packet(ERR, data=b"no" * 1000))
        await trio.sleep_forever()

    async def work(client: ProtocolClient, session: str) -> None:
        for exporter in ("local", "tar"):
            for handler in (asks, asks_twice, fails, silent):
                async with trio.open_nursery() as nursery, client.session({SEND: handler}) as own:
                    nursery.start_soon(_export_fails, client, exporter, own)
                    await trio.sleep(0.5 if handler is silent else 1)

    async def _export_fails(client: ProtocolClient, exporter: str, own: str) -> None:
        with pytest.raises(RpcError), trio.fail_after(patience(20)):
            await client.solve(copied(), own, Exporters=[{"Type": exporter}])

    attack(engine, work)
