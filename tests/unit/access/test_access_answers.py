"""A guard removes secrets from answers to read-only clients and label scopes, and logs how streams end."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_guard_listeners.audit import Audit
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard, _BufferedBody
from orlop_guard_listeners.keys import AuditLog
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_guard_listeners.redact import HIDDEN
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Answer, BodyError, Hijack, Peer, RawStream, Request, Response, Streaming
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route

OWN, OTHER = "1" * 64, "2" * 64
INSPECT = {"Id": OWN, "Config": {"Env": ["PASSWORD=secret"]}}
NETWORK = {"Id": "n", "Labels": {"a": "b"}, "Containers": {OWN: {"Name": "own"}, OTHER: {"Name": "other"}}}


def _container(ident: str, label: str) -> Any:
    config = SimpleNamespace(labels={"a": label})
    return SimpleNamespace(id=ident, name=ident[:1], record=SimpleNamespace(config=config, mounts=(), state=None))


CONTAINERS = {OWN: _container(OWN, "b"), OTHER: _container(OTHER, "c")}
ENGINE = SimpleNamespace(
    containers=SimpleNamespace(index=SimpleNamespace(by_id=CONTAINERS), get=CONTAINERS.__getitem__),
    networks=SimpleNamespace(resolve=lambda text: SimpleNamespace(id="n", name="n", labels={"a": "b"}, predefined=False)),
)


def answered(role: str, route: str, answer: Answer, *labels: str, audit: Audit | None = None) -> Awaitable[Answer]:
    """The answer of a guarded route whose handler gives `answer`."""
    method, pattern = route.split(" ")

    async def handler(call: Call) -> Answer:
        return answer

    policy = ListenerPolicy.of(Listener(host="unix:///x", role=role, labels=labels))
    guard = Guard(cast("Any", ENGINE), policy, audit, Chain())
    path = pattern.replace("{id}", OWN if "containers" in pattern else "n")
    request = Request(method, path, path, {}, {}, cast("Any", _BufferedBody(b"")), Peer("unix"))
    return docker_router([Route(method, pattern, handler)], guard=guard)(request)


def shown(role: str, route: str, answer: Answer, *labels: str) -> tuple[int, bytes]:
    async def main() -> Answer:
        return await answered(role, route, answer, *labels)

    found = trio.run(main)
    assert isinstance(found, Response)
    return found.status, found.body


@pytest.mark.parametrize("labels", [(), ("a=b",)])
def test_read_only_clients_see_no_values_of_environment_variables(labels: tuple[str, ...]) -> None:
    status, body = shown("read-only", "GET /containers/{id}/json", json_response(INSPECT), *labels)
    assert (status, msgspec.json.decode(body)) == (200, {**INSPECT, "Config": {"Env": [f"PASSWORD={HIDDEN}"]}})


@pytest.mark.parametrize(
    ("role", "route", "answer"),
    [
        ("no-exec", "GET /containers/{id}/json", json_response(INSPECT)),
        ("read-only", "GET /containers/{id}/json", Response(404, b'{"message": "No such container"}')),
        ("read-only", "GET /containers/{id}/logs", Response(200, b"no JSON")),
        ("read-only", "HEAD /_ping", Response(200, b"no JSON")),
        ("no-exec", "GET /networks/{id}", json_response(NETWORK)),
        ("full a=b", "GET /info", json_response({"Containers": 2})),
    ],
)
def test_answer_is_unchanged_if_no_rule_of_the_listener_applies(role: str, route: str, answer: Response) -> None:
    role, *labels = role.split()
    assert shown(role, route, answer, *labels) == (answer.status, answer.body)


def test_network_inspect_on_a_listener_with_labels_shows_only_containers_with_the_labels() -> None:
    status, body = shown("full", "GET /networks/{id}", json_response(NETWORK), "a=b")
    assert (status, msgspec.json.decode(body)["Containers"]) == (200, {OWN: {"Name": "own"}})
    status, body = shown("full", "GET /networks/{id}", json_response({**NETWORK, "Containers": None}), "a=b")
    assert (status, msgspec.json.decode(body)["Containers"]) == (200, {})


def logged(tmp_path: Path, ask: Callable[[Audit], Awaitable[Any]]) -> list[tuple[str, str | None]]:
    """(event, outcome) of each line of the log."""

    async def main() -> None:
        async with Audit.open(AuditLog(path=str(tmp_path / "audit.log"))) as audit:
            await ask(audit)

    trio.run(main)
    lines = map(json.loads, (tmp_path / "audit.log").read_text().splitlines())
    return [(line["event"], line.get("outcome")) for line in lines]


class _Pieces:
    """A stream of two pieces that records whether it was closed."""

    def __init__(self) -> None:
        self.left, self.closed = [b"one", b"two"], False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        if not self.left:
            raise StopAsyncIteration
        return self.left.pop(0)

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize(("whole", "outcome"), [(True, "complete"), (False, "broken off")])
def test_audit_log_records_how_a_stream_ended(tmp_path: Path, whole: bool, outcome: str) -> None:
    pieces = _Pieces()

    async def ask(audit: Audit) -> None:
        answer = await answered("full", "GET /events", Streaming(200, pieces), audit=audit)
        assert isinstance(answer, Streaming)
        if whole:
            assert [piece async for piece in answer.pieces] == [b"one", b"two"]
        await cast("Any", answer.pieces).aclose()
        await cast("Any", answer.pieces).aclose()  # the end is logged once

    assert logged(tmp_path, ask) == [("begin", None), ("end", outcome)]
    assert pieces.closed


@pytest.mark.parametrize(("error", "outcome"), [(None, "complete"), (OSError("reset"), "broken off")])
def test_audit_log_records_how_a_hijacked_connection_ended(tmp_path: Path, error: Exception | None, outcome: str) -> None:
    ran = []

    async def run(stream: RawStream) -> None:
        ran.append(stream)
        if error:
            raise error

    async def ask(audit: Audit) -> None:
        hijack = Hijack(b"HTTP/1.1 101 UPGRADED\r\n\r\n", run)
        answer = await answered("full", "POST /containers/{id}/attach", hijack, audit=audit)
        assert isinstance(answer, Hijack)
        if error:
            with pytest.raises(OSError, match="reset"):
                await answer.run(cast("Any", "stream"))
        else:
            await answer.run(cast("Any", "stream"))

    assert logged(tmp_path, ask) == [("begin", None), ("end", outcome)]
    assert ran == ["stream"]


def test_audit_log_records_calls_whose_clients_disconnected(tmp_path: Path) -> None:
    async def ask(audit: Audit) -> None:
        async def handler(call: Call) -> Answer:
            await trio.sleep_forever()
            raise AssertionError

        guard = Guard(cast("Any", ENGINE), None, audit, Chain())
        served = docker_router([Route("GET", "/version", handler)], guard=guard)
        with trio.move_on_after(0.01) as scope:
            await served(Request("GET", "/version", "/version", {}, {}, cast("Any", _BufferedBody(b"")), Peer("unix")))
        assert scope.cancelled_caught

    assert logged(tmp_path, ask) == [("call", "broken off")]


def test_handlers_size_limit_applies_to_a_body_that_was_read_for_a_plugin() -> None:
    """The handler can read a body again that was read for an authorization plugin. The handler's limit still applies."""

    async def main() -> None:
        body = _BufferedBody(b"12345")
        with pytest.raises(BodyError, match="5 bytes, at most 4 are allowed"):
            await body.read(4)
        assert await body.read(5) == b"12345"
        assert await body.read(5) == b""

    trio.run(main)
