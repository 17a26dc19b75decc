"""The builder's calls to a client. The client of these tests is a gRPC server of Orlop's own package."""

from __future__ import annotations

import os
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from orlop_build_dockerfile.contracts import Authorization, BuildFailed, Challenge, Credentials, LocalDirectory
from orlop_build_dockerfile.grpc import Call, Code, Connection, Handler, RpcError
from orlop_build_dockerfile.pb import fsutil_pb2, session_pb2
from orlop_build_dockerfile.session import ClientSession, Sessions, auth, client
from orlop_build_dockerfile.session.packets import STAT
from orlop_build_dockerfile.session.receiver import Receiver
from orlop_build_dockerfile.session.transfer import receive_directory, send_directory


class Recorder:
    """A vertex that stores the progress that is reported to it."""

    cached = False

    def __init__(self) -> None:
        self.statuses: list[tuple[str, int, bool]] = []

    def log(self, data: bytes, stream: int = 1) -> None: ...

    def status(self, id: str, *, name: str = "", current: int = 0, total: int = 0, done: bool = False) -> None:
        self.statuses.append((id, current, done))

    def warn(self, message: str, **more: object) -> None: ...


@asynccontextmanager
async def session(
    handlers: Mapping[str, Handler], methods: Sequence[str] | None = None
) -> AsyncIterator[tuple[ClientSession, Connection]]:
    a, b = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair())
    server = Connection(a, handlers=handlers)
    found = ClientSession("id", "key", handlers if methods is None else methods, Connection(b, client=True))
    with trio.fail_after(50):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.run)
            nursery.start_soon(found.run)
            yield found, server
            found.close()
            await found.ended.wait()


def unary(answer: Callable[[bytes], bytes]) -> Handler:
    async def handler(call: Call) -> None:
        await call.send(answer(await call.receive_one()))

    return handler


def refuse(code: int, message: str) -> Handler:
    async def handler(call: Call) -> None:
        await call.receive_one()
        raise RpcError(code, message)

    return handler


def test_secret_is_fetched_from_the_client() -> None:
    def answer(raw: bytes) -> bytes:
        match session_pb2.GetSecretRequest.FromString(raw).ID:
            case "there":
                return session_pb2.GetSecretResponse(data=b"s3cret").SerializeToString()
            case "large":
                return session_pb2.GetSecretResponse(data=bytes(600 << 10)).SerializeToString()
            case "denied":
                raise RpcError(Code.PERMISSION_DENIED, "no")
        raise RpcError(Code.NOT_FOUND, "secret not found")

    async def main() -> None:
        async with session({client.SECRET: unary(answer)}) as (found, _):
            assert await found.secret("there") == b"s3cret"
            assert await found.secret("missing") is None
            with pytest.raises(BuildFailed, match="larger than"):
                await found.secret("large")
            with pytest.raises(BuildFailed, match="no") as caught:
                await found.secret("denied")
            assert caught.value.code == Code.PERMISSION_DENIED
        async with session({}, methods=["/x.Y/Z"]) as (found, _):
            assert await found.secret("there") is None
            assert await found.credentials("docker.io") is None
            assert not await found.has_ssh_agent("default")
            with pytest.raises(BuildFailed, match="does not offer"):
                await found.receive(LocalDirectory("context"), "/nonexistent", Recorder())

    trio.run(main)


def test_registry_credentials_are_fetched_from_the_client() -> None:
    answers = {
        "a": session_pb2.CredentialsResponse(Username="me", Secret="pw"),
        "b": session_pb2.CredentialsResponse(Username="<token>", Secret="idtoken"),
        "c": session_pb2.CredentialsResponse(Secret="idtoken"),
        "d": session_pb2.CredentialsResponse(),
    }

    async def main() -> None:
        def answer(raw: bytes) -> bytes:
            return answers[session_pb2.CredentialsRequest.FromString(raw).Host].SerializeToString()

        async with session({auth.CREDENTIALS: unary(answer)}) as (found, _):
            assert await found.credentials("a") == Credentials(session="id", host="a")
            for challenge in (Challenge(), Challenge("https://auth.example.com", "service", ["repository:a:pull"])):
                for host, expected in {
                    "a": Credentials("me", "pw"),
                    "b": Credentials(token="idtoken"),
                    "c": Credentials(token="idtoken"),
                    "d": None,
                }.items():
                    assert await found.authorize(host, challenge) == Authorization(credentials=expected)

    trio.run(main)


