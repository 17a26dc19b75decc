"""Authorization plugins: order, bodies, answers, and faulty plugins."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest
import trio

from orlop_api_docker.responses import hijack_head, json_response
from orlop_engine.types.containers import HostConfig
from orlop_guard_listeners import authz
from orlop_guard_listeners.authz import Plugin, Question
from orlop_guard_listeners.authz_find import Address
from orlop_kernel.http.messages import Answer, Hijack, RawStream, Response, Streaming
from orlop_kernel.routing.call import Call

from .authz_fixture import ALLOW, Fake, Verdict, api, request, serving, told


def test_request_to_a_plugin_has_the_same_fields_as_in_docker(tmp_path: Path) -> None:
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


def test_client_of_authorization_plugins_is_imported_on_a_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_streaming_handler_gets_the_same_body_as_the_plugin(tmp_path: Path) -> None:
    """The bodies are equal even if the content type is JSON and the content is not JSON."""
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


def test_plugin_that_denies_a_request_ends_the_chain(tmp_path: Path) -> None:
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
def test_request_is_denied_unless_the_plugins_answer_is_an_approval(
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


def test_request_is_denied_if_the_plugin_is_missing_or_not_for_authorization(tmp_path: Path) -> None:
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


def test_request_body_over_the_size_limit_of_plugins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_denied_stream_or_hijacked_connection_does_not_start(tmp_path: Path) -> None:
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


def test_stream_is_closed_when_the_client_disconnects_during_the_request_to_the_plugin(tmp_path: Path) -> None:
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
def test_client_gets_the_error_of_a_handler_even_if_a_plugin_denies_the_answer(tmp_path: Path, status: int) -> None:
    async def handler(call: Call) -> Answer:
        return json_response({"message": "No such thing"}, status)

    async def main() -> None:
        async with serving(Fake("one", tmp_path, lambda method, question: {"Allow": method.endswith("Req")})) as chain:
            assert told(await api(handler, chain)(request("GET", "/x"))) == (status, "No such thing")

    trio.run(main)
