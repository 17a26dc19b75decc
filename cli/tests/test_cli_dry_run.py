"""`--dry-run` of `run` and `create`, with recorded answers."""

from __future__ import annotations

import json
from typing import Any

import pytest

from orlop_cli.create.dry_run import text
from orlop_cli.testing import RecordedDaemon, answer

pytestmark = pytest.mark.usefixtures("clean")

SPEC = {
    "process": {
        "args": ["sh", "-c", "echo 1"],
        "cwd": "/",
        "env": ["A=b"],
        "terminal": True,
        "capabilities": {"bounding": ["CAP_CHOWN", "CAP_KILL"]},
        "rlimits": [{"type": "RLIMIT_NOFILE", "soft": 1, "hard": 2}],
        "noNewPrivileges": True,
    },
    "root": {"readonly": True},
    "mounts": [{"source": "/s", "destination": "/d", "type": "bind", "options": ["rbind", "ro"]}],
    "linux": {"resources": {"memory": {"limit": 7}}, "namespaces": [{"type": "pid"}, {"type": "network", "path": "<n>"}]},
}


def plan(**changes: Any) -> dict[str, Any]:
    port = {"Protocol": "tcp", "ContainerPort": 80, "HostIP": "::", "HostPort": 0, "Rule": "a rule"}
    network = {"Name": "n", "Driver": "bridge", "Interface": "eth0", "Families": ["IPv4", "IPv6"]}
    return {
        "Name": "web",
        "Image": {"Reference": "nginx", "Id": "sha256:1"},
        "User": {"Given": "www", "Uid": 33, "Gid": 44},
        "Runtime": "runc",
        "Spec": SPEC,
        "Volumes": [{"Name": "data", "Driver": "local", "Target": "/data"}],
        "Directories": ["/missing"],
        "NetworkMode": "n",
        "Networks": [{**network, "Subnets": ["10.0.0.0/24"], "DefaultRoute": True}],
        "Ports": [port],
        "Log": {"Driver": "json-file", "Options": {"max-size": "1m"}},
        "RestartPolicy": {"Name": "on-failure", "MaximumRetryCount": 3},
        "Placeholders": {"<n>": "the start creates it"},
        "Warnings": [],
        "Problems": [],
        **changes,
    }


def shown(**changes: Any) -> str:
    found = plan(**changes)
    found["Image"]["Pull"] = not found["Image"]["Id"]
    return text(found)


def test_plan_text_has_a_section_for_each_part_of_the_plan() -> None:
    lines = shown().splitlines()
    for line in (
        "  nginx (sha256:1)",
        "  sh -c 'echo 1'",
        "  with a terminal",
        "  www: uid 33, gid 44",
        "  /s -> /d (bind: rbind,ro)",
        "  read-only",
        "  memory.limit 7",
        "  RLIMIT_NOFILE 1:2",
        "  CHOWN KILL",
        "  seccomp: unconfined",
        "  pid network=<n>",
        "  data (driver local) for /data",
        "  /missing",
        "  n (driver bridge): eth0, IPv4 and IPv6 (10.0.0.0/24), default route",
        "  [::]:(free port) -> 80/tcp: a rule",
        "  json-file max-size=1m",
        "  on-failure:3",
        "  <n>: the start creates it",
    ):
        assert line in lines
    assert "Warnings" not in lines


def test_plan_text_shows_the_problems_even_if_the_plan_has_no_spec() -> None:
    found = shown(Spec=None, Image={"Reference": "nginx", "Id": ""}, Problems=["port taken", "name taken"])
    assert "nginx (not present, so the values that the image sets are unknown); would be pulled" in found
    assert "Problems\n  port taken\n  name taken\n" in found


@pytest.mark.parametrize(("command", "problems", "code"), [("run", [], 0), ("run", ["x"], 125), ("create", ["x"], 1)])
def test_dry_run_sends_the_create_request_to_the_plan_endpoint_only(
    daemon: RecordedDaemon, orlop: Any, command: str, problems: list[str], code: int
) -> None:
    daemon.on("POST", "/orlop/containers/plan", answer(plan(Problems=problems)))
    done = orlop(command, "--dry-run", "--format", "json", "--name", "web", "nginx", "true")
    assert (done.code, json.loads(done.out)["Spec"]) == (code, SPEC)
    asked = daemon.find("POST", "/orlop/containers/plan")
    assert asked.json()["Image"] == "nginx"
    assert "name=web" in asked.target
    assert [line for line in daemon.seen() if line.startswith("POST")] == ["POST /orlop/containers/plan"]