def test_client_fetches_tokens() -> None:
    asked: list[session_pb2.FetchTokenRequest] = []
    authorities: list[str] = []

    def authority(raw: bytes) -> bytes:
        request = session_pb2.GetTokenAuthorityRequest.FromString(raw)
        authorities.append(request.Host)
        if request.Host == "off.example.com":
            raise RpcError(Code.UNAVAILABLE, "client side tokens disabled")
        assert len(request.Salt) == 32
        return session_pb2.GetTokenAuthorityResponse(PublicKey=bytes(32)).SerializeToString()

    def token(raw: bytes) -> bytes:
        asked.append(session_pb2.FetchTokenRequest.FromString(raw))
        if asked[-1].Service == "refuses":
            raise RpcError(Code.UNKNOWN, "failed to fetch oauth token: 401 Unauthorized")
        return session_pb2.FetchTokenResponse(Token="t0ken", ExpiresIn=300, IssuedAt=1).SerializeToString()

    def credentials(raw: bytes) -> bytes:
        return session_pb2.CredentialsResponse(Username="me", Secret="pw").SerializeToString()

    handlers = {
        auth.AUTHORITY: unary(authority),
        auth.FETCH_TOKEN: unary(token),
        auth.CREDENTIALS: unary(credentials),
    }
    challenge = Challenge("https://auth.example.com/token", "service", ["repository:app:pull", "repository:base:pull"])

    async def main() -> None:
        async with session(handlers) as (found, _):
            for _ in range(2):
                answer = await found.authorize("docker.io", challenge)
                assert answer == Authorization(token="t0ken", lifetime=300)
            assert asked[0].Host == "registry-1.docker.io"
            assert (asked[0].Realm, asked[0].Service) == (challenge.realm, challenge.service)
            assert list(asked[0].Scopes) == challenge.scopes
            with pytest.raises(BuildFailed, match="failed to fetch oauth token"):
                await found.authorize("docker.io", Challenge("https://auth.example.com", "refuses"))
            count = len(asked)
            password = Authorization(credentials=Credentials("me", "pw"))
            assert await found.authorize("off.example.com", challenge) == password
            assert await found.authorize("docker.io", Challenge()) == password, "a registry without a token service"
            assert len(asked) == count
            assert authorities == ["registry-1.docker.io", "off.example.com"]

    trio.run(main)


def test_local_directory_is_received_with_its_options(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "target").mkdir()
    (tmp_path / "source" / "f").write_bytes(os.urandom(3_000_000))
    for number in range(500):
        (tmp_path / "source" / f"{number}").write_text(str(number))
    seen: list[dict[str, list[str]]] = []

    async def handler(call: Call) -> None:
        seen.append(dict(call.metadata))
        root = os.open(tmp_path / "source", os.O_RDONLY)
        try:
            await send_directory(call, root, lambda sent: None)
        finally:
            os.close(root)

    async def main() -> None:
        wanted = LocalDirectory("context", exclude=["*.o", "é"], follow=["a", "b"])
        async with session({client.DIFF_COPY: handler}) as (found, _):
            vertex = Recorder()
            result = await found.receive(wanted, str(tmp_path / "target"), vertex)
            assert result.files == 501
            assert result.size > 3_000_000
            assert vertex.statuses[-1] == ("transferring context:", result.size, True)
            again = await found.receive(wanted, str(tmp_path / "target"), Recorder())
            assert again.files == 0
            assert again.size < 100_000

    trio.run(main)
    assert (tmp_path / "target" / "f").read_bytes() == (tmp_path / "source" / "f").read_bytes()
    assert len(os.listdir(tmp_path / "target")) == 501
    assert seen[0]["dir-name"] == ["context"]
    assert seen[0]["exclude-patterns"] == ["%2A.o", "%C3%A9"]
    assert seen[0]["exclude-patterns-encoded"] == ["1"]
    assert seen[0]["followpaths"] == ["a", "b"]


