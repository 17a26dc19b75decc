"""Routes of features that Orlop does not have (swarm mode, Docker's managed plugins): answers that clients expect."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import pytest

from orlop_api_docker import plugins, swarm
from orlop_api_docker.dialect import docker_router
from orlop_kernel.http.messages import Response

from .calls import ask, message

NO_ENGINE: Any = SimpleNamespace()
SWARM = docker_router(swarm.routes(NO_ENGINE))
PLUGINS = docker_router(plugins.routes(NO_ENGINE))


@pytest.mark.parametrize(
    "route",
    [
        *("GET /swarm", "POST /swarm/update?version=1", "GET /nodes", "DELETE /nodes/x", "GET /tasks/x/logs?stdout=1"),
        *("GET /services", "POST /services/create", "GET /services/x/logs?stdout=1", "DELETE /v1.24/services/x"),
        *("GET /secrets", "POST /v1.45/secrets/x/update?version=1", "GET /configs/x", "POST /configs/create"),
    ],
)
def test_swarm_routes_return_the_error_of_a_docker_node_without_a_swarm(
    route: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The refusal is not logged: SDKs call these routes in each cleanup."""
    assert message(ask(SWARM, *route.split(" "))) == (
        503,
        'This node is not a swarm manager. Use "docker swarm init" or "docker swarm join" to connect this node to swarm and '
        "try again.",
    )
    assert not caplog.records


def test_swarm_leave_fails_because_the_node_is_not_part_of_a_swarm() -> None:
    assert message(ask(SWARM, "POST", "/swarm/leave?force=1")) == (503, "This node is not part of a swarm")


@pytest.mark.parametrize("path", ["/swarm/init", "/swarm/join"])
def test_swarm_cannot_be_created(path: str) -> None:
    status, text = message(ask(SWARM, "POST", path, b"{}"))
    assert (status, text) == (501, "cannot initialise or join a swarm: Orlop has no swarm mode")


def test_plugin_list_is_empty() -> None:
    for query in ("", "?filters=%7B%7D", "?filters=%7B%22enabled%22%3A%5B%22true%22%5D%7D"):
        answer = ask(PLUGINS, "GET", f"/plugins{query}")
        assert isinstance(answer, Response)
        assert (answer.status, json.loads(answer.body)) == (200, [])


def test_filters_of_plugins_are_checked() -> None:
    answer = ask(PLUGINS, "GET", "/plugins?filters=%7B%22bogus%22%3A%5B%22x%22%5D%7D")
    assert message(answer) == (400, "invalid filter 'bogus'")


@pytest.mark.parametrize(
    "route",
    [
        "GET /plugins/a/b:1/json",
        "DELETE /plugins/a/b:1",
        *(f"POST /plugins/a/b:1/{verb}" for verb in ("enable", "set", "push")),
    ],
)
def test_requests_for_a_plugin_return_404(route: str) -> None:
    assert message(ask(PLUGINS, *route.split(" "))) == (404, 'plugin "a/b:1" not found')


@pytest.mark.parametrize(
    "route", ["GET /plugins/privileges?remote=x", "POST /plugins/pull?remote=x", "POST /plugins/create"]
)
def test_plugins_cannot_be_installed(route: str) -> None:
    assert message(ask(PLUGINS, *route.split(" ")))[0] == 501
