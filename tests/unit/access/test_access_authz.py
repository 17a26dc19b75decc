"""Authorization plugins and the guard of a request: order, bodies, answers, and faulty plugins."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self, cast

import msgspec
import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import hijack_head, json_response
from orlop_engine.types.containers import HostConfig
from orlop_engine.types.networks import ConnectRequest, DisconnectRequest
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners import authz, authz_find
from orlop_guard_listeners.audit import Audit
from orlop_guard_listeners.authz import Chain, Plugin, Question
from orlop_guard_listeners.authz_find import Address, find
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.keys import AuditLog
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_kernel.config import ConfigError, Listener
from orlop_kernel.http.listeners import open_unix_listener
from orlop_kernel.http.messages import Answer, BodyError, Hijack, Peer, RawStream, Request, Response, Streaming
from orlop_kernel.http.server import Server
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route, Router
from orlop_sdk import NotFound

Verdict = dict[str, Any]
ALLOW: Verdict = {"Allow": True}


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        if len(self.data) > limit:
            raise BodyError(413, "request body too large")
        data, self.data = self.data, b""
        return data

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        data, self.data = self.data, b""
        if not data:
            raise StopAsyncIteration
        return data


PEER = Peer("tls", address="192.0.2.1:5", subject="CN=anna,O=crew", common_name="anna", certificate=b"\x30\x01\x00")


def request(method: str, path: str, body: bytes = b"", kind: str = "application/json", peer: Peer = PEER) -> Request:
    headers = {"host": "d", "x-registry-auth": "secret", **({"content-type": kind} if body else {})}
    return Request(method, f"{path}?a=b", path, {}, headers, Body(body), peer)


class Fake:
    """A plugin on a socket, served by Orlop's own HTTP server in this event loop."""

    def __init__(self, name: str, directory: Path, verdict: Callable[[str, Verdict], Verdict | None]) -> None:
        self.path = str(directory / f"{name}.sock")
        self.plugin = Plugin(name, Address(f"unix://{self.path}", self.path))
        self.asked: list[tuple[str, Verdict]] = []
        self.implements = ["authz"]
        self._verdict = verdict

    async def __call__(self, asked: Request) -> Answer:
        method, question = asked.path[1:], json.loads(await asked.body.read(1 << 24) or b"{}")
        self.asked.append((method, question))
        if method == "Plugin.Activate":
            return json_response({"Implements": self.implements})
        verdict = self._verdict(method, question)
        if verdict is None:
            await trio.sleep_forever()
        return json_response(verdict) if isinstance(verdict, dict) else Response(200, b"what?")

    def questions(self, method: str) -> list[Verdict]:
        return [question for name, question in self.asked if name == f"AuthZPlugin.{method}"]


@asynccontextmanager
async def serving(*fakes: Fake) -> AsyncIterator[Chain]:
    chain = Chain()
    chain.replace(tuple(fake.plugin for fake in fakes))
    async with trio.open_nursery() as nursery:
        for fake in fakes:
            await nursery.start(Server(fake).serve, [open_unix_listener(fake.path)])
        with trio.fail_after(20):
            yield chain
        await chain.aclose()
        nursery.cancel_scope.cancel()


def api(handler: Callable[[Call], Awaitable[Answer]], chain: Chain, audit: Audit | None = None) -> Router:
    guard = Guard(cast("Any", SimpleNamespace()), None, audit, chain)
    return docker_router([Route(method, "/x", handler) for method in ("GET", "POST")], guard=guard)


def told(answer: Answer) -> tuple[int, str]:
    assert isinstance(answer, Response)
    return answer.status, str(msgspec.json.decode(answer.body)["message"])


