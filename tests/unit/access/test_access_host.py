"""Every route on every kind of listener, for a container with access to the host: which requests are allowed."""

from __future__ import annotations

import itertools
from types import SimpleNamespace
from typing import Any, cast

import msgspec
import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_engine.containers.record import MountRecord
from orlop_engine.types.containers import HostConfig
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_guard_listeners.roles import ROUTES, Host
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Answer, Peer, Request, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import NotFound

TEAM = "com.example.team"
LISTENERS = {
    "read-only": Listener(host="unix:///x", role="read-only"),
    "no-exec": Listener(host="unix:///x", role="no-exec"),
    "no-exec, labels": Listener(host="unix:///x", role="no-exec", labels=(f"{TEAM}=web",)),
    "full, labels": Listener(host="unix:///x", role="full", labels=(f"{TEAM}=web",)),
}


class FakeCollection:
    outside_pools = overlaps_host = staticmethod(lambda wanted: [])

    def __init__(self, *things: Any) -> None:
        self.index = self
        self.things = {each.name: each for each in things} | {each.id: each for each in things if hasattr(each, "id")}

    def get(self, text: str) -> Any:
        if text not in self.things:
            raise NotFound(f"no {text}")
        return self.things[text]

    resolve = get


_ids = itertools.count(1)


def container(name: str, *mounts: MountRecord) -> Any:
    config = SimpleNamespace(labels={TEAM: "web"})
    record = SimpleNamespace(config=config, host_config=HostConfig(), mounts=mounts)
    return SimpleNamespace(id=f"{next(_ids):064x}", name=name, record=record)


def mount(kind: str, name: str = "", *, anonymous: bool = False) -> MountRecord:
    return MountRecord(type=kind, destination="/d", source="/etc", name=name, anonymous=anonymous)


def volume(name: str, team: str = "", **options: str) -> VolumeRecord:
    return VolumeRecord(name, "local", 0, options=options, labels={TEAM: team} if team else {})


BIND = {"type": "none", "o": "bind", "device": "/etc"}
BOUND = container("bound", mount("bind"))
ENGINE = SimpleNamespace(
    containers=FakeCollection(
        BOUND,
        container("plain"),
        container("data", mount("volume", "data"), mount("tmpfs"), mount("volume", "gone", anonymous=True)),
        container("own", mount("volume", "web")),
        container("theirs", mount("volume", "db")),
        container("image", mount("image", "i")),
        container("etc", mount("volume", "data"), mount("volume", "etc")),
        container("webetc", mount("volume", "webetc")),
        container("anonymous", mount("volume", "etc", anonymous=True)),
    ),
    execs=SimpleNamespace(get=lambda text: SimpleNamespace(id=text, container=BOUND)),
    volumes=FakeCollection(
        volume("data"), volume("web", "web"), volume("db", "db"), volume("etc", **BIND), volume("webetc", "web", **BIND)
    ),
    networks=FakeCollection(SimpleNamespace(id="n", name="bridge", labels={}, predefined=True)),
    images=FakeCollection(),
)


class Body:
    def __init__(self, data: bytes) -> None:
        self.data = data

    async def read(self, limit: int) -> bytes:
        return self.data


def ask(listener: Listener, route: str, name: str, body: Any = None) -> tuple[int, str, str]:
    """Status and message, and the container that the handler was called for."""
    method, pattern = route.split(" ")
    reached = []

    async def handler(call: Call) -> Answer:
        reached.append(call.params.get("id", ""))
        return json_response({})

    guard = Guard(cast("Any", ENGINE), ListenerPolicy.of(listener), None, Chain())
    data = msgspec.json.encode(body) if body is not None else b""
    headers = {"content-type": "application/json"} if data else {}
    path = pattern.replace("{id}", name).replace("{checkpoint}", "c")
    query = {"container": [name], "path": ["/d/passwd"]}
    request = Request(method, path, path, query, headers, cast("Any", Body(data)), Peer("unix"))
    answer = trio.run(docker_router([Route(method, pattern, handler)], guard=guard), request)
    assert isinstance(answer, Response)
    assert (answer.status == 200) == bool(reached)
    said = "" if reached else str(msgspec.json.decode(answer.body)["message"])
    return answer.status, said, reached[0] if reached else ""


SEEN = {"GET /containers/{id}/json", "GET /containers/{id}/logs", "GET /containers/{id}/stats", "GET /containers/{id}/top"}
SEEN |= {"POST /containers/{id}/wait", "GET /exec/{id}/json"}
MOVED = {f"POST /containers/{{id}}/{verb}" for verb in ("start", "stop", "restart", "kill", "pause", "unpause")}
MOVED |= {"POST /containers/{id}/rename", "POST /containers/{id}/resize", "POST /containers/{id}/update"}
MOVED |= {"POST /containers/{id}/attach", "DELETE /containers/{id}", "GET /containers/{id}/changes"}
MOVED |= {"GET /containers/{id}/export"}
INSIDE = {"POST /containers/{id}/exec", "POST /exec/{id}/start", "POST /exec/{id}/resize", "GET /containers/{id}/attach/ws"}
INSIDE |= {f"{method} /containers/{{id}}/archive" for method in ("HEAD", "GET", "PUT")}
REACHED = {
    "read-only": SEEN,
    "no-exec": SEEN | MOVED | {"POST /commit"},
    "no-exec, labels": SEEN | MOVED,
    "full, labels": SEEN | MOVED | INSIDE,
}