@pytest.mark.parametrize("when", ["at once", "in the list", "in a file"])
def test_transfer_fails_if_the_client_disconnects(tmp_path: Path, when: str) -> None:
    async def handler(call: Call) -> None:
        stat = fsutil_pb2.Packet(type=STAT, stat=fsutil_pb2.Entry(path=b"f", mode=0o644, size=10))
        if when != "at once":
            await call.send(stat.SerializeToString())
        if when == "in a file":
            await call.receive()
            await call.send(fsutil_pb2.Packet(type=2, ID=0, data=b"x").SerializeToString())
        await trio.sleep_forever()

    before = len(os.listdir("/proc/self/fd"))

    async def main() -> None:
        async with session({client.DIFF_COPY: handler}) as (found, server), trio.open_nursery() as nursery:

            async def receive() -> None:
                with pytest.raises(BuildFailed, match="ended its session"):
                    await found.receive(LocalDirectory("context"), str(tmp_path), Recorder())

            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked(0.1)
            server.close()
        with pytest.raises(BuildFailed, match="ended its session"):
            await found.receive(LocalDirectory("context"), str(tmp_path), Recorder())

    trio.run(main)
    assert len(os.listdir("/proc/self/fd")) == before


def test_transfer_fails_if_the_sender_reports_an_error(tmp_path: Path) -> None:
    async def handler(call: Call) -> None:
        raise RpcError(Code.NOT_FOUND, 'no access allowed to dir "context"')

    async def main() -> None:
        async with session({client.DIFF_COPY: handler}) as (found, _):
            with pytest.raises(BuildFailed, match="no access allowed") as caught:
                await found.receive(LocalDirectory("context"), str(tmp_path), Recorder())
            assert caught.value.code == Code.NOT_FOUND

    trio.run(main)


def test_local_result_is_sent_to_the_client(tmp_path: Path) -> None:
    (tmp_path / "result" / "d").mkdir(parents=True)
    (tmp_path / "result" / "d" / "f").write_bytes(bytes(2_000_000))
    (tmp_path / "result" / "link").symlink_to("d/f")
    (tmp_path / "there").mkdir()
    seen: list[list[str]] = []

    async def handler(call: Call) -> None:
        seen.append(call.values("buildkit-attachable-exporter-id"))
        await receive_directory(call, str(tmp_path / "there"), lambda size: None)

    async def main() -> None:
        root = os.open(tmp_path / "result", os.O_RDONLY)
        async with session({client.FILE_SEND: handler}) as (found, _):
            await found.send_directory("3", root)
        os.close(root)

    trio.run(main)
    assert seen == [["3"]]
    assert (tmp_path / "there" / "d" / "f").stat().st_size == 2_000_000
    assert os.readlink(tmp_path / "there" / "link") == "d/f"


def test_client_can_request_each_file_only_once(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")

    async def handler(call: Call) -> None:
        while True:
            await call.send(fsutil_pb2.Packet(type=1, ID=0).SerializeToString())
            await call.receive_batch()

    async def main() -> None:
        root = os.open(tmp_path, os.O_RDONLY)
        async with session({client.FILE_SEND: handler}) as (found, _):
            with pytest.raises(BuildFailed, match="unexpected packet"):
                await found.send_directory("0", root)
        os.close(root)

    trio.run(main)


def test_archive_result_is_sent_to_the_client() -> None:
    got: list[bytes] = []
    headers: dict[str, list[str]] = {}

    async def handler(call: Call) -> None:
        headers.update(call.metadata)
        while (raw := await call.receive()) is not None:
            got.append(session_pb2.Bytes.FromString(raw).data)

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3):
            yield bytes(2_500_000)

    async def main() -> None:
        async with session({client.FILE_SEND: handler}) as (found, _):
            await found.send_archive("0", chunks(), {"containerimage.digest": "sha256:1"})

    trio.run(main)
    assert sum(map(len, got)) == 7_500_000
    assert headers["exporter-md-containerimage.digest"] == ["sha256:1"]