def test_request_to_a_plugin_has_dockers_fields(tmp_path: Path) -> None:
    data = b'{ "a" : 1 }'
    seen = []

    async def handler(call: Call) -> Answer:
        seen.append(await call.json_bytes())
        return json_response({"b": 2}, 201)

    async def main() -> None:
        fake = Fake("one", tmp_path, lambda method, question: ALLOW)
        async with serving(fake) as chain:
            answer = await api(handler, chain)(request("POST", "/x", data))
            assert isinstance(answer, Response)
            assert answer.status == 201
        assert [name for name, _ in fake.asked] == ["Plugin.Activate", "AuthZPlugin.AuthZReq", "AuthZPlugin.AuthZRes"]
        first, second = fake.questions("AuthZReq")[0], fake.questions("AuthZRes")[0]
        certificate = msgspec.convert(first.pop("RequestPeerCertificates")[0], bytes, strict=False)
        assert certificate.startswith(b"-----BEGIN CERTIFICATE-----\n")
        assert first == {
            "User": "anna",
            "UserAuthNMethod": "TLS",
            "RequestMethod": "POST",
            "RequestUri": "/x?a=b",
            "RequestBody": "eyAiYSIgOiAxIH0=",
            "RequestHeaders": {"Content-Type": "application/json"},
        }
        assert second["ResponseStatusCode"] == 201
        assert second["ResponseHeaders"]["Content-Type"] == "application/json"
        assert msgspec.convert(second["ResponseBody"], bytes, strict=False) == b'{"b":2}\n'

    trio.run(main)
    assert seen == [data]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b'{"Binds":[],"binds":["/:/h"],"Binds":[]}', "application/json"),
        (b'{"Binds":["/:/h"],"Binds":[]}', "application/json"),
        (b'{"Bind\xc5\xbf":["/:/h"],"Binds":[]}', "application/json"),
        (b'\xef\xbb\xbf{"Binds":[]}', "application/json"),
        (b'{"Binds":["/:/h"]} {"Binds":[]}', "application/json"),
        (b'{"Binds":["/:/h\xff"]}', "application/json"),
        (b'{"Binds":["/:/h"]}', "text/plain, application/json"),
        (b'{"Binds":["/:/h"]}', "application/json, text/plain"),
        (b'{"Binds":["/:/h"]}', ""),
    ],
)
def test_ambiguous_json_bodies_are_refused(tmp_path: Path, data: bytes, kind: str) -> None:
    async def handler(call: Call) -> Answer:
        await call.json(HostConfig)
        raise AssertionError("it is carried out")

    async def main() -> None:
        fake = Fake("one", tmp_path, lambda method, question: ALLOW)
        async with serving(fake) as chain:
            status, _ = told(await api(handler, chain)(request("POST", "/x", data, kind)))
            assert status == 400

    trio.run(main)


