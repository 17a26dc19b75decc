"""The guard checks exactly the values that the handler uses: both decode bodies as the same type, and read parameters by the
same rules."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from types import SimpleNamespace
from typing import Any, cast
from unittest.mock import MagicMock

import msgspec
import pytest
import trio

import orlop_api_docker as api
from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_engine.types.containers import ContainerConfig, HostConfig
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_guard_listeners.roles import ROUTES
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Answer, Peer, Request, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import NotFound

LABEL = "com.example.team"
LISTENERS = (
    Listener(host="unix:///x", role="no-exec"),
    Listener(host="unix:///x", role="full", labels=(f"{LABEL}=web",), shared_images=True),
)
BODIES: dict[str, Any] = {
    "POST /containers/create": {"Image": "x"},
    "POST /orlop/containers/plan": {"Image": "x"},
    "POST /networks/{id}/connect": {"Container": "c"},
    "POST /networks/{id}/disconnect": {"Container": "c"},
}


def served() -> list[Route]:
    """The routes of the API, with handlers that are never called."""
    modules = [importlib.import_module(each.name) for each in pkgutil.iter_modules(api.__path__, "orlop_api_docker.")]
    return [route for each in modules if hasattr(each, "routes") for route in each.routes(MagicMock())]


def kinds() -> dict[str, Any]:
    """The type as which each route's handler decodes the body."""
    found = {}
    for route in served():
        handler = inspect.unwrap(route.handler)
        names = re.findall(r"call\.json\((\w+)", inspect.getsource(handler))
        if names:
            (name,) = set(names)
            found[f"{route.method} {route.pattern}"] = handler.__globals__[name]
    return found


class FakeCollection:
    outside_pools = overlaps_host = staticmethod(lambda wanted: [])

    def __init__(self, thing: Any) -> None:
        self.thing, self.index = thing, self

    def get(self, text: str) -> Any:
        if text not in (self.thing.name, getattr(self.thing, "id", "")):
            raise NotFound(f"no {text}")
        return self.thing

    resolve = get


RECORD = SimpleNamespace(config=ContainerConfig(labels={LABEL: "web"}), host_config=HostConfig(), mounts=())
CONTAINER = SimpleNamespace(id="1" * 64, name="c", record=RECORD)
ENGINE = SimpleNamespace(
    containers=FakeCollection(CONTAINER),
    execs=SimpleNamespace(get=lambda text: SimpleNamespace(id=text, container=CONTAINER)),
    networks=FakeCollection(SimpleNamespace(id="b", name="bridge", labels={LABEL: "web"}, predefined=True)),
    volumes=FakeCollection(VolumeRecord("v", "local", 0)),
    images=FakeCollection(SimpleNamespace(name="x", id="x")),
)


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        data, self.data = self.data, b""  # like a connection's body, it can be read once
        return data


def ask(
    listener: Listener, route: str, handler: Any, path: str = "", query: dict[str, list[str]] | None = None, body: Any = None
) -> Response:
    method, pattern = route.split(" ")
    data = msgspec.json.encode(body) if body is not None else b""
    headers = {"content-type": "application/json"} if data else {}
    guard = Guard(cast("Any", ENGINE), ListenerPolicy.of(listener), None, Chain())
    path = path or pattern.replace("/networks/{id}", "/networks/bridge").replace("{id}", "c")
    request = Request(method, path, path, query or {}, headers, cast("Any", Body(data)), Peer("unix"))
    answer = trio.run(docker_router([Route(method, pattern, handler)], guard=guard), request)
    assert isinstance(answer, Response)
    return answer


@pytest.mark.parametrize("route", kinds())
@pytest.mark.parametrize("listener", LISTENERS, ids=("no-exec", "labels"))
def test_guard_and_handler_use_the_same_decoded_body(listener: Listener, route: str) -> None:
    if ROUTES[route].level > ListenerPolicy.of(listener).level or ROUTES[route].scope.name == "CLOSED":
        return  # refused before its body is read
    seen = []

    async def handler(call: Call) -> Answer:
        before = call.body
        decoded = await call.json(kinds()[route])
        seen.append(before is None or before is decoded)
        return json_response({})

    answer = ask(listener, route, handler, body=BODIES.get(route, {}))
    assert (answer.status, seen) == (200, [True]), answer.body


