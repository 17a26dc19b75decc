"""Requests that the guard of a listener with a role or labels refuses for other reasons than its table of routes."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import trio

from orlop_api_docker.dialect import docker_router
from orlop_api_docker.responses import json_response
from orlop_engine.types.containers import HostConfig
from orlop_engine.volumes.record import VolumeRecord
from orlop_guard_listeners.audit import Audit
from orlop_guard_listeners.authz import Chain
from orlop_guard_listeners.guard import Guard
from orlop_guard_listeners.listener_policy import ListenerPolicy
from orlop_kernel.config import Listener
from orlop_kernel.http.messages import Answer, Response
from orlop_kernel.routing.call import Call
from orlop_kernel.routing.router import Route
from orlop_sdk import Forbidden

from .authz_fixture import logged, request, told


def guarded(role: str, *labels: str, audit: Audit | None = None, **engine: Any) -> Guard:
    policy = ListenerPolicy.of(Listener(host="unix:///x", role=role, labels=labels))
    return Guard(cast("Any", SimpleNamespace(**engine)), policy, audit, Chain())


@pytest.mark.parametrize(("role", "labels"), [("read-only", ()), ("no-exec", ()), ("full", ("a=b",))])
def test_top_on_a_restricted_listener_hides_processes_of_the_host(role: str, labels: tuple[str, ...]) -> None:
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


def test_volume_is_checked_when_the_engine_has_found_or_created_the_volume(tmp_path: Path) -> None:
    """The request has then already reached the engine. The audit log names the role or labels that refused the volume."""
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
        for volume, guard in ((plain, no_exec), (of_host, labelled)):  # a host volume with the labels is allowed
            assert cast("Response", await served(volume, guard)).status == 200

    found = logged(tmp_path, ask)
    assert [(each["decision"], each.get("by"), each["status"]) for each in found] == [
        ("denied", "role no-exec", 403),
        ("denied", "labels", 403),
        *[("allowed", None, 200)] * 2,
    ]


@pytest.mark.parametrize("logs", [True, False])
def test_audit_log_shows_refusals_that_occur_in_a_build_after_the_answer_has_begun(tmp_path: Path, logs: bool) -> None:
    begun: list[Call] = []

    async def handler(call: Call) -> Answer:
        begun.append(call)
        return json_response({})

    async def ask(audit: Audit) -> None:
        guard = guarded("no-exec", audit=audit if logs else None)
        answer = await docker_router([Route("POST", "/build", handler)], guard=guard)(request("POST", "/build"))
        assert cast("Response", answer).status == 200
        builds = begun[0].restrictions.builds
        assert builds
        builds.check_step(HostConfig())
        with pytest.raises(Forbidden, match="Privileged in a step of a build"):
            builds.check_step(HostConfig(privileged=True))

    found = [(each["event"], each["decision"], each.get("by"), each.get("status")) for each in logged(tmp_path, ask)]
    assert found == [("call", "allowed", None, 200), ("build", "denied", "role no-exec", None)] * logs


def test_network_of_a_restricted_client_must_have_a_subnet_from_the_address_pools() -> None:
    networks = SimpleNamespace(outside_pools=lambda wanted: ["10.9.0.0/24"], overlaps_host=lambda wanted: [])

    async def handler(call: Call) -> Answer:
        return json_response({}, 201)

    served = docker_router([Route("POST", "/networks/create", handler)], guard=guarded("no-exec", networks=networks))
    status, text = told(trio.run(served, request("POST", "/networks/create", b'{"Name":"n"}')))
    assert (status, "the subnet 10.9.0.0/24, which is in no address pool, is not allowed" in text) == (403, True)