def test_plugin_client_is_imported_on_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The import takes 100 ms, which must not block the event loop."""
    threads = []

    def imported(name: str) -> None:
        threads.append((name, threading.current_thread() is threading.main_thread()))

    monkeypatch.setattr(authz, "import_module", imported)

    async def main() -> None:
        async with serving(Fake("one", tmp_path, lambda method, question: ALLOW)) as chain:
            await chain.check_request(Question())
            await chain.check_request(Question())

    trio.run(main)
    assert threads == [("orlop_guard_listeners.authz_client", False)]


def test_streaming_handler_gets_the_body_that_the_plugin_saw(tmp_path: Path) -> None:
    """Also if the content only claims to be JSON."""
    seen = []

    async def handler(call: Call) -> Answer:
        seen.extend([piece async for piece in call.request.body])
        return Response(200)

    async def main() -> None:
        fake = Fake("one", tmp_path, lambda method, question: ALLOW)
        async with serving(fake) as chain:
            await api(handler, chain)(request("POST", "/x", b"tar"))
            await api(handler, chain)(request("POST", "/x", b"tar", "application/x-tar"))
        assert [question.get("RequestBody") for question in fake.questions("AuthZReq")] == ["dGFy", None]

    trio.run(main)
    assert seen == [b"tar", b"tar"]


def test_first_denial_ends_the_chain(tmp_path: Path) -> None:
    reached = []

    async def handler(call: Call) -> Answer:
        reached.append(1)
        return json_response({})

    async def main() -> None:
        no = Fake("no", tmp_path, lambda method, question: {"Allow": False, "Msg": "never"})
        later = Fake("later", tmp_path, lambda method, question: ALLOW)
        async with serving(later, no) as chain:
            answer = await api(handler, chain)(request("GET", "/x"))
            assert told(answer) == (403, "authorization denied by plugin no: never")
        assert (len(later.questions("AuthZReq")), later.questions("AuthZRes")) == (1, [])

    trio.run(main)
    assert not reached


@pytest.mark.parametrize(
    ("verdict", "status", "text"),
    [
        ({"Err": "it broke"}, 500, "plugin bad failed with error: it broke"),
        ({"Allow": True, "Err": "it broke"}, 500, "plugin bad failed with error: it broke"),
        ({}, 403, "authorization denied by plugin bad: "),
        ("nonsense", 500, "plugin bad failed with error: AuthZPlugin.AuthZReq: its answer cannot be read"),
        (None, 500, "plugin bad failed with error: AuthZPlugin.AuthZReq: no answer in"),
    ],
)
def test_every_answer_but_an_approval_denies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verdict: Any, status: int, text: str
) -> None:
    monkeypatch.setattr(authz, "TIMEOUT", 0.3)

    async def handler(call: Call) -> Answer:
        raise AssertionError("it was carried out")

    async def main() -> None:
        async with serving(Fake("bad", tmp_path, lambda method, question: verdict)) as chain:
            found = told(await api(handler, chain)(request("GET", "/x")))
            assert (found[0], text in found[1]) == (status, True), found

    trio.run(main)


def test_plugin_that_is_missing_or_of_another_kind_denies(tmp_path: Path) -> None:
    async def main() -> None:
        fake = Fake("volumes", tmp_path, lambda method, question: ALLOW)
        fake.implements = ["VolumeDriver"]
        async with serving(fake) as chain:
            with pytest.raises(authz.PluginFailed, match="does not implement the requested driver: authz"):
                await chain.check_request(Question())
        missing = Plugin("gone", Address("unix:///no/such.sock", "/no/such.sock"))
        with pytest.raises(authz.PluginFailed, match=r"cannot reach unix:///no/such\.sock"):
            await missing.ask("AuthZPlugin.AuthZReq", Question())
        await missing.aclose()

    trio.run(main)


def test_body_too_large_for_plugins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def handler(call: Call) -> Answer:
        raise AssertionError("it was carried out")

    async def main() -> None:
        async with serving(Fake("one", tmp_path, lambda method, question: ALLOW)) as chain:
            large = request("POST", "/x", b" " * (authz.BODY_LIMIT + 1))
            text = "request body too large for authorization plugin: size exceeds 4194304 bytes"
            assert told(await api(handler, chain)(large)) == (500, text)

    trio.run(main)


class Pieces:
    def __init__(self) -> None:
        self.closed = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        raise AssertionError("it was read")

    async def aclose(self) -> None:
        self.closed = True


def test_streaming_answers_are_authorized_before_their_start(tmp_path: Path) -> None:
    pieces, ran = Pieces(), []

    async def run(stream: RawStream) -> None:
        ran.append(1)

    async def stream(call: Call) -> Answer:
        return Streaming(200, pieces, (("Content-Type", "application/json"),))

    async def hijack(call: Call) -> Answer:
        return Hijack(hijack_head(call, True), run)

    async def main() -> None:
        fake = Fake("one", tmp_path, lambda method, question: {"Allow": method.endswith("Req"), "Msg": "not that"})
        async with serving(fake) as chain:
            for handler in (stream, hijack):
                answer = await api(handler, chain)(request("GET", "/x"))
                assert told(answer) == (403, "authorization denied by plugin one: not that")
        streamed, hijacked = fake.questions("AuthZRes")
        assert (streamed["ResponseStatusCode"], "ResponseBody" in streamed) == (200, False)
        assert hijacked["ResponseStatusCode"] == 101

    trio.run(main)
    assert pieces.closed
    assert not ran


def test_stream_is_closed_when_the_client_leaves_during_the_question(tmp_path: Path) -> None:
    closed: list[int] = []

    class Opened(Pieces):
        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()
            closed.append(1)

    async def handler(call: Call) -> Answer:
        return Streaming(200, Opened())

    async def main() -> None:
        with trio.CancelScope() as client:

            def verdict(method: str, question: Verdict) -> Verdict:
                if method.endswith("Res"):
                    client.cancel()
                return {"Allow": method.endswith("Req")}

            async with serving(Fake("one", tmp_path, verdict)) as chain:
                await api(handler, chain)(request("GET", "/x"))

    trio.run(main)
    assert closed == [1]


@pytest.mark.parametrize("status", [400, 404])
def test_error_of_a_handler_is_passed_on_when_a_plugin_denies_the_answer(tmp_path: Path, status: int) -> None:
    async def handler(call: Call) -> Answer:
        return json_response({"message": "No such thing"}, status)

    async def main() -> None:
        async with serving(Fake("one", tmp_path, lambda method, question: {"Allow": method.endswith("Req")})) as chain:
            assert told(await api(handler, chain)(request("GET", "/x"))) == (status, "No such thing")

    trio.run(main)


# --- audit log --------------------------------------------------------------------------------------------------------


def test_change_is_refused_when_a_required_audit_log_fails(tmp_path: Path) -> None:
    reached = []

    async def handler(call: Call) -> Answer:
        reached.append(call.request.method)
        return json_response({})

    async def main() -> None:
        path = tmp_path / "log" / "audit.log"
        async with Audit.open(AuditLog(path=str(path), required=True)) as audit:
            served = api(handler, Chain(), audit)
            await served(request("POST", "/x"))
            written = [json.loads(line)["event"] for line in path.read_text().splitlines()]
            assert written == ["request"]  # before the call; the record of its end follows
            path.unlink()
            path.mkdir()
            refused = told(await served(request("POST", "/x")))
            assert (refused[0], "nothing may be changed without it: Is a directory" in refused[1]) == (503, True), refused
            await served(request("GET", "/x"))
            path.rmdir()
        last = [json.loads(line) for line in path.read_text().splitlines()]
        assert [(each["event"], each.get("by", "")) for each in last if each["method"] == "POST"][-1] == (
            "call",
            "audit log",
        )
        assert last[-1]["peer"] == {"address": "192.0.2.1:5", "certificate": "CN=anna,O=crew"}

    trio.run(main)
    assert reached == ["POST", "GET"]


def test_required_audit_log_delays_changes_alone(tmp_path: Path) -> None:
    """A `wait` reads, although it is a POST: it is served without the log."""

    async def handler(call: Call) -> Answer:
        return json_response({})

    async def main() -> list[str]:
        async with Audit.open(AuditLog(path=str(tmp_path / "audit.log"), required=True)) as audit:
            guard = Guard(cast("Any", SimpleNamespace(containers=FakeCollection(web="c1"))), None, audit, Chain())
            routes = [Route("POST", f"/containers/{{id}}/{name}", handler) for name in ("wait", "stop")]
            for name in ("wait", "stop"):
                await docker_router(routes, guard=guard)(request("POST", f"/containers/web/{name}"))
        return (tmp_path / "audit.log").read_text().splitlines()

    written = [json.loads(line) for line in trio.run(main)]
    assert [(line["path"].rpartition("/")[2], line["event"]) for line in written] == [
        ("wait", "call"),
        ("stop", "request"),
        ("stop", "call"),
    ]


def logged(tmp_path: Path, ask: Callable[[Audit], Awaitable[Any]]) -> list[dict[str, Any]]:
    async def main() -> None:
        async with Audit.open(AuditLog(path=str(tmp_path / "audit.log"))) as audit:
            await ask(audit)

    trio.run(main)
    return [json.loads(line) for line in (tmp_path / "audit.log").read_text().splitlines()]


def test_withheld_answer_says_what_was_done(tmp_path: Path) -> None:
    async def handler(call: Call) -> Answer:
        return json_response({"Id": "made"}, 201)

    async def ask(audit: Audit) -> None:
        async with serving(Fake("one", tmp_path, lambda method, question: {"Allow": method.endswith("Req")})) as chain:
            assert told(await api(handler, chain, audit)(request("POST", "/x")))[0] == 403
        async with serving(Fake("two", tmp_path, lambda method, question: {"Allow": False})) as chain:
            assert told(await api(handler, chain, audit)(request("POST", "/x")))[0] == 403

    withheld, denied = logged(tmp_path, ask)
    assert (withheld["decision"], withheld["by"], withheld["status"]) == ("withheld", "plugin one", 201)
    assert "authorization denied by plugin one" in withheld["reason"]
    assert (denied["decision"], denied["by"], denied["status"]) == ("denied", "plugin two", 403)


class FakeCollection:
    """An engine's containers, networks or images, by name and ID."""

    def __init__(self, **ids: str) -> None:
        self.ids = ids

    def get(self, text: str) -> Any:
        found = [name for name, ident in self.ids.items() if text in (name, ident)]
        if not found:
            raise NotFound(f"no {text}")
        return SimpleNamespace(id=self.ids[found[0]], name=found[0])

    resolve = get


