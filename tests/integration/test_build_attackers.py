"""Attacks by a client of a restricted listener that may only build, with arbitrary messages of BuildKit's protocol.

`test_build_access.py` tests requests that the usual clients can send; this module tests requests that they do not send.
"""

from __future__ import annotations

import uuid
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import trio
from tests.integration.building.gateway import Frontend
from tests.integration.building.protocol import BASE, CONTROL, ProtocolClient, executing, filing, graph
from tests.integration.engine import patience
from tests.integration.test_build_access import Listeners, listeners, loopback
from tests.integration.test_build_hostile_clients import SECRET, answering
from tests.integration.test_build_hostile_graphs import action, copied, mkfile, source

from orlop_build_dockerfile.grpc import RpcError
from orlop_build_dockerfile.pb import control_pb2, gateway_pb2, session_pb2
from orlop_build_dockerfile.pb import ops_pb2 as pb

__all__ = ["listeners", "loopback"]

pytestmark = [pytest.mark.root, pytest.mark.timeout(300)]

BRIDGE = "/moby.buildkit.v1.frontend.LLBBridge/"
NAMES = ("db", "noexec")
Work = Callable[[ProtocolClient, str], Awaitable[None]]


def attacking(listeners: Listeners, name: str, work: Work) -> None:
    """Run `work` with a client of the listener; "" is the daemon's own socket."""

    async def main() -> None:
        path = listeners.socket(name) if name else ""
        async with ProtocolClient.opened(listeners.engine, path) as client, client.session() as session:
            with trio.fail_after(patience(60)):
                await work(client, session)

    trio.run(main)


async def refusal(client: ProtocolClient, definition: pb.Definition | None, session: str, **request: Any) -> str:
    with pytest.raises(RpcError) as caught:
        await client.solve(definition, session, **request)
    return caught.value.message


@pytest.mark.parametrize("name", NAMES)
def test_privileges_requested_by_a_build_graph_are_refused(listeners: Listeners, name: str) -> None:
    graphs: dict[str, pb.Definition] = {
        "network.host is not allowed": executing("true", network=pb.HOST),
        "security.insecure is not allowed": executing("true", security=pb.INSECURE),
        "CgroupParent in a step of a build is not allowed": executing("true", meta={"cgroupParent": "../../mine"}),
        "device vendor.com/gpu=all is not allowed": executing("true", cdiDevices=[pb.CDIDevice(name="vendor.com/gpu=all")]),
    }

    async def work(client: ProtocolClient, session: str) -> None:
        for text, definition in graphs.items():
            assert text in await refusal(client, definition, session)
        for wanted in ("network.host", "security.insecure", "device", "device=vendor.com/gpu=all"):
            said = await refusal(client, executing("true", network=pb.HOST), session, Entitlements=[wanted])
            assert f"granting entitlement {wanted} is not allowed" in said

    attacking(listeners, name, work)


@pytest.mark.parametrize("name", NAMES)
def test_privileges_requested_for_a_frontend_container_are_refused(listeners: Listeners, name: str) -> None:
    async def work(client: ProtocolClient, session: str) -> None:
        async with Frontend.opened(client, session) as frontend:
            ref = await frontend.base()
            with pytest.raises(RpcError, match=r"^network\.host is not allowed$"):
                await frontend.new("host", ref, Network=pb.HOST)
            await frontend.new("c", ref)
            await frontend.new("d", ref)
            async with frontend.processes() as processes:
                await processes.start("insecure", "c", "true", Security=pb.INSECURE)
                assert (await processes.ended("insecure")).Error.message == "security.insecure is not allowed"
                await processes.start("first", "d", "sh", "-c", "echo ready; read x", fds=[0, 1])
                await processes.said("first", b"ready")
                await processes.start("second", "d", "grep", "CapEff", "/proc/self/status", Security=pb.INSECURE)
                assert (await processes.ended("second")).Error.message == "security.insecure is not allowed"

    attacking(listeners, name, work)