def test_policy_checks_every_request_body_that_can_grant_access() -> None:
    """Fails if a new handler decodes a body: a policy may have to check that body."""
    assert kinds().keys() == {
        "POST /auth",
        "POST /commit",
        "POST /containers/create",
        "POST /orlop/containers/plan",
        "POST /containers/{id}/checkpoints",
        "POST /containers/{id}/exec",
        "POST /containers/{id}/update",
        "POST /exec/{id}/start",
        "POST /networks/create",
        "POST /networks/{id}/connect",
        "POST /networks/{id}/disconnect",
        "POST /volumes/create",
    }


async def done(call: Call) -> Answer:
    return json_response({"stdin": call.flag("stdin"), "ps": call.arg("ps_args"), "id": call.params.get("id", "")})


@pytest.mark.parametrize(
    ("route", "query", "status"),
    [
        ("POST /containers/{id}/attach", {"stdin": ["0", "1"]}, 200),
        ("POST /containers/{id}/attach", {"stdin": ["1", "0"]}, 403),
        ("POST /containers/{id}/attach", {"stdin": [" TRUE "]}, 403),
        ("POST /containers/{id}/attach", {"stdin": ["no"]}, 200),
        ("POST /containers/{id}/attach", {"Stdin": ["1"]}, 200),  # query keys are case-sensitive, unlike JSON keys
        ("GET /containers/{id}/top", {"ps_args": ["aux", "ef"]}, 200),
        ("GET /containers/{id}/top", {"ps_args": ["ef", "aux"]}, 403),
        ("POST /containers/{id}/start", {"checkpoint": ["", "x"]}, 200),
        ("POST /containers/{id}/start", {"checkpoint-dir": ["/x"]}, 403),
    ],
)
def test_guard_and_handler_use_the_first_of_repeated_parameters(
    route: str, query: dict[str, list[str]], status: int
) -> None:
    answer = ask(LISTENERS[0], route, done, query=query)
    assert answer.status == status
    if status == 200:
        seen = msgspec.json.decode(answer.body)
        assert (seen["stdin"], seen["ps"] in ("", "aux")) == (False, True)


@pytest.mark.parametrize("path", ["/containers/c/attach", "/v1.24/containers/c/attach", "/v1.51/containers/c/attach"])
def test_api_version_in_the_path_does_not_change_the_guards_decision(path: str) -> None:
    assert ask(LISTENERS[0], "POST /containers/{id}/attach", done, path, {"stdin": ["1"]}).status == 403
    assert ask(LISTENERS[0], "POST /containers/{id}/attach", done, path).status == 200


def test_role_full_allows_attach_to_standard_input() -> None:
    answer = ask(LISTENERS[1], "POST /containers/{id}/attach", done, query={"stdin": ["1"]})
    assert (answer.status, msgspec.json.decode(answer.body)["stdin"]) == (200, True)


def test_guard_and_handler_treat_a_slash_as_part_of_the_container_name() -> None:
    """The path is decoded before routing, so guard and handler see the same name, which does not exist."""
    labelled = LISTENERS[1]
    answer = ask(labelled, "POST /containers/{id}/start", done, "/containers/c/json/start")
    assert (answer.status, msgspec.json.decode(answer.body)) == (404, {"message": "no c/json"})
    answer = ask(labelled, "POST /containers/{id}/start", done, "/containers/c/start")
    assert msgspec.json.decode(answer.body)["id"] == CONTAINER.id


def test_request_fails_if_guard_and_handler_decode_its_body_as_different_types() -> None:
    async def handler(call: Call) -> Answer:
        await call.json(ContainerConfig)
        raise AssertionError("it was carried out")

    answer = ask(LISTENERS[0], "POST /containers/create", handler, body={"Image": "x"})
    assert answer.status == 500