@pytest.mark.parametrize(
    ("route", "path", "query", "body", "answer", "shown"),
    [
        ("/containers/create", "", {}, None, {"Id": "c1"}, {"type": "container", "id": "c1", "name": "web"}),
        ("/containers/create", "", {"name": ["x"]}, None, {"Id": "c9"}, {"type": "container", "id": "c9", "name": "x"}),
        (
            "/containers/{id}/exec",
            "web",
            {},
            None,
            {"Id": "e1"},
            {"type": "container", "id": "c1", "name": "web", "exec": "e1"},
        ),
        ("/networks/create", "", {}, None, {"Id": "n1"}, {"type": "network", "id": "n1", "name": "net"}),
        ("/volumes/create", "", {}, None, {"Name": "v"}, {"type": "volume", "name": "v"}),
        (
            "/commit",
            "",
            {"container": ["web"], "repo": ["app"], "tag": ["1"]},
            None,
            {"Id": "sha256:1"},
            {"type": "image", "id": "sha256:1", "name": "app:1", "container": "c1"},
        ),
        ("/commit", "", {"container": ["gone"]}, None, None, {"type": "image", "container": "gone"}),
        ("/images/{name}/push", "app", {}, None, None, {"type": "image", "id": "sha256:1", "name": "app"}),
        ("/images/{name}/push", "app", {"tag": ["2"]}, None, None, {"type": "image", "name": "app:2"}),
        ("/images/{name}/tag", "app", {"tag": ["2"]}, None, None, {"type": "image", "id": "sha256:1", "name": "app"}),
        ("/containers/prune", "", {}, None, None, {}),
        ("/orlop/check", "", {}, None, None, {}),
        (
            "/networks/{id}/connect",
            "net",
            {},
            {"Container": "web"},
            None,
            {"type": "network", "id": "n1", "name": "net", "container": "c1"},
        ),
        (
            "/networks/{id}/disconnect",
            "net",
            {},
            {"Container": "gone"},
            None,
            {"type": "network", "id": "n1", "name": "net", "container": "gone"},
        ),
    ],
)
def test_audit_log_has_created_objects_and_their_settings(
    tmp_path: Path, route: str, path: str, query: Any, body: Any, answer: Any, shown: dict[str, str]
) -> None:
    engine: Any = SimpleNamespace(
        containers=FakeCollection(web="c1"), networks=FakeCollection(net="n1"), images=FakeCollection(app="sha256:1")
    )

    async def handler(call: Call) -> Answer:
        if body:
            await call.json(ConnectRequest if route.endswith("/connect") else DisconnectRequest)
        return json_response(answer, 201) if answer else json_response({"message": "no"}, 404)

    async def ask(audit: Audit) -> None:
        asked = request("POST", re.sub(r"\{\w+\}", path, route), json.dumps(body).encode() if body else b"")
        asked.query.update(query)
        await docker_router([Route("POST", route, handler)], guard=Guard(engine, None, audit, Chain()))(asked)

    (line,) = logged(tmp_path, ask)
    assert line.get("object", {}) == shown


