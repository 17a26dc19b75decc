"""The lines that the guard writes to the audit log."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_engine.types.networks import ConnectRequest, DisconnectRequest
from orlop_guard_listeners.audit import Audit
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.keys import AuditLog
from orlop_kernel.http.messages import Answer
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import NotFound

from .authz_fixture import Fake, api, logged, request, serving, told


def test_request_for_a_change_is_refused_if_the_required_audit_log_cannot_be_written(tmp_path: Path) -> None:
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
            assert written == ["request"]  # written before the call; the record of its end follows
            path.unlink()
            path.mkdir()
            refused = told(await served(request("POST", "/x")))
            assert (refused[0], "so the request is refused: Is a directory" in refused[1]) == (503, True), refused
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


def test_required_audit_log_is_written_before_a_change_but_after_a_wait_request(tmp_path: Path) -> None:
    """`POST /containers/{id}/wait` changes nothing, so it is answered even if the log cannot be written."""

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


def test_audit_log_shows_the_created_object_if_a_plugin_denies_the_answer(tmp_path: Path) -> None:
    """If a plugin denies the answer of a request that was carried out, the audit log has the status and the created
    object."""

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
        ("/orlop/containers/plan", "", {"name": ["x"]}, None, None, {"type": "container", "name": "x"}),
        ("/orlop/containers/plan", "", {"name": ["web"]}, None, None, {"type": "container", "name": "web"}),
        ("/orlop/containers/{id}/some", "web", {}, None, None, {"type": "container", "id": "c1", "name": "web"}),
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
def test_audit_log_shows_type_and_name_of_the_object_of_a_request(
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