@pytest.mark.parametrize("listener", LISTENERS)
def test_listener_allows_only_the_listed_routes_for_a_container_with_a_bind_mount(listener: str) -> None:
    about_one = [route for route in ROUTES if route == "POST /commit" or "/containers/{" in route or "/exec/{" in route]
    bodies = {"POST /containers/{id}/update": {}, "POST /containers/{id}/exec": {}}
    reached = {route for route in about_one if ask(LISTENERS[listener], route, "bound", bodies.get(route))[0] == 200}
    assert reached == REACHED[listener]


@pytest.mark.parametrize(
    ("name", "no_exec", "labelled"),
    [
        ("plain", "", ""),
        ("data", "", "volume data is outside the labels"),
        ("own", "", ""),
        ("theirs", "", "volume db is outside the labels"),
        ("bound", "files of container bound, which has the bind mount of /etc,", "the bind mount of /etc"),
        ("image", "files of container image, which has the image mount of /etc,", "the image mount of /etc"),
        ("etc", "the volume etc, which is a directory or device of the host,", "volume data is outside the labels"),
        ("webetc", "the volume webetc, which is a directory or device of the host,", ""),
        ("anonymous", "the volume etc, which is a directory", "the volume etc, which is a directory"),
    ],
)
def test_listener_and_host_access_decide_whether_files_can_be_copied_out_of_a_container(
    name: str, no_exec: str, labelled: str
) -> None:
    """Host access means that the container can use files or devices of the host."""
    for listener, refused in (("no-exec", no_exec), ("no-exec, labels", labelled), ("full, labels", "")):
        for method in ("GET", "HEAD"):
            status, said, found = ask(LISTENERS[listener], f"{method} /containers/{{id}}/archive", name)
            assert (status, refused in said) == (403 if refused else 200, True), (listener, said)
            assert refused or found == ENGINE.containers.get(name).id  # by ID, because another container may get the name


def test_routes_that_can_access_the_host_have_a_host_rule() -> None:
    assert {route for route, rule in ROUTES.items() if rule.host is Host.FILES} == {
        "GET /containers/{id}/archive",
        "HEAD /containers/{id}/archive",
    }
    assert {route for route, rule in ROUTES.items() if rule.host is Host.BODY} == {
        "POST /containers/create",
        "POST /orlop/containers/plan",
        "POST /containers/{id}/update",
        "POST /volumes/create",
        "POST /networks/create",
    }


@pytest.mark.parametrize("field", ["PidMode", "IpcMode"])
def test_only_role_full_can_join_the_namespaces_of_a_container_with_host_mounts(field: str) -> None:
    """A process in a container's namespace can reach the container's files, including mounted directories of the host."""
    body = {"Image": "x", "HostConfig": {field: "container:bound"}}
    for listener in ("no-exec", "no-exec, labels", "full, labels"):
        made = msgspec.structs.replace(LISTENERS[listener], shared_images=bool(LISTENERS[listener].labels))
        status, said, _ = ask(made, "POST /containers/create", "plain", body)
        refused = status == 403 and f"{field} container:" in said and "role no-exec" in said
        assert refused == (listener != "full, labels"), (listener, status, said)


BODIES = {
    "POST /containers/create": {"Image": "x", "HostConfig": {"BlkioDeviceReadBps": [{"Path": "/etc/shadow", "Rate": 1}]}},
    "POST /orlop/containers/plan": {
        "Image": "x",
        "HostConfig": {"BlkioDeviceReadBps": [{"Path": "/etc/shadow", "Rate": 1}]},
    },
    "POST /containers/{id}/update": {"BlkioDeviceWriteIOps": [{"Path": "/etc/shadow", "Rate": 1}]},
    "POST /volumes/create": {"Name": "v", "DriverOpts": {"type": "none", "o": "bind", "device": "/etc/shadow"}},
    "POST /networks/create": {"Name": "n", "Driver": "macvlan", "Options": {"parent": "eth0"}},
}


@pytest.mark.parametrize("route", BODIES)
def test_host_access_in_a_body_is_refused_before_objects_are_looked_up(route: str) -> None:
    """The answer therefore does not reveal whether the host path exists."""
    for listener in ("no-exec", "full, labels"):
        made = msgspec.structs.replace(LISTENERS[listener], shared_images=bool(LISTENERS[listener].labels))
        status, said, _ = ask(made, route, "plain", BODIES[route])
        assert (status, "is not allowed for role" in said, "/etc/shadow" in said) == (403, True, False), said