# --- restrictions of roles and labels ----------------------------------------------------------------------------------


def guarded(role: str, *labels: str, audit: Audit | None = None, **engine: Any) -> Guard:
    policy = ListenerPolicy.of(Listener(host="unix:///x", role=role, labels=labels))
    return Guard(cast("Any", SimpleNamespace(**engine)), policy, audit, Chain())


@pytest.mark.parametrize(("role", "labels"), [("read-only", ()), ("no-exec", ()), ("full", ("a=b",))])
def test_top_of_restricted_listeners_hides_processes_of_the_host(role: str, labels: tuple[str, ...]) -> None:
    found = SimpleNamespace(id="1", name="c", record=SimpleNamespace(config=SimpleNamespace(labels={"a": "b"})))
    reached = []

    async def handler(call: Call) -> Answer:
        reached.append(call.restrictions.hide_host)
        return json_response({})

    guard = guarded(role, *labels, containers=SimpleNamespace(get=lambda text: found))
    served = docker_router([Route("GET", "/containers/{id}/top", handler)], guard=guard)

    async def asked(words: str) -> Answer:
        made = request("GET", "/containers/c/top")
        made.query["ps_args"] = [words]
        return await served(made)

    for words in ("-C x", "ef", "-eo pid,args"):
        status, text = told(trio.run(asked, words))
        assert (status, f'ps_args "{words}" is not allowed' in text) == (403, True)
    trio.run(asked, "aux")
    assert reached == [True]