def test_export_fails_if_the_client_refuses_the_archive() -> None:
    async def handler(call: Call) -> None:
        await call.receive()
        raise RpcError(Code.UNKNOWN, "no space left on device")

    async def chunks() -> AsyncIterator[bytes]:
        while True:
            yield bytes(1 << 20)

    async def main() -> None:
        async with session({client.FILE_SEND: handler}) as (found, _):
            with pytest.raises(BuildFailed, match="no space left"):
                await found.send_archive("0", chunks(), {})

    trio.run(main)


def test_upload_is_read_from_the_client() -> None:
    async def handler(call: Call) -> None:
        assert call.values("urlpath") == ["/abc"]
        for _ in range(10):
            await call.send(session_pb2.Bytes(data=b"x" * 1000).SerializeToString())

    async def main() -> None:
        async with session({client.PULL: handler}) as (found, _), found.upload("abc") as chunks:
            total = 0
            async for chunk in chunks:
                total += len(chunk)
            assert total == 10_000

    trio.run(main)


def test_an_ssh_agent_is_forwarded() -> None:
    async def agent(call: Call) -> None:
        assert call.values("buildkit.ssh.id") == ["default"]
        while (raw := await call.receive()) is not None:
            data = session_pb2.Bytes.FromString(raw).data
            await call.send(session_pb2.Bytes(data=data.upper()).SerializeToString())

    handlers = {client.CHECK_AGENT: unary(lambda raw: b""), client.FORWARD_AGENT: agent}

    async def main() -> None:
        before = len(os.listdir("/proc/self/fd"))
        async with session(handlers) as (found, _):
            assert await found.has_ssh_agent("default")
            near, far = socket.socketpair()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(found.ssh_agent, "default", far.fileno())
                async with trio.SocketStream(trio.socket.from_stdlib_socket(near)) as stream:
                    await stream.send_all(b"sign this")
                    assert await stream.receive_some() == b"SIGN THIS"
            far.close()
        assert len(os.listdir("/proc/self/fd")) == before

    trio.run(main)


def test_missing_ssh_agent_is_reported() -> None:
    async def main() -> None:
        async with session({client.CHECK_AGENT: refuse(Code.NOT_FOUND, "unset ssh forward key")}) as (found, _):
            assert not await found.has_ssh_agent("default")

    trio.run(main)


def test_session_of_an_unresponsive_client_is_ended() -> None:
    async def hang(call: Call) -> None:
        await trio.sleep_forever()

    async def main() -> None:
        start = trio.current_time()
        async with session({client.HEALTH: hang, client.SECRET: hang}) as (found, _):
            with pytest.raises(BuildFailed, match="ended its session"):
                await found.secret("x")
            assert trio.current_time() - start < 45

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_session_of_a_responsive_client_is_kept() -> None:
    async def main() -> None:
        async with session({client.HEALTH: unary(lambda raw: b"")}) as (found, _):
            await trio.sleep(45)
            assert not found.ended.is_set()

    trio.run(partial(main), clock=trio.testing.MockClock(autojump_threshold=0))


def test_lookup_of_a_session_waits_until_the_client_connects() -> None:
    async def main() -> None:
        sessions = Sessions()
        a, b = (trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in socket.socketpair())
        found = ClientSession("s1", "", (), Connection(b, client=True))
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                await trio.sleep(1)
                await sessions.run(found)

            nursery.start_soon(late)
            assert await sessions.get("s1") is found
            with pytest.raises(BuildFailed, match="no active session for s2"):
                await sessions.get("s2")
            with pytest.raises(BuildFailed, match="open already"):
                await sessions.run(found)
            await a.aclose()
        assert len(sessions) == 0

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_receiver_refuses_a_symlink_as_its_target_directory(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with pytest.raises(OSError):
        Receiver(str(tmp_path / "link"))