@pytest.mark.parametrize("name", NAMES)
def test_private_addresses_in_unusual_notations_are_refused(listeners: Listeners, name: str, loopback: str) -> None:
    """All these addresses are the host's loopback, its network or a cloud's metadata service."""
    port = loopback.rpartition(":")[2]
    hosts = ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "0", "0.0.0.0", "[::1]", "[::]", "localhost.", "LOCALHOST"]
    hosts += ["[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "[fe80::1%25lo]"]
    hosts += ["user@127.0.0.1", "169.254.169.254"]

    async def work(client: ProtocolClient, session: str) -> None:
        for host in hosts:
            said = await refusal(client, source(f"http://{host}:{port}/secret"), session)
            assert "not public" in said or "failed to load" in said, (host, said)
        for scheme in ("file", "ftp", "gopher", "unix", "data"):
            assert "not supported" in await refusal(client, source(f"{scheme}://127.0.0.1:{port}/x"), session)
        for remote in (f"http://127.0.0.1:{port}/r.git", "ssh://127.0.0.1/r.git", "git://169.254.169.254/r", "/etc"):
            said = await refusal(client, source("git://x", git_fullurl=remote), session)
            assert "git repositories are not allowed" in said or "invalid git source" in said, said

    attacking(listeners, name, work)
    import tests.integration.test_build_access as access

    assert access._Secret.asked == 0


def test_session_of_another_listener_cannot_be_used(listeners: Listeners) -> None:
    """A client that knows the id of a session at another listener cannot use this session, and cannot replace it."""
    secret = session_pb2.GetSecretResponse(data=b"of the victim").SerializeToString()
    mount = pb.Mount(input=-1, dest="/s", output=-1, mountType=pb.SECRET, secretOpt=pb.SecretOpt(ID="s"))
    reading = executing("cat", "/s", mounts=[mount])

    async def main() -> None:
        engine = listeners.engine
        async with (
            ProtocolClient.opened(engine) as victim,
            ProtocolClient.opened(engine, listeners.socket("db")) as attacker,
            attacker.session() as own,
            victim.session(answering(SECRET, secret)) as session,
        ):
            async with trio.open_nursery() as asking:
                asking.start_soon(_has_no_session, attacker, reading, session)
                asking.start_soon(_has_no_session, attacker, source("local://context", local_session=session), own)
            async with attacker.session(answering(SECRET, b""), **{"X-Docker-Expose-Session-Uuid": session}):
                await victim.solve(executing("grep", "victim", "/s", mounts=[mount]), session)

    trio.run(main)


def test_builds_and_history_of_another_listener_are_not_found(listeners: Listeners) -> None:
    async def main() -> None:
        engine = listeners.engine
        ref = uuid.uuid4().hex
        async with (
            ProtocolClient.opened(engine) as victim,
            victim.session() as session,
            ProtocolClient.opened(engine, listeners.socket("noexec")) as attacker,
            trio.open_nursery() as nursery,
        ):
            definition = executing("sh", "-c", "echo private; sleep 1.5")
            nursery.start_soon(lambda: victim.solve(definition, session, Ref=ref))
            await trio.sleep(0.5)
            async with trio.open_nursery() as asking:  # each request waits for a build that may begin later
                for method, request in {
                    f"{BRIDGE}ReadFile": gateway_pb2.ReadFileRequest(Ref=f"{ref}-0", FilePath="/etc/passwd"),
                    f"{BRIDGE}Return": gateway_pb2.ReturnRequest(),
                    f"{BRIDGE}Solve": gateway_pb2.SolveRequest(Definition=definition),
                    f"{CONTROL}Status": control_pb2.StatusRequest(Ref=ref),
                }.items():
                    asking.start_soon(_is_not_found, attacker, method, request, ref)
            assert listeners.api("noexec", "POST", f"/build/cancel?id={ref}")[0] == 200
        async with (
            ProtocolClient.opened(engine) as victim,
            ProtocolClient.opened(engine, listeners.socket("noexec")) as attacker,
        ):
            assert ref in await history(victim) and ref not in await history(attacker)
            for change in ({"Delete": True}, {"Pinned": True}):
                request = control_pb2.UpdateBuildHistoryRequest(Ref=ref, **change)
                with pytest.raises(RpcError, match="no such record"):
                    await attacker.ask(CONTROL + "UpdateBuildHistory", request, control_pb2.UpdateBuildHistoryResponse)
            assert ref in await history(victim)

    trio.run(main)


async def _has_no_session(client: ProtocolClient, definition: pb.Definition, session: str) -> None:
    assert "no active session" in await refusal(client, definition, session)


async def _is_not_found(client: ProtocolClient, method: str, request: Any, ref: str) -> None:
    with pytest.raises(RpcError, match="no such job"):
        await client.ask(method, request, gateway_pb2.PongResponse, build=ref)


async def history(client: ProtocolClient) -> set[str]:
    found = set()
    async with client.connection.call(CONTROL + "ListenBuildHistory") as call:
        await call.send(control_pb2.BuildHistoryRequest(EarlyExit=True).SerializeToString())
        call.finish_sending()
        while (raw := await call.receive()) is not None:
            found.add(control_pb2.BuildHistoryEvent.FromString(raw).record.Ref)
    return found


def test_cache_mounts_are_separate_for_each_listener(listeners: Listeners) -> None:
    """One id means different directories at different listeners. This includes the initial files of a mount."""
    mount = pb.Mount(input=-1, dest="/c", output=-1, mountType=pb.CACHE, cacheOpt=pb.CacheOpt(ID="everybody's"))

    async def writes(client: ProtocolClient, session: str) -> None:
        await client.solve(executing("sh", "-c", "echo secret > /c/file", mounts=[mount]), session)

    async def looks(client: ProtocolClient, session: str) -> None:
        await client.solve(executing("sh", "-c", "test ! -e /c/file && echo other > /c/file", mounts=[mount]), session)

    async def checks(client: ProtocolClient, session: str) -> None:
        await client.solve(executing("grep", "secret", "/c/file", mounts=[mount]), session)

    attacking(listeners, "", writes)
    for name in NAMES:
        attacking(listeners, name, looks)
    attacking(listeners, "", checks)


@pytest.mark.parametrize("name", ["web"])
def test_image_outside_of_the_labels_cannot_be_a_frontend_or_an_input_of_a_build(listeners: Listeners, name: str) -> None:
    """An image outside of the labels is no frontend, no base, and no source of files or of a platform."""
    denied = "is not allowed for role full"

    async def work(client: ProtocolClient, session: str) -> None:
        attrs = {"source": "docker.io/library/busybox:latest", "cmdline": "docker.io/library/busybox:latest"}
        assert denied in await refusal(client, None, session, Frontend="gateway.v0", FrontendAttrs=attrs)
        assert denied in await refusal(client, executing("true"), session)
        assert denied in await refusal(client, copied(src="/bin/busybox"), session)
        pulled = pb.Op(source=pb.SourceOp(identifier=BASE.source.identifier, attrs={"image.resolvemode": "local"}))
        assert denied in await refusal(client, graph(pulled), session)

    attacking(listeners, name, work)


def test_exporter_attributes_cannot_move_image_names_of_other_teams(listeners: Listeners) -> None:
    """The client sends exporter attributes that the usual clients do not send."""
    before = listeners.engine.ok("image", "inspect", "-f", "{{.Id}}", "other:1")
    made = graph(filing(action("mkfile", mkfile())))

    async def work(client: ProtocolClient, session: str) -> None:
        for attrs in (
            {"name": "other:1"},
            {"name": "ci/x,other:1"},
            {"name": "docker.io/library/other:1"},
            {"name": "ci/x", "image.name": "other:1", "dangling-name-prefix": "other", "name-canonical": "true"},
        ):
            for kind in ("image", "moby"):
                try:
                    await client.solve(made, session, Exporters=[{"Type": kind, "Attrs": attrs}])
                except RpcError as error:
                    assert "is not allowed" in error.message or "could not be found" in error.message, error.message

    for name in NAMES:
        attacking(listeners, name, work)
    assert listeners.engine.ok("image", "inspect", "-f", "{{.Id}}", "other:1") == before
    assert "other@" not in listeners.engine.ok("images", "--digests", "other")