def test_volume_is_checked_once_it_exists(tmp_path: Path) -> None:
    """The audit log names the role or labels that refused, although the request had already reached the engine."""
    of_host = VolumeRecord("etc", "local", 0, options={"type": "none", "o": "bind", "device": "/etc"}, labels={"a": "b"})
    plain = VolumeRecord("data", "local", 0)

    async def ask(audit: Audit) -> None:
        def served(volume: VolumeRecord, guard: Guard) -> Awaitable[Answer]:
            async def handler(call: Call) -> Answer:
                assert call.restrictions.check_volume
                call.restrictions.check_volume(volume, False)
                return json_response({})

            return docker_router([Route("GET", "/version", handler)], guard=guard)(request("GET", "/version"))

        no_exec, labelled = guarded("no-exec", audit=audit), guarded("no-exec", "a=b", audit=audit)
        assert (
            "volume etc, which is a directory or device of the host, is not allowed"
            in told(await served(of_host, no_exec))[1]
        )
        assert "volume data is outside the labels" in told(await served(plain, labelled))[1]
        for volume, guard in ((plain, no_exec), (of_host, labelled)):  # labels also allow volumes that have them
            assert cast("Response", await served(volume, guard)).status == 200

    found = logged(tmp_path, ask)
    assert [(each["decision"], each.get("by"), each["status"]) for each in found] == [
        ("denied", "role no-exec", 403),
        ("denied", "labels", 403),
        *[("allowed", None, 200)] * 2,
    ]


def test_restricted_networks_take_subnets_from_the_pools() -> None:
    networks = SimpleNamespace(outside_pools=lambda wanted: ["10.9.0.0/24"], overlaps_host=lambda wanted: [])

    async def handler(call: Call) -> Answer:
        return json_response({}, 201)

    served = docker_router([Route("POST", "/networks/create", handler)], guard=guarded("no-exec", networks=networks))
    status, text = told(trio.run(served, request("POST", "/networks/create", b'{"Name":"n"}')))
    assert (status, "the subnet 10.9.0.0/24, which is in no address pool, is not allowed" in text) == (403, True)


# --- discovery --------------------------------------------------------------------------------------------------------


def test_plugin_sockets_and_specs_are_found(tmp_path: Path) -> None:
    sockets, specs = tmp_path / "run", tmp_path / "etc"
    (sockets / "sub").mkdir(parents=True)
    specs.mkdir()

    def found(name: str) -> Address:
        return find(name, str(sockets), (str(specs),))

    with pytest.raises(
        ConfigError, match=r'authorization plugin "none" not found: there is no none\.sock, \.spec or \.json in'
    ):
        found("none")
    (specs / "a.spec").write_text("tcp://127.0.0.1:99\n")
    assert found("a")[:4] == ("tcp://127.0.0.1:99", "", "127.0.0.1", 99)
    (specs / "b.spec").write_text("unix:///run/b.sock")
    assert found("b").unix == "/run/b.sock"
    (specs / "c.json").write_text('{"Name": "c", "Addr": "https://localhost:99", "TLSConfig": {"InsecureSkipVerify": true}}')
    assert (found("c").host, found("c").context is None) == ("localhost", False)
    (specs / "d.spec").write_text("somewhere")
    with pytest.raises(ConfigError, match=r"cannot use .*d.spec: the address \"somewhere\" is neither"):
        found("d")
    (specs / "e.json").write_text("{")
    with pytest.raises(ConfigError, match=r"cannot use .*e.json"):
        found("e")
    (specs / "f.json").write_text('{"Addr": "tcp://h:1", "TLSConfig": {"CAFile": "/no/such/ca.pem"}}')
    with pytest.raises(ConfigError, match="No such file"):
        found("f")
    (sockets / "a.sock").touch()
    assert not found("a").unix  # a regular file of that name is not a socket
    trio.run(_socket, sockets / "sub" / "sub.sock", found)


async def _socket(path: Path, found: Callable[[str], Address]) -> None:
    listener = open_unix_listener(str(path))
    assert found("sub") == Address(f"unix://{path}", str(path))
    await listener.aclose()


def test_known_plugins_survive_a_reload(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("orlop_guard_listeners.authz.find", lambda name: Address(f"unix:///{name}", f"/{name}"))
    chain = Chain()
    first = chain.prepare(["a", "b"])
    chain.replace(first)
    assert chain.prepare(["b", "c", "b"])[0] is first[1]
    assert [plugin.name for plugin in chain.prepare(["b", "c", "b"])] == ["b", "c"]
    assert chain
    chain.replace(())
    assert not chain
    assert authz_find.SOCKETS == "/run/docker/plugins"
